"""Mounting and FUSE_INIT, done by ourselves so that the descriptor belongs to the supervisor.

The kernel's side of the protocol is `linux/fuse.h` 7.x. Nothing here knows pyfuse3: the session
replays the INIT message to libfuse, whose own answer the kernel then refuses without harm.
Invariant: when `mount_fuse` returns, the kernel has its INIT answer; when it raises, nothing is
left mounted.
"""

import array
import ctypes
import errno
import os
import select
import socket
import struct
import subprocess
from dataclasses import dataclass
from enum import IntFlag

from fusemount.errors import MountError, UsageError

FILESYSTEM_TYPE = "fuse.fusemount"

_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_FUSE_INIT = 26
_IN_HEADER = struct.Struct("<IIQQIIII")  # len, opcode, unique, nodeid, uid, gid, pid, padding
_VERSION = struct.Struct("<II")  # what every kernel's FUSE_INIT begins with: major, minor
_INIT_IN = struct.Struct("<IIIII")  # major, minor, max_readahead, flags, flags2
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
# max_pages, map_alignment, flags2, max_stack_depth, request_timeout, unused
_INIT_OUT = struct.Struct("<IIIIHHIIHHIIH22x")
_OUT_HEADER = struct.Struct("<IiQ")  # len, error, unique

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# A READ of up to 1 MiB, the most that a 6.x kernel takes without raising fs.fuse limits.
MAX_REQUEST_BYTES = 1 << 20
# Requests that the kernel keeps in flight before it makes readers wait: its default of 12 would
# let a dozen reads of one slow file hold up every other file.
MAX_BACKGROUND = 512
_INIT_DEADLINE_S = 10.0


class InitFlag(IntFlag):
    """FUSE_INIT capabilities that matter here (bit numbers of linux/fuse.h)."""

    ASYNC_READ = 1 << 0
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    INIT_EXT = 1 << 30
    PASSTHROUGH = 1 << 37
    HAS_RESEND = 1 << 39


# READDIRPLUS_AUTO is left out: pyfuse3 answers readdirplus only.
_WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.BIG_WRITES
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.POSIX_ACL
    | InitFlag.MAX_PAGES
    | InitFlag.INIT_EXT
    | InitFlag.PASSTHROUGH
    | InitFlag.HAS_RESEND
)


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What is mounted where; `privileged` mounts by itself, else fusermount3 does it."""

    mountpoint: str
    source_name: str
    read_only: bool
    allow_other: bool
    privileged: bool


@dataclass(frozen=True, slots=True)
class Connection:
    """An answered FUSE connection: its descriptor, the INIT message, what was negotiated."""

    fuse_fd: int
    init_message: bytes
    flags: InitFlag
    protocol: tuple[int, int]


_libc = ctypes.CDLL(None, use_errno=True)


def _mount_privileged(request: MountRequest) -> int:
    try:
        fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(device_problem(error)) from error
    options = f"fd={fuse_fd},rootmode=40000,user_id=0,group_id=0,default_permissions"
    if request.allow_other:
        options += ",allow_other"
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if request.read_only else 0)
    failed = _libc.mount(
        os.fsencode(request.source_name),
        os.fsencode(request.mountpoint),
        FILESYSTEM_TYPE.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    if failed:
        number = ctypes.get_errno()
        os.close(fuse_fd)
        hint = (
            "root needs the capability CAP_SYS_ADMIN here" if number == errno.EPERM else "see dmesg"
        )
        raise UsageError(f"cannot mount on {request.mountpoint}: {os.strerror(number)} ({hint})")
    return fuse_fd


def _escape_option(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _mount_by_fusermount(request: MountRequest) -> int:
    options = ["default_permissions", "nosuid", "nodev", "ro" if request.read_only else "rw"]
    options += [f"fsname={_escape_option(request.source_name)}", "subtype=fusemount"]
    if request.allow_other:
        options.append("allow_other")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            done = subprocess.run(
                ["fusermount3", "-o", ",".join(options), "--", request.mountpoint],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                text=True,
                errors="replace",
            )
        except FileNotFoundError:
            raise UsageError(
                "fusermount3 is not installed, which mounting without root needs:"
                " install the package fuse3"
            ) from None
        theirs.close()
        if done.returncode:
            said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise UsageError(f"cannot mount on {request.mountpoint}: {said}")
        try:
            return _receive_descriptor(ours)
        except BaseException:
            unmount(request.mountpoint, privileged=False, detach=True)
            raise


def _receive_descriptor(link: socket.socket) -> int:
    link.settimeout(_INIT_DEADLINE_S)
    try:
        _, ancillary, _, _ = link.recvmsg(1, socket.CMSG_SPACE(4))
    except OSError as error:
        raise MountError(f"fusermount3 mounted but its descriptor did not come: {error}") from error
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data[: len(data) - len(data) % 4])
    if not descriptors:
        raise MountError("fusermount3 mounted but handed over no descriptor")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def device_problem(error: OSError) -> str:
    """One line for a /dev/fuse that cannot be opened."""
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return (
            "/dev/fuse is missing: load the kernel module (modprobe fuse), or give the container"
            " the device (--device /dev/fuse)"
        )
    return f"/dev/fuse cannot be opened: {error.strerror}: give this user read and write rights"


def _answer_init(fuse_fd: int, privileged: bool) -> Connection:
    ready = select.select([fuse_fd], [], [], _INIT_DEADLINE_S)
    if not ready[0]:
        raise MountError(f"the kernel sent no FUSE_INIT within {_INIT_DEADLINE_S:.0f} s")
    message = os.read(fuse_fd, MAX_REQUEST_BYTES + _PAGE_BYTES)
    _, opcode, unique, *_ = _IN_HEADER.unpack_from(message)
    major, minor = _VERSION.unpack_from(message, _IN_HEADER.size)
    if opcode != _FUSE_INIT or major != 7 or minor < 36:
        raise MountError(
            f"the kernel speaks FUSE {major}.{minor}: 7.36 (Linux 5.17) is the oldest that works"
        )
    _, _, max_readahead, low, high = _INIT_IN.unpack_from(message, _IN_HEADER.size)
    wanted = _WANTED if privileged else _WANTED & ~InitFlag.PASSTHROUGH
    flags = wanted & InitFlag(low | high << 32)
    body = _INIT_OUT.pack(
        7,
        minor,
        max(max_readahead, MAX_REQUEST_BYTES),
        flags & 0xFFFFFFFF,
        MAX_BACKGROUND,
        MAX_BACKGROUND * 3 // 4,
        MAX_REQUEST_BYTES,
        1,  # time granularity in ns
        MAX_REQUEST_BYTES // _PAGE_BYTES,
        0,
        flags >> 32,
        # The kernel's limit; 1 would refuse an overlayfs file as a passthrough backing.
        2 if InitFlag.PASSTHROUGH in flags else 0,
        0,
    )
    os.write(fuse_fd, _OUT_HEADER.pack(_OUT_HEADER.size + len(body), 0, unique) + body)
    return Connection(fuse_fd, message, flags, (major, minor))


def mount_fuse(request: MountRequest) -> Connection:
    """Mount and answer FUSE_INIT.

    Raises UsageError where the user can mend it, MountError otherwise; nothing stays mounted then.
    """
    fuse_fd = _mount_privileged(request) if request.privileged else _mount_by_fusermount(request)
    try:
        return _answer_init(fuse_fd, request.privileged)
    except BaseException:
        os.close(fuse_fd)
        unmount(request.mountpoint, request.privileged, detach=True)
        raise


def unmount(mountpoint: str, privileged: bool, detach: bool = False) -> int:
    """Unmount; `detach` takes the name away at once, even while it is busy.

    Returns 0 or an errno (EBUSY: in use; EINVAL: not mounted).
    """
    if privileged:
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if detach else 0)
        return ctypes.get_errno() if _libc.umount2(os.fsencode(mountpoint), flags) else 0
    command = ["fusermount3", "-u", *(["-z"] if detach else []), "--", mountpoint]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, errors="replace"
        )
    except OSError as error:
        return error.errno or errno.EIO
    if done.returncode == 0:
        return 0
    return errno.EINVAL if "not found" in done.stderr else errno.EBUSY
