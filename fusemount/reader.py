"""One read: what is here, else fetch; then the window and the event.

The way of a read: the extent's bytes as a view of its memory; else the source's page cache, where
it can be asked without waiting; else a fetch, joined if it is on its way. Prefetch is submitted
before the reader waits. Invariants: what is answered was read from the version that the handle
shows, or the read starts over with the new version; no lock is held across a fetch; answers are
views that stay valid until the event loop runs something else, which is after the reply.
"""

import errno
import os
import time
from collections.abc import Awaitable, Callable

import trio

from fusemount.direct import DirectReads
from fusemount.errors import SourceChangedError, SourceTimeoutError, StaleNodeError
from fusemount.fetch import Job
from fusemount.filler import Filler
from fusemount.handles import FileHandle
from fusemount.handshake import MAX_REQUEST_BYTES
from fusemount.identity import Found
from fusemount.metrics import Metrics, Origin
from fusemount.readahead import Plan, Readahead
from fusemount.store.content import Content, units_mask
from fusemount.store.extents import EXTENT_BYTES
from fusemount.store.memory import MemoryStore
from fusemount.tree import GONE

# A file that changes under every fetch is read without storing, as a plain passthrough would.
_ATTEMPTS = 3
# Waits after which a reader whose extents others take away, in a small memory, goes without one.
_WAITS = 16
# How long a request may have been on its way to us when it arrives: one that the kernel sent
# before it took our last answer about the file's size.
_QUEUED_S = 0.1
# Errors of a non-blocking read that say "cannot ask", not "cannot read".
_CANNOT_ASK = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class Reader:
    """Answers reads. Used by the event loop only."""

    def __init__(
        self,
        store: MemoryStore,
        filler: Filler,
        direct: DirectReads,
        metrics: Metrics,
        status_of_open: Callable[[int, bool], Awaitable[Found]],
        *,
        attribute_timeout_s: float,
        deadline_s: float,
    ) -> None:
        self._store = store
        self._filler = filler
        self._direct = direct
        self._metrics = metrics
        self._status_of_open = status_of_open
        self._attribute_timeout_s = attribute_timeout_s
        self._deadline_s = deadline_s
        self._scratch = memoryview(bytearray(MAX_REQUEST_BYTES))

    async def read(self, handle: FileHandle, offset: int, size: int) -> memoryview | bytes:
        """Bytes [offset, offset + size) of the open file; fewer only at its end.

        Raises OSError with the source's errno, SourceTimeoutError after the deadline, or
        StaleNodeError. A cancelled read leaves its fetch running for whoever comes next.
        """
        started = time.monotonic()
        if started - handle.content.checked_at > self._attribute_timeout_s:
            await self.revalidate(handle)
        data: memoryview | bytes | None = None
        if handle.content.is_current:
            data, origin = self._read_here(handle, offset, size)
        if data is None:
            try:
                data, origin = await self._read_source(handle, offset, size)
            except OSError as error:
                self._metrics.read_errors += 1
                if error.errno in GONE:
                    raise StaleNodeError("its source was remounted") from error
                raise
            except SourceTimeoutError:
                self._metrics.read_errors += 1
                raise
        if len(data) < size and offset + len(data) < handle.node.told_size_bytes:
            await self._tell_end(handle, offset + len(data), started)
        latency_s = time.monotonic() - started
        self._metrics.on_read(handle, offset, len(data), latency_s, origin, started)
        return data

    async def _tell_end(self, handle: FileHandle, end: int, started: float) -> None:
        """The file ends at `end`, before where the kernel believes: see that it takes that in.

        A short answer makes the kernel cut its size, unless it was told a size after it had sent
        the request; then it would hand zeros out for the missing bytes. Such a request is failed
        instead: the kernel sends it anew page by page.
        """
        node = handle.node
        wait_s = node.told_at + _QUEUED_S - started
        if wait_s > 0:
            await trio.sleep(wait_s)
            raise OSError(errno.EIO, "the file was cut while it was read")
        node.told_size_bytes, node.told_at = end, time.monotonic()

    def _read_here(
        self, handle: FileHandle, offset: int, size: int
    ) -> tuple[memoryview | bytes | None, Origin]:
        """The bytes, if they can be had without waiting."""
        content = handle.content
        end = min(offset + size, content.size_bytes)
        if end <= offset:
            return b"", Origin.STORE
        index = offset // EXTENT_BYTES
        if index in content.extents:
            view = self._view(content, offset, end)
            if view is not None:
                self._plan(handle, offset, end - offset)
                return view, Origin.STORE
        if handle.reads_cached:
            wanted = end - offset
            try:
                got = os.preadv(content.fd, [self._scratch[:wanted]], offset, os.RWF_NOWAIT)
            except BlockingIOError:
                return None, Origin.SOURCE
            except OSError as error:
                if error.errno in _CANNOT_ASK:
                    handle.reads_cached = False
                return None, Origin.SOURCE
            if got == wanted:
                return self._scratch[:wanted], Origin.CACHED
        return None, Origin.SOURCE

    def _view(self, content: Content, offset: int, end: int) -> memoryview | bytes | None:
        """[offset, end) if all of it is in extents: a view, or a copy across extents."""
        parts = []
        for index in range(offset // EXTENT_BYTES, (end - 1) // EXTENT_BYTES + 1):
            extent = content.extents.get(index)
            if extent is None:
                return None
            base = index * EXTENT_BYTES
            low, high = max(offset - base, 0), min(end - base, EXTENT_BYTES)
            mask = units_mask(low, high)
            if extent.present & mask != mask:
                return None
            parts.append((extent, mask, extent.buffer[low:high]))
        for extent, mask, _ in parts:
            self._store.on_read(extent, mask)
        if len(parts) == 1:
            return parts[0][2]
        return b"".join(part for _, _, part in parts)

    async def _read_source(
        self, handle: FileHandle, offset: int, size: int
    ) -> tuple[memoryview | bytes, Origin]:
        with trio.move_on_after(self._deadline_s) as scope:
            for attempt in range(_ATTEMPTS + 1):
                if not handle.content.is_current:
                    await self.revalidate(handle)
                end = min(offset + size, handle.content.size_bytes)
                if end <= offset:
                    return b"", Origin.SOURCE
                try:
                    return await self._fetch_and_view(handle, offset, end, attempt)
                except SourceChangedError:
                    self._metrics.source_changes += 1
            return await self._direct.read(
                handle.content, offset, end, may_change=True
            ), Origin.SOURCE
        assert scope.cancelled_caught
        self._metrics.deadlines_missed += 1
        raise SourceTimeoutError(handle.path)

    async def _fetch_and_view(
        self, handle: FileHandle, offset: int, end: int, attempt: int
    ) -> tuple[memoryview | bytes, Origin]:
        content = handle.content
        jobs: list[Job] = []
        plan: Plan | None = None
        if attempt == 0:
            stream = _stream_of(handle, offset)
            plan = stream.on_read(offset, end - offset, content.size_bytes)
            is_alone = stream.is_random or not stream.window_bytes
            if is_alone and not _is_coming(content, offset, end):
                return await self._direct.read(content, offset, end), Origin.SOURCE
            if not is_alone:
                content.stream = stream
        for _ in range(_WAITS):
            unfinished = self._filler.demand(content, offset, end, handle.priority, jobs)
            if unfinished is None:
                return await self._direct.read(content, offset, end), Origin.SOURCE
            if plan is not None:
                stream.plan_again_from(self._filler.prefetch(content, plan, handle.priority))
                plan = None
            if not unfinished:
                view = self._view(content, offset, end)
                if view is not None:
                    return view, Origin.SOURCE if jobs else Origin.JOINED
                break
            await unfinished[-1].wait()
            if not content.is_current:
                raise SourceChangedError(handle.path)
            for job in jobs:
                if job.error:
                    raise OSError(job.error, os.strerror(job.error))
        return await self._direct.read(content, offset, end), Origin.SOURCE

    def _plan(self, handle: FileHandle, offset: int, size: int) -> None:
        content = handle.content
        stream = _stream_of(handle, offset)
        plan = stream.on_read(offset, size, content.size_bytes)
        if not stream.is_random:
            content.stream = stream
        if plan is not None:
            stream.plan_again_from(self._filler.prefetch(content, plan, handle.priority))

    async def revalidate(self, handle: FileHandle) -> Found:
        """See what the open file is now; a handle of a version that has gone gets the new one.

        Raises StaleNodeError where the source was remounted, OSError, SourceTimeoutError.
        """
        content = handle.content
        # Only one read a timeout asks; those beside it go on with what is known.
        content.checked_at = time.monotonic()
        content.hold()
        try:
            found = await self._status_of_open(content.fd, handle.is_local)
            self.adopt(handle, found)
        finally:
            content.release()
        return found

    def adopt(self, handle: FileHandle, found: Found) -> None:
        """Move a handle to the version that its open file shows."""
        version, before = found.version, handle.content
        # A handle that was released while its file was asked holds nothing any more.
        if not handle.is_open:
            return
        handle.node.version = version
        if before.is_current and version == before.version:
            return
        key = before.key
        other = self._store.current(key)
        if other is not None and other is not before and other.version != version:
            # Where files have no identity: the path leads to another file now, and the open file
            # is still what it was. A place of its own, or each would push the other's bytes out.
            key += b"\0" + repr(version).encode()
        after = self._store.find(key, version)
        if after is None:
            after = self._store.add(key, version, before.counters, before.close)
        if after.fd < 0:
            after.fd = os.dup(before.fd)
        after.checked_at = time.monotonic()
        after.keeps_read, after.keeps_prefetched = before.keeps_read, before.keeps_prefetched
        after.hold()
        handle.content = after
        handle.readahead.forget_plan()
        handle.followed = None
        before.is_current = False
        before.release()


def _stream_of(handle: FileHandle, offset: int) -> Readahead:
    """The window that a read belongs to: the reader's, or another's whom it follows.

    Of processes that load one file together the kernel lets each ask for some of it only, so that
    alone each of them seems to jump.
    """
    for stream in (handle.followed or handle.readahead, handle.content.stream):
        if stream is not None and stream.continues(offset):
            handle.followed = None if stream is handle.readahead else stream
            return stream
    handle.followed = None
    return handle.readahead


def _is_coming(content: Content, offset: int, end: int) -> bool:
    """Whether all of [offset, end) is here or on its way."""
    for index in range(offset // EXTENT_BYTES, (end - 1) // EXTENT_BYTES + 1):
        extent = content.extents.get(index)
        base = index * EXTENT_BYTES
        mask = units_mask(max(offset - base, 0), min(end - base, EXTENT_BYTES))
        if extent is None or mask & ~(extent.present | extent.fetching):
            return False
    return True
