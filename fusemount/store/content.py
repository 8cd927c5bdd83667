"""The bytes of one version of one file, as far as they are here. Pure: no I/O.

A content is cut into extents and an extent into units of UNIT_BYTES; bit masks say which units
are there, on their way, fetched ahead of their reader, and read. Invariants: `present` and
`fetching` share no bit; a bit of `present` is set only after the whole unit was filled.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from fusemount.identity import Version
from fusemount.readahead import Readahead
from fusemount.store.extents import EXTENT_BYTES

# What is fetched at least: a 4 KiB random read costs four times that, and an extent has 256.
UNIT_BYTES = 16 * 1024
UNITS_PER_EXTENT = EXTENT_BYTES // UNIT_BYTES


def units_mask(start: int, end: int) -> int:
    """Bits of the units that [start, end), in bytes within an extent, touches."""
    first, last = start // UNIT_BYTES, -(-end // UNIT_BYTES)
    return ((1 << (last - first)) - 1) << first


def runs(mask: int) -> list[tuple[int, int]]:
    """The runs of set bits as half-open unit ranges, lowest first."""
    found = []
    unit = 0
    while mask:
        gap = (mask & -mask).bit_length() - 1
        mask >>= gap
        unit += gap
        length = ((~mask) & -(~mask)).bit_length() - 1
        found.append((unit, unit + length))
        mask >>= length
        unit += length
    return found


@dataclass(slots=True, eq=False)
class Extent:
    """One extent of a content and the state of its units."""

    content: "Content"
    index: int
    buffer: memoryview
    all_units: int
    present: int = 0
    fetching: int = 0
    ahead: int = 0
    read: int = 0
    keep: bool = False
    jobs: int = 0
    arrived: trio.Event | None = None

    def wake(self) -> None:
        """Tell those who wait that something arrived or failed."""
        if self.arrived is not None:
            self.arrived.set()
            self.arrived = None

    async def wait(self) -> None:
        """Wait for the next `wake`."""
        if self.arrived is None:
            self.arrived = trio.Event()
        await self.arrived.wait()


@dataclass(slots=True, eq=False)
class FileCounters:
    """What came of a file's reads, in bytes unless named otherwise; outlives its contents."""

    opens: int = 0
    reads: int = 0
    read_bytes: int = 0
    hit_bytes: int = 0
    fetched_bytes: int = 0
    prefetched_bytes: int = 0
    used_bytes: int = 0
    wasted_bytes: int = 0


@dataclass(slots=True, eq=False)
class Content:
    """One version of a file. `key` is its identity or its path in the source.

    `path` is where it was opened last, and so whose policy holds for it.
    """

    key: bytes
    version: Version
    counters: FileCounters
    close: Callable[[int], object]
    fd: int = -1
    users: int = 0
    extents: dict[int, Extent] = field(default_factory=dict)
    is_current: bool = True
    is_pinned: bool = False
    keeps_prefetched: bool = False
    keeps_read: bool = False
    path: str = ""
    checked_at: float = 0.0
    # The window of the reader that went on in sequence last.
    stream: Readahead | None = None

    @property
    def size_bytes(self) -> int:
        return self.version.size_bytes

    def units_of(self, index: int) -> int:
        """The mask of all units that the extent at `index` has in this file."""
        length = min(EXTENT_BYTES, self.size_bytes - index * EXTENT_BYTES)
        return units_mask(0, length)

    def hold(self) -> None:
        """One more user (a handle or a fetch) needs the descriptor."""
        self.users += 1

    def release(self) -> None:
        """A user is done; the last one closes the descriptor."""
        self.users -= 1
        if not self.users and self.fd >= 0:
            fd, self.fd = self.fd, -1
            self.close(fd)
