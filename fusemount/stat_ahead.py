"""Which names of a listed directory will be looked up next. Pure: no I/O, no clock.

A program that lists a directory and then asks for each name's status costs a remote source one
request a name, one after the other, once the kernel's entries have expired. Where lookups follow
a listing's order, or the sorted one, the names behind them are asked for in the same go.
Invariant: a status is handed out once, and not after it is older than `fresh_s`.
"""

from collections.abc import Sequence

import cachetools

from fusemount.identity import Found

# Names of listings that are remembered, about 300 bytes each.
_NAMES = 100_000
# Lookups in order after which the next are foreseen.
_RUN = 3
# A lookup may skip a few names: those that the kernel still knows.
_SKIPPED = 8
# Names asked for in one go: at first one for each metadata thread, then more.
FIRST_NAMES = 64
MOST_NAMES = 1024


class _Order:
    """One order of a directory's names, and how far lookups have followed it."""

    __slots__ = ("_last", "_names", "_position", "run")

    def __init__(self, names: Sequence[bytes]) -> None:
        self._names = names
        self._position = {name: position for position, name in enumerate(names)}
        self._last = -1
        self.run = 0

    def follow(self, name: bytes) -> None:
        position = self._position.get(name)
        if position is None:
            return
        if 0 < position - self._last <= _SKIPPED:
            self.run += 1
        elif position != self._last:
            self.run = 0
        self._last = position

    def ahead(self, count: int) -> Sequence[bytes]:
        return self._names[self._last : self._last + count]


class _Listed:
    """A listed directory: its orders, and what was found ahead: (found, when)."""

    __slots__ = ("count", "found", "orders", "size")

    def __init__(self, names: Sequence[bytes]) -> None:
        self.size = max(1, len(names))
        self.orders = (_Order(names), _Order(sorted(names)))
        self.found: dict[bytes, tuple[Found, float]] = {}
        self.count = FIRST_NAMES


class StatAhead:
    """Foresees lookups in directories by their node ids. Used by the event loop only."""

    def __init__(self, fresh_s: float) -> None:
        """`fresh_s`: the age in seconds up to which a status may be handed out; 0: none is."""
        self._fresh_s = fresh_s
        self._listed: cachetools.LRUCache[int, _Listed] = cachetools.LRUCache(
            _NAMES, getsizeof=lambda listed: listed.size
        )

    def remember(self, directory: int, names: Sequence[bytes]) -> None:
        """A directory was listed."""
        if self._fresh_s > 0 and len(names) <= _NAMES:
            self._listed[directory] = _Listed(names)

    def forget(self, directory: int) -> None:
        """What is known of a directory is not true any more."""
        self._listed.pop(directory, None)

    def take(self, directory: int, name: bytes, now: float) -> tuple[Found, float] | None:
        """What was found ahead of a name's lookup, and its age in seconds; None: nothing."""
        listed = self._listed.get(directory)
        if listed is None:
            return None
        for order in listed.orders:
            order.follow(name)
        found, found_at = listed.found.pop(name, (None, 0.0))
        if found is None or now - found_at > self._fresh_s:
            return None
        return found, now - found_at

    def plan(self, directory: int, name: bytes) -> list[bytes]:
        """Names to ask for together with `name`, it first; only it where nothing is foreseen."""
        listed = self._listed.get(directory)
        if listed is None:
            return [name]
        best = max(listed.orders, key=lambda order: order.run)
        if best.run < _RUN:
            listed.count = FIRST_NAMES
            return [name]
        names = [name, *(other for other in best.ahead(listed.count) if other != name)]
        listed.count = min(2 * listed.count, MOST_NAMES)
        return names

    def keep(
        self, directory: int, names: Sequence[bytes], found: Sequence[Found | None], now: float
    ) -> None:
        """What was found of names that were foreseen, asked for at `now`."""
        listed = self._listed.get(directory)
        if listed is not None:
            listed.found = {
                name: (entry, now)
                for name, entry in zip(names, found, strict=True)
                if entry is not None
            }
