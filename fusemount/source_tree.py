"""The source as the catalogue sees it: blocking calls, for the optimizer's thread only.

Every path is walked from the root's descriptor without following a link.
"""

import errno
import os
import stat

from fusemount.formats.entries import EntryKind, TreeEntry
from fusemount.handles import Listing

_KINDS = {
    stat.S_IFREG: EntryKind.FILE,
    stat.S_IFDIR: EntryKind.DIRECTORY,
    stat.S_IFLNK: EntryKind.LINK,
}
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def entries_of(listing: Listing) -> list[TreeEntry]:
    """A listing of the mount as the catalogue takes it."""
    return [
        TreeEntry(
            os.fsdecode(name),
            _KINDS.get(found.kind, EntryKind.OTHER),
            found.status.st_size,
            found.status.st_mtime_ns,
        )
        for name, found in zip(listing.names, listing.found, strict=True)
        if found is not None
    ]


class SourceTree:
    """Implements `formats.entries.Tree` on a descriptor of the source's root."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd

    def scan(self, directory: str) -> list[TreeEntry]:
        """Entries of a directory; names that go meanwhile are left out. Raises OSError."""
        fd = self._open(directory or ".", _DIRECTORY_FLAGS)
        try:
            entries = []
            with os.scandir(fd) as names:
                for entry in names:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    kind = _KINDS.get(stat.S_IFMT(status.st_mode), EntryKind.OTHER)
                    entries.append(TreeEntry(entry.name, kind, status.st_size, status.st_mtime_ns))
            return entries
        finally:
            os.close(fd)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Bytes of a regular file; raises OSError."""
        fd = self._open(path, _FILE_FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)

    def readlink(self, path: str) -> str:
        """A link's text; raises OSError."""
        directory, _, name = path.rpartition("/")
        fd = self._open(directory or ".", _DIRECTORY_FLAGS | os.O_PATH)
        try:
            return os.readlink(name, dir_fd=fd)
        finally:
            os.close(fd)

    def open_file(self, path: str) -> int:
        """A descriptor to read a file by; raises OSError."""
        return self._open(path, _FILE_FLAGS)

    def _open(self, path: str, flags: int) -> int:
        *above, name = path.split("/")
        fd = os.dup(self._root_fd)
        try:
            for part in above:
                below = os.open(part, _DIRECTORY_FLAGS | os.O_PATH, dir_fd=fd)
                os.close(fd)
                fd = below
            return os.open(name, flags, dir_fd=fd)
        finally:
            os.close(fd)
