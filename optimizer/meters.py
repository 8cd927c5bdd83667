"""Small measuring instruments of constant size: a mean of the recent past, a rate, a hot fifth.

They know nothing of models or events. All of them are bounded, and cheap enough to be used once
for every read of a mount.
"""

from collections import deque
from collections.abc import Mapping

MEAN_GENERATION = 500
"""Values in one generation of a `RecentMean`; it speaks for the newest 500 to 1000."""
RATE_WINDOW_S = 60.0
"""A rate is over the last minute: long enough for loads, which are rare, short enough to fall."""
RATE_MARKS = 1024
"""Moments that a rate remembers; beyond 17 a second it is measured over less than the minute."""
HOT_SHARE = 5
"""One file of this many is hot."""


class RecentMean:
    """Mean of the newest values, in two generations of plain sums, so that no error builds up."""

    __slots__ = ("_count", "_old_count", "_old_total", "_total")

    def __init__(self) -> None:
        self._total = 0.0
        self._count = 0
        self._old_total = 0.0
        self._old_count = 0

    def add(self, value: float) -> None:
        """Take one finite value."""
        self._total += value
        self._count += 1
        if self._count == MEAN_GENERATION:
            self._old_total, self._old_count = self._total, self._count
            self._total, self._count = 0.0, 0

    def mean(self) -> float | None:
        """Return the mean of the newest values, None before the first."""
        count = self._count + self._old_count
        return (self._total + self._old_total) / count if count else None


class RequestRate:
    """How often something happened within the last minute."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: deque[float] = deque(maxlen=RATE_MARKS)

    def mark(self, now: float) -> None:
        """Note that it happened at `now`; moments come in order."""
        self._marks.append(now)

    def per_second(self, now: float) -> float | None:
        """Return events per second over the minute before `now`, None if there never was one."""
        marks = self._marks
        if not marks:
            return None
        # A full memory may reach back less than the window: then its own span is the window.
        span_s = min(RATE_WINDOW_S, now - marks[0]) if len(marks) == RATE_MARKS else RATE_WINDOW_S
        while len(marks) > 1 and now - marks[0] >= RATE_WINDOW_S:
            marks.popleft()
        if now - marks[0] >= RATE_WINDOW_S:
            return 0.0
        return len(marks) / span_s if span_s > 0 else float(len(marks))


def split_hot_files(
    access_frequency: Mapping[str, int],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split files into the hot fifth and the others, each by falling count, ties by path.

    The fifth is rounded down, but one file is hot where there is any.
    """
    ranked = sorted(access_frequency, key=lambda path: (-access_frequency[path], path))
    hot_count = max(len(ranked) // HOT_SHARE, 1)
    return tuple(ranked[:hot_count]), tuple(ranked[hot_count:])


def trim_access_counts(access_frequency: dict[str, int], limit: int) -> None:
    """Past `limit` files, forget the less accessed half of the limit's worth, ties by path."""
    if len(access_frequency) <= limit:
        return
    ranked = sorted(access_frequency, key=lambda path: (-access_frequency[path], path))
    for path in ranked[limit // 2 :]:
        del access_frequency[path]
