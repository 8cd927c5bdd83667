"""What is said of a source or mount point before anything is mounted."""

import errno
import os
from pathlib import Path

import pytest

from fusemount import preflight
from fusemount.errors import UsageError
from fusemount.mountinfo import Mount
from fusemount.preflight import check_device, check_mountpoint, check_source, may_allow_other


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "source").mkdir()
    return check_source(str(tmp_path / "source"))


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


def test_source_is_resolved(tmp_path: Path, source: str) -> None:
    (tmp_path / "link").symlink_to("source")
    assert check_source(str(tmp_path / "link")) == source == os.path.realpath(source)


def test_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"source .*/missing: No such file or directory"):
        check_source(str(tmp_path / "missing"))


def test_source_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a directory: give the directory"):
        check_source(str(tmp_path / "file"))


def test_source_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_keywords: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        check_source(str(tmp_path))


def test_empty_mount_point_is_taken_and_resolved(
    tmp_path: Path, source: str, mountpoint: Path
) -> None:
    (tmp_path / "link").symlink_to("mnt")
    assert check_mountpoint(str(tmp_path / "link"), source, False) == os.path.realpath(mountpoint)


def test_missing_mount_point_says_to_make_it(tmp_path: Path, source: str) -> None:
    with pytest.raises(UsageError, match="No such file or directory: make it first"):
        check_mountpoint(str(tmp_path / "missing"), source, False)


def test_mount_point_without_a_name_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="empty name"):
        check_mountpoint("", source, False)


def test_mount_point_that_is_a_file_is_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a directory: make an empty one"):
        check_mountpoint(str(tmp_path / "file"), source, False)


@pytest.mark.parametrize("allow_nonempty", [False, True])
def test_source_itself_is_refused(source: str, allow_nonempty: bool) -> None:
    with pytest.raises(UsageError, match="is the source itself"):
        check_mountpoint(source, source, allow_nonempty)


@pytest.mark.parametrize("allow_nonempty", [False, True])
def test_mount_point_inside_the_source_is_refused(source: str, allow_nonempty: bool) -> None:
    os.mkdir(f"{source}/mnt")
    with pytest.raises(UsageError, match="lies inside the source"):
        check_mountpoint(f"{source}/mnt", source, allow_nonempty)


@pytest.mark.parametrize("allow_nonempty", [False, True])
def test_mount_point_that_would_hide_the_source_is_refused(
    tmp_path: Path, source: str, allow_nonempty: bool
) -> None:
    with pytest.raises(UsageError, match="would hide the source"):
        check_mountpoint(str(tmp_path), source, allow_nonempty)


def test_name_that_begins_like_the_source_is_not_inside_it(tmp_path: Path, source: str) -> None:
    os.mkdir(f"{source}2")
    assert check_mountpoint(f"{source}2", source, False) == f"{source}2"


def test_files_in_the_mount_point_are_hidden_only_where_asked(
    source: str, mountpoint: Path
) -> None:
    (mountpoint / "file").touch()
    with pytest.raises(UsageError, match=r"is not empty: .*--allow-nonempty"):
        check_mountpoint(str(mountpoint), source, False)
    assert check_mountpoint(str(mountpoint), source, True)


def test_mount_of_ours_is_not_mounted_over(
    source: str, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = Mount(os.fsencode(mountpoint), "fuse.fusemount", b"s", (0, 1))
    monkeypatch.setattr(preflight, "find_mount", lambda _path: mount)
    with pytest.raises(UsageError, match="has a mount of fusemount already"):
        check_mountpoint(str(mountpoint), source, True)


def test_dead_mount_of_another_is_named(
    source: str, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stat(path: str) -> os.stat_result:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(preflight.os, "stat", stat)
    with pytest.raises(UsageError, match="holds a dead mount"):
        check_mountpoint(str(mountpoint), source, False)


def test_missing_device_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(UsageError, match=r"/dev/fuse is missing: .*modprobe fuse"):
        check_device()


@pytest.mark.parametrize(
    ("uid", "content", "may"),
    [
        (0, None, True),
        (1000, None, False),
        (1000, "# user_allow_other\n", False),
        (1000, "mount_max = 1000\n  user_allow_other  \n", True),
        (1000, "user_allow_others\n", False),
    ],
)
def test_others_may_be_let_in_by_root_or_where_fuse_conf_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, content: str | None, may: bool
) -> None:
    path = tmp_path / "fuse.conf"
    if content is not None:
        path.write_text(content)
    real_open = open
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr("builtins.open", lambda _path, **keywords: real_open(path, **keywords))
    result = may_allow_other()
    monkeypatch.undo()
    assert result is may
