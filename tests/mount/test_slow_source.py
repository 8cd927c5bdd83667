"""The slow source: a faithful view of a directory, as slow as told, and counted.

Rates and latencies are checked from below only: a busy machine is slower.
"""

import errno
import mmap
import os
import platform
import socket
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusemount.slowsource import SlowSource
from fusemount.slowsource_values import FileStats
from tests.mount.slow_places import MIB, Places, fails_with, opened


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def make_odd_tree(root: Path) -> None:
    for size in (0, 1, 4095, 4096, 4097, 3 * MIB + 17):
        (root / f"size{size}").write_bytes(os.urandom(size))
    (root / "deep").joinpath(*"abcdefgh").mkdir(parents=True)
    (root / "deep" / "a" / "file").write_bytes(b"deep")
    os.link(root / "size4096", root / "deep" / "link")
    os.symlink("size1", root / "inside")
    os.symlink("/nowhere/at/all", root / "dangling")
    os.symlink("x" * 4095, root / "longest")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket"))
    with open(os.fsencode(root) + b"/not\xfftext", "wb") as file:
        file.write(b"bytes")
    (root / ("n" * 255)).write_bytes(b"long name")
    with open(root / "sparse", "wb") as file:
        file.seek(5 << 30)
        file.write(b"far")
    os.chmod(root / "size1", 0o640)
    os.chmod(root / "deep", 0o711)
    os.utime(root / "size4097", ns=(10**9 + 1, 10**18 + 123456789))
    os.utime(root / "dangling", ns=(5, 7), follow_symlinks=False)


def describe(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Metadata of every node below `root`, xattrs and link targets included."""
    found: dict[bytes, tuple[object, ...]] = {}
    top = os.fsencode(root)
    for folder, directories, files in os.walk(top):
        for path in [os.path.join(folder, name) for name in [b".", *directories, *files]]:
            info = os.lstat(path)
            names = os.listxattr(path, follow_symlinks=False)
            found[os.path.relpath(path, top)] = (
                *(info.st_ino, info.st_mode, info.st_nlink, info.st_uid, info.st_gid),
                *(info.st_size, info.st_blocks, info.st_mtime_ns, info.st_ctime_ns, info.st_rdev),
                {name: os.getxattr(path, name, follow_symlinks=False) for name in names},
                os.readlink(path) if os.path.islink(path) else None,
            )
    return found


@pytest.mark.parametrize("page_cache", [False, True])
@pytest.mark.parametrize("readdirplus", [False, True])
def test_metadata_are_the_sources(places: Places, page_cache: bool, readdirplus: bool) -> None:
    make_odd_tree(places.source)
    os.setxattr(places.source / "size1", "user.note", b"kept\0")
    with SlowSource(
        places.source, places.mountpoint, page_cache=page_cache, readdirplus=readdirplus
    ):
        assert describe(places.mountpoint) == describe(places.source)


@pytest.mark.parametrize("max_read_kib", [4, 1024])
def test_bytes_are_the_sources(places: Places, max_read_kib: int) -> None:
    make_odd_tree(places.source)
    with SlowSource(places.source, places.mountpoint, max_read_kib=max_read_kib):
        for path in places.source.iterdir():
            if stat.S_ISREG(path.lstat().st_mode) and path.name != "sparse":
                assert (places.mountpoint / path.name).read_bytes() == path.read_bytes(), path.name


def test_holes_are_found_and_what_lies_behind_them(places: Places) -> None:
    make_odd_tree(places.source)
    with (
        SlowSource(places.source, places.mountpoint),
        opened(places.mountpoint / "sparse") as descriptor,
        opened(places.source / "sparse") as below,
    ):
        data = os.lseek(below, 0, os.SEEK_DATA)
        assert os.lseek(descriptor, 0, os.SEEK_DATA) == data
        assert os.pread(descriptor, 100, 5 << 30) == b"far"


def test_a_folder_of_many_files_lists_each_once(places: Places) -> None:
    names = {f"file{number:04}" for number in range(2500)}
    for name in names:
        places.write(name, b"")
    with SlowSource(places.source, places.mountpoint, list_page_entries=1000) as slow:
        listed = os.listdir(places.mountpoint)
        assert len(listed) == len(names)
        assert set(listed) == names
        assert slow.stats().readdirs == 3


def test_nothing_can_be_written(places: Places) -> None:
    places.write("file", b"x")
    with SlowSource(places.source, places.mountpoint):
        assert fails_with(errno.EROFS, lambda: os.open(places.mountpoint / "file", os.O_RDWR))
        assert fails_with(errno.EROFS, lambda: os.mkdir(places.mountpoint / "new"))


def test_a_file_renamed_over_is_new_by_name_and_old_by_descriptor(places: Places) -> None:
    places.write("file", b"old")
    with (
        SlowSource(places.source, places.mountpoint, attr_timeout_s=0, entry_timeout_s=0),
        opened(places.mountpoint / "file") as descriptor,
    ):
        places.write("other", b"newer")
        os.rename(places.source / "other", places.source / "file")
        assert (places.mountpoint / "file").read_bytes() == b"newer"
        assert os.pread(descriptor, 10, 0) == b"old"
        os.unlink(places.source / "file")
        assert not (places.mountpoint / "file").exists()
        assert os.pread(descriptor, 10, 0) == b"old"


def test_a_change_of_size_is_seen_once_the_attributes_time_out(places: Places) -> None:
    places.write("file", b"1234")
    with SlowSource(places.source, places.mountpoint, attr_timeout_s=0):
        assert os.stat(places.mountpoint / "file").st_size == 4
        places.write("file", b"12")
        assert os.stat(places.mountpoint / "file").st_size == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_get_the_sources_rights(places: Places) -> None:
    places.write("private", b"p")
    places.write("public", b"q")
    os.chmod(places.source / "private", 0o600)
    for folder in (places.source, *places.source.parents[:2]):
        os.chmod(folder, 0o755)
    with SlowSource(places.source, places.mountpoint):
        for name, code in (("public", 0), ("private", 1)):
            done = subprocess.run(
                ["cat", f"mount/{name}"],
                cwd=places.source.parent,
                user=65534,
                group=65534,
                extra_groups=[],
                capture_output=True,
                check=False,
            )
            assert done.returncode == code, name


def test_every_read_is_a_request_without_the_page_cache(places: Places) -> None:
    content = places.write("file", os.urandom(MIB))
    with SlowSource(places.source, places.mountpoint) as slow:
        for _ in range(2):
            assert (places.mountpoint / "file").read_bytes() == content
        assert slow.stats().bytes == 2 * MIB


def test_a_second_read_is_none_with_the_page_cache(places: Places) -> None:
    content = places.write("file", os.urandom(MIB))
    with SlowSource(places.source, places.mountpoint, page_cache=True) as slow:
        for _ in range(2):
            assert (places.mountpoint / "file").read_bytes() == content
        assert slow.stats().bytes == MIB
        assert slow.stats().files["file"].opens == 2


def _maps_direct_files() -> bool:
    major, minor = platform.release().split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)))) >= (6, 6)


@pytest.mark.skipif(not _maps_direct_files(), reason="needs Linux 6.6")
def test_a_file_can_be_mapped_shared(places: Places) -> None:
    content = places.write("file", os.urandom(MIB + 1))
    with (
        SlowSource(places.source, places.mountpoint),
        opened(places.mountpoint / "file") as descriptor,
        mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[:] == content


def test_each_request_waits_the_latency(places: Places) -> None:
    places.write("file", b"x" * 4096)
    with SlowSource(places.source, places.mountpoint, latency_ms=50, attr_timeout_s=0):
        for call in (
            lambda: os.stat(places.mountpoint / "file"),
            lambda: os.listdir(places.mountpoint),
            lambda: os.statvfs(places.mountpoint),
            lambda: os.listxattr(places.mountpoint),
        ):
            start = time.monotonic()
            call()
            assert time.monotonic() - start >= 0.05
        with opened(places.mountpoint / "file") as descriptor:
            start = time.monotonic()
            for _ in range(3):
                os.pread(descriptor, 4096, 0)
            assert time.monotonic() - start >= 0.15


def test_a_stream_is_no_faster_than_its_rate(places: Places) -> None:
    places.write("file", bytes(MIB))
    with SlowSource(places.source, places.mountpoint, stream_mbps=5):
        start = time.monotonic()
        (places.mountpoint / "file").read_bytes()
        assert time.monotonic() - start >= MIB / 5e6


def test_all_streams_are_no_faster_than_the_total(places: Places) -> None:
    for number in range(4):
        places.write(str(number), bytes(MIB))
    with SlowSource(places.source, places.mountpoint, total_mbps=10), ThreadPoolExecutor(4) as pool:
        start = time.monotonic()
        list(pool.map(lambda n: (places.mountpoint / str(n)).read_bytes(), range(4)))
        assert time.monotonic() - start >= 4 * MIB / 10e6


def test_the_pace_can_change_while_it_serves(places: Places) -> None:
    places.write("file", b"x")
    with SlowSource(places.source, places.mountpoint, attr_timeout_s=0) as slow:
        slow.set_pace(latency_ms=60)
        start = time.monotonic()
        os.stat(places.mountpoint / "file")
        assert time.monotonic() - start >= 0.06


def test_each_file_has_its_counts(places: Places) -> None:
    (places.source / "deep").mkdir()
    places.write("deep/one", bytes(MIB))
    places.write("two", b"12345")
    with SlowSource(places.source, places.mountpoint) as slow:
        for name, size in (("deep/one", MIB), ("two", 4)):
            with opened(places.mountpoint / name) as descriptor:
                os.preadv(descriptor, [bytearray(size)], 0)
        stats = slow.stats()
        assert stats.files["deep/one"].bytes == MIB
        assert stats.files["two"] == FileStats(opens=1, reads=1, bytes=4)
        assert stats.bytes == MIB + 4
        assert stats.opens == 2
        assert stats.reads == sum(file.reads for file in stats.files.values())
        assert stats.lookups == 3
        assert stats.in_flight == 0
        slow.reset_stats()
        stats = slow.stats()
        assert (stats.reads, stats.bytes, stats.opens, stats.lookups, stats.files) == (
            *(0, 0, 0, 0),
            {},
        )
