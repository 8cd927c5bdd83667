"""What an ordinary user does with the command line; run by unprivileged_world, alone in its world.

Knows the standard library only. Prints one JSON object: what was seen, or the failure.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

WORLD = "/mnt"
SOURCE, ROOT, RUN = f"{WORLD}/source", f"{WORLD}/root", f"{WORLD}/run"
_DEADLINE_S = 30.0


def _fusemount(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "fusemount", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )


def _answer(*arguments: str) -> list[Any]:
    done = _fusemount(*arguments)
    return [done.returncode, done.stdout, done.stderr]


def _mounts(place: str) -> list[list[str]]:
    """Type and options of what is mounted at a place."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            if fields.split()[4] == place:
                kind, _, super_options = rest.split()
                found.append([kind, fields.split()[5], super_options])
    return found


def _open_errno(path: str) -> int:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return error.errno or -1
    return 0


def _serve() -> dict[str, Any]:
    started = _answer("mount", "--daemon", SOURCE, ROOT)
    with open(f"{ROOT}/model.bin", "rb") as file:
        content = file.read()
    status = json.loads(_fusemount("status", "--json", ROOT).stdout)
    seen = {
        "started": started,
        "content": content.decode(),
        "names": sorted(os.listdir(ROOT)),
        "private": _open_errno(f"{ROOT}/private.bin"),
        "closed": _open_errno(f"{ROOT}/closed"),
        "mounts": _mounts(ROOT),
        "degraded": status["degraded"],
        "sockets": len(os.listdir(f"{RUN}/fusemount")),
    }
    seen["umount"] = _answer("umount", ROOT)
    seen["mounts after"] = _mounts(ROOT)
    seen["sockets after"] = len(os.listdir(f"{RUN}/fusemount"))
    return seen


def _interrupt() -> dict[str, Any]:
    process = subprocess.Popen(
        [sys.executable, "-m", "fusemount", "mount", SOURCE, ROOT],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.readline()
    busy = subprocess.Popen(["sleep", "60"], cwd=ROOT)
    process.send_signal(signal.SIGINT)
    code = process.wait(_DEADLINE_S)
    left = _mounts(ROOT)
    busy.kill()
    busy.wait()
    rest = process.stderr.read()
    process.stderr.close()
    return {"ready": said, "rest": rest, "code": code, "mounts after": left}


def _orphan() -> dict[str, Any]:
    _fusemount("mount", "--daemon", SOURCE, ROOT)
    supervisor = json.loads(_fusemount("status", "--json", ROOT).stdout)["supervisor_pid"]
    with open(f"/proc/{supervisor}/task/{supervisor}/children", encoding="ascii") as file:
        worker = int(file.read())
    os.kill(worker, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + _DEADLINE_S
    while os.path.exists(f"/proc/{worker}/maps") and time.monotonic() < deadline:
        with open(f"/proc/{worker}/stat", encoding="ascii") as file:
            if file.read().rpartition(") ")[2][:1] == "Z":
                break
        time.sleep(0.02)
    before = len(_mounts(ROOT))
    return {"before": before, "umount": _answer("umount", ROOT), "mounts after": _mounts(ROOT)}


def _mistakes() -> dict[str, Any]:
    return {
        "unreadable source": _answer("mount", f"{WORLD}/closed", ROOT),
        "source in an unreadable directory": _answer("mount", f"{WORLD}/closed/source", ROOT),
        "foreign mount point": _answer("mount", SOURCE, f"{WORLD}/roots"),
        "unreadable mount point": _answer("mount", SOURCE, f"{WORLD}/closed"),
        "allow other": _answer("mount", "--allow-other", SOURCE, ROOT),
        "umount of what is no mount": _answer("umount", ROOT),
        "mounts after": _mounts(ROOT) + _mounts(f"{WORLD}/roots"),
    }


_SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    "serve": _serve,
    "interrupt": _interrupt,
    "orphan": _orphan,
    "mistakes": _mistakes,
}


def main() -> None:
    """Run the scenario that is named on the command line."""
    # Where the package cannot be imported there is no output: the caller then skips.
    subprocess.run([sys.executable, "-c", "import fusemount, pyfuse3"], check=True)
    try:
        report = _SCENARIOS[sys.argv[1]]()
    except Exception:
        report = {"failure": traceback.format_exc()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
