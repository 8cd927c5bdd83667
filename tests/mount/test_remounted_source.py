"""The source is a FUSE mount with numbers of its own making, and is remounted under the mount.

What was open is stale or right, what is opened afterwards is right; never another file's bytes.
"""

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fusemount.slowsource import SlowSource
from tests.leftovers import detach
from tests.mount.conftest import MountStarter
from tests.mount.slow_sources import (
    MIB,
    SlowSourceStarter,
    make_bytes,
    read_at,
    read_whole,
    wait_until,
    write_file,
)

_NAMES = ("one", "two", "folder/three", "folder/deep/four")
_SIZE = 9 * MIB


@dataclass(slots=True)
class Remountable:
    """A FUSE source at `path`; `end` kills what serves it and detaches it, `start` mounts it."""

    path: str
    start: Callable[[], None]
    end: Callable[[], None]

    def remount(self) -> None:
        self.end()
        self.start()


def _remountable_slow_source(files: Path, path: Path) -> Remountable:
    running: list[SlowSource] = []

    def start() -> None:
        slow = SlowSource(files, path, moving_inodes=True, latency_ms=1.0)
        slow.start()
        running.append(slow)

    def end() -> None:
        if running:
            slow = running.pop()
            os.kill(slow.pid, signal.SIGKILL)
            slow.close()  # detaches what the killed process left mounted

    return Remountable(str(path), start, end)


def _remountable_bindfs(files: Path, path: Path) -> Remountable:
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        running.append(subprocess.Popen(["bindfs", "-f", "--no-allow-other", files, path]))
        wait_until(lambda: os.path.ismount(path), "bindfs is mounted")

    def end() -> None:
        if running:
            process = running.pop()
            process.kill()
            process.wait()
            detach(os.fsencode(path))

    return Remountable(str(path), start, end)


@pytest.fixture(params=["slow-source", "bindfs"])
def remountable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remountable]:
    """A mounted FUSE source with the files of `_NAMES`, all of the same size and time."""
    for name in _NAMES:
        write_file(tmp_path / "files" / name, make_bytes(_SIZE, name), age_s=0.0)
    for name in _NAMES:
        os.utime(tmp_path / "files" / name, (1e9, 1e9))
    path = tmp_path / "source"
    path.mkdir()
    kinds = {"slow-source": _remountable_slow_source, "bindfs": _remountable_bindfs}
    source = kinds[request.param](tmp_path / "files", path)
    source.start()
    yield source
    source.end()


def _read_or_stale(fd: int, content: bytes, offset: int, size: int) -> bool:
    """Whether the bytes are there; stale is right too, others are not."""
    try:
        assert read_at(fd, offset, size) == content[offset : offset + size]
    except OSError as error:
        assert error.errno in (errno.ESTALE, errno.EIO)
        return False
    return True


def test_files_are_right_after_a_remount_of_the_source(
    remountable: Remountable, mounted: MountStarter
) -> None:
    tree = mounted(remountable.path, "--attribute-timeout", "0.2")
    for name in _NAMES[:2]:
        assert read_whole(f"{tree.path}/{name}") == make_bytes(_SIZE, name)
    for _ in range(2):
        remountable.remount()
        # Looked up in another order, so that numbers made at lookup go to other files.
        for name in reversed(_NAMES):
            assert read_whole(f"{tree.path}/{name}") == make_bytes(_SIZE, name)


def test_open_files_are_right_or_stale_after_a_remount_of_the_source(
    remountable: Remountable, mounted: MountStarter
) -> None:
    tree = mounted(remountable.path, "--attribute-timeout", "0.2")
    contents = {name: make_bytes(_SIZE, name) for name in _NAMES}
    fds = {name: os.open(f"{tree.path}/{name}", os.O_RDONLY) for name in _NAMES}
    try:
        for name, fd in fds.items():
            assert read_at(fd, 0, MIB) == contents[name][:MIB]
        remountable.remount()
        for name, fd in reversed(fds.items()):
            for offset in (0, MIB, 8 * MIB):
                _read_or_stale(fd, contents[name], offset, MIB)
        # Old descriptors are still open and must not stand in the way of new ones.
        for name, content in contents.items():
            assert read_whole(f"{tree.path}/{name}") == content
        for name, fd in fds.items():
            _read_or_stale(fd, contents[name], 0, _SIZE)
    finally:
        for fd in fds.values():
            os.close(fd)
    wait_until(lambda: tree.status()["tables"]["open_files"] == 0, "every file is released")


def test_mount_finds_a_source_that_was_away_for_a_while(
    remountable: Remountable, mounted: MountStarter
) -> None:
    tree = mounted(remountable.path, "--attribute-timeout", "0.2")
    assert read_whole(f"{tree.path}/one") == make_bytes(_SIZE, "one")
    remountable.end()
    # Under the source's mount there is an empty directory: that is not the source.
    for name in _NAMES:
        with pytest.raises(OSError) as failure:
            read_whole(f"{tree.path}/{name}")
        assert failure.value.errno != errno.ENOENT
    with pytest.raises(OSError):
        os.listdir(f"{tree.path}/folder")
    remountable.start()
    for name in _NAMES:
        assert read_whole(f"{tree.path}/{name}") == make_bytes(_SIZE, name)
    assert sorted(os.listdir(f"{tree.path}/folder")) == ["deep", "three"]


def test_other_files_behind_the_remount_are_the_new_ones(
    remountable: Remountable, mounted: MountStarter, tmp_path: Path
) -> None:
    """Two files of one size and time change places while the source is away."""
    tree = mounted(remountable.path, "--attribute-timeout", "0.2")
    for name in _NAMES:
        assert read_whole(f"{tree.path}/{name}") == make_bytes(_SIZE, name)
    remountable.end()
    one, two, spare = (tmp_path / "files" / name for name in ("one", "two", "spare"))
    os.rename(one, spare)
    os.rename(two, one)
    os.rename(spare, two)
    remountable.start()
    assert read_whole(f"{tree.path}/one") == make_bytes(_SIZE, "two")
    assert read_whole(f"{tree.path}/two") == make_bytes(_SIZE, "one")


def test_numbers_that_move_between_files_mix_nothing(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    for name in _NAMES:
        write_file(tmp_path / name, make_bytes(_SIZE, name))
        os.utime(tmp_path / name, (1e9, 1e9))
    slow = slow_source(tmp_path, moving_inodes=True, attr_timeout_s=0.0, entry_timeout_s=0.0)
    tree = mounted(slow.mountpoint, "--attribute-timeout", "0.1")
    fds = {name: os.open(f"{tree.path}/{name}", os.O_RDONLY) for name in _NAMES}
    try:
        for round_number in range(4):
            for name, fd in fds.items():
                content = make_bytes(_SIZE, name)
                offset = 2 * round_number * MIB
                assert read_at(fd, offset, 2 * MIB) == content[offset : offset + 2 * MIB]
                assert read_whole(f"{tree.path}/{name}") == content
            assert slow.move_inodes() >= 2
    finally:
        for fd in fds.values():
            os.close(fd)
