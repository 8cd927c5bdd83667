"""What is mounted where, read from /proc/self/mountinfo: never touches a mount.

Invariant: nothing here can hang on a mount whose daemon is dead or stopped.
"""

import contextlib
import os
import re
from dataclasses import dataclass

# The kernel follows as many.
_MAX_LINKS = 40
# Mounts of these answer by themselves, as local disks do.
_PROMPT_TYPES = frozenset(
    {
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "tmpfs",
        "ramfs",
        "f2fs",
        "zfs",
        "bcachefs",
        "squashfs",
        "erofs",
        "overlay",
        "proc",
        "sysfs",
        "devtmpfs",
        "devpts",
        "mqueue",
        "cgroup",
        "cgroup2",
        "debugfs",
        "tracefs",
        "securityfs",
        "bpf",
        "hugetlbfs",
        "iso9660",
        "vfat",
    }
)
# Mounts are looked for again after so long.
_WATCH_S = 0.2
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo: `device` is (major, minor)."""

    mountpoint: bytes
    filesystem_type: str
    source: bytes
    device: tuple[int, int]


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)


def read_mounts(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """All mounts of this process's namespace, in the order they were made."""
    mounts = []
    with open(path, "rb") as file:
        for line in file:
            fields, _, rest = line.partition(b" - ")
            columns, (filesystem_type, source, *_) = fields.split(b" "), rest.split(b" ")
            major, _, minor = columns[2].partition(b":")
            mounts.append(
                Mount(
                    _unescape(columns[4]),
                    filesystem_type.decode(errors="replace"),
                    _unescape(source),
                    (int(major), int(minor)),
                )
            )
    return mounts


def find_mount(mountpoint: bytes) -> Mount | None:
    """The topmost mount exactly at `mountpoint` (absolute, links resolved), or None."""
    found = None
    for mount in read_mounts():
        if mount.mountpoint == mountpoint:
            found = mount
    return found


class MountWatch:
    """Whether a filesystem that may hang is mounted below a directory. Used by one thread."""

    def __init__(self, directory_fd: int, path: str = "/proc/self/mountinfo") -> None:
        self._directory_fd = directory_fd
        self._path = path
        self._text = b""
        self._next_look_s = 0.0
        self._may_hang = False

    def may_hang(self, now_s: float) -> bool:
        """As of `now_s` on the monotonic clock, or a moment before."""
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + _WATCH_S
            # Where descriptors are short, what was known stays.
            with contextlib.suppress(OSError):
                self._look()
        return self._may_hang

    def _look(self) -> None:
        with open(self._path, "rb") as file:
            text = file.read()
        if text == self._text:
            return
        above = os.fsencode(os.readlink(f"/proc/self/fd/{self._directory_fd}")).rstrip(b"/") + b"/"
        self._may_hang = any(
            mount.mountpoint.startswith(above) and mount.filesystem_type not in _PROMPT_TYPES
            for mount in read_mounts(self._path)
        )
        self._text = text


def resolve_mountpoint(path: str) -> str:
    """The absolute path of a mount point, links resolved, without asking what is mounted there.

    A link is read, not followed: on the root of a mount the kernel answers that by itself.
    """
    path = os.path.abspath(path)
    for _ in range(_MAX_LINKS):
        directory, name = os.path.split(path)
        path = os.path.join(os.path.realpath(directory), name)
        try:
            target = os.readlink(path)
        except OSError:
            break
        path = os.path.abspath(os.path.join(os.path.dirname(path), target))
    return path
