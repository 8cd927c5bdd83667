"""Reads past the store: just the asked bytes, for random readers and where memory has no room."""

import errno
import mmap
import os

import trio

from fusemount.errors import SourceChangedError
from fusemount.fetch import FetchThreads, Job
from fusemount.handshake import MAX_REQUEST_BYTES
from fusemount.metrics import Metrics
from fusemount.store.content import Content
from fusemount.store.memory import MemoryStore

# Buffers that are kept for the next read, of 1 MiB each.
_KEPT_BUFFERS = 8
# A smaller read gets memory of its size: random reads are.
_OWN_BUFFER_BYTES = 128 * 1024


class DirectReads:
    """Reads a content's file as a plain passthrough would. Used by the event loop only."""

    def __init__(self, store: MemoryStore, fetch: FetchThreads, metrics: Metrics) -> None:
        self._store = store
        self._fetch = fetch
        self._metrics = metrics
        self._buffers: list[memoryview] = []

    async def read(
        self, content: Content, offset: int, end: int, *, may_change: bool = False
    ) -> memoryview:
        """Bytes [offset, end), in memory that is reused once the event loop runs something else.

        Raises OSError with the source's errno, and SourceChangedError where the file is not the
        content's version any more, unless it `may_change`. A cancelled read's memory stays with
        its fetch until that ends, if it has begun.
        """
        buffer = self._take(end - offset)
        arrived = trio.Event()
        waiting = True

        def on_done(job: Job) -> None:
            content.counters.fetched_bytes += job.filled
            self._metrics.fetched_bytes += job.filled
            self._metrics.fetches += 1
            content.release()
            arrived.set()
            if not waiting:
                self._keep(buffer)

        job = Job(content.fd, offset, buffer[: end - offset], True, on_done)
        content.hold()
        self._fetch.submit(job)
        try:
            await arrived.wait()
        except trio.Cancelled:
            waiting = False
            if self._fetch.withdraw(job):
                content.release()
                self._keep(buffer)
            raise
        self._keep(buffer)
        if job.error:
            self._metrics.fetch_errors += 1
            raise OSError(job.error, os.strerror(job.error))
        if job.version != content.version:
            if content.is_current:
                self._store.supersede(content)
            if not may_change:
                raise SourceChangedError("while it was read")
        elif job.filled < end - offset:
            self._metrics.fetch_errors += 1
            raise OSError(errno.EIO, "short read")
        return buffer[: job.filled]

    def _take(self, size: int) -> memoryview:
        if size < _OWN_BUFFER_BYTES:
            return memoryview(bytearray(size))
        if self._buffers:
            return self._buffers.pop()
        # Mapped, so that a read that has not begun takes no memory yet.
        return memoryview(mmap.mmap(-1, MAX_REQUEST_BYTES))

    def _keep(self, buffer: memoryview) -> None:
        if len(buffer) == MAX_REQUEST_BYTES and len(self._buffers) < _KEPT_BUFFERS:
            self._buffers.append(buffer)
