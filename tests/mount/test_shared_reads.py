"""Many readers of one file, or little memory: the bytes are right, the source is asked once."""

import hashlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.mount.conftest import MountStarter
from tests.mount.slow_sources import (
    MIB,
    SlowSourceStarter,
    make_bytes,
    read_at,
    read_whole,
    wait_until,
    write_file,
)

_READERS = 8
# What reading ahead and reading on demand may both ask for where they meet.
_SLACK_BYTES = 64 * 1024

_LOADER = """
import hashlib, mmap, os, sys
path, how = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
fd = os.open(path, os.O_RDONLY)
digest = hashlib.sha256()
if how == "read":
    while piece := os.read(fd, 1 << 20):
        digest.update(piece)
else:
    size = os.fstat(fd).st_size
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapping, memoryview(mapping) as view:
        for start in range(0, size, 1 << 20):
            with view[start : start + (1 << 20)] as piece:
                digest.update(piece)
print(digest.hexdigest(), flush=True)
"""


def _load_at_once(path: str, ways: list[str]) -> list[str]:
    """The sums that processes get who load the file, each in its way, started together."""
    loaders = [
        subprocess.Popen(
            [sys.executable, "-c", _LOADER, path, way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for way in ways
    ]
    sums = []
    for loader in loaders:
        assert loader.stdout is not None
        assert loader.stdout.readline() == "ready\n"
    for loader in loaders:
        assert loader.stdin is not None
        print(file=loader.stdin, flush=True)
    for loader in loaders:
        with loader:
            assert loader.stdout is not None
            sums.append(loader.stdout.readline().strip())
    return sums


@pytest.mark.parametrize(
    "ways", [["read"] * _READERS, ["map"] * _READERS, ["read", "map"] * (_READERS // 2)]
)
def test_file_loaded_by_many_at_once_is_fetched_once(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter, ways: list[str]
) -> None:
    content = make_bytes(96 * MIB + 777, "content")
    write_file(tmp_path / "file", content)
    slow = slow_source(tmp_path, latency_ms=10.0, stream_mbps=60.0, total_mbps=800.0)
    tree = mounted(slow.mountpoint)
    sums = _load_at_once(f"{tree.path}/file", ways)
    assert sums == [hashlib.sha256(content).hexdigest()] * _READERS
    assert slow.stats().files["file"].bytes <= len(content) + _SLACK_BYTES


def test_large_file_goes_through_a_small_memory(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    content = make_bytes(300 * MIB, "content")
    write_file(tmp_path / "file", content)
    slow = slow_source(tmp_path, latency_ms=2.0)
    tree = mounted(slow.mountpoint, "--memory", "32MiB")
    assert read_whole(f"{tree.path}/file") == content
    memory = tree.status()["memory"]
    assert memory["budget_bytes"] == 32 * MIB
    assert 0 < memory["mapped_bytes"] <= 32 * MIB
    assert slow.stats().files["file"].bytes <= len(content) + _SLACK_BYTES


def test_more_readers_than_extents_all_get_on(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    """Four extents for twelve readers, each of them in and out of order in a file of its own."""
    names = [f"file-{number}" for number in range(12)]
    for name in names:
        write_file(tmp_path / name, make_bytes(13 * MIB, name))
    slow = slow_source(tmp_path, latency_ms=2.0)
    tree = mounted(slow.mountpoint, "--memory", "16MiB", "--source-deadline", "20")
    failures: list[str] = []

    def read(name: str) -> None:
        content = make_bytes(13 * MIB, name)
        moments = random.Random(name)
        try:
            if read_whole(f"{tree.path}/{name}") != content:
                failures.append(f"{name}: wrong bytes")
            fd = os.open(f"{tree.path}/{name}", os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                for _ in range(30):
                    offset = moments.randrange(13 * MIB)
                    size = moments.choice((1, 4096, 700_000, 3 * MIB))
                    if read_at(fd, offset, size) != content[offset : offset + size]:
                        failures.append(f"{name}: wrong bytes at {offset}")
            finally:
                os.close(fd)
        except OSError as error:
            failures.append(f"{name}: {error}")

    threads = [threading.Thread(target=read, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    wait_until(lambda: tree.status()["tables"]["open_files"] == 0, "every file is released")
    assert tree.status()["memory"]["mapped_bytes"] <= 16 * MIB
