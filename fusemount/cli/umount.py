"""fusemount umount: end a mount and wait until it is gone."""

import errno
import os
import signal
import time

import click

from fusemount.client import supervisor_of
from fusemount.errors import MountError, UsageError
from fusemount.handshake import FILESYSTEM_TYPE, unmount
from fusemount.mountinfo import find_mount, resolve_mountpoint
from fusemount.runtime import remove_stale_socket

# The supervisor detaches a busy mount after 2 s and gives its worker 4 s at most.
_DEADLINE_S = 15.0
_POLL_S = 0.02


@click.command("umount")
@click.argument("mountpoint")  # not click.Path, which asks a mount that may not answer
def command(mountpoint: str) -> int:
    """Unmount MOUNTPOINT; a busy mount is detached after a short grace."""
    path = resolve_mountpoint(mountpoint)
    try:
        pid = supervisor_of(path)
    except UsageError:
        _unmount_orphan(path)
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        if not _is_mounted(path) and not _is_alive(pid):
            return 0
        time.sleep(_POLL_S)
    raise MountError(f"{mountpoint} was not gone after {_DEADLINE_S:.0f} s: see umount -l")


def _is_mounted(path: str) -> bool:
    mount = find_mount(os.fsencode(path))
    return mount is not None and mount.filesystem_type == FILESYSTEM_TYPE


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] != b"Z"
    except OSError:
        return False


def _unmount_orphan(path: str) -> None:
    """A mount whose supervisor is gone: unmount it ourselves."""
    if not _is_mounted(path):
        # Killed supervisors leave their socket; its worker has unmounted then.
        if remove_stale_socket(path):
            return
        raise UsageError(f"{path} is not a mount of fusemount: see findmnt -t {FILESYSTEM_TYPE}")
    error = unmount(path, os.geteuid() == 0, detach=True)
    if error:
        hint = "it belongs to another user" if error == errno.EPERM else "see umount -l"
        raise MountError(f"cannot unmount {path}: {os.strerror(error)} ({hint})")
    remove_stale_socket(path)
