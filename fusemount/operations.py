"""The pyfuse3 adapter: translates, guards, and nothing else.

Every handler goes through one guard: domain errors and OSError become their errno, anything
unexpected becomes EIO and a log line, and only cancellation passes. An exception that left a
handler would end the mount.
"""

import errno
import functools
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

from fusemount.errors import errno_of
from fusemount.filesystem import Filesystem
from fusemount.identity import Found
from fusemount.inodes import Node

_log = logging.getLogger(__name__)
_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")
_Running = Coroutine[Any, Any, _Answer]


def _guarded(
    handler: Callable[Concatenate["Operations", _Arguments], _Running[_Answer]],
) -> Callable[Concatenate["Operations", _Arguments], _Running[_Answer]]:
    @functools.wraps(handler)
    async def guard(
        self: "Operations", *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Answer:
        try:
            return await handler(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            number = errno_of(error)
            if number is None:
                number = errno.EIO
                self.filesystem.metrics.handler_failures += 1
                self.filesystem.metrics.last_failure = f"{handler.__name__}: {error!r}"
                _log.exception("%s failed: the caller gets EIO", handler.__name__)
            raise pyfuse3.FUSEError(number) from None

    return guard  # type: ignore[return-value]  # wraps() forgets that self is positional


class Operations(pyfuse3.Operations):
    """Answers the kernel for one filesystem. `on_init` runs while libfuse handles FUSE_INIT."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, filesystem: Filesystem, on_init: Callable[[], None]) -> None:
        super().__init__()
        self.filesystem = filesystem
        self._on_init = on_init
        self._timeout_s = filesystem.options.attribute_timeout_s

    def init(self) -> None:
        self._on_init()

    def _attributes(self, node: Node, found: Found, age_s: float = 0.0) -> pyfuse3.EntryAttributes:
        status = found.status
        node.told_size_bytes, node.told_at = status.st_size, time.monotonic()
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node.inode
        entry.st_mode = status.st_mode
        entry.st_nlink = status.st_nlink
        entry.st_uid = status.st_uid
        entry.st_gid = status.st_gid
        entry.st_rdev = status.st_rdev
        entry.st_size = status.st_size
        entry.st_blksize = status.st_blksize
        entry.st_blocks = status.st_blocks
        entry.st_atime_ns = status.st_atime_ns
        entry.st_mtime_ns = status.st_mtime_ns
        entry.st_ctime_ns = status.st_ctime_ns
        entry.attr_timeout = entry.entry_timeout = max(0.0, self._timeout_s - age_s)
        return entry

    @_guarded
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        node, found, age_s = await self.filesystem.lookup(parent_inode, name)
        node.lookups += 1
        return self._attributes(node, found, age_s)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        try:
            for inode, lookups in inode_list:
                self.filesystem.tree.inodes.forget(inode, lookups)
        except Exception:
            _log.exception("forget failed")

    @_guarded
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        node = self.filesystem.tree.inodes.get(inode)
        return self._attributes(node, await self.filesystem.status(node))

    @_guarded
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        tree = self.filesystem.tree
        return await tree.read_link(tree.inodes.get(inode))

    @_guarded
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        # The kernel checks rights itself (default_permissions); what is left is existence.
        await self.filesystem.status(self.filesystem.tree.inodes.get(inode))
        return True

    @_guarded
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        tree = self.filesystem.tree
        return await tree.get_xattr(tree.inodes.get(inode), name)

    @_guarded
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        tree = self.filesystem.tree
        names = await tree.list_xattrs(tree.inodes.get(inode))
        # The kernel keeps only their values from ordinary users.
        return [name for name in names if ctx.uid == 0 or not name.startswith(b"trusted.")]

    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        numbers = await self.filesystem.tree.statvfs()
        answer = pyfuse3.StatvfsData()
        for field in (
            "f_bsize",
            "f_frsize",
            "f_blocks",
            "f_bfree",
            "f_bavail",
            "f_files",
            "f_ffree",
            "f_favail",
            "f_namemax",
        ):
            setattr(answer, field, getattr(numbers, field))
        return answer

    @_guarded
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "read-only mount")
        handle, keeps_cache = await self.filesystem.open(inode, ctx.pid)
        return pyfuse3.FileInfo(fh=handle.fh, keep_cache=keeps_cache)

    @_guarded
    async def read(  # type: ignore[override]  # pyfuse3 answers with any buffer
        self, fh: int, off: int, size: int
    ) -> memoryview | bytes:
        filesystem = self.filesystem
        return await filesystem.reader.read(filesystem.handles.file(fh), off, size)

    @_guarded
    async def release(self, fh: int) -> None:
        self.filesystem.release(fh)

    @_guarded
    async def flush(self, fh: int) -> None:
        # Nothing is buffered. Answering ENOSYS would be remembered for the life of the mount.
        return

    @_guarded
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return await self.filesystem.open_directory(inode)

    @_guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        filesystem = self.filesystem
        handle = filesystem.handles.directory(fh)
        position, before = start_id, -1
        while position != before:
            before = position
            for node, name, found, position in await filesystem.list(handle, before):
                if not pyfuse3.readdir_reply(token, name, self._attributes(node, found), position):
                    return
                # The kernel counts no lookup for . and ..
                if name not in (b".", b".."):
                    node.lookups += 1

    @_guarded
    async def releasedir(self, fh: int) -> None:
        self.filesystem.handles.remove_directory(fh)
