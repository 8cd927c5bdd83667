"""Does things in a tree as another user, in a forked child, and brings the answer back.

The child enters the tree's root before it gives up root, so that the directories above, which
only the test's user may enter, do not matter.
"""

import ctypes
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class User:
    """Numeric ids; `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def do_as(user: User, root: bytes, work: Callable[[], Any]) -> Any:
    """What `work` returns (as JSON brings it over) when `user` calls it with cwd `root`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            os.chdir(root)
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            with open(writing, "w", encoding="ascii") as pipe:
                json.dump(work(), pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, encoding="ascii") as pipe:
        answer = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return json.loads(answer)


def try_everything(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """The errno, 0 where it went well, of each thing that a reader may try with each name."""
    return {name: {what: _errno(call, name) for what, call in _TRIALS.items()} for name in names}


def _errno(call: Callable[[str], object], name: str) -> int:
    try:
        call(name)
    except OSError as error:
        return error.errno or -1
    return 0


def _open_and_read(name: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if os.path.isfile(name):
            os.read(fd, 100)
    finally:
        os.close(fd)


def _check_access(mode: int) -> Callable[[str], None]:
    def check(name: str) -> None:
        # As the user who asks would be let in: F_OK, R_OK, X_OK. Not W_OK: a read-only mount
        # answers EROFS before anything else.
        if _libc.access(os.fsencode(name), mode):
            raise OSError(ctypes.get_errno(), "access")

    return check


_TRIALS: dict[str, Callable[[str], object]] = {
    "stat": os.lstat,
    "open": _open_and_read,
    "list": os.listdir,
    "readlink": os.readlink,
    "exists": _check_access(os.F_OK),
    "may read": _check_access(os.R_OK),
    "may execute": _check_access(os.X_OK),
    "list attributes": os.listxattr,
    "get attribute": lambda name: os.getxattr(name, "user.test"),
    "get ACL": lambda name: os.getxattr(name, "system.posix_acl_access"),
}
