"""Readers on a store and real fetch threads, without a mount: who shares what, who keeps what."""

import errno
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from fusemount.direct import DirectReads
from fusemount.fetch import FetchThreads
from fusemount.filler import Filler
from fusemount.handles import FileHandle
from fusemount.identity import Found
from fusemount.inodes import InodeTable
from fusemount.metrics import Metrics
from fusemount.options import KIB, MIB
from fusemount.readahead import Readahead
from fusemount.reader import Reader
from fusemount.store.content import FileCounters
from fusemount.store.memory import MemoryStore
from tests.unit.fakes import make_directory

_DEADLINE_S = 30.0


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes()


class Readers:
    """A reader with its store; files are opened as on a source where they have no identity."""

    def __init__(self, budget_bytes: int) -> None:
        self.store = MemoryStore(budget_bytes)
        self.fetch = FetchThreads()
        self.metrics = Metrics(lambda *_event: None)
        self.before_status: Callable[[], None] = lambda: None
        self.reader = Reader(
            self.store,
            Filler(self.store, self.fetch, self.metrics),
            DirectReads(self.store, self.fetch, self.metrics),
            self.metrics,
            self._status_of_open,
            attribute_timeout_s=0.0,
            deadline_s=_DEADLINE_S,
        )
        self._table = InodeTable(make_directory())
        self.closed: list[int] = []

    async def _status_of_open(self, fd: int, _is_local: bool) -> Found:
        await trio.lowlevel.checkpoint()
        self.before_status()
        return Found(os.fstat(fd), None)

    def open(self, path: Path, first_window_bytes: int = 64 * KIB) -> FileHandle:
        fd = os.open(path, os.O_RDONLY)
        found = Found(os.fstat(fd), None)
        key = b"/" + os.fsencode(path.name)
        content = self.store.find(key, found.version)
        if content is None:
            content = self.store.add(key, found.version, FileCounters(), self._close)
        if content.fd < 0:
            content.fd = fd
        else:
            os.close(fd)
        content.hold()
        return FileHandle(
            fh=1,
            node=self._table.root,
            path=path.name,
            content=content,
            pid=1,
            readahead=Readahead(first_window_bytes),
            priority=0,
            is_local=False,
            reads_cached=False,
        )

    def close(self, handle: FileHandle) -> None:
        handle.is_open = False
        handle.content.release()
        self.store.forget_unused(handle.content)

    def _close(self, fd: int) -> None:
        self.closed.append(fd)
        os.close(fd)

    async def read(self, handle: FileHandle, offset: int, size: int) -> bytes:
        with trio.fail_after(_DEADLINE_S):
            return bytes(await self.reader.read(handle, offset, size))


@contextmanager
def _ended(readers: Readers) -> Iterator[None]:
    try:
        yield
    finally:
        readers.fetch.close()


def run(work: Callable[[Readers], Awaitable[None]], budget_bytes: int = 256 * MIB) -> None:
    async def main() -> None:
        readers = Readers(budget_bytes)
        with _ended(readers):
            await work(readers)
            with trio.fail_after(_DEADLINE_S):
                while readers.fetch.in_flight:  # noqa: ASYNC110 - prefetch has no one to wait
                    await trio.sleep(0.001)

    trio.run(main)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(32 * MIB))
    return path


def test_readers_that_take_turns_share_one_window_and_fetch_once(path: Path) -> None:
    async def work(readers: Readers) -> None:
        content = _bytes_of(path)
        handles = [readers.open(path) for _ in range(8)]
        for number, offset in enumerate(range(0, len(content), 512 * KIB)):
            data = await readers.read(handles[number % 8], offset, 512 * KIB)
            assert data == content[offset : offset + 512 * KIB]
        assert readers.metrics.fetched_bytes == len(content)
        assert readers.metrics.prefetched_bytes > len(content) // 2
        for handle in handles:
            readers.close(handle)

    run(work)


def test_reader_that_jumps_about_leaves_the_window_of_the_other_alone(path: Path) -> None:
    async def work(readers: Readers) -> None:
        content = _bytes_of(path)
        steady, jumping = readers.open(path), readers.open(path)
        moments = random.Random(2)
        for offset in range(0, len(content), 512 * KIB):
            assert await readers.read(steady, offset, 512 * KIB)
            where = moments.randrange(len(content) - 4096)
            assert await readers.read(jumping, where, 4096) == content[where : where + 4096]
        assert steady.readahead.window_bytes >= 4 * MIB
        readers.close(steady)
        readers.close(jumping)

    run(work)


def test_prefetch_that_found_no_memory_is_planned_again(path: Path) -> None:
    async def work(readers: Readers) -> None:
        content = _bytes_of(path)
        handle = readers.open(path, 16 * MIB)
        for offset in range(0, len(content), 512 * KIB):
            assert await readers.read(handle, offset, 512 * KIB) == content[offset:][: 512 * KIB]
        assert readers.metrics.fetched_bytes == len(content)
        readers.close(handle)

    run(work, budget_bytes=16 * MIB)


def test_replaced_file_and_its_successor_keep_their_bytes(path: Path, tmp_path: Path) -> None:
    async def work(readers: Readers) -> None:
        old = _bytes_of(path)
        new = random.Random(3).randbytes(len(old))
        old_handle = readers.open(path)
        assert await readers.read(old_handle, 0, MIB) == old[:MIB]
        (tmp_path / "next").write_bytes(new)
        os.rename(tmp_path / "next", path)
        new_handle = readers.open(path)
        for offset in range(0, len(old), 256 * KIB):
            piece = slice(offset, offset + 256 * KIB)
            assert await readers.read(old_handle, offset, 256 * KIB) == old[piece]
            assert await readers.read(new_handle, offset, 256 * KIB) == new[piece]
        assert old_handle.content.is_current
        assert new_handle.content.is_current
        # What was fetched of the old file before its change time moved, and no more, came twice.
        assert readers.metrics.fetched_bytes <= 2 * len(old) + 2 * MIB
        readers.close(old_handle)
        readers.close(new_handle)

    run(work)


def test_handle_released_while_its_file_is_asked_takes_hold_of_nothing(path: Path) -> None:
    async def work(readers: Readers) -> None:
        handle = readers.open(path)
        before = handle.content
        await readers.read(handle, 0, 4096)
        os.utime(path, (1, 1))
        readers.before_status = lambda: readers.close(handle)
        await readers.reader.revalidate(handle)
        assert handle.content is before
        with trio.fail_after(_DEADLINE_S):
            while before.users:  # noqa: ASYNC110 - prefetch has no one to wait
                await trio.sleep(0.001)
        assert len(readers.closed) == 1
        assert before.fd == -1

    run(work)


def test_truncated_file_ends_where_it_ends(path: Path) -> None:
    async def work(readers: Readers) -> None:
        content = _bytes_of(path)
        handle = readers.open(path)
        assert await readers.read(handle, 0, MIB) == content[:MIB]
        os.truncate(path, 2 * MIB + 100)
        assert await readers.read(handle, 2 * MIB, MIB) == content[2 * MIB : 2 * MIB + 100]
        assert await readers.read(handle, 2 * MIB + 100, MIB) == b""
        assert await readers.read(handle, 20 * MIB, MIB) == b""
        readers.close(handle)

    run(work)


def _tell(handle: FileHandle, size_bytes: int, ago_s: float) -> None:
    handle.node.told_size_bytes = size_bytes
    handle.node.told_at = time.monotonic() - ago_s


def test_short_answer_is_refused_while_the_kernel_would_fill_it_with_zeros(path: Path) -> None:
    async def work(readers: Readers) -> None:
        handle = readers.open(path)
        size = handle.content.size_bytes
        _tell(handle, size + MIB, ago_s=0.0)
        with pytest.raises(OSError, match="cut while it was read") as failed:
            await readers.read(handle, size - 4 * KIB, 8 * KIB)
        assert failed.value.errno == errno.EIO
        # The kernel asks again, with a request that it sent after it was told.
        assert len(await readers.read(handle, size - 4 * KIB, 8 * KIB)) == 4 * KIB
        assert handle.node.told_size_bytes == size
        readers.close(handle)

    run(work)


def test_short_answer_at_the_end_that_the_kernel_knows_is_given_at_once(path: Path) -> None:
    async def work(readers: Readers) -> None:
        handle = readers.open(path)
        size = handle.content.size_bytes
        _tell(handle, size, ago_s=0.0)
        assert len(await readers.read(handle, size - 4 * KIB, 8 * KIB)) == 4 * KIB
        readers.close(handle)

    run(work)
