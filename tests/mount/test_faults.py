"""The source fails: the read that met it gets the source's errno, everything else goes on."""

import errno
import mmap
import os
import subprocess
import time
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

_ERRNO_OF = {"eio": errno.EIO, "estale": errno.ESTALE}


def _open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("action", ["eio", "estale"])
def test_failed_read_gets_the_sources_errno_and_the_mount_goes_on(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter, action: str
) -> None:
    content, other = make_bytes(8 * MIB, "content"), make_bytes(MIB, "other")
    write_file(tmp_path / "file", content)
    write_file(tmp_path / "other", other)
    slow = slow_source(tmp_path)
    tree = mounted(slow.mountpoint)
    slow.set_fault(action, path="file")
    fd = os.open(f"{tree.path}/file", os.O_RDONLY)
    try:
        with pytest.raises(OSError) as failure:
            os.pread(fd, 4096, 0)
        assert failure.value.errno == _ERRNO_OF[action]
        assert read_whole(f"{tree.path}/other") == other
        assert tree.status()["reads"]["errors"] >= 1
        slow.clear_faults()
        assert read_at(fd, 0, len(content)) == content
    finally:
        os.close(fd)
    assert read_whole(f"{tree.path}/file") == content


@pytest.mark.parametrize("operation", ["open", "lookup", "readdir"])
def test_errno_of_other_requests_is_passed_on(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter, operation: str
) -> None:
    write_file(tmp_path / "folder" / "file", b"content")
    slow = slow_source(tmp_path, attr_timeout_s=0.0, entry_timeout_s=0.0)
    tree = mounted(slow.mountpoint, "--attribute-timeout", "0")
    # The catalogue's own look at the tree is over, or it could meet the fault instead.
    wait_until(lambda: tree.status()["optimizer"]["events_emitted"] >= 0, "status")
    slow.set_fault("eio", op=operation)
    with pytest.raises(OSError) as failure:
        if operation == "readdir":
            os.listdir(f"{tree.path}/folder")
        else:
            read_whole(f"{tree.path}/folder/file")
    assert failure.value.errno == errno.EIO
    slow.clear_faults()
    assert read_whole(f"{tree.path}/folder/file") == b"content"
    assert os.listdir(f"{tree.path}/folder") == ["file"]


def test_failed_prefetch_is_fetched_again_for_its_reader(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    content = make_bytes(40 * MIB, "content")
    write_file(tmp_path / "file", content)
    slow = slow_source(tmp_path, latency_ms=3.0)
    tree = mounted(slow.mountpoint, "--first-window", "16MiB")
    # Reads from the fourth on are ahead of the reader; a few of them fail.
    slow.set_fault("eio", path="file", nth=4, count=6)
    assert read_whole(f"{tree.path}/file") == content
    assert slow.stats().faults == 6


def test_failed_fetches_hold_no_memory(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    for number in range(12):
        write_file(tmp_path / f"file-{number}", make_bytes(5 * MIB, number))
    slow = slow_source(tmp_path)
    tree = mounted(slow.mountpoint, "--memory", "16MiB")
    slow.set_fault("eio")
    for number in range(12):
        with pytest.raises(OSError):
            read_whole(f"{tree.path}/file-{number}")
    wait_until(lambda: tree.status()["memory"]["used_bytes"] == 0, "extents are free again")
    slow.clear_faults()
    for number in range(12):
        assert read_whole(f"{tree.path}/file-{number}") == make_bytes(5 * MIB, number)


@pytest.mark.parametrize("short_bytes", [1000, 65536])
def test_short_reads_of_the_source_are_completed(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter, short_bytes: int
) -> None:
    size = 300_001 if short_bytes < 4096 else 9 * MIB + 17
    content = make_bytes(size, "content")
    write_file(tmp_path / "file", content)
    slow = slow_source(tmp_path)
    tree = mounted(slow.mountpoint)
    slow.set_fault("short", path="file", short_bytes=short_bytes)
    assert read_whole(f"{tree.path}/file") == content
    assert slow.stats().faults > size // short_bytes // 2


def test_file_that_got_shorter_than_its_source_says_is_no_error(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    """The source's own attribute cache shows the old size still when its reads end early."""
    content = make_bytes(6 * MIB, "content")
    write_file(tmp_path / "file", content)
    slow = slow_source(tmp_path, attr_timeout_s=60.0, entry_timeout_s=60.0)
    tree = mounted(slow.mountpoint, "--attribute-timeout", "0.1", "--first-window", "64KiB")
    fd = os.open(f"{tree.path}/file", os.O_RDONLY)
    try:
        assert os.pread(fd, MIB, 0) == content[:MIB]
        os.truncate(tmp_path / "file", 4 * MIB)
        time.sleep(0.2)
        assert read_at(fd, MIB, 6 * MIB) == content[MIB : 4 * MIB]
    finally:
        os.close(fd)


@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
def test_error_of_a_local_source_is_that_reads_only(
    tmp_path: Path, mounted: MountStarter, error: str
) -> None:
    source = tmp_path / "source"
    content = make_bytes(4 * MIB, "content")
    write_file(source / "file", content)
    write_file(source / "other", content)
    tree = mounted(source)
    worker = tree.status()["worker"]["pid"]
    _drop_cached(source / "file")
    log = tmp_path / "strace"
    fd = os.open(f"{tree.path}/file", os.O_RDONLY)
    calls = "preadv,preadv2"
    command = ["strace", "-f", "-qq", "-o", str(log), "-P", str(source / "file")]
    command += ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"]
    tracer = subprocess.Popen([*command, "-p", str(worker)])
    try:
        wait_until(lambda: _is_traced(worker), "strace is attached")
        with pytest.raises(OSError) as failure:
            os.pread(fd, 4096, 0)
        assert failure.value.errno == getattr(errno, error)
        assert read_whole(f"{tree.path}/other") == content
    finally:
        tracer.terminate()
        tracer.wait(20)
        injected = log.read_text().count("(INJECTED)")
        after = read_at(fd, 0, len(content))
        os.close(fd)
    assert injected >= 1
    assert after == content


def _drop_cached(path: Path) -> None:
    """Out of the page cache, so that the read has to ask the filesystem."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _is_traced(pid: int) -> bool:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0" not in (task / "status").read_text() for task in tasks)


@pytest.mark.parametrize("is_local", [True, False])
def test_direct_open_reads_the_right_bytes(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter, is_local: bool
) -> None:
    content = make_bytes(9 * MIB + 1234, "content")
    write_file(tmp_path / "file", content)
    tree = mounted(tmp_path if is_local else slow_source(tmp_path).mountpoint)
    fd = os.open(f"{tree.path}/file", os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, MIB) as buffer:
        try:
            for offset in (*range(0, len(content), MIB), 4096, 5 * MIB + 512):
                got = os.preadv(fd, [buffer], offset)
                assert buffer[:got] == content[offset : offset + MIB], offset
        finally:
            os.close(fd)


def test_failures_leave_no_descriptor_open(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    write_file(tmp_path / "file", make_bytes(2 * MIB, "content"))
    slow = slow_source(tmp_path, attr_timeout_s=0.0, entry_timeout_s=0.0)
    tree = mounted(slow.mountpoint, "--attribute-timeout", "0")
    read_whole(f"{tree.path}/file")
    worker = tree.status()["worker"]["pid"]
    wait_until(lambda: tree.status()["tables"]["open_files"] == 0, "the file is released")
    before = _open_descriptors(worker)
    for operation in ("read", "open", "getattr", "lookup"):
        for nth in range(1, 6):
            slow.set_fault("eio", op=operation, nth=nth, count=1)
            try:
                read_whole(f"{tree.path}/file")
            except OSError as error:
                assert error.errno == errno.EIO
            slow.clear_faults()
    assert read_whole(f"{tree.path}/file") == make_bytes(2 * MIB, "content")
    wait_until(lambda: _open_descriptors(worker) <= before, "descriptors are closed again")
