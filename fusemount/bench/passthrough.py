"""The simplest pyfuse3 passthrough, as a peer: every request is one call of the source, inline.

`python -m fusemount.bench.passthrough SOURCE MOUNTPOINT`, read-only, until SIGTERM. Nodes are
paths, remembered for good: this shows what is to be beaten, not how to serve files.
"""

import errno
import os
import signal
import stat
import sys
from collections.abc import Sequence

import pyfuse3
import trio

_TIMEOUT_S = 1.0


class Passthrough(pyfuse3.Operations):
    """Answers from below `source`."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._paths = {pyfuse3.ROOT_INODE: os.fsencode(source)}
        self._inodes = {os.fsencode(source): pyfuse3.ROOT_INODE}
        self._listings: dict[int, tuple[int, list[bytes]]] = {}

    def _inode(self, path: bytes) -> int:
        inode = self._inodes.setdefault(path, len(self._inodes) + 1)
        self._paths[inode] = path
        return inode

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        try:
            status = os.lstat(self._paths[inode])
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode, entry.st_nlink = status.st_mode, status.st_nlink
        entry.st_uid, entry.st_gid, entry.st_rdev = status.st_uid, status.st_gid, status.st_rdev
        entry.st_size, entry.st_blocks = status.st_size, status.st_blocks
        entry.st_blksize = status.st_blksize
        entry.st_atime_ns, entry.st_mtime_ns = status.st_atime_ns, status.st_mtime_ns
        entry.st_ctime_ns = status.st_ctime_ns
        entry.entry_timeout = entry.attr_timeout = _TIMEOUT_S
        return entry

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(self._inode(os.path.join(self._paths[parent_inode], name)))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        return

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return os.readlink(self._paths[inode])

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        handle = max(self._listings, default=0) + 1
        self._listings[handle] = inode, os.listdir(self._paths[inode])
        return handle

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        inode, names = self._listings[fh]
        for number in range(start_id, len(names)):
            child = self._inode(os.path.join(self._paths[inode], names[number]))
            attributes = self._attributes(child)
            if not pyfuse3.readdir_reply(token, names[number], attributes, number + 1):
                return

    async def releasedir(self, fh: int) -> None:
        del self._listings[fh]

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        try:
            return pyfuse3.FileInfo(fh=os.open(self._paths[inode], os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error

    async def read(self, fh: int, off: int, size: int) -> bytes:
        try:
            return os.pread(fh, size, off)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error

    async def release(self, fh: int) -> None:
        os.close(fh)


async def _serve() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, nursery.cancel_scope)
            async for _ in signals:
                nursery.cancel_scope.cancel()


async def _run(cancel_scope: trio.CancelScope) -> None:
    await pyfuse3.main()
    cancel_scope.cancel()  # unmounted by somebody else


def main() -> None:
    """Serve what the command line names until unmounted or told to end."""
    source, mountpoint = sys.argv[1:]
    if not stat.S_ISDIR(os.stat(source).st_mode):
        sys.exit(f"{source} is not a directory")
    options = {*pyfuse3.default_options, "fsname=plain", "subtype=plain", "ro"}
    pyfuse3.init(Passthrough(source), mountpoint, options)
    try:
        trio.run(_serve)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
