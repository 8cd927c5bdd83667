"""Control sockets: private, one a mount, removed only where nobody listens."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemount.errors import UsageError
from fusemount.runtime import (
    connect,
    open_listener,
    peer_of,
    remove_stale_socket,
    runtime_directory,
    socket_path,
)

MOUNTPOINT = "/mnt/models"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run"
    monkeypatch.setattr("fusemount.runtime.runtime_directory", lambda: str(path))
    return path


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with open_listener(MOUNTPOINT) as listener:
        yield listener


def mode_of(path: Path | str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_directory_and_socket_are_private_whatever_the_umask(directory: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        open_listener(MOUNTPOINT).close()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert mode_of(directory) == 0o700
    assert mode_of(socket_path(MOUNTPOINT)) == 0o600


def test_directory_that_is_open_to_others_is_closed_to_them(directory: Path) -> None:
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    open_listener(MOUNTPOINT).close()
    assert mode_of(directory) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away, which only root may")
def test_directory_of_another_user_is_refused(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, 12345, 12345)
    with pytest.raises(UsageError, match="not a directory of this user"):
        open_listener(MOUNTPOINT)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_directory_is_refused(directory: Path, tmp_path: Path, kind: str) -> None:
    if kind == "link":
        directory.symlink_to(tmp_path)
    else:
        directory.touch()
    with pytest.raises(UsageError, match="not a directory of this user"):
        open_listener(MOUNTPOINT)


def test_directory_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "missing" / "run")
    monkeypatch.setattr("fusemount.runtime.runtime_directory", lambda: path)
    with pytest.raises(UsageError, match=r"cannot use .*/missing/run: No such file"):
        open_listener(MOUNTPOINT)


def test_live_socket_is_refused_by_its_process_and_stays(listener: socket.socket) -> None:
    with pytest.raises(UsageError, match=f"served by process {os.getpid()} already"):
        open_listener(MOUNTPOINT)
    connect(MOUNTPOINT).close()


def test_live_socket_with_a_full_backlog_is_refused_and_stays(listener: socket.socket) -> None:
    listener.listen(0)
    waiting = connect(MOUNTPOINT)
    with waiting:
        with pytest.raises(UsageError, match="does not answer"):
            open_listener(MOUNTPOINT)
        remove_stale_socket(MOUNTPOINT)
        assert os.path.lexists(socket_path(MOUNTPOINT))


def test_stale_socket_is_replaced() -> None:
    open_listener(MOUNTPOINT).close()
    assert os.path.lexists(socket_path(MOUNTPOINT))
    with open_listener(MOUNTPOINT), connect(MOUNTPOINT):
        pass


def test_stale_socket_is_removed_and_a_live_one_is_not() -> None:
    with open_listener(MOUNTPOINT):
        assert not remove_stale_socket(MOUNTPOINT)
        assert os.path.lexists(socket_path(MOUNTPOINT))
    assert remove_stale_socket(MOUNTPOINT)
    assert not os.path.lexists(socket_path(MOUNTPOINT))


def test_removing_no_socket_is_nothing() -> None:
    assert not remove_stale_socket(MOUNTPOINT)
    assert not os.path.lexists(socket_path(MOUNTPOINT))


def test_mounts_have_sockets_of_their_own(listener: socket.socket) -> None:
    with open_listener(f"{MOUNTPOINT}2"), connect(MOUNTPOINT), connect(f"{MOUNTPOINT}2"):
        assert socket_path(MOUNTPOINT) != socket_path(f"{MOUNTPOINT}2")


def test_mount_point_of_any_length_and_bytes_has_a_socket() -> None:
    with open_listener("/" + os.fsdecode(b"\xff\n") * 2000):
        pass


def test_connecting_to_nobody_fails() -> None:
    with pytest.raises(FileNotFoundError):
        connect(MOUNTPOINT)


def test_kernel_vouches_for_the_other_side(listener: socket.socket) -> None:
    with connect(MOUNTPOINT) as connection:
        assert peer_of(connection) == (os.getpid(), os.geteuid())


@pytest.mark.parametrize(
    ("uid", "runtime", "directory"),
    [
        (0, "/run/user/0", "/run/fusemount"),
        (1000, "/run/user/1000", "/run/user/1000/fusemount"),
        (1000, None, "/tmp/fusemount-1000"),
    ],
)
def test_directory_belongs_to_the_user(
    monkeypatch: pytest.MonkeyPatch, uid: int, runtime: str | None, directory: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    if runtime is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert runtime_directory() == directory
