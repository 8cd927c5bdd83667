"""The source as the catalogue sees it: names below the root, no link followed."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemount.formats.entries import EntryKind
from fusemount.source_tree import SourceTree
from tests.unit.fakes import open_descriptors


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "file").write_bytes(b"0123456789")
    (root / "d" / "link").symlink_to("e/file")
    (root / "linked").symlink_to("d")
    os.mkfifo(root / "fifo")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    (outside / "link").symlink_to("secret")
    (root / "out").symlink_to("../outside")
    return root


@pytest.fixture
def tree(root: Path) -> Iterator[SourceTree]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    before = open_descriptors()
    yield SourceTree(fd)
    assert open_descriptors() == before
    os.close(fd)


def test_root_is_listed_by_kind(tree: SourceTree) -> None:
    kinds = {entry.name: entry.kind for entry in tree.scan("")}
    assert kinds == {
        "d": EntryKind.DIRECTORY,
        "linked": EntryKind.LINK,
        "out": EntryKind.LINK,
        "fifo": EntryKind.OTHER,
    }


def test_file_is_listed_with_size_and_time(tree: SourceTree, root: Path) -> None:
    os.utime(root / "d" / "e" / "file", ns=(0, 5_000_000_001))
    (entry,) = tree.scan("d/e")
    assert (entry.name, entry.size_bytes, entry.mtime_ns) == ("file", 10, 5_000_000_001)


def test_names_that_are_no_text_are_listed_and_read(tree: SourceTree, root: Path) -> None:
    (root / os.fsdecode(b"\xff")).mkdir()
    (root / os.fsdecode(b"\xff/\xfe")).write_bytes(b"x")
    (entry,) = tree.scan(os.fsdecode(b"\xff"))
    assert os.fsencode(entry.name) == b"\xfe"
    assert tree.read(os.fsdecode(b"\xff/\xfe"), 0, 9) == b"x"


@pytest.mark.parametrize(
    ("offset", "size", "content"),
    [(0, 4, b"0123"), (8, 4, b"89"), (9, 1, b"9"), (10, 1, b""), (0, 0, b"")],
)
def test_bytes_are_read_up_to_the_end(
    tree: SourceTree, offset: int, size: int, content: bytes
) -> None:
    assert tree.read("d/e/file", offset, size) == content


def test_links_are_read_verbatim(tree: SourceTree) -> None:
    assert tree.readlink("d/link") == "e/file"
    assert tree.readlink("out") == "../outside"


def test_opened_file_can_be_read(tree: SourceTree) -> None:
    fd = tree.open_file("d/e/file")
    assert os.read(fd, 3) == b"012"
    os.close(fd)


@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("scan", "linked"),
        ("scan", "out"),
        ("scan", "linked/e"),
        ("read", "d/link"),
        ("read", "linked/e/file"),
        ("read", "out/secret"),
        ("open_file", "d/link"),
        ("open_file", "out/secret"),
        ("readlink", "out/link"),
        ("readlink", "linked/link"),
    ],
)
def test_no_link_is_followed_wherever_it_is_in_the_path(
    tree: SourceTree, call: str, path: str
) -> None:
    arguments = (path, 0, 1) if call == "read" else (path,)
    with pytest.raises(OSError) as caught:
        getattr(tree, call)(*arguments)
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


@pytest.mark.parametrize(
    ("call", "path", "number"),
    [
        ("scan", "missing", errno.ENOENT),
        ("scan", "d/e/file", errno.ENOTDIR),
        ("read", "missing/file", errno.ENOENT),
        ("read", "fifo", errno.EINVAL),
        ("read", "d", errno.EINVAL),
        ("readlink", "d/e/file", errno.EINVAL),
        ("open_file", "d/e/file/x", errno.ENOTDIR),
    ],
)
def test_failure_is_an_errno(tree: SourceTree, call: str, path: str, number: int) -> None:
    arguments = (path, 0, 1) if call == "read" else (path,)
    with pytest.raises(OSError) as caught:
        getattr(tree, call)(*arguments)
    assert caught.value.errno == number


def test_name_that_goes_while_it_is_listed_is_left_out(
    tree: SourceTree, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "d" / "gone").touch()
    real_scandir = os.scandir

    def scan_and_remove(fd: int) -> "contextlib.nullcontext[list[os.DirEntry[str]]]":
        with real_scandir(fd) as names:
            entries: list[os.DirEntry[str]] = list(names)
        (root / "d" / "gone").unlink()
        return contextlib.nullcontext(entries)

    monkeypatch.setattr("os.scandir", scan_and_remove)
    assert {entry.name for entry in tree.scan("d")} == {"e", "link"}
