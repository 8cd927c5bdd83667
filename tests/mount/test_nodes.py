"""A node is one thing: renamed, replaced or exhausted, never another file's bytes."""

import errno
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fusemount.slowsource import SlowSource
from tests.mount.conftest import MountStarter
from tests.mount.harness import FUSEMOUNT, MountedTree
from tests.mount.shared_mounts import mount_in

# For so long the mount and a FUSE source may each go on with what they know.
_TIMEOUT_S = 0.2
_SEEN_S = 3 * _TIMEOUT_S
# More than the mount holds descriptors of.
WIDE = 400


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture(params=["local", "slow source"])
def mount(
    request: pytest.FixtureRequest, source: Path, tmp_path: Path
) -> Iterator[Callable[[], Path]]:
    """Mounts the source, as it is when called, and gives the mount's root."""
    with ExitStack() as stack:

        def make() -> Path:
            served = source
            if request.param == "slow source":
                served = tmp_path / "slow"
                served.mkdir()
                stack.enter_context(
                    SlowSource(
                        source, served, attr_timeout_s=_TIMEOUT_S, entry_timeout_s=_TIMEOUT_S
                    )
                )
            return Path(
                stack.enter_context(
                    mount_in(tmp_path, served, "--attribute-timeout", str(_TIMEOUT_S))
                ).path
            )

        yield make


def _worker_of(tree: MountedTree) -> int:
    with open(f"/proc/{tree.pid}/task/{tree.pid}/children", encoding="ascii") as file:
        (pid,) = map(int, file.read().split())
    return pid


def test_nodes_renamed_file_is_found_at_its_new_name_only(
    source: Path, mount: Callable[[], Path]
) -> None:
    (source / "a").write_bytes(b"content of a")
    root = mount()
    assert (root / "a").read_bytes() == b"content of a"
    os.rename(source / "a", source / "b")
    time.sleep(_SEEN_S)
    assert not (root / "a").exists()
    assert (root / "b").read_bytes() == b"content of a"


def test_nodes_swapped_files_of_one_size_and_time_are_told_apart(
    source: Path, mount: Callable[[], Path]
) -> None:
    """Same size; on a source without identities the times must tell."""
    for number, name in enumerate(("a", "b")):
        (source / name).write_bytes(name.encode() * 5000)
        os.utime(source / name, ns=(1, 1_500_000_000_000_000_000 + number))
    root = mount()
    assert (root / "a").read_bytes() == b"a" * 5000
    assert (root / "b").read_bytes() == b"b" * 5000
    os.rename(source / "a", source / "c")
    os.rename(source / "b", source / "a")
    os.rename(source / "c", source / "b")
    time.sleep(_SEEN_S)
    assert (root / "a").read_bytes() == b"b" * 5000
    assert (root / "b").read_bytes() == b"a" * 5000


def test_nodes_replaced_directory_shows_the_new_content(
    source: Path, mount: Callable[[], Path]
) -> None:
    """A model published by renaming a directory over its place."""
    (source / "current").mkdir()
    (source / "current" / "model").write_bytes(b"old model")
    (source / "current" / "only old").touch()
    root = mount()
    assert (root / "current" / "model").read_bytes() == b"old model"
    (source / "next").mkdir()
    (source / "next" / "model").write_bytes(b"the new model")
    os.rename(source / "current", source / "former")
    os.rename(source / "next", source / "current")
    time.sleep(_SEEN_S)
    assert os.listdir(root / "current") == ["model"]
    assert (root / "current" / "model").read_bytes() == b"the new model"
    assert (root / "former" / "model").read_bytes() == b"old model"


def test_nodes_file_replaced_by_a_directory_and_back(
    source: Path, mount: Callable[[], Path]
) -> None:
    (source / "x").write_bytes(b"a file")
    root = mount()
    assert (root / "x").read_bytes() == b"a file"
    (source / "x").unlink()
    (source / "x").mkdir()
    (source / "x" / "inside").touch()
    time.sleep(_SEEN_S)
    assert os.listdir(root / "x") == ["inside"]
    (source / "x" / "inside").unlink()
    (source / "x").rmdir()
    os.symlink("elsewhere", source / "x")
    time.sleep(_SEEN_S)
    assert os.readlink(root / "x") == "elsewhere"


def test_nodes_open_file_and_directory_outlive_a_rename(
    source: Path, mount: Callable[[], Path]
) -> None:
    (source / "before").mkdir()
    (source / "before" / "file").write_bytes(b"still the same")
    root = mount()
    directory = os.open(root / "before", os.O_RDONLY | os.O_DIRECTORY)
    file = os.open(root / "before" / "file", os.O_RDONLY)
    try:
        os.rename(source / "before", source / "after")
        time.sleep(_SEEN_S)
        assert os.pread(file, 100, 0) == b"still the same"
        assert os.fstat(file).st_size == 14
        assert os.listdir(directory) == ["file"]
        assert not (root / "before").exists()
        assert (root / "after" / "file").read_bytes() == b"still the same"
    finally:
        os.close(file)
        os.close(directory)


def test_nodes_working_directory_outlives_a_rename(source: Path, mount: Callable[[], Path]) -> None:
    (source / "before").mkdir()
    (source / "before" / "file").write_bytes(b"reached from within")
    root = mount()
    os.listdir(root / "before")
    script = "read line; cat file"
    with subprocess.Popen(
        ["sh", "-c", script],
        cwd=root / "before",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as inside:
        os.rename(source / "before", source / "after")
        time.sleep(_SEEN_S)
        output, _ = inside.communicate(b"\n")
    assert output == b"reached from within"


def test_nodes_handle_of_what_was_replaced_is_stale_or_its_own(
    source: Path, mount: Callable[[], Path]
) -> None:
    """An O_PATH descriptor holds the node while its name leads to another file."""
    (source / "x").write_bytes(b"first")
    root = mount()
    node = os.open(root / "x", os.O_PATH)
    try:
        (source / "new").write_bytes(b"another, longer")
        os.rename(source / "new", source / "x")
        time.sleep(_SEEN_S)
        try:
            with open(f"/proc/self/fd/{node}", "rb") as again:
                assert again.read() == b"first"
        except OSError as error:
            assert error.errno == errno.ESTALE
        assert (root / "x").read_bytes() == b"another, longer"
    finally:
        os.close(node)


def test_nodes_hard_linked_file_is_found_by_the_name_that_is_left(
    source: Path, mount: Callable[[], Path]
) -> None:
    (source / "sub").mkdir()
    (source / "one").write_bytes(b"linked")
    os.link(source / "one", source / "sub" / "two")
    root = mount()
    assert os.stat(root / "one").st_nlink == os.stat(root / "sub" / "two").st_nlink == 2
    node = os.open(root / "one", os.O_PATH)
    try:
        (source / "one").unlink()
        time.sleep(_SEEN_S)
        assert (root / "sub" / "two").read_bytes() == b"linked"
        assert os.stat(root / "sub" / "two").st_nlink == 1
        assert not (root / "one").exists()
    finally:
        os.close(node)


def _count_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_nodes_descriptors_are_bounded_over_many_directories(
    source: Path, mounted: MountStarter
) -> None:
    for number in range(WIDE):
        (source / f"d{number:03d}" / "below").mkdir(parents=True)
        (source / f"d{number:03d}" / "below" / "file").write_bytes(b"%d" % number)
    tree = mounted(source)
    worker = _worker_of(tree)
    before = _count_descriptors(worker)
    for number in range(WIDE):
        path = os.path.join(tree.path, f"d{number:03d}", "below", "file")
        with open(path, "rb") as file:
            assert file.read() == b"%d" % number
    after = _count_descriptors(worker)
    # 256 directories, and some that are being closed; 1,200 are known.
    assert after - before < 300
    # Those whose descriptors went are opened again by their names.
    for number in range(WIDE):
        assert os.listdir(os.path.join(tree.path, f"d{number:03d}", "below")) == ["file"]
    assert _count_descriptors(worker) - before < 300


def test_nodes_directory_deeper_than_the_descriptors_reach_is_found_again(
    source: Path, mounted: MountStarter
) -> None:
    """700 levels below the root every descriptor above has gone, and is found from the root."""
    levels = 700
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir(b"d", dir_fd=fd)
        below = os.open(b"d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.mkdir(b"bottom", dir_fd=fd)
    os.close(fd)
    for number in range(WIDE):
        (source / f"wide{number:03d}").mkdir()
    try:
        tree = mounted(source)
        fd = os.open(tree.path, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(levels):
            below = os.open(b"d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        for number in range(WIDE):
            os.listdir(os.path.join(tree.path, f"wide{number:03d}"))
        assert os.listdir(fd) == ["bottom"]
        os.close(fd)
        assert "Traceback" not in tree.log()
    finally:
        subprocess.run(["rm", "-rf", "--", source], check=True)


def test_nodes_descriptors_exhausted_is_the_clients_error_and_passes(
    source: Path, mounted: MountStarter
) -> None:
    for number in range(60):
        (source / f"file-{number}").write_bytes(b"%d" % number)
    tree = mounted(source)
    worker = _worker_of(tree)
    held = [os.open(os.path.join(tree.path, "file-0"), os.O_RDONLY)]
    limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    few = max(map(int, os.listdir(f"/proc/{worker}/fd"))) + 6
    try:
        subprocess.run(["prlimit", "--pid", str(worker), f"--nofile={few}:{limits[1]}"], check=True)
        with pytest.raises(OSError) as refused:
            for number in range(1, 60):
                held.append(os.open(os.path.join(tree.path, f"file-{number}"), os.O_RDONLY))
        assert refused.value.errno == errno.EMFILE
        # What is open is served on, and what needs no descriptor too.
        assert os.pread(held[0], 10, 0) == b"0"
        assert os.stat(os.path.join(tree.path, "file-59")).st_size == 2
    finally:
        for fd in held:
            os.close(fd)
    time.sleep(0.5)  # closed by a thread
    with open(os.path.join(tree.path, "file-59"), "rb") as file:
        assert file.read() == b"59"
    resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
    assert tree.status()["reads"]["errors"] == 0
    assert tree.process.poll() is None


def test_nodes_status_asked_for_without_descriptors_does_not_end_the_mount(
    source: Path, mounted: MountStarter
) -> None:
    (source / "file").write_bytes(b"alive")
    tree = mounted(source)
    worker = _worker_of(tree)
    limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    asking = None
    try:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, limits[1]))
        asking = subprocess.Popen(
            [*FUSEMOUNT, "status", tree.path],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        time.sleep(1.0)
        assert os.stat(os.path.join(tree.path, "file")).st_size == 5
        assert tree.process.poll() is None
    finally:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
        if asking is not None:
            output, _ = asking.communicate(timeout=30)
            assert asking.returncode == 0, output
