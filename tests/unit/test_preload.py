"""Preloading: models in order of request, and failures that stay their own."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from fusemount.errors import SourceTimeoutError
from fusemount.fetch import FetchThreads
from fusemount.filesystem import Filesystem
from fusemount.formats.model import Model
from fusemount.options import MIB, MountOptions
from fusemount.preload import Preloader
from fusemount.source import Source
from fusemount.source_tree import SourceTree
from tests.unit.fakes import fake_model, wait_until

BUDGET_BYTES = 32 * MIB


class Preloading:
    """A preloader on a directory of temporary files."""

    def __init__(self, root: Path) -> None:
        options = MountOptions(source=str(root), mountpoint="/mnt")
        self.source = Source(str(root), 20.0)
        self.fetch = FetchThreads(4)
        self.filesystem = Filesystem(options, self.source, self.fetch, BUDGET_BYTES)
        self.preloader = Preloader(self.filesystem, SourceTree(self.source.root_fd))

    async def load(self, *models: Model) -> list[str]:
        """What becomes of each model."""
        self.preloader.request(list(models))
        progress = [self.preloader.progress[model.model_id] for model in models]
        await wait_until(lambda: all(p.state not in ("waiting", "loading") for p in progress))
        return [p.state for p in progress]


def run(root: Path, work: Callable[[Preloading], Awaitable[None]]) -> None:
    async def main() -> None:
        preloading = Preloading(root)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(preloading.preloader.run)
            await work(preloading)
            # What is on its way still has the file open.
            await wait_until(lambda: not preloading.fetch.in_flight)
            nursery.cancel_scope.cancel()
        preloading.fetch.close()
        os.close(preloading.source.root_fd)

    trio.run(main)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("m", "n"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "model.bin").write_bytes(os.urandom(5 * MIB + 1))
    return tmp_path / "root"


def test_loaded_bytes_are_here_before_anyone_reads(root: Path) -> None:
    async def work(preloading: Preloading) -> None:
        assert await preloading.load(fake_model("m")) == ["done"]
        progress = preloading.preloader.progress["m"]
        assert progress.loaded_bytes == 5 * MIB + 1
        assert preloading.filesystem.metrics.fetched_bytes == 5 * MIB + 1

    run(root, work)


def test_missing_file_fails_its_model_and_the_next_is_loaded(root: Path) -> None:
    async def work(preloading: Preloading) -> None:
        states = await preloading.load(fake_model("missing"), fake_model("m"))
        assert states == ["failed", "done"]
        assert "FileNotFoundError" in preloading.preloader.progress["missing"].reason

    run(root, work)


@pytest.mark.parametrize("failure", [SourceTimeoutError("/s"), RuntimeError("a defect")], ids=repr)
def test_no_failure_ends_the_preloader(
    root: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(fd: int) -> None:
        raise failure

    async def work(preloading: Preloading) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(preloading.source, "find_open", fail)
            assert await preloading.load(fake_model("m")) == ["failed"]
        assert repr(failure) in preloading.preloader.progress["m"].reason
        assert await preloading.load(fake_model("n")) == ["done"]

    run(root, work)


def test_what_does_not_fit_is_partial_and_says_so(root: Path) -> None:
    with open(root / "m" / "model.bin", "wb") as file:
        file.truncate(BUDGET_BYTES + 4 * MIB)

    async def work(preloading: Preloading) -> None:
        assert await preloading.load(fake_model("m")) == ["partial"]
        assert preloading.preloader.progress["m"].reason == "no memory left for it"

    run(root, work)


def test_what_is_no_regular_file_is_passed_over(root: Path) -> None:
    os.mkfifo(root / "m" / "fifo")

    async def work(preloading: Preloading) -> None:
        assert await preloading.load(fake_model("m", "fifo", "model.bin")) == ["done"]

    run(root, work)


def test_link_in_the_place_of_a_file_is_not_followed(root: Path) -> None:
    (root / "m" / "model.bin").unlink()
    (root / "m" / "model.bin").symlink_to("../n/model.bin")

    async def work(preloading: Preloading) -> None:
        assert await preloading.load(fake_model("m")) == ["failed"]

    run(root, work)
