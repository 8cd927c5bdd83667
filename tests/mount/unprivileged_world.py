"""An ordinary user's world for a test run by root: a mount and process namespace of its own.

The interpreter, its packages and this checkout may lie below directories that only root may
enter (a home directory of mode 0700). In the namespace, and nowhere else, such a directory is
covered by one that everybody may enter and that leads to the same places. What the user makes is
in a tmpfs on /mnt; nothing of it, no mount and no process outlives the call.
"""

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORLD = "/mnt"
UID = GID = 65_534
_UNSHARE = (
    *("unshare", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
)
_DEADLINE_S = 120.0
_CLIENT = Path(__file__).with_name("unprivileged_client.py")
_CHECKOUT = Path(__file__).resolve().parents[2]


def run_as_ordinary_user(scenario: str) -> dict[str, Any]:
    """Run a scenario of unprivileged_client as UID in a world of its own; what it reports.

    Skips the test, saying why, where the namespace or the interpreter cannot be had.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    client = [
        *("setpriv", "--reuid", str(UID), "--regid", str(GID), "--clear-groups"),
        *("env", f"XDG_RUNTIME_DIR={WORLD}/run", "HOME=/", "PYTHONDONTWRITEBYTECODE=1"),
        *(sys.executable, str(_CLIENT), scenario),
    ]
    script = "\n".join(["set -e", *_commands(), f"exec {shlex.join(client)}"])
    done = subprocess.run(
        [*_UNSHARE, "sh", "-c", script],
        cwd=_CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_DEADLINE_S,
        check=False,
    )
    if not done.stdout.startswith("{"):
        pytest.skip(f"NO ORDINARY USER'S WORLD HERE: {done.stderr.strip()[-500:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    assert "failure" not in report, f"{report['failure']}\n{done.stderr}"
    return report


def _commands() -> list[str]:
    """Shell commands that make the world."""
    device = os.stat("/dev/fuse").st_rdev
    commands = [
        f"mount -t tmpfs -o mode=755 none {WORLD}",
        # Some machines keep it to root; the namespace has a node of its own.
        f"mknod -m 666 {WORLD}/fuse c {os.major(device)} {os.minor(device)}",
        f"mount --bind {WORLD}/fuse /dev/fuse",
        f"mkdir {WORLD}/stage {WORLD}/source {WORLD}/root {WORLD}/run {WORLD}/roots",
        f"printf weights > {WORLD}/source/model.bin; chmod 644 {WORLD}/source/model.bin",
        f"printf secret > {WORLD}/source/private.bin; chmod 600 {WORLD}/source/private.bin",
        f"mkdir -m 700 {WORLD}/source/closed {WORLD}/closed",
        f"chown {UID}:{GID} {WORLD}/root {WORLD}/run; chmod 700 {WORLD}/run",
    ]
    needed = sorted({os.path.realpath(path) for path in _places() if os.path.isdir(path)})
    closed: dict[str, list[str]] = {}
    for path in needed:
        cover = _closed_ancestor(path)
        if cover is not None:
            closed.setdefault(cover, []).append(path)
    covered = [path for paths in closed.values() for path in paths]
    for number, path in enumerate(covered):
        stage = f"{WORLD}/stage/{number}"
        commands.append(f"mkdir {stage}; mount --bind {shlex.quote(path)} {stage}")
    for cover in closed:
        commands.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(cover)}")
    for number, path in enumerate(covered):
        place = shlex.quote(path)
        commands.append(f"mkdir -p {place}; mount --bind {WORLD}/stage/{number} {place}")
    return commands


def _places() -> list[str]:
    return [sys.prefix, sys.base_prefix, str(_CHECKOUT), *filter(None, sys.path)]


def _closed_ancestor(path: str) -> str | None:
    """The topmost directory on the way to `path` that others may not enter."""
    for place in [*reversed(Path(path).parents), Path(path)]:
        wanted = stat.S_IXOTH if place != Path(path) else stat.S_IXOTH | stat.S_IROTH
        if place.stat().st_mode & wanted != wanted:
            return str(place)
    return None
