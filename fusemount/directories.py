"""Descriptors of directory nodes: a bounded LRU, re-opened by name and verified when needed.

A descriptor in use is never closed: eviction only drops it from the cache, and the last user
closes it. A node whose name leads to something else is stale.
"""

import errno
import os

import cachetools

from fusemount.errors import StaleNodeError
from fusemount.identity import Found
from fusemount.inodes import ROOT_INODE, Node, is_same
from fusemount.source import Source, open_directory


class Directory:
    """An O_PATH descriptor of a directory, with the number of its users."""

    __slots__ = ("cached", "fd", "is_local", "number", "users")

    def __init__(self, fd: int, is_local: bool, number: int) -> None:
        self.fd = fd
        self.is_local = is_local
        # Its inode number in the source, which may be no identity but changes with a replacement.
        self.number = number
        self.users = 0
        self.cached = True

    def release(self) -> None:
        """One user is done with it."""
        self.users -= 1
        self.close_unused()

    def close_unused(self) -> None:
        """Close the descriptor unless it is cached or in use."""
        if not self.users and not self.cached and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _Cache(cachetools.LRUCache[int, Directory]):
    def popitem(self) -> tuple[int, Directory]:
        inode, directory = super().popitem()
        _let_go(directory)
        return inode, directory


def _let_go(directory: Directory) -> None:
    directory.cached = False
    directory.close_unused()


class Directories:
    """Opens directory nodes. Used by the event loop only."""

    def __init__(self, source: Source, capacity: int) -> None:
        self._source = source
        self._cache = _Cache(capacity)
        self._root = Directory(source.root_fd, source.is_local, 0)

    def __len__(self) -> int:
        return len(self._cache)

    async def open(self, node: Node) -> Directory:
        """The directory of a node, for the caller to `release`.

        Raises StaleNodeError where no name leads to the node any more, OSError, or
        SourceTimeoutError. A cancellation leaves nothing open.
        """
        # Up to the first directory that is open, then down again; a loop, since a tree may be
        # deeper than the interpreter's stack.
        missing: list[Node] = []
        seen: set[int] = set()
        directory = self._cached(node)
        while directory is None:
            if not node.names or node.inode in seen:  # names can lead in a circle after a rename
                raise StaleNodeError(f"node {node.inode}")
            seen.add(node.inode)
            missing.append(node)
            node = node.names[0][0]
            directory = self._cached(node)
        directory.users += 1
        while missing:
            directory = await self._step(directory, missing.pop())
        return directory

    def _cached(self, node: Node) -> Directory | None:
        if node.inode == ROOT_INODE:
            return self._root
        return self._cache.get(node.inode)

    async def _step(self, above: Directory, node: Node) -> Directory:
        """The directory of a node below `above`, which is released; the new one is in use."""
        try:
            if not node.names:
                raise StaleNodeError(f"node {node.inode}")
            directory = await self._open_at(above, node, node.names[0][1])
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE):
                raise StaleNodeError(f"node {node.inode}") from error
            raise
        finally:
            above.release()
        self._keep(node, directory)
        directory.users += 1
        return directory

    async def _open_at(self, above: Directory, node: Node, name: bytes) -> Directory:
        fd, is_local = await self._source.call(
            above.is_local, open_directory, above.fd, name, discard=_close_first
        )
        try:
            found = await self._source.call(is_local, self._source.find_open, fd)
            if not is_same(node, found):
                raise StaleNodeError(f"node {node.inode}")
        except BaseException:
            os.close(fd)
            raise
        return Directory(fd, is_local, found.status.st_ino)

    def _keep(self, node: Node, directory: Directory) -> None:
        # Another task may have opened it meanwhile.
        self.drop(node)
        if node.names:
            self._cache[node.inode] = directory
        else:
            directory.cached = False  # dropped while it was opened: nobody would take it out

    def notice(self, node: Node, found: Found) -> None:
        """A directory was found by its name: drop a descriptor that leads to a former one.

        With an identity the node itself would be another. Without one a directory that replaced
        another keeps the node, and only its number shows that it is new.
        """
        if node.identity is None and node.is_directory:
            directory = self._cache.get(node.inode)
            if directory is not None and directory.number != found.status.st_ino:
                self.drop(node)

    def drop(self, node: Node) -> None:
        """Take a node's descriptor out of the cache, if it is there."""
        directory = self._cache.pop(node.inode, None)
        if directory is not None:
            _let_go(directory)

    def drop_all(self) -> None:
        """Empty the cache, as after a remount of the source."""
        while self._cache:
            self._cache.popitem()
        self._root.is_local = self._source.is_local


def _close_first(opened: tuple[int, bool]) -> None:
    os.close(opened[0])
