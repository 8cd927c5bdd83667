"""Pinned files whose advice goes or changes while nobody has them open."""

import dataclasses
import os
from pathlib import Path

import pytest
import trio

from fusemount.fetch import FetchThreads
from fusemount.filesystem import Filesystem
from fusemount.identity import Found
from fusemount.options import MIB, MountOptions
from fusemount.policy import UNKNOWN, FilePolicy
from fusemount.readahead import Plan
from fusemount.source import Source
from fusemount.store.content import Content
from fusemount.store.memory import Need
from tests.unit.fakes import wait_until

PINNED = dataclasses.replace(UNKNOWN, strategy="memory", is_pinned=True)


async def _pin(filesystem: Filesystem, path: Path) -> Content:
    """A file's content as a preload leaves it."""
    filesystem.apply_policies({path.name: PINNED})
    fd = os.open(path, os.O_RDONLY)
    found = Found(os.fstat(fd), None)
    content = filesystem.open_for_preload(path.name, found, fd, PINNED)
    filesystem.filler.prefetch(content, Plan(0, content.size_bytes), 0, Need.PRELOAD)
    content.release()
    await wait_until(lambda: not filesystem.fetch.in_flight)
    return content


@pytest.mark.parametrize(
    ("policy", "extents_left"), [(None, 0), (UNKNOWN, 2), (PINNED, 2)], ids=["gone", "new", "same"]
)
def test_pinned_file_follows_its_advice_though_nobody_has_it_open(
    tmp_path: Path, policy: FilePolicy | None, extents_left: int
) -> None:
    (tmp_path / "model.bin").write_bytes(os.urandom(5 * MIB))

    async def main() -> None:
        source = Source(str(tmp_path), 20.0)
        fetch = FetchThreads(4)
        options = MountOptions(source=str(tmp_path), mountpoint="/mnt")
        filesystem = Filesystem(options, source, fetch, 32 * MIB)
        content = await _pin(filesystem, tmp_path / "model.bin")
        assert filesystem.store.pinned_bytes == 8 * MIB
        filesystem.apply_policies({"model.bin": policy, "other": None})
        assert content.is_pinned == (policy is PINNED)
        assert filesystem.store.pinned_bytes == (8 * MIB if policy is PINNED else 0)
        assert filesystem.store.pool.in_use == extents_left
        fetch.close()
        os.close(source.root_fd)

    trio.run(main)
