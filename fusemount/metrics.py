"""Numbers of one mount: what was read, from where, and what the read path did for it.

Plain counters, raised by the event loop; bytes and seconds in the names. Per-file counters are
bounded: the files used last are remembered.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cachetools

from fusemount.handles import FileHandle
from fusemount.store.content import FileCounters
from optimizer import Origin

__all__ = ["Metrics", "Origin"]

# Files whose counters are remembered, about 300 bytes each.
_FILES = 4096


@dataclass(slots=True, eq=False)
class Metrics:
    """Counters since the worker started. `emit_read` hands each read on as an event."""

    emit_read: Callable[[FileHandle, int, int, float, Origin, float], None]
    reads: int = 0
    read_bytes: int = 0
    read_errors: int = 0
    reads_by_origin: dict[Origin, int] = field(default_factory=lambda: dict.fromkeys(Origin, 0))
    bytes_by_origin: dict[Origin, int] = field(default_factory=lambda: dict.fromkeys(Origin, 0))
    read_wait_s: float = 0.0
    longest_read_s: float = 0.0
    opens: int = 0
    lookups: int = 0
    directories_listed: int = 0
    fetches: int = 0
    fetch_errors: int = 0
    fetched_bytes: int = 0
    prefetched_bytes: int = 0
    prefetch_refused: int = 0
    source_changes: int = 0
    deadlines_missed: int = 0
    handler_failures: int = 0
    last_failure: str = ""
    _files: cachetools.LRUCache[str, FileCounters] = field(
        default_factory=lambda: cachetools.LRUCache(_FILES)
    )

    def on_read(
        self,
        handle: FileHandle,
        offset: int,
        size: int,
        latency_s: float,
        origin: Origin,
        started: float,
    ) -> None:
        """One read was answered, `latency_s` after `started` on the monotonic clock."""
        self.reads += 1
        self.read_bytes += size
        self.reads_by_origin[origin] += 1
        self.bytes_by_origin[origin] += size
        self.read_wait_s += latency_s
        self.longest_read_s = max(self.longest_read_s, latency_s)
        counters = handle.content.counters
        counters.reads += 1
        counters.read_bytes += size
        if origin is Origin.STORE or origin is Origin.CACHED:
            counters.hit_bytes += size
        self.emit_read(handle, offset, size, latency_s, origin, started)

    @property
    def hit_ratio(self) -> float:
        """Share of the read bytes that were here when they were asked for; 0 where none were."""
        here = self.bytes_by_origin[Origin.STORE] + self.bytes_by_origin[Origin.CACHED]
        return here / self.read_bytes if self.read_bytes else 0.0

    def counters_of(self, path: str) -> FileCounters:
        """The counters of a file, made at its first open."""
        counters = self._files.get(path)
        if counters is None:
            counters = self._files[path] = FileCounters()
        return counters

    def files(self) -> list[tuple[str, FileCounters]]:
        """Files with their counters, those used last at the end."""
        return list(self._files.items())
