"""What is mounted where, read from /proc/self/mountinfo: never touches a mount.

Invariant: nothing here can hang on a mount whose daemon is dead or stopped.
"""

import os
import re
from dataclasses import dataclass

# The kernel follows as many.
_MAX_LINKS = 40
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
