"""Whether this process may mount a FUSE file system: tried once, by mounting one.

A device node that exists may still be forbidden, and a capability may be filtered away, so only
the attempt counts. Nothing serves the mount: it is detached again at once.
"""

import contextlib
import ctypes
import functools
import os
import socket
import subprocess
import tempfile

_MS_NOSUID_NODEV = 2 | 4
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def why_no_mount() -> str:
    """Why a FUSE mount cannot be made here, in a few words; empty where it can."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    try:
        directory = tempfile.mkdtemp(prefix="fusemount-probe-")
        try:
            return _try_as_root(device, directory) if os.geteuid() == 0 else _try_as_user(directory)
        finally:
            with contextlib.suppress(OSError):  # still mounted where unmounting was refused
                os.rmdir(directory)
    finally:
        os.close(device)


def _try_as_root(device: int, directory: str) -> str:
    data = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % device
    target = os.fsencode(directory)
    if _libc.mount(b"probe", target, b"fuse", ctypes.c_ulong(_MS_NOSUID_NODEV), data) != 0:
        return f"mount(2) of a FUSE file system: {os.strerror(ctypes.get_errno())}"
    _libc.umount2(target, _MNT_DETACH)
    return ""


def _try_as_user(directory: str) -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        try:
            mounted = subprocess.run(
                ["fusermount3", "-o", "nosuid,nodev", "--", directory],
                env=environment,
                pass_fds=[theirs.fileno()],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except FileNotFoundError:
            return "not root, and fusermount3 is not installed"
    if mounted.returncode != 0:
        return f"fusermount3 does not mount: {mounted.stderr.strip()}"
    unmounted = subprocess.run(
        ["fusermount3", "-u", "-z", "--", directory], capture_output=True, text=True, check=False
    )
    if unmounted.returncode != 0:
        return f"fusermount3 does not unmount: {unmounted.stderr.strip()}"
    return ""
