"""How far ahead of one reader to fetch. Pure: reads in, plans out.

The window starts where the optimizer says and doubles while the reader stays sequential, each
time it has read half a window, up to MAX_WINDOW_BYTES. A reader that jumps gets a small window
again; one that keeps jumping gets none until it reads in sequence.
Invariant: a plan starts where the one before ended, or ahead of the reader; it never lies behind.
"""

from dataclasses import dataclass

MAX_WINDOW_BYTES = 64 * 1024 * 1024
# The kernel's own read-ahead sends requests a little out of order.
_SLACK_BYTES = 2 * 1024 * 1024
# Jumps in a row after which a reader counts as random.
_RANDOM_AFTER = 2
# Plans are not cut finer than this share of the window, so that fetches stay large ...
_PLAN_SHARE = 4
# ... and need not be larger than this.
_PLAN_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """Fetch [start, end) of the file, in bytes."""

    start: int
    end: int


class Readahead:
    """One reader's window; `first_window_bytes` 0 switches prefetch off."""

    __slots__ = ("_first_bytes", "_grown_at", "_jumps", "_planned", "_position", "window_bytes")

    def __init__(self, first_window_bytes: int) -> None:
        self._first_bytes = min(first_window_bytes, MAX_WINDOW_BYTES)
        self.window_bytes = self._first_bytes
        self._position = -1
        self._planned = 0
        self._grown_at = 0
        self._jumps = 0

    @property
    def is_random(self) -> bool:
        """Whether the reader jumps, so that nothing is to be fetched but what it asks for."""
        return self._jumps >= _RANDOM_AFTER

    def set_first_window(self, first_window_bytes: int) -> None:
        """A new recommendation; a window that has grown beyond it stays."""
        first = min(first_window_bytes, MAX_WINDOW_BYTES)
        if self.window_bytes == self._first_bytes or self.window_bytes < first:
            self.window_bytes = first
        self._first_bytes = first

    def continues(self, offset: int) -> bool:
        """Whether a read at `offset` would be the next one in sequence, give or take."""
        return (
            self._position >= 0
            and self._position - _SLACK_BYTES <= offset <= self._position + _SLACK_BYTES
        )

    def plan_again_from(self, offset: int) -> None:
        """What was planned from `offset` on could not be fetched: plan it once more."""
        self._planned = min(self._planned, offset)

    def forget_plan(self) -> None:
        """What was planned is lost, as where the file changed: plan from the reader on again."""
        self._planned = 0

    def on_read(self, offset: int, size: int, file_bytes: int) -> Plan | None:
        """What to fetch now that [offset, offset + size) is read; None: nothing."""
        end = offset + size
        if not self._first_bytes:
            return None
        if self._position < 0:
            self._restart(end)
        elif self.continues(offset):
            self._advance(offset, end)
        else:
            self._jumps += 1
            self._restart(end)
        if self._jumps >= _RANDOM_AFTER:
            return None
        return self._plan(file_bytes)

    def _restart(self, end: int) -> None:
        self.window_bytes = self._first_bytes
        self._position = self._planned = self._grown_at = end

    def _advance(self, offset: int, end: int) -> None:
        if self._jumps and offset == self._position:
            self._jumps = 0
            self._planned = max(self._planned, end)
        self._position = max(self._position, end)
        if self._position - self._grown_at >= self.window_bytes // 2:
            self.window_bytes = min(2 * self.window_bytes, MAX_WINDOW_BYTES)
            self._grown_at = self._position

    def _plan(self, file_bytes: int) -> Plan | None:
        start = max(self._planned, self._position)
        end = min(self._position + self.window_bytes, file_bytes)
        least = min(self.window_bytes // _PLAN_SHARE, _PLAN_BYTES)
        if end <= start or (end - start < least and end < file_bytes):
            return None
        self._planned = end
        return Plan(start, end)
