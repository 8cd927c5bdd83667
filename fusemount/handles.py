"""Open files and directories. Pure tables: no I/O.

File and directory handles share one counter, so that a number never means both.
"""

import itertools
from dataclasses import dataclass, field

from fusemount.errors import StaleNodeError
from fusemount.identity import Found
from fusemount.inodes import Node
from fusemount.readahead import Readahead
from fusemount.store.content import Content


@dataclass(slots=True, eq=False)
class FileHandle:
    """One open file. `path` is relative to the root, as os.fsdecode gives it."""

    fh: int
    node: Node
    path: str
    content: Content
    pid: int
    # Its own window, and that of another reader of the same content whom it follows.
    readahead: Readahead
    priority: int
    is_local: bool
    # Whether the source's page cache can be asked without waiting; learnt from the first try.
    reads_cached: bool
    followed: Readahead | None = None
    # False once released; a request that was waiting then must not take hold of anything.
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory's entries as they were listed: names, and what each is or None if it is gone."""

    names: tuple[bytes, ...]
    found: tuple[Found | None, ...]


@dataclass(slots=True, eq=False)
class DirectoryHandle:
    """One open directory: its names as they were at the last rewind, and what is known of them."""

    fh: int
    node: Node
    names: list[bytes] | None = None
    found: list[Found | None] = field(default_factory=list)
    # When the last of `found` were asked for, on the monotonic clock.
    found_at: float = 0.0
    # Whether the optimizer was told what was listed.
    is_told: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether every name's status is known."""
        return self.names is not None and len(self.found) >= len(self.names)


class Handles:
    """Handles by number. Used by the event loop only."""

    def __init__(self) -> None:
        self._counter = itertools.count(1)
        self._files: dict[int, FileHandle] = {}
        self._directories: dict[int, DirectoryHandle] = {}
        self._by_node: dict[int, list[FileHandle]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def next_fh(self) -> int:
        """A number that no handle had before."""
        return next(self._counter)

    def add_file(self, handle: FileHandle) -> None:
        """Make a handle known."""
        self._files[handle.fh] = handle
        self._by_node.setdefault(handle.node.inode, []).append(handle)

    def add_directory(self, node: Node) -> DirectoryHandle:
        """A new directory handle."""
        handle = DirectoryHandle(self.next_fh(), node)
        self._directories[handle.fh] = handle
        return handle

    def file(self, fh: int) -> FileHandle:
        """The open file of that number; raises StaleNodeError where there is none."""
        try:
            return self._files[fh]
        except KeyError:
            raise StaleNodeError(f"file handle {fh}") from None

    def directory(self, fh: int) -> DirectoryHandle:
        """The open directory of that number; raises StaleNodeError where there is none."""
        try:
            return self._directories[fh]
        except KeyError:
            raise StaleNodeError(f"directory handle {fh}") from None

    def of_node(self, node: Node) -> list[FileHandle]:
        """The node's open files."""
        return self._by_node.get(node.inode, [])

    def files(self) -> list[FileHandle]:
        """All open files."""
        return list(self._files.values())

    def remove_file(self, fh: int) -> FileHandle | None:
        """Forget an open file; None where it is unknown."""
        handle = self._files.pop(fh, None)
        if handle is not None:
            handle.is_open = False
            siblings = self._by_node[handle.node.inode]
            siblings.remove(handle)
            if not siblings:
                del self._by_node[handle.node.inode]
        return handle

    def remove_directory(self, fh: int) -> DirectoryHandle | None:
        """Forget an open directory; None where it is unknown."""
        return self._directories.pop(fh, None)
