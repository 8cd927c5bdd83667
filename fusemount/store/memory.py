"""The memory store: which bytes stay, which extent goes when another is needed. Pure: no I/O.

Streaming is the normal case: an extent is recycled once every unit of it was read, since the
mount's page cache holds the bytes from there on. What policy keeps stays in an LRU by bytes until
its place is needed; what is pinned never goes. Invariant: extents in use <= the pool's capacity.
"""

from collections.abc import Callable
from enum import Enum

import cachetools

from fusemount.identity import Version
from fusemount.store.content import UNIT_BYTES, Content, Extent, FileCounters
from fusemount.store.extents import EXTENT_BYTES, ExtentPool

# Share of the budget that pinned models may take: the rest streams.
_PINNED_SHARE = 0.75

_KeptKey = tuple[int, int]


class Need(Enum):
    """What an extent is wanted for; decides what may go for it."""

    DEMAND = "demand"  # a reader waits: anything that is not pinned may go
    AHEAD = "ahead"  # a reader will come: what is kept, and what waits with nobody there
    PRELOAD = "preload"  # maybe later: only what is kept


class _Kept(cachetools.LRUCache[_KeptKey, Extent]):
    """Extents that stay after they were read; the store drops what falls out."""

    def __init__(self, budget_bytes: int, drop: Callable[[Extent], None]) -> None:
        super().__init__(budget_bytes, getsizeof=lambda _extent: EXTENT_BYTES)
        self._drop = drop

    def popitem(self) -> tuple[_KeptKey, Extent]:
        key, extent = super().popitem()
        self._drop(extent)
        return key, extent


class MemoryStore:
    """Contents by key and the extents behind them. Used by the event loop only."""

    def __init__(self, budget_bytes: int) -> None:
        self.pool = ExtentPool(budget_bytes)
        self._contents: dict[bytes, Content] = {}
        self._kept = _Kept(self.pool.capacity * EXTENT_BYTES, self._drop_evicted)
        # Extents with bytes that were fetched ahead and not read yet, oldest use first.
        self._waiting: dict[_KeptKey, Extent] = {}
        self._spent: list[Extent] = []
        self._pinned: set[Content] = set()
        self.pinned_bytes = 0
        self.evicted_extents = 0

    @property
    def pinned(self) -> list[Content]:
        """Contents that are pinned, open or not."""
        return list(self._pinned)

    @property
    def kept_bytes(self) -> int:
        """Bytes of extents that stay for the next reader."""
        return int(self._kept.currsize)

    def find(self, key: bytes, version: Version) -> Content | None:
        """The content of that version, if it is known; another version of it is superseded."""
        content = self._contents.get(key)
        if content is None:
            return None
        if content.version != version:
            self.supersede(content)
            return None
        return content

    def current(self, key: bytes) -> Content | None:
        """The content known by that key, of whatever version."""
        return self._contents.get(key)

    def add(
        self, key: bytes, version: Version, counters: FileCounters, close: Callable[[int], object]
    ) -> Content:
        """A new content without bytes; an older one of that key is superseded."""
        before = self._contents.get(key)
        if before is not None:
            self.supersede(before)
        content = Content(key, version, counters, close)
        self._contents[key] = content
        return content

    def supersede(self, content: Content) -> None:
        """The content's version is not what the source holds any more: its bytes go."""
        content.is_current = False
        self.unpin(content)
        if self._contents.get(content.key) is content:
            del self._contents[content.key]
        for extent in list(content.extents.values()):
            self.drop(extent)

    def forget_unused(self, content: Content) -> None:
        """Drop the record of a content that nobody has open and that holds no bytes."""
        if not content.users and not content.extents:
            content.is_current = False
            self.unpin(content)
            if self._contents.get(content.key) is content:
                del self._contents[content.key]

    def make_extent(self, content: Content, index: int, need: Need) -> Extent | None:
        """A new extent for bytes of the content, or None where `need` justifies no room for it."""
        buffer = self._take(need)
        if buffer is None:
            return None
        extent = Extent(content, index, buffer, content.units_of(index))
        content.extents[index] = extent
        return extent

    def _take(self, need: Need) -> memoryview | None:
        self._recycle_spent()
        buffer = self.pool.take()
        if buffer is None and self._kept:
            self._kept.popitem()
            buffer = self.pool.take()
        if buffer is None and need is not Need.PRELOAD and self._evict_waiting(need):
            buffer = self.pool.take()
        return buffer

    def _evict_waiting(self, need: Need) -> bool:
        for extent in self._waiting.values():
            content = extent.content
            if extent.jobs or content.is_pinned or (content.users and need is not Need.DEMAND):
                continue
            self.evicted_extents += 1
            self.drop(extent)
            return True
        return False

    def _recycle_spent(self) -> None:
        spent, self._spent = self._spent, []
        for extent in spent:
            self.drop(extent)

    def on_arrived(self, extent: Extent) -> None:
        """Units of the extent have arrived."""
        if extent.content.extents.get(extent.index) is extent:
            self._waiting[(id(extent.content), extent.index)] = extent

    def on_read(self, extent: Extent, mask: int) -> None:
        """Units of the extent are about to be answered.

        An extent that is read whole is recycled, or stays as the content's policy says, but not
        before the next extent is needed: the answer is a view of it.
        """
        fresh = mask & ~extent.read
        if not fresh:
            if extent.keep:
                self._kept.get((id(extent.content), extent.index))
            return
        content = extent.content
        used = fresh & extent.ahead
        if used:
            content.counters.used_bytes += used.bit_count() * UNIT_BYTES
        extent.read |= mask
        if extent.read & extent.all_units != extent.all_units:
            return
        if content.is_pinned:
            return
        key = (id(content), extent.index)
        self._waiting.pop(key, None)
        keeps = content.keeps_prefetched if extent.ahead else content.keeps_read
        if keeps:
            extent.keep = True
            self._kept[key] = extent
        else:
            self._spent.append(extent)

    def may_pin(self, size_bytes: int) -> bool:
        """Whether a file of that size fits in what may be pinned."""
        limit = self.pool.capacity * EXTENT_BYTES * _PINNED_SHARE
        return self.pinned_bytes + _extent_bytes(size_bytes) <= limit

    def pin(self, content: Content) -> bool:
        """Keep all bytes of the content from now on; False where it does not fit.

        What is pinned of a file that it replaced goes, once nobody has it open.
        """
        if content.is_pinned:
            return True
        for other in self.pinned if content.path else ():
            if other.path == content.path and not other.users:
                self.free(other)
        if not self.may_pin(content.size_bytes):
            return False
        content.is_pinned = True
        self._pinned.add(content)
        self.pinned_bytes += _extent_bytes(content.size_bytes)
        for extent in content.extents.values():
            self._kept.pop((id(content), extent.index), None)
        self._spent = [extent for extent in self._spent if extent.content is not content]
        return True

    def unpin(self, content: Content) -> None:
        """Bytes of the content may go again."""
        if content.is_pinned:
            content.is_pinned = False
            self._pinned.discard(content)
            self.pinned_bytes -= _extent_bytes(content.size_bytes)
            for extent in content.extents.values():
                self._waiting[(id(content), extent.index)] = extent

    def free(self, content: Content) -> None:
        """The content is not wanted any more: unpinned, and its bytes go unless it is open."""
        self.unpin(content)
        if not content.users:
            for extent in list(content.extents.values()):
                self.drop(extent)

    def drop(self, extent: Extent) -> None:
        """Take an extent's bytes away; its memory is reused once no fetch writes to it."""
        if extent.content.extents.get(extent.index) is extent:
            self._kept.pop((id(extent.content), extent.index), None)
            self._drop_evicted(extent)

    def _drop_evicted(self, extent: Extent) -> None:
        content = extent.content
        self._waiting.pop((id(content), extent.index), None)
        del content.extents[extent.index]
        wasted = extent.present & extent.ahead & ~extent.read
        if wasted:
            content.counters.wasted_bytes += wasted.bit_count() * UNIT_BYTES
        extent.present = 0
        extent.wake()
        if extent.jobs:
            return  # the last job gives the buffer back
        self.pool.give_back(extent.buffer)
        self.forget_unused(content)

    def on_job_done(self, extent: Extent) -> None:
        """A fetch into the extent has ended; a dropped extent's memory can go with the last.

        So does that of an extent whose fetches all failed: nothing else would ever free it.
        """
        extent.jobs -= 1
        if extent.jobs:
            return
        if extent.content.extents.get(extent.index) is not extent:
            self.pool.give_back(extent.buffer)
            self.forget_unused(extent.content)
        elif not extent.present:
            self.drop(extent)


def _extent_bytes(size_bytes: int) -> int:
    return -(-size_bytes // EXTENT_BYTES) * EXTENT_BYTES
