"""From access events to what is known of the models.

An open is a file access and may begin a load session, which is a request; a read is measured; a
release may end a load. Events come from a mount's fast path and cannot be
asked again, so nothing here raises: what makes no sense is refused whole, before anything was
changed, and counted. Cost matters: this runs once for every read.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from optimizer.events import AccessEvent, AccessKind, Origin
from optimizer.registry import ModelRecord, ModelRegistry
from optimizer.sessions import LoadSession, SessionTable

EVENT_AGE_LIMIT_S = 86_400.0
"""An event older than what histories hold, or a read that took that long, is nonsense."""
READ_LIMIT_BYTES = 1 << 40
"""No single read answers this much."""

# An enum's member looked up through its class costs as much as the rest of a comparison.
_OPEN = AccessKind.OPEN
_READ = AccessKind.READ
_RELEASE = AccessKind.RELEASE
_NONE = Origin.NONE
_STORE = Origin.STORE
_CACHED = Origin.CACHED


@dataclass(frozen=True, slots=True)
class ObservationCounts:
    """What became of the events: all of them, those that said nothing, and what reads brought.

    `outside_models` had no model, `unknown_models` one that is not registered, `refused` made no
    sense. Reads and bytes are those of known models; hits did not wait for the source.
    """

    events: int
    outside_models: int
    unknown_models: int
    refused: int
    opens: int
    reads: int
    hits: int
    read_bytes: int
    hit_bytes: int
    read_seconds: float


class Observer:
    """Takes events and writes them into the registry's records."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._find = registry.find
        self._sessions = SessionTable()
        self.load_requests = 0
        """Load sessions so far; each is a request, as a recorded inference request is."""
        self.cached_loads = 0
        """Ended load sessions that never waited for the source."""
        self._events = 0
        self._outside_models = 0
        self._unknown_models = 0
        self._refused = 0
        self._opens = 0
        self._reads = 0
        self._hits = 0
        self._read_bytes = 0
        self._hit_bytes = 0
        self._read_seconds = 0.0

    def counts(self) -> ObservationCounts:
        """Return what was counted so far."""
        return ObservationCounts(
            events=self._events,
            outside_models=self._outside_models,
            unknown_models=self._unknown_models,
            refused=self._refused,
            opens=self._opens,
            reads=self._reads,
            hits=self._hits,
            read_bytes=self._read_bytes,
            hit_bytes=self._hit_bytes,
            read_seconds=self._read_seconds,
        )

    def observe(self, events: Iterable[AccessEvent], now: float) -> None:
        """Take events in the order in which they happened. `now` is not before any of them."""
        for event in events:
            self._events += 1
            try:
                self._take(event, now)
            except (TypeError, ValueError, AttributeError, OverflowError):
                self._refused += 1

    def end_sessions(self, now: float) -> int:
        """End the load sessions that have gone quiet, and return how many these were."""
        ended = self._sessions.end_quiet(now)
        for session in ended:
            self._end(session, now)
        return len(ended)

    def end_all_sessions(self, now: float) -> None:
        """End every load session, as nothing more will come."""
        for session in self._sessions.end_all():
            self._end(session, now)

    def _take(self, event: AccessEvent, now: float) -> None:
        model_id = event.model_id
        if model_id is None:
            self._outside_models += 1
            return
        record = self._find(model_id)
        if record is None:
            self._unknown_models += 1
            return
        moment = event.timestamp
        if not moment <= now:  # also true of a NaN
            moment = now
        if now - moment > EVENT_AGE_LIMIT_S:
            raise ValueError("older than any history")
        kind = event.kind
        if kind is _READ:
            self._take_read(event, record, moment)
        elif kind is _OPEN:
            self._take_open(event, record, moment)
        elif kind is _RELEASE:
            session = self._sessions.find((model_id, event.pid))
            if session is not None and session.note_release(event.handle, moment):
                record.info.load_time = session.duration
        else:
            raise ValueError("no kind of access")

    def _take_read(self, event: AccessEvent, record: ModelRecord, moment: float) -> None:
        latency_s = event.latency
        size_bytes = event.size
        if not isinstance(latency_s, float | int) or not isinstance(size_bytes, int):
            raise TypeError("no such read")
        if not (0.0 <= latency_s <= EVENT_AGE_LIMIT_S and 0 <= size_bytes <= READ_LIMIT_BYTES):
            raise ValueError("no such read")
        origin = event.origin
        if not isinstance(origin, Origin):
            raise TypeError("no such read")
        session = self._sessions.find((record.info.model_id, event.pid))
        is_hit = origin is _STORE or origin is _CACHED
        self._reads += 1
        self._read_bytes += size_bytes
        self._read_seconds += latency_s
        record.read_times.add(latency_s)
        if is_hit:
            self._hits += 1
            self._hit_bytes += size_bytes
            record.hits.add(1.0)
        elif origin is not _NONE:
            record.hits.add(0.0)
        record.touch(moment)
        if session is not None:
            session.note_read(latency_s, moment, not is_hit and origin is not _NONE)

    def _take_open(self, event: AccessEvent, record: ModelRecord, moment: float) -> None:
        path = event.file_path
        if not isinstance(path, str) or not isinstance(event.handle, int):
            raise TypeError("no such open")
        began, ended = self._sessions.open(record.info.model_id, event.pid, event.handle, moment)
        if ended is not None:
            self._end(ended, moment)
        self._opens += 1
        record.count_access(path)
        record.touch(moment)
        if began:
            record.info.request_count += 1
            record.arrivals.mark(moment)
            self.load_requests += 1

    def _end(self, session: LoadSession, now: float) -> None:
        """Write an ended session into its model, if that is still registered."""
        self.cached_loads += session.was_cached
        record = self._find(session.model_id)
        if record is not None:
            record.info.load_time = session.duration
            record.completions.mark(now)
