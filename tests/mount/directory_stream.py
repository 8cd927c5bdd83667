"""opendir(3) and its relatives, which Python does not show: positions in a directory."""

import ctypes
import os
from types import TracebackType
from typing import Self

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fdopendir.restype = ctypes.c_void_p
_libc.fdopendir.argtypes = [ctypes.c_int]
_libc.readdir64.restype = ctypes.c_void_p
_libc.readdir64.argtypes = [ctypes.c_void_p]
_libc.telldir.restype = ctypes.c_long
_libc.telldir.argtypes = [ctypes.c_void_p]
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
_libc.rewinddir.argtypes = [ctypes.c_void_p]
_libc.closedir.argtypes = [ctypes.c_void_p]
_NAME_OFFSET = 19  # d_ino, d_off, d_reclen, d_type come before d_name


class DirectoryStream:
    """A directory that is read entry by entry."""

    def __init__(self, path: str) -> None:
        self._stream = _libc.fdopendir(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        assert self._stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _libc.closedir(self._stream)

    def read(self) -> bytes | None:
        """The next name, . and .. among them; None at the end. Raises OSError."""
        ctypes.set_errno(0)
        entry = _libc.readdir64(self._stream)
        if entry:
            return ctypes.string_at(entry + _NAME_OFFSET)
        if ctypes.get_errno():
            raise OSError(ctypes.get_errno(), "readdir")
        return None

    def read_all(self) -> list[bytes]:
        """The names from here to the end."""
        return list(iter(self.read, None))

    def tell(self) -> int:
        """The position, for `seek`."""
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        """Go to where `tell` was asked."""
        _libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        """Begin anew, and see what has changed."""
        _libc.rewinddir(self._stream)
