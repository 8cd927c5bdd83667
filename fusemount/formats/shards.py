"""Names of split files: NAME-00001-of-00005.EXT, as transformers and llama.cpp write them.

Loaders read shards in the order of their numbers: transformers sorts the names that an index
mentions, llama.cpp counts up from the first part. The order of tensors inside an index says
nothing about it (alphabetically `lm_head` comes before `model`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_SHARD = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})(?P<suffix>\.[^.]+)", re.S)


@dataclass(frozen=True, slots=True)
class ShardSet:
    """Files that are one: `names` in the order of their numbers; some may be missing."""

    stem: str
    suffix: str
    parts: int
    names: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every part is there."""
        return len(self.names) == self.parts


def group(names: Iterable[str]) -> list[ShardSet]:
    """`names` as sets of shards, ordered by their first name.

    A name without a part number, or with one outside of its set, is a set of its own.
    """
    sets: dict[tuple[str, str, int], list[str]] = {}
    alone: list[ShardSet] = []
    for name in sorted(names):
        match = _SHARD.fullmatch(name)
        if match and 1 <= int(match["part"]) <= int(match["parts"]):
            key = (match["stem"], match["suffix"], int(match["parts"]))
            sets.setdefault(key, []).append(name)
        else:
            stem, dot, suffix = name.rpartition(".")
            alone.append(ShardSet(stem or name, dot + suffix if stem else "", 1, (name,)))
    together = [ShardSet(*key, tuple(members)) for key, members in sets.items()]
    return sorted(alone + together, key=lambda shards: shards.names[0])
