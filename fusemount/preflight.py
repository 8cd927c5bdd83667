"""Looks at source and mount point before anything is mounted: one clear line for each mistake."""

import errno
import os
import stat

from fusemount.errors import UsageError
from fusemount.handshake import FILESYSTEM_TYPE, device_problem
from fusemount.mountinfo import find_mount, resolve_mountpoint


def check_source(source: str) -> str:
    """The source's absolute path, links resolved; raises UsageError where it cannot be mounted."""
    try:
        status = os.stat(source)
    except OSError as error:
        raise UsageError(
            f"source {source}: {error.strerror}: give a directory that is there and readable"
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(
            f"source {source} is not a directory: give the directory that holds models"
        )
    try:
        os.close(os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise UsageError(
            f"source {source} cannot be read: {error.strerror}: mount as a user who may read it"
        ) from error
    return os.path.realpath(source)


def check_mountpoint(mountpoint: str, source: str, allow_nonempty: bool) -> str:
    """The mount point's absolute path, links resolved; `source` as check_source gives it.

    Raises UsageError where it is missing, in use, not empty or inside the source.
    """
    if not mountpoint:
        raise UsageError("the mount point is an empty name: give a directory")
    mount = find_mount(os.fsencode(resolve_mountpoint(mountpoint)))
    if mount is not None and mount.filesystem_type == FILESYSTEM_TYPE:
        raise UsageError(
            f"mount point {mountpoint} has a mount of fusemount already: fusemount umount it first"
        )
    path = os.path.realpath(mountpoint)
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise UsageError(
                f"mount point {mountpoint} holds a dead mount: fusemount umount it first"
            ) from error
        raise UsageError(f"mount point {mountpoint}: {error.strerror}: make it first") from error
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"mount point {mountpoint} is not a directory: make an empty one")
    if path == source:
        raise UsageError(f"mount point {mountpoint} is the source itself: use another directory")
    common = os.path.commonpath([path, source])
    if common == source:
        raise UsageError(
            f"mount point {mountpoint} lies inside the source {source}: use one outside"
        )
    if common == path:
        # The worker opens the source by its path, which would then lead through the mount.
        raise UsageError(
            f"mount point {mountpoint} would hide the source {source} in it: use one outside"
        )
    try:
        is_empty = not os.listdir(path)
    except OSError as error:
        raise UsageError(
            f"mount point {mountpoint} cannot be read: {error.strerror}: use a directory of yours"
        ) from error
    if not is_empty and not allow_nonempty:
        raise UsageError(
            f"mount point {mountpoint} is not empty: use another, or hide what is in it"
            " with --allow-nonempty"
        )
    return path


def check_device() -> None:
    """Raises UsageError where /dev/fuse cannot be opened; fusermount3 opens it as this user too."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise UsageError(device_problem(error)) from error


def may_allow_other() -> bool:
    """Whether this user may let others use the mount: root, or user_allow_other in fuse.conf."""
    if os.geteuid() == 0:
        return True
    try:
        with open("/etc/fuse.conf", encoding="utf-8", errors="replace") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False
