"""The way of access events from the event loop to the optimizer's thread.

Bounded: when the optimizer is slower than the readers, events are dropped and counted. `emit`
takes a lock for nobody and never waits. Invariant: at most CAPACITY events are held.
"""

import threading
from collections import deque
from typing import NamedTuple

from optimizer import AccessKind, Origin

# At 1 MiB a read and 2 GB/s this is eight seconds of reads, and 4 MiB of memory.
CAPACITY = 16_384
# Reads are worth no wake-up of their own; they go with the next open or tick.
_WAKE_AFTER = CAPACITY // 4


class RawEvent(NamedTuple):
    """An access event as the event loop sees it; the model is found by the optimizer's thread."""

    kind: AccessKind
    path: str
    offset: int
    size: int
    latency_s: float
    origin: Origin
    pid: int
    fh: int
    timestamp: float


class Feed:
    """One producer (the event loop), one consumer (the optimizer's thread)."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._events: deque[RawEvent] = deque()
        self._capacity = capacity
        self.wake = threading.Event()
        self.emitted = 0
        self.dropped = 0

    def emit(self, event: RawEvent) -> None:
        """Hand one event on, or count it as dropped; never blocks, never raises."""
        if len(self._events) >= self._capacity:
            self.dropped += 1
            return
        self.emitted += 1
        self._events.append(event)
        if event.kind is AccessKind.OPEN or len(self._events) > _WAKE_AFTER:
            self.wake.set()

    def take(self) -> list[RawEvent]:
        """All events held, oldest first."""
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events
