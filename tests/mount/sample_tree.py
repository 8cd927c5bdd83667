"""A directory tree with everything that a file system can hold, made at first need.

As root it has odd owners, device nodes, trusted attributes and capabilities; for an ordinary user
these are left out. What the machine's file system refuses (a device node, an ACL) is left out too.
"""

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence

GIB = 1024**3
SPARSE_SIZE_BYTES = 5 * GIB + 1_000_003
# Where the sparse file has data; elsewhere it reads as zeros.
SPARSE_DATA = {0: b"begin", 4 * GIB - 3: b"across", 5 * GIB: b"beyond 32 bits" * 500}
NAMES = (
    b"\xff\xfe\x80 not UTF-8",
    "größe 模型".encode(),
    b"n" * 255,
    b"line\nbreak",
    b"tab\tand bell\a",
    b" leading blank",
    b"-dash",
    b"back\\slash",
    b"quo'te\"s",
    b"...",
)
DEEP_LEVELS = 60
DEEP_NAME = b"d" * 100  # 60 of these are longer than PATH_MAX

# Tags of a POSIX ACL as the kernel stores it.
ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFFFFFF


def acl(entries: Sequence[tuple[int, int, int | None]]) -> bytes:
    """An ACL's attribute from (tag, rights, user or group id or None), in the kernel's order."""
    parts = [struct.pack("<I", 2)]
    parts += [
        struct.pack("<HHI", tag, rights, _NO_ID if number is None else number)
        for tag, rights, number in entries
    ]
    return b"".join(parts)


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes that differ at every offset modulo a large period, and by `seed`."""
    block = bytes((i * 7 + (i >> 8) * 13 + seed * 31) & 0xFF for i in range(65_537))
    return (block * (size // len(block) + 1))[:size]


def make_tree(root: bytes, many: int) -> None:
    """Make the tree in the existing directory `root`, with `many` files in one folder."""
    _make_regular(root)
    _make_links(root)
    for number, name in enumerate(NAMES):
        _write(os.path.join(root, name), pattern(100 + number, number))
    _make_many(os.path.join(root, b"many"), many)
    _make_deep(root)
    _make_special(root)
    _make_attributes(root)
    # Last: making entries changes a directory's times.
    _set_times(root)


def _write(path: bytes, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _make_regular(root: bytes) -> None:
    for size in (0, 1, 4095, 4096, 4097, 1_048_577):
        _write(os.path.join(root, b"size-%d" % size), pattern(size))
    with open(os.path.join(root, b"sparse"), "wb") as file:
        file.truncate(SPARSE_SIZE_BYTES)
        for offset, data in SPARSE_DATA.items():
            os.pwrite(file.fileno(), data, offset)
    os.mkdir(os.path.join(root, b"empty directory"))


def _make_links(root: bytes) -> None:
    os.mkdir(os.path.join(root, b"sub"))
    _write(os.path.join(root, b"hard one"), pattern(5000, 3))
    os.link(os.path.join(root, b"hard one"), os.path.join(root, b"sub", b"hard two"))
    targets = {
        b"link inside": b"sub/hard two",
        b"link to directory": b"sub",
        b"link outside": b"/etc/passwd",
        b"link above": b"../../elsewhere",
        b"link dangling": b"nowhere at all",
        b"link to itself": b"link to itself",
        b"link not UTF-8": b"\xfe\xff",
        b"link long": b"x/" * 1500 + b"end",
    }
    for name, target in targets.items():
        os.symlink(target, os.path.join(root, name))


def _make_many(directory: bytes, count: int) -> None:
    os.mkdir(directory)
    for number in range(count):
        fd = os.open(os.path.join(directory, b"file-%05d" % number), os.O_CREAT | os.O_WRONLY)
        if number % 100 == 0:
            os.write(fd, b"%d" % number)
        os.close(fd)


def _make_deep(root: bytes) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(DEEP_LEVELS):
        os.mkdir(DEEP_NAME, dir_fd=fd)
        below = os.open(DEEP_NAME, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    bottom = os.open(b"bottom", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=fd)
    os.write(bottom, b"at the bottom")
    os.close(bottom)
    os.close(fd)


def _make_special(root: bytes) -> None:
    os.mkfifo(os.path.join(root, b"fifo"))
    with socket.socket(socket.AF_UNIX) as listener:
        # A socket's name holds 108 bytes: bound by way of the directory's descriptor.
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        listener.bind(b"/proc/self/fd/%d/socket" % fd)
        os.close(fd)
    for mode in (0o4755, 0o2755, 0o1644, 0o000, 0o777):
        path = os.path.join(root, b"mode-%o" % mode)
        _write(path, b"mode")
        os.chmod(path, mode)
    for mode in (0o1777, 0o2750, 0o711):
        path = os.path.join(root, b"directory-%o" % mode)
        os.mkdir(path)
        os.chmod(path, mode)
    if os.geteuid() == 0:
        for name, kind, number in (
            (b"device char", stat.S_IFCHR, os.makedev(1, 3)),
            (b"device block", stat.S_IFBLK, os.makedev(300, 70_000)),
        ):
            with contextlib.suppress(PermissionError):
                os.mknod(os.path.join(root, name), kind | 0o620, number)
        path = os.path.join(root, b"odd owner")
        _write(path, b"owner")
        os.chown(path, 4_000_000_000, 3_999_999_999)
        os.symlink(b"owner", os.path.join(root, b"odd owner's link"))
        os.lchown(os.path.join(root, b"odd owner's link"), 12_345, 54_321)


def _make_attributes(root: bytes) -> None:
    file, directory = os.path.join(root, b"attributes"), os.path.join(root, b"attributes.d")
    _write(file, b"attributes")
    os.mkdir(directory)
    attributes = [
        (file, "user.binary", bytes(range(256))),
        (file, "user.empty", b""),
        (file, "user.name with blank", b"1"),
        (file, "user.long", b"v" * 1500),
        (directory, "user.on.directory", b"2"),
        (file, "system.posix_acl_access", _access_acl()),
        (directory, "system.posix_acl_access", _access_acl()),
        (directory, "system.posix_acl_default", _access_acl()),
    ]
    for path, name, value in attributes:
        with contextlib.suppress(OSError):
            os.setxattr(path, name, value)
    if os.geteuid() == 0:
        link = os.path.join(root, b"link inside")
        with contextlib.suppress(OSError):
            os.setxattr(link, "trusted.on.link", b"3", follow_symlinks=False)
        capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
        with contextlib.suppress(OSError):
            os.setxattr(file, "security.capability", capability)


def _access_acl() -> bytes:
    return acl(
        [
            (ACL_USER_OBJ, 6, None),
            (ACL_USER, 4, 4711),
            (ACL_USER, 0, 4712),
            (ACL_GROUP_OBJ, 4, None),
            (ACL_GROUP, 6, 4713),
            (ACL_MASK, 4, None),
            (ACL_OTHER, 0, None),
        ]
    )


def _set_times(root: bytes) -> None:
    times = {
        b"size-1": (1_234_567_890_123_456_789, 987_654_321_000_000_001),
        b"size-4096": (-1_500_000_001, -86_399_999_999_999),  # before 1970
        b"size-4097": (1, 8_589_934_592_123_456_789),  # after 2038
        b"sub": (1_600_000_000_000_000_001, 1_600_000_000_999_999_999),
        b"link dangling": (1_500_000_000_111_111_111, 1_500_000_000_222_222_222),
        b"fifo": (1_400_000_000_000_000_007, 1_400_000_000_000_000_009),
    }
    for name, ns in times.items():
        os.utime(os.path.join(root, name), ns=ns, follow_symlinks=False)


def walk(
    root: bytes, without: frozenset[bytes] = frozenset()
) -> Iterator[tuple[bytes, bytes, int]]:
    """(path below root, name, directory descriptor) of each entry, parents first.

    Works below PATH_MAX. `without`: names of directories that are named but not entered.
    """
    for above, directories, files, fd in os.fwalk(root):
        path = above[len(root) :].lstrip(b"/")
        for name in sorted(directories) + sorted(files):
            yield os.path.join(path, name), name, fd
        directories[:] = [name for name in directories if name not in without]
