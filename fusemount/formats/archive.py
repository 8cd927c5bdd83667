"""Members of a zip archive in the tree, read with two or three requests.

The archive may be hostile: reads are bounded, and whatever is wrong with it is the answer None.
"""

import io
import struct
import zipfile
import zlib

from fusemount.formats.folder import File
from fusemount.formats.inspection import Inspection

# The end of an archive with a few hundred members, its directory included.
_WINDOW_BYTES = 64 * 1024
# A directory of some ten thousand members; nothing served has more.
_READ_LIMIT_BYTES = 1024 * 1024
_FETCH_LIMIT = 6

# What zipfile is known to raise for malformed input, besides its own error.
_MALFORMED = (
    OSError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)


class _ArchiveFile(io.RawIOBase):
    """A seekable view of a file of the tree that asks for windows, not for pieces."""

    def __init__(self, file: File, inspection: Inspection) -> None:
        self._file = file
        self._inspection = inspection
        self._position = 0
        self._window_at = 0
        self._window = b""
        self._fetches_left = _FETCH_LIMIT

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence, self._file.size_bytes)
        if start + offset < 0:
            raise OSError("seek before the start of the archive")
        self._position = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self._file.size_bytes - self._position)
        size = rest if size < 0 else min(size, rest)
        if size > _READ_LIMIT_BYTES:
            raise OSError("the archive's directory is too large")
        within = self._position - self._window_at
        if within < 0 or within + size > len(self._window):
            self._fetch(size)
            within = self._position - self._window_at
        data = self._window[within : within + size]
        self._position += len(data)
        return data

    def _fetch(self, size: int) -> None:
        if self._fetches_left == 0:
            raise OSError("the archive's members are too far apart")
        self._fetches_left -= 1
        tail_at = max(0, self._file.size_bytes - _WINDOW_BYTES)
        self._window_at = min(self._position, tail_at)
        wanted = max(_WINDOW_BYTES, self._position - self._window_at + size)
        window = self._inspection.read(self._file.path, self._window_at, wanted)
        if window is None:
            raise OSError("the archive cannot be read")
        self._window = window


def member_names(file: File, inspection: Inspection) -> list[str] | None:
    """The names of the archive's members, or None where `file` is no readable zip."""
    try:
        with zipfile.ZipFile(_ArchiveFile(file, inspection)) as archive:
            return archive.namelist()
    except _MALFORMED:
        return None


def read_member(file: File, inspection: Inspection, name: str) -> bytes | None:
    """The content of one member, at most 1 MiB of it; None where it cannot be had."""
    try:
        with (
            zipfile.ZipFile(_ArchiveFile(file, inspection)) as archive,
            archive.open(name) as member,
        ):
            return member.read(_READ_LIMIT_BYTES)
    except _MALFORMED:
        return None
