"""What a test left behind: mounts, child processes, descriptors. Finds, names and removes it.

Compares two snapshots and so does not know or care what the tested code does. Mounts count only
below the run's own temporary directory, since others may mount on this machine meanwhile.
Orphans count too once this process adopts them (`adopt_orphans`): a worker that outlives its
supervisor becomes a child of the test process instead of vanishing from its sight.
"""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

from fusemount.mountinfo import read_mounts

_PR_SET_CHILD_SUBREAPER = 36
_MNT_DETACH = 2
# What is already on its way out may take this long; a test without leftovers never waits.
_GRACE_S = 2.0
_POLL_S = 0.02
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What exists at one moment: mounts below `root`, children, open descriptors' targets."""

    root: bytes
    mounts: Counter[bytes]
    children: frozenset[int]
    descriptors: dict[int, str]


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What exists now and did not then; false if that is nothing."""

    mounts: tuple[bytes, ...]
    children: tuple[int, ...]
    descriptors: dict[int, str]

    def __bool__(self) -> bool:
        return bool(self.mounts or self.children or self.descriptors)

    def describe(self) -> str:
        """One line naming each; children by their command lines, so before they are killed."""
        parts = [f"mount {os.fsdecode(path)}" for path in self.mounts]
        parts += [f"process {pid} ({_command_line(pid)})" for pid in self.children]
        parts += [f"descriptor {number} ({to})" for number, to in self.descriptors.items()]
        return "; ".join(parts)


def adopt_orphans() -> None:
    """Make descendants whose parents die children of this process, not of init."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_running(pid: int) -> bool:
    """Whether `pid` exists and has not ended; an ended orphan stays as a zombie until reaped."""
    return _state(pid) not in ("", "Z", "X")


def detach(mountpoint: bytes) -> None:
    """Unmount lazily, as root or through fusermount3; silent if it is not mounted."""
    if _libc.umount2(mountpoint, _MNT_DETACH) == 0:
        return
    try:
        subprocess.run(["fusermount3", "-u", "-z", "-q", "--", mountpoint], check=False)
    except FileNotFoundError:
        return


def take_snapshot(root: bytes) -> Snapshot:
    """What exists now; mounts below the directory `root` (absolute, links resolved) only."""
    return Snapshot(root, _mounts_below(root), frozenset(_children()), _descriptors())


def find_leftovers(
    before: Snapshot, *, with_descriptors: bool = True, grace_s: float = _GRACE_S
) -> Leftovers:
    """What was not there in `before`, after up to `grace_s` seconds for it to end by itself."""
    deadline = time.monotonic() + grace_s
    collected = False
    while True:
        found = _compare(before, take_snapshot(before.root), with_descriptors)
        if not found:
            return found
        if not collected:
            # A descriptor whose owner only waits for the collector is not lost.
            gc.collect()
            collected = True
        elif time.monotonic() >= deadline:
            return found
        else:
            time.sleep(_POLL_S)


def clean_up(found: Leftovers) -> None:
    """Kill the processes and detach the mounts. Descriptors stay: somebody may yet close them."""
    for pid in found.children:
        os.kill(pid, signal.SIGKILL)
    for mountpoint in found.mounts:
        detach(mountpoint)
    deadline = time.monotonic() + _GRACE_S
    for pid in found.children:
        while not _reap(pid) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _compare(before: Snapshot, now: Snapshot, with_descriptors: bool) -> Leftovers:
    tracker_pid, tracker_descriptor = _resource_tracker()
    children = []
    for pid in sorted(now.children - before.children - {tracker_pid}):
        if is_running(pid):
            children.append(pid)
        else:
            _reap(pid)
    descriptors = {}
    if with_descriptors:
        descriptors = {
            number: to
            for number, to in now.descriptors.items()
            if number > 2 and number != tracker_descriptor and before.descriptors.get(number) != to
        }
    return Leftovers(tuple((now.mounts - before.mounts).elements()), tuple(children), descriptors)


def _resource_tracker() -> tuple[int | None, int | None]:
    # multiprocessing starts one for the whole life of the process at its first shared memory.
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    return getattr(tracker, "_pid", None), getattr(tracker, "_fd", None)


def _mounts_below(root: bytes) -> Counter[bytes]:
    inside = root.rstrip(b"/") + b"/"
    return Counter(m.mountpoint for m in read_mounts() if m.mountpoint.startswith(inside))


def _children() -> list[int]:
    pids: list[int] = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", "rb") as file:
                pids.extend(map(int, file.read().split()))
        except FileNotFoundError:  # the thread has just ended
            continue
    return pids


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own descriptor
            continue
    return found


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _reap(pid: int) -> bool:
    """Collect the exit status of `pid` if it has ended; true if it is gone afterwards."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return "ended"
