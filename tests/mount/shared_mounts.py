"""A mount that several tests of a module share, because making it costs more than they do."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.mount.harness import MountedTree, start_mount


@contextmanager
def mount_in(
    directory: Path,
    source: str | bytes | os.PathLike[str],
    *options: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[MountedTree]:
    """Mount `source` on a new directory in `directory`; it must end cleanly with the block."""
    mountpoint = directory / "root"
    mountpoint.mkdir()
    tree = start_mount(
        os.fspath(source),
        str(mountpoint),
        options,
        log_path=str(directory / "log"),
        environment=environment,
    )
    try:
        tree.wait_until_ready()
        yield tree
    finally:
        tree.finish()
