"""Clients are killed at random moments; who reads beside them does not notice."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from fusemount.slowsource import SlowSource
from tests.mount.conftest import MountStarter
from tests.mount.slow_sources import MIB, SlowSourceStarter, make_bytes, wait_until, write_file

KILLS = 200
# A bound on hanging, not on speed: a wedged worker wakes up for nobody.
HANGS_S = 10.0
_SIZE = 64 * MIB
_SEED = 20261123

# A client that reads all over a file, by plain reads and by a mapping, until it is killed. It
# starts clients of its own, so that 200 kills do not take 200 interpreters' start.
_VICTIMS = """
import mmap, os, random, sys
path, seed = sys.argv[1], int(sys.argv[2])
while True:
    line = sys.stdin.readline()
    if not line:
        break
    random.seed(seed := seed + 1)
    child = os.fork()
    if not child:
        fd = os.open(path, os.O_RDONLY)
        size = os.fstat(fd).st_size
        if random.random() < 0.5:
            mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            while True:
                mapping[random.randrange(size)]
        while True:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.lseek(fd, random.randrange(size), os.SEEK_SET)
            os.read(fd, random.choice((4096, 1 << 20)))
    print(child, flush=True)
    sys.stdin.readline()
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


class _Reader(threading.Thread):
    """Reads a file again and again, always from the source; remembers sums and the worst wait."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self.stopping = threading.Event()
        self.longest_s = 0.0
        self.sums: list[str] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                self.sums.append(self._read())
        except Exception as error:
            self.failure = error

    def _read(self) -> str:
        digest = hashlib.sha256()
        fd = os.open(self._path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            while True:
                started = time.monotonic()
                piece = os.read(fd, MIB)
                self.longest_s = max(self.longest_s, time.monotonic() - started)
                if not piece:
                    return digest.hexdigest()
                digest.update(piece)
        finally:
            os.close(fd)


def _kill_clients(path: str, count: int) -> None:
    moments = random.Random(_SEED)
    with subprocess.Popen(
        [sys.executable, "-c", _VICTIMS, path, str(_SEED)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as victims:
        assert victims.stdin is not None
        assert victims.stdout is not None
        for _ in range(count):
            print(file=victims.stdin, flush=True)
            victim = int(victims.stdout.readline())
            time.sleep(moments.uniform(0.0, 0.08))
            os.kill(victim, signal.SIGKILL)
            print(file=victims.stdin, flush=True)
            assert victims.stdout.readline() == "gone\n"
        victims.stdin.close()


def _open_descriptors(slow: SlowSource, pid: int) -> int:
    prefix = slow.mountpoint + "/"
    count = 0
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += os.readlink(f"/proc/{pid}/fd/{number}").startswith(prefix)
        except OSError:
            continue
    return count


def test_reader_goes_on_while_clients_are_killed(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    write_file(tmp_path / "file", make_bytes(_SIZE, "file"))
    write_file(tmp_path / "victims", make_bytes(_SIZE, "victims"))
    expected = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    slow = slow_source(tmp_path, latency_ms=5.0, stream_mbps=100.0, total_mbps=800.0)
    tree = mounted(slow.mountpoint)
    before = tree.status()
    worker = before["worker"]["pid"]
    assert before["c_part"], "without the C part the descriptor blocks: this cannot hold"
    reader = _Reader(f"{tree.path}/file")
    reader.start()
    try:
        _kill_clients(f"{tree.path}/victims", KILLS // 2)
        # Those of the very file that is read share its pages and its fetches.
        _kill_clients(f"{tree.path}/file", KILLS // 2)
    finally:
        reader.stopping.set()
        reader.join(60)
    print(
        f"longest read beside {KILLS} kills: {reader.longest_s:.3f} s of {len(reader.sums)} loads"
    )
    assert reader.failure is None
    assert not reader.is_alive()
    assert set(reader.sums) == {expected}
    assert slow.stats().files["file"].bytes > 2 * _SIZE, "loads came from the kernel's cache"
    assert reader.longest_s < HANGS_S
    wait_until(lambda: tree.status()["tables"]["open_files"] == 0, "every file is released")
    wait_until(lambda: _open_descriptors(slow, worker) == 0, "every descriptor is closed")
    after = tree.status()
    assert after["source"]["in_flight"] == 0
    assert after["tables"]["handler_failures"] == 0
    assert after["worker"]["pid"] == worker
