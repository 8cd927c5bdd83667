"""Where running mounts are found: one Unix socket a mount in a private directory.

The socket's listener belongs to the supervisor, so SO_PEERCRED on a connection names its process.
Invariant: a socket is removed only by its supervisor, or when nobody listens on it any more.
"""

import contextlib
import hashlib
import os
import socket
import stat
import struct

from fusemount.errors import UsageError

_BACKLOG = 16
_PEER_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


def runtime_directory() -> str:
    """The private directory of this user's sockets; not created here."""
    if os.geteuid() == 0:
        return "/run/fusemount"
    base = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(base, "fusemount") if base else f"/tmp/fusemount-{os.geteuid()}"


def _make_directory(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise UsageError(f"{path} is not a directory of this user: remove it")
    if stat.S_IMODE(status.st_mode) != 0o700:
        os.chmod(path, 0o700)


def socket_path(mountpoint: str) -> str:
    """The control socket of the mount on `mountpoint` (absolute, links resolved)."""
    # A digest: a path of 4,096 bytes does not fit in the 108 of a socket's name.
    name = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:24]
    return os.path.join(runtime_directory(), f"{name}.sock")


def open_listener(mountpoint: str) -> socket.socket:
    """Listen on the mount's control socket.

    Raises UsageError where another process answers there, or the directory is not ours.
    """
    try:
        _make_directory(runtime_directory())
    except OSError as error:
        raise UsageError(f"cannot use {runtime_directory()}: {error.strerror}") from error
    path = socket_path(mountpoint)
    if os.path.lexists(path):
        _refuse_living(mountpoint)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {path}: {error.strerror}") from error
    return listener


def _refuse_living(mountpoint: str) -> None:
    """Raise UsageError unless nobody listens on the mount's socket, or it is none."""
    try:
        with connect(mountpoint) as answered:
            pid, _ = peer_of(answered)
    except (ConnectionRefusedError, FileNotFoundError):
        return
    except OSError as error:  # a full backlog, a time-out: somebody is there
        raise UsageError(
            f"{mountpoint} is served already, by a process that does not answer"
            f" ({error.strerror or error}): see findmnt -t fuse.fusemount"
        ) from error
    raise UsageError(f"{mountpoint} is served by process {pid} already: fusemount umount it first")


def remove_stale_socket(mountpoint: str) -> bool:
    """Remove the control socket of a mount whose supervisor is gone; one that listens stays.

    Whether one was removed.
    """
    try:
        connect(mountpoint).close()
    except (FileNotFoundError, ConnectionRefusedError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(socket_path(mountpoint))
            return True
    except OSError:
        pass  # a full backlog, say: somebody is there
    return False


def connect(mountpoint: str, timeout_s: float = 10.0) -> socket.socket:
    """Connect to the control socket of a mount; raises OSError where nobody listens."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(socket_path(mountpoint))
    except BaseException:
        connection.close()
        raise
    return connection


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process at the other end, as the kernel vouches for them."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, _ = _PEER_CREDENTIALS.unpack(raw)
    return pid, uid
