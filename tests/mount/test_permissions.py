"""Access is granted exactly where the source grants it, whoever asks.

Each user tries the same things in the source and in the mount; the answers must be the same,
and a table of what must be granted keeps the comparison from being empty.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fusemount.slowsource import SlowSource
from tests.mount.conftest import MountStarter
from tests.mount.other_user import User, do_as, try_everything
from tests.mount.sample_tree import (
    ACL_GROUP,
    ACL_GROUP_OBJ,
    ACL_MASK,
    ACL_OTHER,
    ACL_USER,
    ACL_USER_OBJ,
    acl,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users, as root")

OWNER = User(30_001, 30_001)
MEMBER = User(30_002, 30_002, (30_100, 30_200))
SAME_GROUP = User(30_003, 30_001)
STRANGER = User(30_004, 30_004)
GROUPLESS = User(30_005, 30_100)
USERS = {
    "root": User(0, 0),
    "owner": OWNER,
    "member": MEMBER,
    "same group": SAME_GROUP,
    "stranger": STRANGER,
    "primary group": GROUPLESS,
}


def _file(root: Path, name: str, mode: int, uid: int = OWNER.uid, gid: int = OWNER.gid) -> Path:
    path = root / name
    path.write_bytes(b"content of " + name.encode())
    os.setxattr(path, "user.test", b"1")
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    return path


def _directory(root: Path, name: str, mode: int, gid: int = OWNER.gid) -> None:
    path = root / name
    path.mkdir()
    _file(path, "inside", 0o644)
    os.chown(path, OWNER.uid, gid)
    os.chmod(path, mode)


def _set_acl(path: Path, *entries: tuple[int, int, int | None]) -> None:
    base: list[tuple[int, int, int | None]] = [(ACL_USER_OBJ, 6, None), (ACL_OTHER, 0, None)]
    ordered = sorted([*base, *entries], key=lambda entry: (entry[0], entry[2] or 0))
    os.setxattr(path, "system.posix_acl_access", acl(ordered))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files and directories that differ in who may do what with them."""
    root = tmp_path / "tree"
    root.mkdir()
    os.chmod(root, 0o755)
    for mode in (0o600, 0o640, 0o644, 0o604, 0o000, 0o755, 0o711, 0o040, 0o004):
        _file(root, f"file-{mode:03o}", mode)
    _file(root, "file-group", 0o640, gid=30_100)
    _file(root, "file-other-group", 0o640, gid=30_200)
    _file(root, "file-of-root", 0o600, 0, 0)
    for mode in (0o700, 0o711, 0o755, 0o744, 0o750, 0o000, 0o1777):
        _directory(root, f"directory-{mode:03o}", mode)
    _directory(root, "directory-group", 0o750, gid=30_100)
    group_read = (ACL_GROUP_OBJ, 4, None)
    _set_acl(
        _file(root, "acl-user", 0o600), (ACL_USER, 4, STRANGER.uid), group_read, (ACL_MASK, 4, None)
    )
    _set_acl(
        _file(root, "acl-group", 0o600), (ACL_GROUP, 4, 30_200), group_read, (ACL_MASK, 4, None)
    )
    # The mode shows the mask in the group's place: r for a group that has no right.
    no_group = (ACL_GROUP_OBJ, 0, None)
    _set_acl(
        _file(root, "acl-mask-only", 0o600),
        (ACL_USER, 4, STRANGER.uid),
        no_group,
        (ACL_MASK, 4, None),
    )
    _set_acl(
        _file(root, "acl-masked", 0o600),
        (ACL_USER, 4, STRANGER.uid),
        group_read,
        (ACL_MASK, 0, None),
    )
    _set_acl(
        _file(root, "acl-denied", 0o644),
        (ACL_USER, 0, STRANGER.uid),
        group_read,
        (ACL_MASK, 4, None),
    )
    os.symlink("file-600", root / "link-600")
    os.symlink("directory-711/inside", root / "link-inside")
    return root


def _names(tree: Path) -> list[str]:
    names = sorted(os.listdir(tree))
    return names + [f"{name}/inside" for name in names if name.startswith("directory")]


@pytest.fixture(params=["local", "slow source"])
def mount(
    request: pytest.FixtureRequest, tree: Path, tmp_path: Path, mounted: MountStarter
) -> Iterator[bytes]:
    """The tree's mount; over the slow source, a FUSE mount that does not know ACLs."""
    with ExitStack() as stack:
        source = tree
        if request.param == "slow source":
            source = tmp_path / "slow"
            source.mkdir()
            stack.enter_context(SlowSource(tree, source))
        started = mounted(source)
        yield started.path_bytes
        # The mount goes before its source.
        started.finish()


def test_permissions_are_the_sources_for_every_user(tree: Path, mount: bytes) -> None:
    names = _names(tree)
    source = os.fsencode(tree)
    granted: dict[str, Any] = {}
    for label, user in USERS.items():
        here = do_as(user, source, partial(try_everything, names))
        there = do_as(user, mount, partial(try_everything, names))
        for name in names:
            assert there[name] == here[name], f"{label}, {name}"
        granted[label] = {name: here[name]["open"] == 0 for name in names}
    expected = {
        "file-600": {"root", "owner"},
        "file-640": {"root", "owner", "same group"},
        "file-group": {"root", "owner", "member", "primary group"},
        "file-other-group": {"root", "owner", "member"},
        "file-of-root": {"root"},
        "file-004": {"root", "member", "stranger", "primary group"},
        "acl-user": {"root", "owner", "same group", "stranger"},
        "acl-group": {"root", "owner", "same group", "member"},
        "acl-mask-only": {"root", "owner", "stranger"},
        "acl-masked": {"root", "owner"},
        "directory-711/inside": set(USERS),
        "directory-744/inside": {"root", "owner"},
        "directory-group/inside": {"root", "owner", "member", "primary group"},
        "link-inside": set(USERS),
        "link-600": {"root", "owner"},
    }
    for name, users in expected.items():
        assert {label for label in USERS if granted[label][name]} == users, name


def test_permissions_do_not_let_a_cached_answer_through(tree: Path, mount: bytes) -> None:
    """What root has just read is no open door for others."""
    name = os.path.join(mount, b"file-600")
    with open(name, "rb") as file:
        assert file.read() == b"content of file-600"
        answer = do_as(STRANGER, mount, partial(try_everything, ["file-600"]))
        assert answer["file-600"]["open"] == errno.EACCES


def test_permissions_follow_a_change_in_the_source(tree: Path, mounted: MountStarter) -> None:
    started = mounted(tree, "--attribute-timeout", "0")
    ask = partial(do_as, STRANGER, started.path_bytes, partial(try_everything, ["file-600"]))
    assert ask()["file-600"]["open"] == errno.EACCES
    os.chmod(tree / "file-600", 0o604)
    assert ask()["file-600"]["open"] == 0
    os.chmod(tree / "file-600", 0o600)
    assert ask()["file-600"]["open"] == errno.EACCES


def test_permissions_without_allow_other_are_the_mounting_users_alone(
    tree: Path, mounted: MountStarter
) -> None:
    started = mounted(tree, "--no-allow-other")
    names = ["file-644", "file-600"]
    assert os.path.exists(os.path.join(started.path, "file-644"))
    answer = do_as(OWNER, started.path_bytes, partial(try_everything, names))
    assert all(result["open"] == errno.EACCES for result in answer.values())


def test_permissions_mount_is_read_only_for_root_too(tree: Path, mounted: MountStarter) -> None:
    started = mounted(tree)
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(os.path.join(started.path, "file-644"), os.O_WRONLY)
