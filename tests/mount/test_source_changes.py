"""The source changes under the mount: readers get the old file or the new one, never a mix.

Each case runs on a directory of this machine, where files have an identity, and on a FUSE source,
where only name and version tell them apart.
"""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.conftest import MountStarter
from tests.mount.slow_sources import (
    MIB,
    SlowSourceStarter,
    make_bytes,
    read_at,
    read_whole,
    write_file,
)

ATTRIBUTE_TIMEOUT_S = 0.3
# Beyond it: the mount's attribute timeout, and the clock ticks of kernel and source.
SEEN_AFTER_S = 2 * ATTRIBUTE_TIMEOUT_S
HAMMERING_S = 2.0


@dataclass(frozen=True, slots=True)
class Changing:
    """`source` is where files are changed, `root` where the mount shows them."""

    source: Path
    root: Path
    is_local: bool


@pytest.fixture(params=["local", "remote"])
def changing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    slow_source: SlowSourceStarter,
    mounted: MountStarter,
) -> Callable[..., Changing]:
    """Mount `tmp_path`, directly or through a slow source whose attributes are never cached."""

    def start(latency_ms: float = 0.0) -> Changing:
        is_local = request.param == "local"
        below: str | Path = tmp_path
        if not is_local:
            below = slow_source(
                tmp_path, latency_ms=latency_ms, attr_timeout_s=0.0, entry_timeout_s=0.0
            ).mountpoint
        tree = mounted(below, "--attribute-timeout", str(ATTRIBUTE_TIMEOUT_S))
        return Changing(tmp_path, Path(tree.path), is_local)

    return start


def _overwrite(path: Path, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(content)


def test_open_file_shows_bytes_changed_in_place(
    changing: Callable[..., Changing], tmp_path: Path
) -> None:
    old, new = make_bytes(3 * MIB, "old"), make_bytes(3 * MIB, "new")
    write_file(tmp_path / "file", old)
    tree = changing()
    fd = os.open(tree.root / "file", os.O_RDONLY)
    try:
        assert read_at(fd, 0, len(old)) == old
        _overwrite(tmp_path / "file", new)
        time.sleep(SEEN_AFTER_S)
        assert read_at(fd, 0, len(new)) == new
    finally:
        os.close(fd)


def test_fresh_open_shows_bytes_changed_in_place_at_once(
    changing: Callable[..., Changing], tmp_path: Path
) -> None:
    old, new = make_bytes(3 * MIB, "old"), make_bytes(3 * MIB, "new")
    write_file(tmp_path / "file", old)
    tree = changing()
    # An old descriptor stays open, so that what it knows is there to be mixed in.
    fd = os.open(tree.root / "file", os.O_RDONLY)
    try:
        for content in (old, new, old, new):
            _overwrite(tmp_path / "file", content)
            assert read_whole(tree.root / "file") == content
        assert read_at(fd, MIB, MIB) == new[MIB : 2 * MIB]
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "left",
    [
        1000,
        *(pytest.param(left, marks=pytest.mark.long) for left in (0, 4096, 2 * MIB)),
    ],
)
def test_truncated_open_file_has_no_bytes_past_its_end(
    changing: Callable[..., Changing], tmp_path: Path, left: int
) -> None:
    content = make_bytes(3 * MIB, "content")
    write_file(tmp_path / "file", content)
    tree = changing()
    fd = os.open(tree.root / "file", os.O_RDONLY)
    try:
        assert read_at(fd, 0, MIB) == content[:MIB]
        os.truncate(tmp_path / "file", left)
        time.sleep(SEEN_AFTER_S)
        assert read_at(fd, 0, 3 * MIB) == content[:left]
        assert os.pread(fd, 10, left) == b""
        assert os.pread(fd, 10, 3 * MIB - 10) == b""
        assert os.fstat(fd).st_size == left
    finally:
        os.close(fd)


_MAPPING_READER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
position, asks = int(sys.argv[2]), sys.argv[3] == "ask"
first = mapping[0], mapping[position if asks else 0]
print("mapped", flush=True)
sys.stdin.readline()
if asks:
    os.fstat(fd)
print(mapping[position : position + 64].hex(), flush=True)
"""


@pytest.mark.parametrize("asks", ["ask", "blind"])
def test_mapping_of_truncated_file_shows_nothing_past_its_end(
    changing: Callable[..., Changing], tmp_path: Path, asks: str
) -> None:
    size, left, position = 48 * MIB, MIB, 40 * MIB
    write_file(tmp_path / "file", make_bytes(size, "content"))
    tree = changing()
    reader = subprocess.Popen(
        [sys.executable, "-c", _MAPPING_READER, tree.root / "file", str(position), asks],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    with reader:
        assert reader.stdout.readline() == b"mapped\n"
        os.truncate(tmp_path / "file", left)
        time.sleep(SEEN_AFTER_S)
        reader.stdin.write(b"\n")
        reader.stdin.flush()
        shown = reader.stdout.readline().strip()
        code = reader.wait(20)
    # A page that was there, once somebody asked for the size, is gone as on a local file; one
    # that was never there is empty at most.
    if asks == "ask":
        assert code == -signal.SIGBUS
    else:
        assert code == -signal.SIGBUS or (code == 0 and set(shown) == {ord("0")})


def test_mapping_keeps_what_is_left_of_a_truncated_file(
    changing: Callable[..., Changing], tmp_path: Path
) -> None:
    content = make_bytes(8 * MIB, "content")
    write_file(tmp_path / "file", content)
    tree = changing()
    script = _MAPPING_READER
    reader = subprocess.Popen(
        [sys.executable, "-c", script, tree.root / "file", str(MIB), "ask"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    with reader:
        assert reader.stdout.readline() == b"mapped\n"
        os.truncate(tmp_path / "file", MIB + 100)
        time.sleep(SEEN_AFTER_S)
        reader.stdin.write(b"\n")
        reader.stdin.flush()
        assert bytes.fromhex(reader.stdout.readline().decode()) == content[MIB : MIB + 64]
        assert reader.wait(20) == 0


@pytest.mark.parametrize(
    "before",
    [1000, *(pytest.param(before, marks=pytest.mark.long) for before in (0, MIB))],
)
def test_open_file_shows_what_was_appended(
    changing: Callable[..., Changing], tmp_path: Path, before: int
) -> None:
    content = make_bytes(before + 2 * MIB, "content")
    write_file(tmp_path / "file", content[:before])
    tree = changing()
    fd = os.open(tree.root / "file", os.O_RDONLY)
    try:
        assert read_at(fd, 0, 3 * MIB) == content[:before]
        with open(tmp_path / "file", "ab") as file:
            file.write(content[before:])
        time.sleep(SEEN_AFTER_S)
        assert read_at(fd, 0, len(content)) == content
        assert os.pread(fd, 1, len(content)) == b""
    finally:
        os.close(fd)


def test_replaced_file_keeps_its_content_for_who_has_it_open(
    changing: Callable[..., Changing], tmp_path: Path
) -> None:
    size, piece = 24 * MIB, 256 * 1024
    old, new = make_bytes(size, "old"), make_bytes(size, "new")
    write_file(tmp_path / "file", old)
    write_file(tmp_path / "next", new)
    tree = changing(latency_ms=15.0)
    old_fd = os.open(tree.root / "file", os.O_RDONLY)
    fds = [old_fd]
    try:
        # Enough for a read-ahead to be on its way when the file is replaced.
        assert read_at(old_fd, 0, 2 * MIB) == old[: 2 * MIB]
        os.rename(tmp_path / "next", tmp_path / "file")
        time.sleep(SEEN_AFTER_S)
        new_fd = os.open(tree.root / "file", os.O_RDONLY)
        fds.append(new_fd)
        for offset in range(0, size, piece):
            assert os.pread(new_fd, piece, offset) == new[offset : offset + piece], offset
            assert os.pread(old_fd, piece, offset) == old[offset : offset + piece], offset
    finally:
        for fd in fds:
            os.close(fd)


def test_replaced_file_is_read_once_however_its_readers_alternate(
    tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    size, piece = 24 * MIB, 256 * 1024
    old, new = make_bytes(size, "old"), make_bytes(size, "new")
    write_file(tmp_path / "file", old)
    write_file(tmp_path / "next", new)
    slow = slow_source(tmp_path, latency_ms=5.0, attr_timeout_s=0.0, entry_timeout_s=0.0)
    tree = mounted(slow.mountpoint, "--attribute-timeout", "0.05")
    old_fd = os.open(f"{tree.path}/file", os.O_RDONLY)
    fds = [old_fd]
    try:
        assert read_at(old_fd, 0, MIB) == old[:MIB]
        os.rename(tmp_path / "next", tmp_path / "file")
        time.sleep(SEEN_AFTER_S)
        fds.append(os.open(f"{tree.path}/file", os.O_RDONLY))
        slow.reset_stats()
        for offset in range(0, size, piece):
            for fd, content in zip(fds, (old, new), strict=True):
                assert os.pread(fd, piece, offset) == content[offset : offset + piece], offset
        # What was on its way when the old file's change time moved is fetched twice.
        assert slow.stats().bytes <= 2 * size + size // 2
    finally:
        for fd in fds:
            os.close(fd)


def test_deleted_file_stays_readable_for_who_has_it_open(
    changing: Callable[..., Changing], tmp_path: Path
) -> None:
    content = make_bytes(12 * MIB, "content")
    write_file(tmp_path / "file", content)
    tree = changing(latency_ms=15.0)
    fd = os.open(tree.root / "file", os.O_RDONLY)
    try:
        assert read_at(fd, 0, MIB) == content[:MIB]
        os.unlink(tmp_path / "file")
        time.sleep(SEEN_AFTER_S)
        with pytest.raises(FileNotFoundError):
            os.stat(tree.root / "file")
        with pytest.raises(FileNotFoundError):
            os.open(tree.root / "file", os.O_RDONLY)
        assert read_at(fd, 0, len(content)) == content
        assert os.fstat(fd).st_size == len(content)
    finally:
        os.close(fd)


def _recreate(path: Path, content: bytes) -> None:
    """Delete and create, with the old times, and with the old inode number where it is given out
    again."""
    status = path.stat()
    spares = []
    for attempt in range(50):
        path.unlink()
        path.write_bytes(content)
        if path.stat().st_ino == status.st_ino:
            break
        spare = path.with_name(f"spare-{attempt}")
        spare.write_bytes(b"")  # takes the number that would come next
        spares.append(spare)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for spare in spares:
        spare.unlink()


def test_recreated_file_of_the_same_size_and_time_is_the_new_one(
    changing: Callable[..., Changing], tmp_path: Path
) -> None:
    old, new = make_bytes(3 * MIB, "old"), make_bytes(3 * MIB, "new")
    write_file(tmp_path / "file", old)
    tree = changing()
    assert read_whole(tree.root / "file") == old
    assert read_whole(tree.root / "file") == old  # now from what is kept, in kernel or mount
    _recreate(tmp_path / "file", new)
    assert read_whole(tree.root / "file") == new


def test_file_under_a_deleted_files_name_and_open_is_not_mixed_with_it(
    changing: Callable[..., Changing], tmp_path: Path
) -> None:
    old, new = make_bytes(12 * MIB, "old"), make_bytes(12 * MIB, "new")
    write_file(tmp_path / "file", old)
    tree = changing(latency_ms=10.0)
    old_fd = os.open(tree.root / "file", os.O_RDONLY)
    try:
        assert read_at(old_fd, 0, MIB) == old[:MIB]
        _recreate(tmp_path / "file", new)
        assert read_whole(tree.root / "file") == new
        assert read_at(old_fd, 0, len(old)) == old
    finally:
        os.close(old_fd)


def test_readers_never_see_a_mix_while_a_file_is_replaced_again_and_again(
    changing: Callable[..., Changing], tmp_path: Path
) -> None:
    size = 3 * MIB + 100
    write_file(tmp_path / "file", bytes(size))
    tree = changing()
    stopping = threading.Event()

    def replace() -> None:
        tag = 0
        while not stopping.is_set():
            tag = tag % 255 + 1
            (tmp_path / "next").write_bytes(bytes([tag]) * size)
            os.rename(tmp_path / "next", tmp_path / "file")
            time.sleep(0.01)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = set()
        deadline = time.monotonic() + HAMMERING_S
        while time.monotonic() < deadline:
            try:
                content = read_whole(tree.root / "file")
            except OSError as error:
                # Replaced between the kernel's lookup and its open, and again at its second try.
                assert error.errno == errno.ESTALE
                continue
            assert len(content) == size
            assert content.count(content[:1]) == size, "bytes of two files"
            seen.add(content[0])
        assert len(seen) > 1
    finally:
        stopping.set()
        writer.join()
