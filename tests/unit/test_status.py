"""The status document: what it calls degraded."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from fusemount.catalog import Catalog
from fusemount.config import Configuration
from fusemount.control import Control, Publication
from fusemount.fetch import FetchThreads
from fusemount.filesystem import Filesystem
from fusemount.options import MIB, MountOptions
from fusemount.preload import Preloader, PreloadProgress
from fusemount.source import Source
from fusemount.source_tree import SourceTree
from fusemount.status import StatusReport
from optimizer import ServingOptimizer


def degraded(root: Path, prepare: Callable[[Filesystem, Preloader], None]) -> list[str]:
    """What is degraded on a mount that was prepared so."""

    async def main() -> list[str]:
        source = Source(str(root), 20.0)
        tree = SourceTree(source.root_fd)
        options = MountOptions(source=str(root), mountpoint="/mnt")
        filesystem = Filesystem(options, source, FetchThreads(1), 32 * MIB)
        preloader = Preloader(filesystem, tree)
        control = Control(
            filesystem.feed,
            Catalog(tree),
            Configuration(),
            lambda _publication, _models: None,
            lambda: ServingOptimizer(clock=time.monotonic),
        )
        control.publication = Publication(models=({"model_id": "m"}, {"model_id": "n"}))
        prepare(filesystem, preloader)
        report = StatusReport(filesystem, control, preloader, {"degraded": ["as it started"]})
        os.close(source.root_fd)
        lines = report.make()["degraded"]
        assert isinstance(lines, list)
        return lines

    return trio.run(main)


def test_healthy_mount_says_only_what_was_so_from_the_start(tmp_path: Path) -> None:
    def prepare(_filesystem: Filesystem, preloader: Preloader) -> None:
        for name, state in (("m", "loading"), ("n", "done"), ("removed since", "failed")):
            preloader.progress[name] = PreloadProgress(name, 1, state=state)

    assert degraded(tmp_path, prepare) == ["as it started"]


@pytest.mark.parametrize("state", ["failed", "partial"])
def test_preloads_that_came_short_are_counted_with_the_last_reason(
    tmp_path: Path, state: str
) -> None:
    def prepare(_filesystem: Filesystem, preloader: Preloader) -> None:
        for name in ("m", "n", "removed since"):
            preloader.progress[name] = PreloadProgress(name, 1, state=state, reason=f"why {name}")

    (_, line) = degraded(tmp_path, prepare)
    assert line.startswith("2 preloads ")
    assert "(last: n: why n)" in line


def test_reads_that_hang_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FetchThreads, "stuck", 3)
    (_, line) = degraded(tmp_path, lambda _filesystem, _preloader: None)
    assert line.startswith("3 reads of the source hang")


def test_calls_that_hang_are_counted(tmp_path: Path) -> None:
    def prepare(filesystem: Filesystem, _preloader: Preloader) -> None:
        filesystem.source.stuck_calls = 2

    (_, line) = degraded(tmp_path, prepare)
    assert line.startswith("2 calls for names and status hang")
