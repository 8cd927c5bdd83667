"""The mounted tree: nodes, their descriptors and the source brought together.

Every call finds its node by descriptor, parent and name, and checks that it is still the node.
A source that was remounted under the mount is opened again once; what was open there is stale.
"""

import errno
import os
import stat
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fusemount.directories import Directories, Directory
from fusemount.errors import StaleNodeError
from fusemount.handles import DirectoryHandle
from fusemount.identity import Found
from fusemount.inodes import InodeTable, Node, is_same
from fusemount.source import (
    Result,
    Source,
    get_xattr,
    list_names,
    list_xattrs,
    open_file,
    open_path,
    read_link,
)
from fusemount.stat_ahead import StatAhead

Answer = TypeVar("Answer")

# What a source that went away says, until it is opened again.
GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ESHUTDOWN, errno.ENXIO})
# Names that lead nowhere or elsewhere now.
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
# Entries of a directory whose status is found in one go.
_LISTING_CHUNK = 1024
# For so long a status found ahead of a slow lister is handed out.
_LISTING_FRESH_S = 1.0


class Tree:
    """Looks things up in the source for the kernel. Used by the event loop only."""

    def __init__(self, source: Source, descriptors: int, attribute_timeout_s: float = 0.0) -> None:
        """`descriptors`: how many directories may be open at once. `attribute_timeout_s`: how old
        a status may be that was found ahead of its lookup."""
        self._source = source
        self._ahead = StatAhead(attribute_timeout_s)
        self.inodes = InodeTable(source.root())
        self.directories = Directories(source, descriptors)
        # An open descriptor would keep a mount inside the source from being unmounted.
        self.inodes.on_drop = self.directories.drop

    async def lookup(self, parent: Node, name: bytes) -> tuple[Node, Found, float]:
        """The node at a name, and how many seconds ago it was found.

        Raises OSError (ENOENT: no such name), StaleNodeError.
        """

        async def find() -> tuple[Found, float]:
            directory = await self.directories.open(parent)
            try:
                if directory.is_local:
                    found = await self._source.call(True, self._source.find, directory.fd, name)
                    return found, 0.0
                return await self._find_ahead(parent, directory, name)
            finally:
                directory.release()

        try:
            found, age_s = await self._retried(find)
        except OSError as error:
            if error.errno in _MISSING:
                self.inodes.detach(parent, name)
            raise
        return self.remember(parent, name, found), found, age_s

    async def _find_ahead(
        self, parent: Node, directory: Directory, name: bytes
    ) -> tuple[Found, float]:
        """A name's status on a remote source, together with those that will be asked for next."""
        now = time.monotonic()
        known = self._ahead.take(parent.inode, name, now)
        if known is not None:
            return known
        names = self._ahead.plan(parent.inode, name)
        if len(names) > 1:
            try:
                found = await self._source.find_all(False, directory.fd, names)
            except OSError:
                self._ahead.forget(parent.inode)  # one of them fails: whose it is, it will say
            else:
                self._ahead.keep(parent.inode, names[1:], found[1:], now)
                if found[0] is not None:
                    return found[0], time.monotonic() - now
        return await self._source.call(False, self._source.find, directory.fd, name), 0.0

    def remember(self, parent: Node, name: bytes, found: Found) -> Node:
        """The node for what was found at a place."""
        node = self.inodes.remember(parent, name, found)
        self.directories.notice(node, found)
        return node

    async def status(self, node: Node) -> Found:
        """What a node that is not open is now."""
        if node.is_directory:

            async def find_directory() -> Found:
                directory = await self.directories.open(node)
                try:
                    return await self._source.call(
                        directory.is_local, self._source.find_open, directory.fd
                    )
                finally:
                    directory.release()

            return await self._retried(find_directory)

        async def find_at(directory: Directory, name: bytes) -> Found:
            found = await self._source.call(
                directory.is_local, self._source.find, directory.fd, name
            )
            if not is_same(node, found):
                raise StaleNodeError(f"node {node.inode}")
            return found

        return await self._at_each_place(node, find_at)

    async def open_file(self, node: Node) -> tuple[int, Found, bool]:
        """Open a regular file: descriptor, what it is, whether it is on a local filesystem.

        Raises StaleNodeError where the name leads to another file now.
        """

        async def open_at(directory: Directory, name: bytes) -> tuple[int, Found, bool]:
            # In one go: a source that hangs in between holds up its thread, which closes then,
            # and not the event loop. Closing waits for the daemon of a FUSE source.
            fd, found = await self._source.call(
                directory.is_local, self._open_and_find, directory.fd, name, discard=_close_first
            )
            if not stat.S_ISREG(found.status.st_mode) or not is_same(node, found):
                await self._source.call(directory.is_local, os.close, fd)
                raise StaleNodeError(f"node {node.inode}")
            return fd, found, directory.is_local

        return await self._at_each_place(node, open_at)

    def _open_and_find(self, directory_fd: int, name: bytes) -> tuple[int, Found]:
        fd = open_file(directory_fd, name)
        try:
            return fd, self._source.find_open(fd)
        except BaseException:
            os.close(fd)
            raise

    async def read_link(self, node: Node) -> bytes:
        """A symbolic link's text, verbatim."""

        async def read_at(directory: Directory, name: bytes) -> bytes:
            try:
                text = await self._source.call(directory.is_local, read_link, directory.fd, name)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # What is there is no link any more; what it is does not matter.
                raise StaleNodeError(f"node {node.inode}") from error
            found = await self._source.call(
                directory.is_local, self._source.find, directory.fd, name
            )
            if not is_same(node, found):
                raise StaleNodeError(f"node {node.inode}")
            return text

        return await self._at_each_place(node, read_at)

    async def get_xattr(self, node: Node, name: bytes) -> bytes:
        """An extended attribute; raises OSError (ENODATA: none of that name)."""
        return await self._with_path(node, lambda fd: get_xattr(fd, name))

    async def list_xattrs(self, node: Node) -> list[bytes]:
        """Names of the extended attributes."""
        return await self._with_path(node, list_xattrs)

    async def statvfs(self) -> os.statvfs_result:
        """The source's filesystem."""

        async def ask() -> os.statvfs_result:
            return await self._source.call(self._source.is_local, os.fstatvfs, self._source.root_fd)

        return await self._retried(ask)

    async def list(self, handle: DirectoryHandle, start: int) -> None:
        """See that the handle knows its names, and the status of those from `start` on.

        Position 0 lists the directory anew. A name that is gone again has None.
        """

        async def fill() -> None:
            directory = await self.directories.open(handle.node)
            try:
                if handle.names is None or start == 0:
                    handle.names = await self._source.call(
                        directory.is_local, list_names, directory.fd
                    )
                    handle.found = []
                    if not directory.is_local:
                        self._ahead.remember(handle.node.inode, handle.names)
                now = time.monotonic()
                if now - handle.found_at > _LISTING_FRESH_S:
                    del handle.found[start:]
                known = len(handle.found)
                if known <= start < len(handle.names):
                    names = handle.names[known : start + _LISTING_CHUNK]
                    handle.found += await self._source.find_all(
                        directory.is_local, directory.fd, names
                    )
                    handle.found_at = now
            finally:
                directory.release()

        await self._retried(fill)

    async def _with_path(self, node: Node, work: Callable[[int], Result]) -> Result:
        if node.is_directory:
            directory = await self.directories.open(node)
            try:
                return await self._source.call(directory.is_local, work, directory.fd)
            finally:
                directory.release()

        async def work_at(directory: Directory, name: bytes) -> Result:
            def open_and_work() -> Result:
                fd = open_path(directory.fd, name)
                try:
                    if not is_same(node, self._source.find_open(fd)):
                        raise StaleNodeError(f"node {node.inode}")
                    return work(fd)
                finally:
                    os.close(fd)

            return await self._source.call(directory.is_local, open_and_work)

        return await self._at_each_place(node, work_at)

    async def _at_each_place(
        self, node: Node, work: Callable[[Directory, bytes], Awaitable[Answer]]
    ) -> Answer:
        """Work at the first of the node's names that still leads to it."""

        async def try_places() -> Answer:
            for parent, name in list(node.names):
                try:
                    directory = await self.directories.open(parent)
                    try:
                        return await work(directory, name)
                    finally:
                        directory.release()
                except StaleNodeError:
                    continue
                except OSError as error:
                    if error.errno not in _MISSING and error.errno != errno.ELOOP:
                        raise
            raise StaleNodeError(f"node {node.inode}")

        return await self._retried(try_places)

    async def status_of_open(self, fd: int, is_local: bool) -> Found:
        """What an open descriptor leads to now; stale where its source was remounted."""
        try:
            return await self._source.call(is_local, self._source.find_open, fd)
        except OSError as error:
            if error.errno in GONE:
                raise StaleNodeError("its source was remounted") from error
            raise

    async def _retried(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do the work; where the source went away, open its path again and do it once more."""
        try:
            return await work()
        except OSError as error:
            if error.errno not in GONE:
                raise
            if not await self._source.call(False, self._source.reopen_root):
                raise
        self.directories.drop_all()
        return await work()


def _close_first(opened: tuple[int, Found]) -> None:
    os.close(opened[0])
