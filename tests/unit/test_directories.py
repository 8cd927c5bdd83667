"""Descriptors of directories: bounded, verified, never closed under a user."""

import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
import trio

from fusemount.directories import Directories, Directory
from fusemount.errors import StaleNodeError
from fusemount.identity import Found, Identifier
from fusemount.inodes import InodeTable, Node
from fusemount.source import Source
from tests.unit.fakes import open_descriptors

CAPACITY = 3


class Opened:
    """Directories of a tree with a node for each."""

    def __init__(self, root: Path, without_identities: bool) -> None:
        self.source = Source(str(root), 20.0)
        if without_identities:
            self.source.identifier = _Nameless()
        self.table = InodeTable(self.source.root())
        self.directories = Directories(self.source, CAPACITY)

    def node(self, path: str) -> Node:
        node, above = self.table.root, self.source.path
        for name in path.split("/"):
            fd = os.open(above, os.O_PATH | os.O_CLOEXEC)
            try:
                found = self.source.find(fd, name.encode())
            finally:
                os.close(fd)
            node = self.table.remember(node, name.encode(), found)
            node.lookups += 1
            above = f"{above}/{name}"
        return node

    async def names(self, node: Node) -> list[str]:
        directory = await self.directories.open(node)
        try:
            return sorted(os.listdir(f"/proc/self/fd/{directory.fd}"))
        finally:
            directory.release()


class _Nameless(Identifier):
    """As on a FUSE source: nothing has an identity."""

    def find(self, directory_fd: int, name: bytes, status: os.stat_result) -> None:
        return None

    def find_open(self, fd: int, status: os.stat_result) -> None:
        return None


class Run(Protocol):
    def __call__(
        self, work: Callable[[Opened], Awaitable[None]], without_identities: bool = False
    ) -> None: ...


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "abcdefgh":
        (tmp_path / "root" / name / "x" / "y").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def run(root: Path) -> Run:
    def run(work: Callable[[Opened], Awaitable[None]], without_identities: bool = False) -> None:
        async def main() -> None:
            before = open_descriptors()
            opened = Opened(root, without_identities)
            try:
                await work(opened)
            finally:
                opened.directories.drop_all()
                os.close(opened.source.root_fd)
            assert open_descriptors() == before

        trio.run(main)

    return run


def test_no_more_than_the_capacity_stays_open(run: Run) -> None:
    async def work(opened: Opened) -> None:
        before = open_descriptors()
        for name in "abcdefgh":
            (await opened.directories.open(opened.node(name))).release()
            assert len(opened.directories) <= CAPACITY
        assert open_descriptors() == before + CAPACITY

    run(work)


def test_least_recently_used_is_closed_first(run: Run) -> None:
    async def work(opened: Opened) -> None:
        first: dict[str, Directory] = {}
        for name in "abcad":
            first[name] = await opened.directories.open(opened.node(name))
            first[name].release()
        assert {name for name, directory in first.items() if directory.fd < 0} == {"b"}

    run(work)


def test_directory_in_use_is_not_closed_until_its_last_user_is_done(run: Run) -> None:
    async def work(opened: Opened) -> None:
        used = await opened.directories.open(opened.node("a"))
        again = await opened.directories.open(opened.node("a"))
        assert used is again
        for name in "bcdefgh":
            (await opened.directories.open(opened.node(name))).release()
        assert os.listdir(f"/proc/self/fd/{used.fd}") == ["x"]
        used.release()
        assert used.fd >= 0
        used.release()
        assert used.fd == -1

    run(work)


def test_evicted_directory_is_opened_again(run: Run) -> None:
    async def work(opened: Opened) -> None:
        node = opened.node("a/x")
        assert await opened.names(node) == ["y"]
        opened.directories.drop_all()
        assert len(opened.directories) == 0
        assert await opened.names(node) == ["y"]

    run(work)


def test_root_is_always_open_and_not_counted(run: Run) -> None:
    async def work(opened: Opened) -> None:
        assert len(await opened.names(opened.table.root)) == 8
        opened.directories.drop_all()
        assert len(await opened.names(opened.table.root)) == 8
        assert len(opened.directories) == 0

    run(work)


def test_replaced_directory_is_stale(run: Run, root: Path) -> None:
    async def work(opened: Opened) -> None:
        node = opened.node("a")
        if node.identity is None:
            pytest.skip("the filesystem of temporary files has no handles")
        (root / "a").rename(root / "old")
        (root / "a").mkdir()
        with pytest.raises(StaleNodeError):
            await opened.directories.open(node)

    run(work)


@pytest.mark.parametrize("kind", ["nothing", "file", "link"])
def test_name_that_leads_to_no_directory_is_stale(run: Run, root: Path, kind: str) -> None:
    async def work(opened: Opened) -> None:
        node = opened.node("a/x")
        (root / "a" / "x").rename(root / "a" / "old")
        if kind == "file":
            (root / "a" / "x").touch()
        elif kind == "link":
            (root / "a" / "x").symlink_to("old")
        with pytest.raises(StaleNodeError):
            await opened.directories.open(node)

    run(work)


def test_open_directory_outlives_its_rename(run: Run, root: Path) -> None:
    async def work(opened: Opened) -> None:
        node = opened.node("a/x")
        await opened.names(node)
        (root / "a" / "x").rename(root / "a" / "old")
        assert await opened.names(node) == ["y"]

    run(work)


def test_node_without_a_name_is_stale(run: Run) -> None:
    async def work(opened: Opened) -> None:
        node = opened.node("a")
        opened.table.detach(opened.table.root, b"a")
        with pytest.raises(StaleNodeError):
            await opened.directories.open(node)

    run(work)


def test_names_that_lead_in_a_circle_are_stale(run: Run) -> None:
    async def work(opened: Opened) -> None:
        outer, inner = opened.node("a"), opened.node("a/x")
        found = opened.source.find_open(opened.source.root_fd)
        opened.table.remember(inner, b"a", Found(found.status, outer.identity))
        if outer.names[0][0] is not inner:
            pytest.skip("the filesystem of temporary files has no handles")
        with pytest.raises(StaleNodeError):
            await opened.directories.open(inner)

    run(work)


def test_tree_deeper_than_the_stack_is_opened(run: Run, root: Path) -> None:
    async def work(opened: Opened) -> None:
        node, fd = opened.table.root, os.dup(opened.source.root_fd)
        for _ in range(1100):
            os.mkdir(b"z", dir_fd=fd)
            node = opened.table.remember(node, b"z", opened.source.find(fd, b"z"))
            below = os.open(b"z", os.O_PATH | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        assert await opened.names(node) == []

    run(work)
    # Python's own removal of trees recurses.
    subprocess.run(["rm", "-rf", root / "z"], check=True)


def test_failure_below_closes_what_was_opened_above(run: Run, root: Path) -> None:
    async def work(opened: Opened) -> None:
        node = opened.node("a/x/y")
        (root / "a" / "x" / "y").rmdir()
        with pytest.raises(StaleNodeError):
            await opened.directories.open(node)
        for directory in opened.directories._cache.values():
            assert directory.users == 0

    run(work)


def test_without_identities_a_replaced_directory_is_noticed_by_its_number(
    run: Run, root: Path
) -> None:
    async def work(opened: Opened) -> None:
        node = opened.node("a")
        assert await opened.names(node) == ["x"]
        (root / "a").rename(root / "old")
        (root / "a" / "new").mkdir(parents=True)
        assert opened.node("a") is node
        opened.directories.notice(node, opened.source.find(opened.source.root_fd, b"a"))
        assert await opened.names(node) == ["new"]

    run(work, without_identities=True)


def test_noticing_the_same_directory_keeps_it_open(run: Run) -> None:
    async def work(opened: Opened) -> None:
        node = opened.node("a")
        before = await opened.directories.open(node)
        before.release()
        opened.directories.notice(node, opened.source.find(opened.source.root_fd, b"a"))
        after = await opened.directories.open(node)
        after.release()
        assert before is after

    run(work, without_identities=True)
