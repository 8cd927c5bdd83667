"""What a file of the source is: an identity that outlives renames, where its filesystem has one.

The kernel's file handle (name_to_handle_at) carries inode number and generation, so a number that
was freed and given out again is told apart. FUSE hands numbers out as it likes; there, and where
no handle can be had, the identity is None and only parent and name lead to a file.
"""

import ctypes
import os
import stat
import threading
from dataclasses import dataclass

_libc = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH = 0x1000
_AT_STATX_FORCE_SYNC = 0x2000
_STATX_BASIC_STATS = 0x7FF
_HANDLE_BYTES = 128  # MAX_HANDLE_SZ
_HANDLE_HEADER_BYTES = 8

_FUSE_MAGIC = 0x65735546
# Handles of these name something else after a reconnect, or are made up by a client.
_UNSTABLE_TYPES = frozenset({_FUSE_MAGIC, 0xFF534D42, 0xFE534D42, 0x517B, 0x01021997})  # CIFS, 9p
# Filesystems whose data lies on this machine (linux/magic.h).
_LOCAL_TYPES = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # XFS
        0x9123683E,  # btrfs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0xF2F52010,  # F2FS
        0x2FC12FC1,  # ZFS
        0xCA451A4E,  # bcachefs
        0x73717368,  # squashfs
        0xE0F5E1E2,  # EROFS
        0x794C7630,  # overlayfs
    }
)


class _Statfs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_char * 256))


@dataclass(frozen=True, slots=True)
class Version:
    """A regular file's state: while it stands still, so do the bytes. Sizes in bytes, times in ns.

    Change times are compared only where the source's are known to be honest; a FUSE source's
    often are not.
    """

    size_bytes: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a name led to: its status, and its identity or None."""

    status: os.stat_result
    identity: bytes | None

    @property
    def kind(self) -> int:
        """The file type bits of its mode."""
        return stat.S_IFMT(self.status.st_mode)

    @property
    def version(self) -> Version:
        return version_of(self.status)


def version_of(status: os.stat_result) -> Version:
    """The version that a status shows."""
    return Version(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class _StatxTime(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_int64),
        ("nanoseconds", ctypes.c_uint32),
        ("reserved", ctypes.c_int32),
    )


class _Statx(ctypes.Structure):
    _fields_ = (
        ("before", ctypes.c_char * 40),  # mask, block size, attributes, links, owner, mode, number
        ("size_bytes", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64),
        ("atime", _StatxTime),
        ("btime", _StatxTime),
        ("ctime", _StatxTime),
        ("mtime", _StatxTime),
        ("rest", ctypes.c_char * 128),
    )


def ask_version(fd: int) -> Version:
    """The version of an open file as its server says now, past what this machine's kernel has
    cached of its status; raises OSError.
    """
    found = _Statx()
    flags = _AT_EMPTY_PATH | _AT_STATX_FORCE_SYNC
    if _libc.statx(fd, b"", flags, _STATX_BASIC_STATS, ctypes.byref(found)):
        raise OSError(ctypes.get_errno(), "statx")
    mtime, ctime = found.mtime, found.ctime
    return Version(
        found.size_bytes,
        mtime.seconds * 1_000_000_000 + mtime.nanoseconds,
        ctime.seconds * 1_000_000_000 + ctime.nanoseconds,
    )


def filesystem_type(fd: int) -> int:
    """The f_type of the filesystem that `fd` is on; raises OSError."""
    buffer = _Statfs()
    if _libc.fstatfs(fd, ctypes.byref(buffer)):
        raise OSError(ctypes.get_errno(), "fstatfs")
    return int(buffer.f_type) & 0xFFFFFFFF


def is_local_type(number: int) -> bool:
    """Whether files of that filesystem type lie on this machine."""
    return number in _LOCAL_TYPES


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.handle = ctypes.create_string_buffer(_HANDLE_HEADER_BYTES + _HANDLE_BYTES)
        self.room = ctypes.c_uint.from_buffer(self.handle)
        self.address = ctypes.addressof(self.handle)
        self.mount_id = ctypes.c_int()
        # Made once: a listing asks for thousands.
        self.arguments = (self.handle, ctypes.byref(self.mount_id))


class Identifier:
    """Finds identities; used from several threads. One per source."""

    def __init__(self) -> None:
        self._buffers = _Buffers()
        # Device number -> whether its identities are stable. A dictionary's get and set are atomic.
        self._stable: dict[int, bool] = {}

    def find(self, directory_fd: int, name: bytes, status: os.stat_result) -> bytes | None:
        """The identity of `name` in the directory, whose lstat gave `status`."""
        stable = self._stable.get(status.st_dev)
        if stable is None:
            stable = self._probe(directory_fd, name, status)
        return self._handle(directory_fd, name, 0, status.st_dev) if stable else None

    def find_open(self, fd: int, status: os.stat_result) -> bytes | None:
        """The identity of an open descriptor, whose fstat gave `status`."""
        stable = self._stable.get(status.st_dev)
        if stable is None:
            stable = filesystem_type(fd) not in _UNSTABLE_TYPES
            self._stable[status.st_dev] = stable
        return self._handle(fd, b"", _AT_EMPTY_PATH, status.st_dev) if stable else None

    def _probe(self, directory_fd: int, name: bytes, status: os.stat_result) -> bool:
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
        except OSError:
            return False
        try:
            if os.fstat(fd).st_dev != status.st_dev:
                return False
            stable = filesystem_type(fd) not in _UNSTABLE_TYPES
        finally:
            os.close(fd)
        self._stable[status.st_dev] = stable
        return stable

    def _handle(self, directory_fd: int, name: bytes, flags: int, device: int) -> bytes | None:
        buffers = self._buffers
        room = buffers.room
        room.value = _HANDLE_BYTES
        if _libc.name_to_handle_at(directory_fd, name, *buffers.arguments, flags):
            return None
        # Type and handle, behind the length.
        return device.to_bytes(8, "little") + ctypes.string_at(buffers.address + 4, 4 + room.value)
