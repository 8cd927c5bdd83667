"""Descriptors of directory nodes: a bounded LRU, re-opened by name and verified when needed.

A descriptor in use is never closed: eviction only drops it from the cache, and the last user
closes it. A node whose name leads to something else is stale.
"""

import errno
import os

import cachetools

from fusemount.errors import StaleNodeError
from fusemount.inodes import Node, is_same
from fusemount.source import Source, open_directory


class Directory:
    """An O_PATH descriptor of a directory, with the number of its users."""

    __slots__ = ("cached", "fd", "is_local", "users")

    def __init__(self, fd: int, is_local: bool) -> None:
        self.fd = fd
        self.is_local = is_local
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
        self._root = Directory(source.root_fd, source.is_local)

    def __len__(self) -> int:
        return len(self._cache)

    async def open(self, node: Node, seen: frozenset[int] = frozenset()) -> Directory:
        """The directory of a node, for the caller to `release`.

        Raises StaleNodeError where no name leads to the node any more, OSError, or
        SourceTimeoutError. A cancellation leaves nothing open.
        """
        if not node.names:
            if node.inode == 1:
                self._root.users += 1
                return self._root
            raise StaleNodeError(f"node {node.inode}")
        cached = self._cache.get(node.inode)
        if cached is not None:
            cached.users += 1
            return cached
        if node.inode in seen:  # names from before a rename can lead in a circle
            raise StaleNodeError(f"node {node.inode}")
        for parent, name in list(node.names):
            try:
                directory = await self._open_at(node, parent, name, seen | {node.inode})
            except StaleNodeError:
                continue
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE):
                    continue
                raise
            self._keep(node, directory)
            directory.users += 1
            return directory
        raise StaleNodeError(f"node {node.inode}")

    async def _open_at(
        self, node: Node, parent: Node, name: bytes, seen: frozenset[int]
    ) -> Directory:
        above = await self.open(parent, seen)
        try:
            fd, is_local = await self._source.call(
                above.is_local, open_directory, above.fd, name, discard=_close_first
            )
        finally:
            above.release()
        try:
            found = await self._source.call(is_local, self._source.find_open, fd)
            if not is_same(node, found):
                raise StaleNodeError(f"node {node.inode}")
        except BaseException:
            os.close(fd)
            raise
        return Directory(fd, is_local)

    def _keep(self, node: Node, directory: Directory) -> None:
        # Another task may have opened it meanwhile.
        self.drop(node)
        self._cache[node.inode] = directory

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
