"""Where the source's calls run, and what becomes of those that come too late."""

import contextlib
import errno
import os
import stat
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from fusemount import source as source_module
from fusemount.errors import SourceTimeoutError
from fusemount.identity import Found
from fusemount.mountinfo import MountWatch
from fusemount.source import (
    Source,
    get_xattr,
    list_names,
    list_xattrs,
    open_directory,
    open_file,
    open_path,
    read_link,
)
from tests.unit.fakes import open_descriptors, wait_until

_DEADLINE_S = 20.0
Work = Callable[[Source], Awaitable[None]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def run(root: Path, work: Work, deadline_s: float = _DEADLINE_S) -> None:
    async def main() -> None:
        source = Source(str(root), deadline_s)
        try:
            await work(source)
        finally:
            os.close(source.root_fd)

    trio.run(main)


class Gate:
    """A call that a test holds up; knows the thread that it ran in."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.reached = threading.Event()
        self.thread: threading.Thread | None = None

    def hold(self) -> str:
        self.thread = threading.current_thread()
        self.reached.set()
        self.opened.wait(_DEADLINE_S)
        return "done"


def test_local_call_runs_at_once(root: Path) -> None:
    async def work(source: Source) -> None:
        thread = await source.call(True, threading.current_thread)
        assert thread is threading.main_thread()

    run(root, work)


def test_remote_call_runs_in_a_thread(root: Path) -> None:
    async def work(source: Source) -> None:
        thread = await source.call(False, threading.current_thread)
        assert thread is not threading.main_thread()

    run(root, work)


def test_after_a_slow_local_call_calls_run_in_threads_for_a_while(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(source: Source) -> None:
        clock = [1000.0]
        monkeypatch.setattr(source_module.time, "monotonic", lambda: clock[0])

        def take(seconds: float) -> threading.Thread:
            clock[0] += seconds
            return threading.current_thread()

        inline = threading.main_thread()
        assert await source.call(True, take, 0.005) is inline
        assert await source.call(True, take, 0.0) is inline
        assert await source.call(True, take, 0.006) is inline
        assert await source.call(True, take, 9.9) is not inline
        clock[0] += 0.2
        assert await source.call(True, take, 0.0) is inline

    real_monotonic = time.monotonic
    run(root, work)
    assert real_monotonic() > 0


def test_what_a_call_raises_is_raised(root: Path) -> None:
    async def work(source: Source) -> None:
        for is_local in (True, False):
            with pytest.raises(FileNotFoundError):
                await source.call(is_local, source.find, source.root_fd, b"missing")

    run(root, work)


def test_call_past_its_deadline_fails_and_its_descriptor_is_closed(root: Path) -> None:
    async def work(source: Source) -> None:
        gate, discarded = Gate(), []

        def open_late() -> int:
            gate.hold()
            return os.open(root, os.O_RDONLY | os.O_CLOEXEC)

        def discard(fd: int) -> None:
            os.close(fd)
            discarded.append(fd)

        before = open_descriptors()
        with pytest.raises(SourceTimeoutError):
            await source.call(False, open_late, discard=discard)
        assert source.timeouts == 1
        gate.opened.set()
        await wait_until(lambda: discarded)
        assert open_descriptors() == before

    run(root, work, deadline_s=0.05)


def test_result_of_a_cancelled_call_is_discarded(root: Path) -> None:
    async def work(source: Source) -> None:
        gate, discarded = Gate(), []
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    await source.call(False, gate.hold, discard=discarded.append)

                nursery.start_soon(call)
                await wait_until(gate.reached.is_set)
                scope.cancel()
        gate.opened.set()
        await wait_until(lambda: discarded == ["done"])
        assert source.timeouts == 0

    run(root, work)


def test_hanging_calls_hold_up_no_others(root: Path) -> None:
    async def work(source: Source) -> None:
        gates = [Gate() for _ in range(8)]
        async with trio.open_nursery() as nursery:
            for gate in gates:
                nursery.start_soon(source.call, False, gate.hold)
            await wait_until(lambda: all(gate.reached.is_set() for gate in gates))
            assert stat.S_ISDIR((await source.call(False, source.root)).status.st_mode)
            for gate in gates:
                gate.opened.set()

    run(root, work)


def test_root_that_is_no_directory_is_refused(root: Path) -> None:
    (root / "file").touch()
    with pytest.raises(NotADirectoryError):
        trio.run(lambda: _make(str(root / "file")))


async def _make(path: str) -> Source:
    return Source(path, 1.0)


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("count", [0, 1, 16, 17, 100])
def test_entries_are_found_in_order_and_gone_ones_are_none(
    root: Path, is_local: bool, count: int
) -> None:
    names = [b"%d" % number for number in range(count)]
    for number in range(0, count, 2):
        (root / str(number)).write_bytes(b"x" * number)

    async def work(source: Source) -> None:
        found = await source.find_all(is_local, source.root_fd, names)
        sizes = [None if entry is None else entry.status.st_size for entry in found]
        assert sizes == [None if number % 2 else number for number in range(count)]

    run(root, work)


class Failing(Source):
    """A source that fails at one name."""

    failure: OSError | SourceTimeoutError = OSError(errno.EIO, "input/output error")

    def find_many(self, directory_fd: int, names: object) -> list[None]:  # type: ignore[override]
        if b"70" in names:  # type: ignore[operator]
            raise self.failure
        return [None for _ in names]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOTCONN, "gone"), SourceTimeoutError("late")], ids=str
)
def test_failing_entry_fails_the_listing_with_its_own_error(
    root: Path, failure: OSError | SourceTimeoutError
) -> None:
    async def main() -> None:
        source = Failing(str(root), _DEADLINE_S)
        source.failure = failure
        try:
            with pytest.raises(type(failure)) as caught:
                names = [b"%d" % number for number in range(100)]
                await source.find_all(False, source.root_fd, names)
            assert caught.value is failure
        finally:
            os.close(source.root_fd)

    trio.run(main)


def test_same_root_is_not_opened_again(root: Path) -> None:
    async def work(source: Source) -> None:
        before = open_descriptors()
        assert not source.reopen_root()
        assert open_descriptors() == before

    run(root, work)


def test_remounted_root_is_opened_again_under_the_same_number(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "new").mkdir()

    async def work(source: Source) -> None:
        # A device number that no mount has any more.
        monkeypatch.setattr(source_module, "_device_of", lambda _fd: -1)
        source.path, number = str(root / "new"), source.root_fd
        (root / "new" / "file").touch()
        assert source.reopen_root()
        assert source.root_fd == number
        assert list_names(source.root_fd) == [b"file"]
        assert not os.get_inheritable(source.root_fd)

    run(root, work)


def test_filesystem_of_another_kind_is_not_the_source(root: Path) -> None:
    async def work(source: Source) -> None:
        source.path = "/proc"
        assert not source.reopen_root()
        assert list_names(source.root_fd) == []

    run(root, work)


def test_no_link_is_followed(root: Path) -> None:
    (root / "d").mkdir()
    (root / "file").touch()
    (root / "to-d").symlink_to("d")
    (root / "to-file").symlink_to("file")

    async def work(source: Source) -> None:
        for opener, name in ((open_directory, b"to-d"), (open_file, b"to-file")):
            with pytest.raises(OSError) as caught:
                opener(source.root_fd, name)
            assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
        assert stat.S_ISLNK(source.find(source.root_fd, b"to-file").status.st_mode)
        assert read_link(source.root_fd, b"to-file") == b"file"
        fd = open_path(source.root_fd, b"to-file")
        assert stat.S_ISLNK(os.fstat(fd).st_mode)
        os.close(fd)

    run(root, work)


def test_fifo_in_place_of_a_file_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "fifo")

    async def work(source: Source) -> None:
        os.close(open_file(source.root_fd, b"fifo"))

    run(root, work)


def test_names_come_as_bytes_without_dots(root: Path) -> None:
    for name in (b"a", b"\xff", b".hidden"):
        os.mkdir(os.path.join(os.fsencode(root), name))

    async def work(source: Source) -> None:
        assert sorted(list_names(source.root_fd)) == [b".hidden", b"a", b"\xff"]

    run(root, work)


def test_attributes_are_read_through_an_o_path_descriptor(root: Path) -> None:
    (root / "file").touch()
    try:
        os.setxattr(root / "file", "user.note", b"value\0")
    except OSError:
        pytest.skip("the filesystem of temporary files has no user attributes")

    async def work(source: Source) -> None:
        fd = open_path(source.root_fd, b"file")
        assert b"user.note" in list_xattrs(fd)
        assert get_xattr(fd, b"user.note") == b"value\0"
        with pytest.raises(OSError) as caught:
            get_xattr(fd, b"user.other")
        assert caught.value.errno == errno.ENODATA
        os.close(fd)

    run(root, work)


@pytest.mark.parametrize("gives_up_by", ["deadline", "cancellation"])
def test_hung_calls_leave_room_for_others_until_they_end(root: Path, gives_up_by: str) -> None:
    async def work(source: Source) -> None:
        gate = Gate()

        async def hang() -> None:
            with trio.move_on_after(0.3 if gives_up_by == "cancellation" else _DEADLINE_S):
                with contextlib.suppress(SourceTimeoutError):
                    await source.call(False, gate.hold)

        # More than there are threads: the last ones start late or never, and count only if they do.
        async with trio.open_nursery() as nursery:
            for _ in range(source_module.METADATA_THREADS + 8):
                nursery.start_soon(hang)
        assert 0 <= source.stuck_calls - source_module.METADATA_THREADS <= 8
        source.deadline_s = _DEADLINE_S
        assert await source.call(False, threading.current_thread) is not threading.main_thread()
        gate.opened.set()
        await wait_until(lambda: source.stuck_calls == 0)
        assert source._limiter.total_tokens == source_module.METADATA_THREADS

    run(root, work, deadline_s=0.3 if gives_up_by == "deadline" else _DEADLINE_S)


def test_an_entry_that_fails_does_not_fail_its_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "good").touch()
    (root / "dead").touch()

    async def work(source: Source) -> None:
        real_find = source.find

        def find(directory_fd: int, name: bytes) -> Found:
            if name == b"dead":
                raise OSError(errno.ENOTCONN, "dead")
            return real_find(directory_fd, name)

        monkeypatch.setattr(source, "find", find)
        found = source.find_many(source.root_fd, [b"dead", b"good"])
        assert found[0] is None
        assert found[1] is not None

        def refuse(fd: int) -> os.statvfs_result:
            raise OSError(errno.ENOTCONN, "all of it")

        monkeypatch.setattr(os, "fstatvfs", refuse)
        with pytest.raises(OSError, match="all of it"):
            source.find_many(source.root_fd, [b"good", b"dead"])

    run(root, work)


def test_local_calls_run_in_threads_while_a_mount_below_may_hang(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(source: Source) -> None:
        monkeypatch.setattr(MountWatch, "may_hang", lambda _watch, _now_s: True)
        assert await source.call(True, threading.current_thread) is not threading.main_thread()
        monkeypatch.setattr(MountWatch, "may_hang", lambda _watch, _now_s: False)
        assert await source.call(True, threading.current_thread) is threading.main_thread()

    run(root, work)
