"""Every test below here mounts for real; `mounted` gives it a mount and takes it away again."""

import os
from collections.abc import Iterator, Mapping
from typing import Protocol

import pytest

from tests.mount.harness import MountedTree, start_mount
from tests.mount.slow_sources import slow_source

__all__ = ["mounted", "slow_source"]


class MountStarter(Protocol):
    """`mounted(source, *options, environment=…)`: a mount that is ready."""

    def __call__(
        self,
        source: str | bytes | os.PathLike[str],
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> MountedTree: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__) + os.sep
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker("mount")


@pytest.fixture
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountStarter]:
    """Start mounts in new, empty directories; each must end cleanly when the test is over."""
    trees: list[MountedTree] = []

    def start(
        source: str | bytes | os.PathLike[str],
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> MountedTree:
        directory = tmp_path_factory.mktemp("mount")
        mountpoint = directory / "root"
        mountpoint.mkdir()
        tree = start_mount(
            os.fspath(source),
            str(mountpoint),
            options,
            log_path=str(directory / "log"),
            environment=environment,
        )
        trees.append(tree)
        tree.wait_until_ready()
        return tree

    yield start
    _finish_all(trees)


def _finish_all(trees: list[MountedTree]) -> None:
    failures = []
    for tree in reversed(trees):
        try:
            tree.finish()
        except pytest.fail.Exception as failure:
            failures.append(str(failure))
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)
