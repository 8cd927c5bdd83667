"""The whole command as an ordinary user, through fusermount3, with /etc/fuse.conf as it is."""

import errno
from typing import Any

import pytest

from tests.mount.unprivileged_world import run_as_ordinary_user


@pytest.fixture(scope="module")
def served() -> dict[str, Any]:
    """What the user saw of a mount, from its start in the background to its umount."""
    return run_as_ordinary_user("serve")


def _assert_refused(answer: list[Any], *words: str) -> None:
    code, output, said = answer
    assert (code, output) == (2, ""), said
    assert said.startswith("fusemount: ")
    assert said.count("\n") == 1, said
    for word in words:
        assert word in said, said


def test_unprivileged_mount_serves(served: dict[str, Any]) -> None:
    assert served["started"] == [0, "", "ready /mnt/root\n"]
    assert served["content"] == "weights"
    assert served["names"] == ["closed", "model.bin", "private.bin"]


def test_unprivileged_mount_grants_what_the_source_grants(served: dict[str, Any]) -> None:
    assert (served["private"], served["closed"]) == (errno.EACCES, errno.EACCES)


def test_unprivileged_mount_has_the_safe_options(served: dict[str, Any]) -> None:
    ((kind, options, super_options),) = served["mounts"]
    assert kind == "fuse.fusemount"
    assert {"ro", "nosuid", "nodev"} <= set(options.split(","))
    assert "default_permissions" in super_options.split(",")


def test_unprivileged_mount_says_that_read_ahead_could_not_be_raised(
    served: dict[str, Any],
) -> None:
    assert any("read-ahead stays" in reason for reason in served["degraded"])


def test_unprivileged_umount_leaves_nothing(served: dict[str, Any]) -> None:
    assert served["umount"] == [0, "", ""]
    assert served["mounts after"] == []
    assert (served["sockets"], served["sockets after"]) == (1, 0)


def test_unprivileged_interrupt_detaches_a_busy_mount() -> None:
    seen = run_as_ordinary_user("interrupt")
    assert seen["ready"] == "ready /mnt/root\n"
    assert seen["code"] == 0, seen["rest"]
    assert seen["mounts after"] == []
    assert "busy: detached" in seen["rest"]


def test_unprivileged_orphan_can_be_unmounted() -> None:
    seen = run_as_ordinary_user("orphan")
    assert seen["before"] == 1
    assert seen["umount"] == [0, "", ""]
    assert seen["mounts after"] == []


def test_unprivileged_mistakes_are_one_line() -> None:
    seen = run_as_ordinary_user("mistakes")
    _assert_refused(seen["unreadable source"], "source", "cannot be read", "Permission denied")
    _assert_refused(seen["source in an unreadable directory"], "source", "Permission denied")
    _assert_refused(seen["foreign mount point"], "/mnt/roots", "no write access")
    _assert_refused(seen["unreadable mount point"], "mount point", "Permission denied")
    _assert_refused(seen["allow other"], "--allow-other", "/etc/fuse.conf")
    _assert_refused(seen["umount of what is no mount"], "not a mount of fusemount")
    assert seen["mounts after"] == []
