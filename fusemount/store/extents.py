"""A recycled pool of extents: memory that is faulted in once and filled in place.

Fresh memory costs as much as several copies of it, so extents are taken from the most recently
returned first, and given back to the system only with the pool. Pure bookkeeping plus mmap.
"""

import mmap

# One extent: large enough that a stream's bandwidth outweighs a request's latency (4 MiB at
# 60 MB/s is 70 ms against 10 ms), small enough that a 64 MiB window is 16 streams.
EXTENT_BYTES = 4 * 1024 * 1024
# Extents are mapped in chunks, so that a small load maps little.
_CHUNK_EXTENTS = 8


class ExtentPool:
    """Hands out writable buffers of EXTENT_BYTES, `capacity` of them at most.

    Used by the event loop only; a buffer that was handed out belongs to its taker.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.capacity = max(4, budget_bytes // EXTENT_BYTES)
        self._mapped = 0
        self._free: list[memoryview] = []

    @property
    def in_use(self) -> int:
        """Extents handed out now."""
        return self._mapped - len(self._free)

    @property
    def available(self) -> int:
        """Extents that `take` can still give."""
        return self.capacity - self.in_use

    @property
    def mapped_bytes(self) -> int:
        """Memory taken from the system so far."""
        return self._mapped * EXTENT_BYTES

    def take(self) -> memoryview | None:
        """A buffer with leftover bytes of its last use in it.

        None where the budget is spent, or the system has no memory.
        """
        if not self._free:
            count = min(_CHUNK_EXTENTS, self.capacity - self._mapped)
            if count <= 0:
                return None
            try:
                chunk = memoryview(mmap.mmap(-1, count * EXTENT_BYTES))
            except (OSError, MemoryError):
                return None
            self._mapped += count
            self._free = [
                chunk[number * EXTENT_BYTES : (number + 1) * EXTENT_BYTES]
                for number in reversed(range(count))
            ]
        return self._free.pop()

    def give_back(self, buffer: memoryview) -> None:
        """Return a buffer; nobody may touch it afterwards."""
        self._free.append(buffer)
