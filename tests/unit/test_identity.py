"""Identities: one for a file whatever its name, none where the source's mean nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemount import identity
from fusemount.identity import Identifier, Version, filesystem_type, is_local_type, version_of

FUSE = 0x65735546


@pytest.fixture
def directory_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def find(identifier: Identifier, directory_fd: int, name: bytes) -> bytes | None:
    status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    return identifier.find(directory_fd, name, status)


@pytest.fixture
def identifier(directory_fd: int) -> Identifier:
    identifier = Identifier()
    if find(identifier, directory_fd, b".") is None:
        pytest.skip("the filesystem of temporary files has no handles")
    return identifier


def test_hard_links_share_an_identity_and_other_files_do_not(
    tmp_path: Path, identifier: Identifier, directory_fd: int
) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").touch()
    a, b, c = (find(identifier, directory_fd, name) for name in (b"a", b"b", b"c"))
    assert a == b != c


def test_identity_outlives_a_rename_and_a_change(
    tmp_path: Path, identifier: Identifier, directory_fd: int
) -> None:
    (tmp_path / "a").touch()
    before = find(identifier, directory_fd, b"a")
    (tmp_path / "a").write_bytes(b"more")
    (tmp_path / "a").rename(tmp_path / "b")
    assert find(identifier, directory_fd, b"b") == before


def test_open_file_and_its_name_have_the_same_identity(
    tmp_path: Path, identifier: Identifier, directory_fd: int
) -> None:
    (tmp_path / "a").touch()
    fd = os.open(tmp_path / "a", os.O_RDONLY | os.O_CLOEXEC)
    opened = identifier.find_open(fd, os.fstat(fd))
    os.close(fd)
    assert opened == find(identifier, directory_fd, b"a") is not None


def test_link_is_identified_and_not_followed(
    tmp_path: Path, identifier: Identifier, directory_fd: int
) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "l").symlink_to("a")
    assert find(identifier, directory_fd, b"l") not in (None, find(identifier, directory_fd, b"a"))


@pytest.mark.parametrize("number", [FUSE, 0xFF534D42, 0xFE534D42, 0x517B, 0x01021997])
def test_sources_that_make_numbers_up_have_none(
    tmp_path: Path, directory_fd: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "a").touch()
    monkeypatch.setattr(identity, "filesystem_type", lambda _fd: number)
    assert find(Identifier(), directory_fd, b"a") is None
    assert Identifier().find_open(directory_fd, os.fstat(directory_fd)) is None


def test_file_that_vanished_meanwhile_has_none(tmp_path: Path, directory_fd: int) -> None:
    (tmp_path / "a").touch()
    status = os.stat(tmp_path / "a")
    (tmp_path / "a").unlink()
    assert Identifier().find(directory_fd, b"a", status) is None


def test_filesystem_types_are_the_kernels_numbers(tmp_path: Path) -> None:
    fd = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
    number = filesystem_type(fd)
    os.close(fd)
    assert number == 0x9FA0
    assert not is_local_type(number)


def test_closed_descriptor_has_no_filesystem() -> None:
    with pytest.raises(OSError, match="fstatfs"):
        filesystem_type(-1)


@pytest.mark.parametrize(
    ("number", "is_local"), [(0xEF53, True), (0x01021994, True), (FUSE, False), (0x6969, False)]
)
def test_local_filesystems_are_known(number: int, is_local: bool) -> None:
    assert is_local_type(number) is is_local


def test_version_is_size_and_times_in_ns(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    os.utime(tmp_path / "a", ns=(0, 123_456_789_012_345_678))
    status = os.stat(tmp_path / "a")
    assert version_of(status) == Version(3, 123_456_789_012_345_678, status.st_ctime_ns)
