"""The source hangs: each read fails at its deadline, other files go on, the mount can be ended."""

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from fusemount.slowsource import SlowSource
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

DEADLINE_S = 1.0
# A bound on hanging, not on speed: this machine may be busy with other things.
HANGS_S = 15.0


class _Reads:
    """Reads of a file, each in a thread and by an open file of its own; a result or an errno."""

    def __init__(self, path: str, offsets: list[int], size: int) -> None:
        self.results: list[bytes | int] = []
        self._threads = [
            threading.Thread(target=self._read, args=(path, offset, size)) for offset in offsets
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, path: str, offset: int, size: int) -> None:
        try:
            fd = os.open(path, os.O_RDONLY)
            try:
                self.results.append(os.pread(fd, size, offset))
            finally:
                os.close(fd)
        except OSError as error:
            self.results.append(error.errno or 0)

    def join(self) -> list[bytes | int]:
        """All results; fails the test where a read is still waiting."""
        deadline = time.monotonic() + HANGS_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), "a read hangs"
        return self.results


@pytest.fixture
def hanging(tmp_path: Path, slow_source: SlowSourceStarter) -> SlowSource:
    """A source where reads of the file `hangs` are never answered, and those of `works` are."""
    write_file(tmp_path / "hangs", make_bytes(128 * MIB, "hangs"))
    write_file(tmp_path / "works", make_bytes(20 * MIB, "works"))
    slow = slow_source(tmp_path)
    slow.set_fault("hang", path="hangs")
    return slow


def test_read_of_a_hanging_file_fails_and_works_once_it_goes_on(
    hanging: SlowSource, mounted: MountStarter
) -> None:
    tree = mounted(hanging.mountpoint, "--source-deadline", str(DEADLINE_S))
    assert _Reads(f"{tree.path}/hangs", [0], 4096).join() == [errno.EIO]
    assert tree.status()["reads"]["deadlines_missed"] >= 1
    hanging.clear_faults()
    assert read_whole(f"{tree.path}/hangs") == make_bytes(128 * MIB, "hangs")


def test_other_files_are_read_while_many_reads_of_one_hang(
    hanging: SlowSource, mounted: MountStarter
) -> None:
    # A deadline beyond the test: whatever goes on goes on beside the reads that hang.
    tree = mounted(hanging.mountpoint, "--source-deadline", "60")
    waiting = _Reads(f"{tree.path}/hangs", [number * MIB for number in range(100)], 4096)
    wait_until(lambda: hanging.stats().hung >= 12, "reads hang")
    works = make_bytes(20 * MIB, "works")
    assert _Reads(f"{tree.path}/works", [19 * MIB], 4096).join() == [works[19 * MIB :][:4096]]
    assert read_whole(f"{tree.path}/works") == works
    tree.status()
    hanging.clear_faults()
    expected = make_bytes(128 * MIB, "hangs")
    assert set(waiting.join()) == {expected[number * MIB :][:4096] for number in range(100)}


def test_hanging_reads_do_not_keep_the_mount_from_ending(
    hanging: SlowSource, mounted: MountStarter
) -> None:
    tree = mounted(hanging.mountpoint, "--source-deadline", "60")
    waiting = _Reads(f"{tree.path}/hangs", [0, 50 * MIB], 4096)
    wait_until(lambda: hanging.stats().hung >= 2, "reads hang")
    assert tree.terminate() == 0
    assert not tree.is_mounted()
    # The worker's own reads are in the kernel until the source answers them.
    hanging.clear_faults()
    assert all(isinstance(result, int) and result for result in waiting.join())


def test_stopped_source_stops_nothing_but_what_needs_it(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    content = make_bytes(32 * MIB, "content")
    write_file(tmp_path / "file", content)
    slow = slow_source(tmp_path)
    tree = mounted(slow.mountpoint, "--source-deadline", str(DEADLINE_S))
    fd = os.open(f"{tree.path}/file", os.O_RDONLY)
    try:
        assert os.pread(fd, MIB, 0) == content[:MIB]
        os.kill(slow.pid, signal.SIGSTOP)
        try:
            reads = _Reads(f"{tree.path}/file", [20 * MIB], 4096)
            results = reads.join()
            assert results == [errno.EIO]
            assert tree.status()["tables"]["handler_failures"] == 0
        finally:
            os.kill(slow.pid, signal.SIGCONT)
        wait_until(lambda: _can_read(fd, 24 * MIB), "the source goes on")
        assert read_at(fd, 0, len(content)) == content
    finally:
        os.close(fd)


def _can_read(fd: int, offset: int) -> bool:
    try:
        return bool(os.pread(fd, 4096, offset))
    except OSError:
        return False


def test_lookups_and_opens_that_hang_fail_too(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    write_file(tmp_path / "looked" / "file", b"looked")
    write_file(tmp_path / "opened" / "file", b"opened")
    write_file(tmp_path / "works" / "file", b"works")
    slow = slow_source(tmp_path, attr_timeout_s=0.0, entry_timeout_s=0.0)
    tree = mounted(slow.mountpoint, "--source-deadline", str(DEADLINE_S))
    slow.set_fault("hang", op="lookup", path="looked*")
    slow.set_fault("hang", op="open", path="opened*")
    looked = _Reads(f"{tree.path}/looked/file", [0], 100)
    opened = _Reads(f"{tree.path}/opened/file", [0], 100)
    assert _Reads(f"{tree.path}/works/file", [0], 100).join() == [b"works"]
    assert looked.join() == [errno.EIO]
    assert opened.join() == [errno.EIO]
    slow.clear_faults()
    assert read_whole(f"{tree.path}/looked/file") == b"looked"
    assert read_whole(f"{tree.path}/opened/file") == b"opened"
