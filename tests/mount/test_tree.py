"""Everything a tree can hold is shown as it is: bytes, metadata, attributes, on every source."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fusemount.identity import Identifier
from fusemount.slowsource import SlowSource
from tests.mount.observation import (
    attributes,
    differences,
    digests,
    find_printed,
    printed_by,
    statuses,
)
from tests.mount.sample_tree import (
    DEEP_LEVELS,
    DEEP_NAME,
    GIB,
    SPARSE_DATA,
    SPARSE_SIZE_BYTES,
    make_tree,
)
from tests.mount.shared_mounts import mount_in

MANY = frozenset({b"many"})


@dataclass(frozen=True)
class View:
    """A tree and its mount; `stable`: whether the mount's source has identities."""

    source: bytes
    mount: bytes
    stable: bool


def _remove(path: Path) -> None:
    subprocess.run(["rm", "-rf", "--", path], check=True)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, bytes]]:
    """The sample tree by the number of files in its large folder."""
    made = {}
    directory = tmp_path_factory.mktemp("trees")
    for many in (10_000, 300):
        root = directory / str(many)
        root.mkdir()
        make_tree(os.fsencode(root), many)
        made[many] = os.fsencode(root)
    yield made
    _remove(directory)


@pytest.fixture(scope="module", params=["local", "slow source", "no C part"])
def view(
    request: pytest.FixtureRequest,
    trees: dict[int, bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[View]:
    """The tree mounted from each kind of source, for all tests of this module."""
    kind: str = request.param
    tree = trees[300 if kind == "no C part" else 10_000]
    directory = tmp_path_factory.mktemp("view")
    with ExitStack() as stack:
        source: str | bytes = tree
        if kind == "slow source":
            source = str(directory / "slow")
            os.mkdir(source)
            stack.enter_context(SlowSource(os.fsdecode(tree), source, latency_ms=1.0))
        environment = {"FUSEMOUNT_NO_C_PART": "1"} if kind == "no C part" else {}
        mount = stack.enter_context(mount_in(directory, source, environment=environment))
        assert mount.status()["c_part"] == (kind != "no C part")
        fd = os.open(source, os.O_PATH | os.O_DIRECTORY)
        stable = Identifier().find_open(fd, os.fstat(fd)) is not None
        os.close(fd)
        assert not (stable and kind == "slow source")
        yield View(tree, mount.path_bytes, stable)


def test_tree_metadata_of_every_node_is_the_sources(view: View) -> None:
    expected: dict[bytes, Any] = find_printed(view.source)
    assert len(expected) > 300 + DEEP_LEVELS
    assert not differences(expected, dict(find_printed(view.mount)))


def test_tree_device_numbers_and_times_to_the_nanosecond_are_the_sources(view: View) -> None:
    expected: dict[bytes, Any] = dict(statuses(view.source))
    assert expected[b"size-1"][2] == 987_654_321_000_000_001
    assert not differences(expected, dict(statuses(view.mount)))


def test_tree_extended_attributes_and_acls_are_the_sources(view: View) -> None:
    expected: dict[bytes, Any] = dict(attributes(view.source, MANY))
    if not any(expected.values()):
        pytest.skip("the file system below the temporary directory has no extended attributes")
    assert not differences(expected, dict(attributes(view.mount, MANY)))


@pytest.mark.parametrize(
    "command",
    [["getfacl", "-R", "-n", "-P", "--"], ["getfattr", "-R", "-d", "-h", "-m", "-", "--"]],
    ids=["getfacl", "getfattr"],
)
def test_tree_looks_the_same_to_the_attribute_tools(view: View, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed; raw attributes are compared in any case")
    # The tools themselves stop at PATH_MAX, and 10,000 plain files add nothing.
    names = [
        os.path.join(".", os.fsdecode(name))
        for name in sorted(os.listdir(view.source))
        if name not in (DEEP_NAME, b"many")
    ]
    here = printed_by([*command, *names], view.source)
    assert len(here) > 2
    assert printed_by([*command, *names], view.mount) == here


def test_tree_regular_files_are_equal_byte_for_byte(view: View) -> None:
    expected: dict[bytes, Any] = dict(digests(view.source, MANY))
    assert b"/".join([DEEP_NAME] * DEEP_LEVELS + [b"bottom"]) in expected
    assert not differences(expected, dict(digests(view.mount, MANY)))


def test_tree_checksum_tool_agrees(view: View) -> None:
    names = [name for name in os.listdir(view.source) if name.startswith(b"size-")]
    command = [b"sha256sum", b"--", *sorted(names)]
    sums = [
        subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
        for root in (view.source, view.mount)
    ]
    assert sums[0] == sums[1]
    assert sums[0].count(b"\n") == len(names) == 6


def _sparse_pieces() -> list[tuple[int, int]]:
    places = [*SPARSE_DATA, 2 * GIB, 4 * GIB, SPARSE_SIZE_BYTES]
    return [(max(0, place - 70_000), 140_000) for place in places]


def test_tree_sparse_file_over_4_gib_reads_right_around_its_data(view: View) -> None:
    for root in (view.source, view.mount):
        fd = os.open(os.path.join(root, b"sparse"), os.O_RDONLY)
        try:
            assert os.fstat(fd).st_size == SPARSE_SIZE_BYTES
            for offset, data in SPARSE_DATA.items():
                assert os.pread(fd, len(data), offset) == data
            for offset, size in _sparse_pieces():
                expected = bytearray(min(size, SPARSE_SIZE_BYTES - offset))
                for place, data in SPARSE_DATA.items():
                    for index, byte in enumerate(data):
                        if 0 <= place + index - offset < len(expected):
                            expected[place + index - offset] = byte
                assert os.pread(fd, size, offset) == expected
            assert os.pread(fd, 10, SPARSE_SIZE_BYTES) == b""
        finally:
            os.close(fd)


@pytest.mark.long
def test_tree_sparse_file_is_equal_as_a_whole(view: View) -> None:
    paths = [os.path.join(root, b"sparse") for root in (view.source, view.mount)]
    subprocess.run([b"cmp", b"--", *paths], check=True)


def test_tree_hard_links_are_one_file_where_the_source_can_tell(view: View) -> None:
    one = os.stat(os.path.join(view.mount, b"hard one"))
    two = os.stat(os.path.join(view.mount, b"sub", b"hard two"))
    assert one.st_nlink == two.st_nlink == 2
    if view.stable:
        assert one.st_ino == two.st_ino
    inside = os.stat(os.path.join(view.mount, b"link inside"))
    assert inside.st_ino == two.st_ino


def test_tree_number_of_a_node_stays_while_it_is_in_use(view: View) -> None:
    fd = os.open(os.path.join(view.mount, b"size-4096"), os.O_RDONLY)
    try:
        before = os.fstat(fd).st_ino
        os.listdir(os.path.join(view.mount, b"many"))
        assert os.stat(os.path.join(view.mount, b"size-4096")).st_ino == before
    finally:
        os.close(fd)


def test_tree_links_lead_where_their_text_says(view: View) -> None:
    with open(os.path.join(view.mount, b"link outside"), "rb") as file:
        assert file.read() == Path("/etc/passwd").read_bytes()
    with pytest.raises(FileNotFoundError):
        os.stat(os.path.join(view.mount, b"link dangling"))
    with pytest.raises(OSError, match="Too many levels"):
        os.stat(os.path.join(view.mount, b"link to itself"))
    assert os.listdir(os.path.join(view.mount, b"link to directory")) == [b"hard two"]


def test_tree_name_longer_than_255_bytes_is_refused_and_255_is_found(view: View) -> None:
    assert os.path.exists(os.path.join(view.mount, b"n" * 255))
    with pytest.raises(OSError, match="File name too long"):
        os.stat(os.path.join(view.mount, b"n" * 256))


def test_tree_device_nodes_cannot_be_used(view: View) -> None:
    path = os.path.join(view.mount, b"device char")
    if not os.path.exists(os.path.join(view.source, b"device char")):
        pytest.skip("device nodes cannot be made here")
    with pytest.raises(PermissionError):
        os.open(path, os.O_RDONLY)


def test_tree_file_system_totals_are_the_sources(view: View) -> None:
    here, there = os.statvfs(view.source), os.statvfs(view.mount)
    assert (there.f_frsize, there.f_blocks, there.f_files, there.f_namemax) == (
        here.f_frsize,
        here.f_blocks,
        here.f_files,
        here.f_namemax,
    )
    assert there.f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV) == (
        os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV
    )
