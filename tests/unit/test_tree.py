"""The tree: names, nodes and the source brought together, on a directory of temporary files."""

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from fusemount import tree as tree_module
from fusemount.errors import StaleNodeError
from fusemount.handles import DirectoryHandle
from fusemount.identity import Found
from fusemount.inodes import Node
from fusemount.source import Source
from fusemount.tree import Tree
from tests.unit.fakes import open_descriptors


class Mounted(Tree):
    """A tree whose lookups count as the kernel's."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, 16)
        self.source = source

    async def walk(self, path: str) -> Node:
        node = self.inodes.root
        for name in path.split("/"):
            node, _, _ = await self.lookup(node, name.encode())
            node.lookups += 1
        return node

    async def read(self, node: Node) -> bytes:
        fd, _, _ = await self.open_file(node)
        try:
            return os.read(fd, 100)
        finally:
            os.close(fd)

    async def names(self, handle: DirectoryHandle, start: int = 0) -> list[bytes]:
        await self.list(handle, start)
        assert handle.names is not None
        found = handle.found[start:]
        names = handle.names[start : start + len(found)]
        return [name for name, entry in zip(names, found, strict=True) if entry is not None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d" / "file").write_bytes(b"first")
    (root / "d" / "link").symlink_to("../away/nowhere")
    return root


def run(root: Path, work: Callable[[Mounted], Awaitable[None]]) -> None:
    async def main() -> None:
        before = open_descriptors()
        source = Source(str(root), 20.0)
        tree = Mounted(source)
        try:
            await work(tree)
        finally:
            tree.directories.drop_all()
            os.close(source.root_fd)
        assert open_descriptors() == before

    trio.run(main)


def identified(node: Node) -> None:
    if node.identity is None:
        pytest.skip("the filesystem of temporary files has no handles")


def test_lookup_finds_the_same_node_again(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        assert await tree.walk("d/file") is await tree.walk("d/file")

    run(root, work)


@pytest.mark.parametrize(
    ("path", "number"), [("missing", errno.ENOENT), ("d/missing", errno.ENOENT)]
)
def test_missing_name_is_its_errno(root: Path, path: str, number: int) -> None:
    async def work(tree: Mounted) -> None:
        with pytest.raises(OSError) as caught:
            await tree.walk(path)
        assert caught.value.errno == number

    run(root, work)


def test_name_that_went_leads_to_nothing_any_more(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        directory, node = await tree.walk("d"), await tree.walk("d/file")
        (root / "d" / "file").unlink()
        with pytest.raises(FileNotFoundError):
            await tree.lookup(directory, b"file")
        assert tree.inodes.find(directory, b"file") is None
        with pytest.raises(StaleNodeError):
            await tree.status(node)

    run(root, work)


def test_opened_file_is_what_the_node_stands_for(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        assert await tree.read(await tree.walk("d/file")) == b"first"

    run(root, work)


def test_replaced_file_is_stale_until_it_is_looked_up_again(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        old = await tree.walk("d/file")
        identified(old)
        (root / "d" / "new").write_bytes(b"second")
        (root / "d" / "new").rename(root / "d" / "file")
        for ask in (tree.open_file, tree.status):
            with pytest.raises(StaleNodeError):
                await ask(old)  # type: ignore[operator]
        assert await tree.read(await tree.walk("d/file")) == b"second"

    run(root, work)


def test_fifo_in_the_place_of_a_file_is_stale(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        node = await tree.walk("d/file")
        (root / "d" / "file").unlink()
        os.mkfifo(root / "d" / "file")
        with pytest.raises(StaleNodeError):
            await tree.open_file(node)

    run(root, work)


def test_file_is_found_by_another_of_its_names(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        (root / "d" / "other").hardlink_to(root / "d" / "file")
        node = await tree.walk("d/file")
        identified(node)
        assert await tree.walk("d/other") is node
        (root / "d" / "other").unlink()
        assert await tree.read(node) == b"first"
        assert (await tree.status(node)).status.st_nlink == 1

    run(root, work)


def test_file_in_a_renamed_directory_is_found_after_the_new_name_was(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        node = await tree.walk("d/file")
        identified(node)
        tree.directories.drop_all()
        (root / "d").rename(root / "e")
        with pytest.raises(StaleNodeError):
            await tree.read(node)
        await tree.walk("e")
        assert await tree.read(node) == b"first"
        assert tree.inodes.path_of(node) == b"e/file"

    run(root, work)


def test_links_are_read_and_not_followed(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        assert await tree.read_link(await tree.walk("d/link")) == b"../away/nowhere"

    run(root, work)


def test_link_in_the_place_of_a_directory_is_not_followed(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        node = await tree.walk("d/file")
        tree.directories.drop_all()
        (root / "d").rename(root / "e")
        (root / "d").symlink_to("e")
        with pytest.raises(StaleNodeError):
            await tree.read(node)

    run(root, work)


@pytest.mark.parametrize("path", ["d", "d/file"])
def test_attributes_of_files_and_directories(root: Path, path: str) -> None:
    try:
        os.setxattr(root / path, "user.note", b"value")
    except OSError:
        pytest.skip("the filesystem of temporary files has no user attributes")

    async def work(tree: Mounted) -> None:
        node = await tree.walk(path)
        assert await tree.get_xattr(node, b"user.note") == b"value"
        assert b"user.note" in await tree.list_xattrs(node)
        with pytest.raises(OSError) as caught:
            await tree.get_xattr(node, b"user.other")
        assert caught.value.errno == errno.ENODATA

    run(root, work)


def test_numbers_of_the_filesystem_are_the_sources(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        assert (await tree.statvfs()).f_namemax == os.statvfs(root).f_namemax

    run(root, work)


def test_listing_is_as_it_was_at_its_start(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        handle = DirectoryHandle(1, await tree.walk("d"))
        assert sorted(await tree.names(handle)) == [b"file", b"link"]
        (root / "d" / "later").touch()
        assert len(await tree.names(handle, 1)) == 1
        assert sorted(await tree.names(handle)) == [b"file", b"later", b"link"]

    run(root, work)


def test_entry_that_went_meanwhile_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(tree: Mounted) -> None:
        real_list = tree_module.list_names
        monkeypatch.setattr(tree_module, "list_names", lambda fd: [b"gone", *real_list(fd)])
        handle = DirectoryHandle(1, await tree.walk("d"))
        assert sorted(await tree.names(handle)) == [b"file", b"link"]

    run(root, work)


@pytest.mark.parametrize(("fresh_s", "size_bytes"), [(0.0, 18), (1000.0, 5)])
def test_status_found_long_before_it_is_asked_for_is_found_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch, fresh_s: float, size_bytes: int
) -> None:
    monkeypatch.setattr(tree_module, "_LISTING_FRESH_S", fresh_s)
    (root / "d" / "other").write_bytes(b"first")
    (root / "d" / "link").unlink()

    async def work(tree: Mounted) -> None:
        handle = DirectoryHandle(1, await tree.walk("d"))
        await tree.list(handle, 0)
        for name in ("file", "other"):
            (root / "d" / name).write_bytes(b"longer than before")
        await tree.list(handle, 1)
        found = handle.found[1]
        assert found is not None
        assert found.status.st_size == size_bytes

    run(root, work)


@pytest.mark.parametrize("count", [1023, 1024, 1025])
def test_listing_goes_on_where_a_chunk_ends(root: Path, count: int) -> None:
    (root / "many").mkdir()
    for number in range(count):
        (root / "many" / str(number)).touch()

    async def work(tree: Mounted) -> None:
        handle, listed = DirectoryHandle(1, await tree.walk("many")), []
        while names := await tree.names(handle, len(listed)):
            listed += names
        assert sorted(listed) == sorted(b"%d" % number for number in range(count))

    run(root, work)


class GoingSource(Source):
    """A source that is remounted at another place when it is opened again."""

    def __init__(self, path: str, after: str | None) -> None:
        super().__init__(path, 20.0)
        self.after = after
        self.is_gone = True

    def find(self, directory_fd: int, name: bytes):  # type: ignore[no-untyped-def]
        if self.is_gone:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return super().find(directory_fd, name)

    def reopen_root(self) -> bool:
        if self.after is None:
            return False
        fd = os.open(self.after, os.O_PATH | os.O_CLOEXEC)
        os.dup2(fd, self.root_fd, inheritable=False)
        os.close(fd)
        self.is_gone = False
        return True


def test_remounted_source_is_found_again(root: Path, tmp_path: Path) -> None:
    (tmp_path / "after" / "d").mkdir(parents=True)

    async def main() -> None:
        source = GoingSource(str(root), str(tmp_path / "after"))
        tree = Mounted(source)
        assert tree.inodes.path_of(await tree.walk("d")) == b"d"
        assert source.is_gone is False
        os.close(source.root_fd)

    trio.run(main)


def test_source_that_does_not_come_back_is_its_errno(root: Path) -> None:
    async def main() -> None:
        source = GoingSource(str(root), None)
        with pytest.raises(OSError) as caught:
            await Mounted(source).walk("d")
        assert caught.value.errno == errno.ENOTCONN
        os.close(source.root_fd)

    trio.run(main)


def test_open_file_of_a_source_that_went_is_stale(root: Path) -> None:
    class Gone(Source):
        def find_open(self, fd: int):  # type: ignore[no-untyped-def]
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    async def main() -> None:
        source = Gone(str(root), 20.0)
        with pytest.raises(StaleNodeError):
            await Mounted(source).status_of_open(source.root_fd, True)
        os.close(source.root_fd)

    trio.run(main)


def test_link_that_became_a_directory_is_stale(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        node = await tree.walk("d/link")
        (root / "d" / "link").unlink()
        (root / "d" / "link").mkdir()
        with pytest.raises(StaleNodeError):
            await tree.read_link(node)

    run(root, work)


def test_directory_of_a_forgotten_node_is_closed(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        before = open_descriptors()
        node = await tree.walk("d")
        (await tree.directories.open(node)).release()
        assert open_descriptors() == before + 1
        tree.inodes.forget(node.inode, node.lookups)
        assert open_descriptors() == before

    run(root, work)


def test_directory_forgotten_while_it_was_opened_is_closed_by_its_user(root: Path) -> None:
    async def work(tree: Mounted) -> None:
        before = open_descriptors()
        node = await tree.walk("d")
        real_find_open = tree.source.find_open

        def find_open(fd: int) -> Found:
            tree.inodes.forget(node.inode, node.lookups)
            return real_find_open(fd)

        tree.source.find_open = find_open  # type: ignore[method-assign]
        (await tree.directories.open(node)).release()
        assert open_descriptors() == before

    run(root, work)
