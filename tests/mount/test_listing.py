"""Folders of 10,000 files: listed and asked about right, while they change too."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fusemount.slowsource import SlowSource
from tests.mount.directory_stream import DirectoryStream
from tests.mount.shared_mounts import mount_in

COUNT = 10_000
CHANGING_COUNT = 1500  # more than a listing finds in one go
# Both take about a second; a machine that is busy with other things takes longer.
_GENEROUS_S = 60.0


def _name(number: int) -> str:
    return f"file-{number:05d}"


@dataclass(frozen=True)
class Folder:
    """A folder of `count` files, in the source and in a mount of it."""

    source: Path
    mount: str
    count: int

    @property
    def names(self) -> set[bytes]:
        return {_name(number).encode() for number in range(self.count)}


@contextmanager
def _mounted_folder(directory: Path, kind: str, count: int) -> Iterator[Folder]:
    """Files whose sizes differ; on a slow source each request takes 10 ms."""
    source = directory / "source"
    folder = source / "many"
    folder.mkdir(parents=True)
    for number in range(count):
        fd = os.open(folder / _name(number), os.O_CREAT | os.O_WRONLY, 0o644)
        os.ftruncate(fd, number)
        os.close(fd)
    with ExitStack() as stack:
        mounted = source
        if kind == "slow source":
            mounted = directory / "slow"
            mounted.mkdir()
            stack.enter_context(SlowSource(source, mounted, latency_ms=10.0))
        tree = stack.enter_context(mount_in(directory, mounted))
        yield Folder(folder, os.path.join(tree.path, "many"), count)


@pytest.fixture(scope="module", params=["local", "slow source"])
def many(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Folder]:
    """Shared by the tests that change nothing."""
    with _mounted_folder(tmp_path_factory.mktemp("many"), request.param, COUNT) as folder:
        yield folder


@pytest.fixture(params=["local", "slow source"])
def changing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """A smaller one of its own for a test that changes the source."""
    with _mounted_folder(tmp_path, request.param, CHANGING_COUNT) as folder:
        yield folder


def test_listing_storm_of_status_from_many_threads_is_right(many: Folder) -> None:
    """The first test of the mount: nothing is listed yet, each name is looked up by itself."""
    wrong: list[str] = []

    def ask(first: int) -> None:
        for number in range(first, 2000, 20):
            status = os.stat(os.path.join(many.mount, _name(number)))
            if status.st_size != number:
                wrong.append(_name(number))

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(20)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < _GENEROUS_S
    assert wrong == []


def test_listing_of_many_files_is_complete(many: Folder) -> None:
    started = time.monotonic()
    names = os.listdir(many.mount)
    assert time.monotonic() - started < _GENEROUS_S
    assert len(names) == COUNT
    assert set(names) == {_name(number) for number in range(COUNT)}


def test_listing_and_status_of_many_files_are_right(many: Folder) -> None:
    started = time.monotonic()
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(many.mount)}
    assert time.monotonic() - started < _GENEROUS_S
    assert sizes == {_name(number): number for number in range(COUNT)}


def test_listing_has_dot_and_dot_dot_once_and_right(many: Folder) -> None:
    with DirectoryStream(many.mount) as stream:
        names = stream.read_all()
    assert names.count(b".") == names.count(b"..") == 1
    assert len(names) == COUNT + 2
    assert os.stat(many.mount + "/.").st_ino == os.stat(many.mount).st_ino
    assert os.stat(many.mount + "/..").st_ino == os.stat(os.path.dirname(many.mount)).st_ino


def test_listing_goes_on_from_a_remembered_position(many: Folder) -> None:
    with DirectoryStream(many.mount) as stream:
        first = [stream.read() for _ in range(3000)]
        position = stream.tell()
        rest = stream.read_all()
        stream.seek(position)
        assert stream.read_all() == rest
    assert len(first) + len(rest) == len({*first, *rest}) == COUNT + 2


def test_listing_goes_back_to_each_of_the_first_positions(many: Folder) -> None:
    with DirectoryStream(many.mount) as stream:
        positions, names = [], []
        for _ in range(5):
            positions.append(stream.tell())
            names.append(stream.read())
        for position, name in zip(positions, names, strict=True):
            stream.seek(position)
            assert stream.read() == name


def test_listing_anew_sees_what_has_changed(changing: Folder) -> None:
    with DirectoryStream(changing.mount) as stream:
        assert len(stream.read_all()) == CHANGING_COUNT + 2
        assert stream.read() is None
        (changing.source / "new").touch()
        (changing.source / _name(0)).unlink()
        # A FUSE source may hand out what it knew for its own timeout of a second.
        time.sleep(1.1)
        stream.rewind()
        names = stream.read_all()
    assert b"new" in names
    assert _name(0).encode() not in names
    assert len(names) == CHANGING_COUNT + 2


def test_listing_while_files_come_and_go(changing: Folder) -> None:
    """What stays is listed once, whatever happens beside it; what comes or goes at most once."""
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            (changing.source / f"passing-{number:06d}").touch()
            if number > 20:
                (changing.source / f"passing-{number - 20:06d}").unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(3):
            with DirectoryStream(changing.mount) as stream:
                names = stream.read_all()
            assert len(names) == len(set(names))
            assert changing.names <= set(names)
    finally:
        stop.set()
        thread.join()


def test_listing_goes_on_past_what_has_vanished(changing: Folder) -> None:
    """A thousand in a row are gone between the first entries and the rest: the last ones come."""
    with DirectoryStream(changing.mount) as stream:
        first = {stream.read() for _ in range(10)}
        order = [os.fsencode(name) for name in os.listdir(changing.source)]
        last = order[-50:]
        for name in order[:-50]:
            os.unlink(os.path.join(os.fsencode(changing.source), name))
        time.sleep(1.1)  # what was known ahead of this lister is old by then
        rest = stream.read_all()
    assert set(last) <= set(rest)
    assert len(rest) == len(set(rest))
    assert not first & set(rest)


def test_listing_name_that_is_gone_before_its_status(changing: Folder) -> None:
    names = os.listdir(changing.mount)
    (changing.source / names[0]).unlink()
    time.sleep(2.2)  # the timeouts of the mount and of the source
    with pytest.raises(FileNotFoundError):
        os.stat(os.path.join(changing.mount, names[0]))
    assert os.stat(os.path.join(changing.mount, names[1])).st_size == int(names[1][-5:])


def test_listing_by_many_clients_at_once_is_the_same(many: Folder) -> None:
    answers: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(sorted(os.listdir(many.mount))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[_name(number) for number in range(COUNT)]] * 6
