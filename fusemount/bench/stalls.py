"""The case `stalls`: clients are killed at random moments while another reader loads.

A mount whose worker sleeps in the kernel when a client goes away shows here as one read that takes
seconds. The same reader without kills, before, says what the slow source explains.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from fusemount.bench.mounts import OwnMount
from fusemount.bench.workplace import mount_point, write_file
from fusemount.errors import MountError
from fusemount.slowsource import SlowSource
from fusemount.slowsource_values import OBJECT_STORE

_MIB = 1024 * 1024
_LOADED, _SHARED = "loaded.bin", "shared.bin"
# A client lives about as long as a few requests of the slow source take.
_LONGEST_LIFE_S = 0.08
# A killed client waits for the request that was taken up already, and no longer.
_KILL_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 60.0


def measure_stalls(
    workplace: str,
    *,
    size_bytes: int,
    kills: int,
    quiet_s: float,
    seed: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Load a file of `size_bytes` over and over while `kills` clients of another one are killed.

    `quiet_s` is how long the same is done without kills first. Raises MountError where the reader
    fails or cannot be ended.
    """
    source = os.path.join(workplace, "source")
    os.mkdir(source)
    progress("writing the files")
    for name in (_LOADED, _SHARED):
        write_file(os.path.join(source, name), size_bytes)
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        slow_root = stack.enter_context(mount_point(workplace))
        stack.enter_context(SlowSource(source, slow_root, **asdict(OBJECT_STORE)))
        root = stack.enter_context(mount_point(workplace))
        mount = stack.enter_context(OwnMount(slow_root, root))
        progress("loading without kills")
        with _reading(os.path.join(root, _LOADED)) as quiet:
            time.sleep(quiet_s)
        progress(f"loading while {kills} clients are killed")
        ends_s = []
        with _reading(os.path.join(root, _LOADED)) as disturbed:
            for _ in range(kills):
                ends_s.append(_kill_one(os.path.join(root, _SHARED), size_bytes, chance))
        status = mount.status()
    return {
        "pace": asdict(OBJECT_STORE),
        "size_bytes": size_bytes,
        "kills": kills,
        "seed": seed,
        "c_part": status["c_part"],
        "longest_killed_client_s": round(max(ends_s), 6),
        "without_kills": quiet,
        "with_kills": disturbed,
    }


@contextlib.contextmanager
def _reading(path: str) -> Iterator[dict[str, Any]]:
    """A reader that reads meanwhile; the mapping it yields holds its figures afterwards."""
    figures: dict[str, Any] = {}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "fusemount.bench.readers", "steady", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield figures
            said, complaint = process.communicate(timeout=_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            raise MountError("the reader does not come back: it is stalled") from error
        finally:
            process.kill()
    if process.returncode != 0:
        raise MountError(f"the reader failed: {complaint.strip()}")
    figures.update(json.loads(said))


def _kill_one(path: str, size_bytes: int, chance: random.Random) -> float:
    """Start a client somewhere in the file, kill it soon after: seconds until it was gone."""
    # Neither finds what it reads in the page cache for long, so that requests are under way.
    flag = chance.choice(["direct", "nocache"])
    block = chance.randrange(max(1, size_bytes // _MIB))
    client = subprocess.Popen(
        ["dd", f"if={path}", "of=/dev/null", "bs=1M", f"skip={block}", f"iflag={flag}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(chance.uniform(0.0, _LONGEST_LIFE_S))
    finally:
        client.kill()
        killed = time.monotonic()
        try:
            client.wait(_KILL_DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise MountError("a killed client is still there after 60 s") from None
    return time.monotonic() - killed
