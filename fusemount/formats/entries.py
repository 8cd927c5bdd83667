"""What the catalogue sees of the mounted tree, and arithmetic on its paths.

Paths are `str` by os.fsdecode (surrogateescape), relative to the mount's root, without leading
slash; '' is the root. Names may hold anything but '/' and NUL, newlines included.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class EntryKind(Enum):
    """What a directory entry is, links not followed."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One entry of a directory; the size of a link is the link's own."""

    name: str
    kind: EntryKind
    size_bytes: int
    mtime_ns: int


class Tree(Protocol):
    """The mounted tree; each call is one request to the source and raises OSError on failure.

    No call follows a link, not in the middle of a path either.
    """

    def scan(self, directory: str) -> list[TreeEntry]:
        """The entries of `directory`, without '.' and '..'."""
        ...

    def read(self, path: str, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`; fewer only at the end of the file."""
        ...

    def readlink(self, path: str) -> str:
        """The link's text as it is stored."""
        ...


def join(directory: str, name: str) -> str:
    """The path of `name` in `directory`."""
    return f"{directory}/{name}" if directory else name


def parent_of(path: str) -> str:
    """The directory that holds `path`; the root's is the root."""
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    """The last component of `path`."""
    return path.rpartition("/")[2]


def suffix_of(name: str) -> str:
    """The extension in lower case with its dot; '' for none and for hidden names without one."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def follow(directory: str, target: str) -> str | None:
    """Where a link in `directory` leads by its text, or None where that is not in the tree.

    An absolute target leaves the mount. A '..' behind a name is refused, since the name may be
    a link itself and only the kernel could tell where its parent is.
    """
    if not target or target.startswith("/") or "\0" in target:
        return None
    kept = directory.split("/") if directory else []
    named = False
    for component in target.split("/"):
        if component in ("", "."):
            continue
        if component == "..":
            if named or not kept:
                return None
            kept.pop()
        else:
            named = True
            kept.append(component)
    return "/".join(kept) or None
