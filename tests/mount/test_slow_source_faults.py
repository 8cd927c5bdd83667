"""The slow source's faults: the read that was named fails, others do not, hung ones go on."""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusemount.errors import UsageError
from fusemount.slowsource import SlowSource, SlowSourceControl
from tests.mount.slow_places import (
    DEADLINE_S,
    FUSEMOUNT,
    Places,
    fails_with,
    opened,
    running,
    wait_for,
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_the_nth_read_of_a_matching_file_fails_once(places: Places) -> None:
    places.write("model.bin", b"m" * 100)
    places.write("other", b"o" * 100)
    with SlowSource(places.source, places.mountpoint) as slow:
        slow.set_fault("eio", path="*.bin", nth=3, count=1)
        with (
            opened(places.mountpoint / "model.bin") as model,
            opened(places.mountpoint / "other") as other,
        ):
            failed = []
            for _ in range(5):
                assert os.pread(other, 10, 0) == b"o" * 10
                failed.append(fails_with(errno.EIO, lambda: os.pread(model, 10, 0)))
        assert failed == [False, False, True, False, False]
        assert slow.stats().faults == 1


def test_an_error_stays_until_it_is_cleared(places: Places) -> None:
    places.write("file", b"x")
    with (
        SlowSource(places.source, places.mountpoint) as slow,
        opened(places.mountpoint / "file") as descriptor,
    ):
        slow.set_fault("estale")
        for _ in range(3):
            assert fails_with(errno.ESTALE, lambda: os.pread(descriptor, 1, 0))
        slow.clear_faults()
        assert os.pread(descriptor, 1, 0) == b"x"


@pytest.mark.parametrize(
    ("op", "call"),
    [
        ("open", lambda root: os.close(os.open(root / "file", os.O_RDONLY))),
        ("lookup", lambda root: os.stat(root / "file")),
        ("getattr", os.stat),
        ("readdir", os.listdir),
        ("readlink", lambda root: os.readlink(root / "link")),
        ("statfs", os.statvfs),
        ("xattr", os.listxattr),
        ("any", os.listdir),
    ],
)
def test_any_request_can_fail(places: Places, op: str, call: Callable[[Path], object]) -> None:
    places.write("file", b"x")
    os.symlink("file", places.source / "link")
    with SlowSource(places.source, places.mountpoint, attr_timeout_s=0, entry_timeout_s=0) as slow:
        slow.set_fault("eio", op=op)
        assert fails_with(errno.EIO, lambda: call(places.mountpoint))
        slow.clear_faults()
        call(places.mountpoint)


def test_a_fault_can_be_set_at_the_start(places: Places) -> None:
    places.write("file", b"x")
    command = [*FUSEMOUNT, "--fault", "action=eio,op=open,nth=2,count=1"]
    with running([*command, str(places.source), str(places.mountpoint)]):
        for expected in (False, True, False):
            assert expected == fails_with(errno.EIO, (places.mountpoint / "file").read_bytes)


@pytest.mark.parametrize(("short_bytes", "answered"), [(7, 7), (0, 50), (1000, 100)])
def test_a_read_can_be_short(places: Places, short_bytes: int, answered: int) -> None:
    content = places.write("file", os.urandom(100))
    with (
        SlowSource(places.source, places.mountpoint) as slow,
        opened(places.mountpoint / "file") as descriptor,
    ):
        slow.set_fault("short", short_bytes=short_bytes, count=1)
        assert os.pread(descriptor, 4096, 0) == content[:answered]
        assert os.pread(descriptor, 4096, 0) == content


def test_hung_reads_wait_together_and_keep_nobody_else_waiting(places: Places) -> None:
    content = places.write("hung", os.urandom(4096))
    places.write("well", b"well")
    readers = 80
    with (
        SlowSource(places.source, places.mountpoint) as slow,
        opened(places.mountpoint / "hung") as descriptor,
        ThreadPoolExecutor(readers) as pool,
    ):
        slow.set_fault("hang", path="hung")
        try:
            reads = [pool.submit(os.pread, descriptor, 4096, 0) for _ in range(readers)]
            wait_for(lambda: slow.stats().hung == readers, "all reads hang")
            assert slow.stats().in_flight == slow.stats().max_in_flight == readers
            assert (places.mountpoint / "well").read_bytes() == b"well"
            assert slow.stats().hung == readers
            assert slow.release() == readers
            assert all(read.result(DEADLINE_S) == content for read in reads)
            again = pool.submit(os.pread, descriptor, 4096, 0)
            wait_for(lambda: slow.stats().hung == 1, "the rule is still there")
            assert slow.clear_faults() == 1
            assert again.result(DEADLINE_S) == content
        finally:
            slow.clear_faults()


def test_a_hung_reader_hears_of_the_unmount(places: Places) -> None:
    places.write("file", b"x")
    with ThreadPoolExecutor(1) as pool:
        with SlowSource(places.source, places.mountpoint) as slow:
            descriptor = os.open(places.mountpoint / "file", os.O_RDONLY)
            slow.set_fault("hang")
            read = pool.submit(os.pread, descriptor, 1, 0)
            wait_for(lambda: slow.stats().hung == 1, "the read hangs")
        assert fails_with(errno.ENOTCONN, lambda: read.result(DEADLINE_S))
    assert not places.is_mounted()
    with contextlib.suppress(OSError):  # its FLUSH meets no one
        os.close(descriptor)


def test_a_rule_that_cannot_be_is_refused_and_the_source_goes_on(places: Places) -> None:
    with SlowSource(places.source, places.mountpoint) as slow:
        with pytest.raises(UsageError, match="nth"):
            slow.set_fault("eio", nth=0)
        with pytest.raises(UsageError, match="explode"):
            ask(slow, {"command": "set-fault", "action": "explode"})
        with pytest.raises(UsageError, match="dance"):
            ask(slow, {"command": "dance"})
        with pytest.raises(UsageError):
            ask(slow, ["stats"])
        assert slow.stats().faults == 0


def ask(control: SlowSourceControl, request: object) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(control.control_path)
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile() as stream:
            answer = json.loads(stream.readline())
    if not answer["ok"]:
        raise UsageError(answer["error"])


def test_numbers_move_and_bytes_stay(places: Places) -> None:
    contents = {name: places.write(name, name.encode() * 10) for name in ("a", "b", "c")}
    with SlowSource(places.source, places.mountpoint, moving_inodes=True, attr_timeout_s=0) as slow:
        before = {name: os.stat(places.mountpoint / name).st_ino for name in contents}
        assert slow.move_inodes() == 3
        after = {name: os.stat(places.mountpoint / name).st_ino for name in contents}
        assert set(before.values()) == set(after.values())
        assert all(before[name] != after[name] for name in contents)
        for name, content in contents.items():
            assert (places.mountpoint / name).read_bytes() == content


def test_numbers_follow_the_order_of_lookups(places: Places) -> None:
    for name in ("a", "b"):
        places.write(name, name.encode())
    numbers = []
    for order in ("ab", "ba"):
        with SlowSource(places.source, places.mountpoint, moving_inodes=True):
            numbers.append({name: os.stat(places.mountpoint / name).st_ino for name in order})
    assert numbers[0]["a"] == numbers[1]["b"]
    assert numbers[0]["b"] == numbers[1]["a"]


def test_under_moving_numbers_a_file_is_its_name(places: Places) -> None:
    places.write("a", b"old")
    os.link(places.source / "a", places.source / "b")
    with SlowSource(
        places.source,
        places.mountpoint,
        moving_inodes=True,
        attr_timeout_s=0,
        entry_timeout_s=0,
    ):
        first, second = (os.stat(places.mountpoint / name).st_ino for name in "ab")
        assert first != second
        places.write("new", b"new!")
        os.rename(places.source / "new", places.source / "a")
        assert os.stat(places.mountpoint / "a").st_ino == first
        assert (places.mountpoint / "a").read_bytes() == b"new!"
        assert (places.mountpoint / "b").read_bytes() == b"old"
