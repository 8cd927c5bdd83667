"""What is mounted where, by mountinfo's own spelling."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemount.mountinfo import Mount, MountWatch, find_mount, read_mounts, resolve_mountpoint

# What the kernel writes as a backslash and three octal digits.
_ESCAPED = b" \t\n\\"
NAMES = st.lists(
    st.one_of(st.sampled_from([bytes([c]) for c in _ESCAPED]), st.binary(min_size=1, max_size=3)),
    min_size=1,
    max_size=8,
).map(lambda parts: b"/" + b"".join(parts).replace(b"\0", b"0"))


def escape(field: bytes) -> bytes:
    return b"".join(b"\\%03o" % c if c in _ESCAPED else bytes([c]) for c in field)


def line(mountpoint: bytes, source: bytes = b"src", optional: bytes = b"") -> bytes:
    return b"36 35 0:71 / %s rw,noatime %s- fuse.fusemount %s rw,user_id=0\n" % (
        escape(mountpoint),
        optional,
        escape(source),
    )


def read(tmp_path: Path, content: bytes) -> list[Mount]:
    path = tmp_path / "mountinfo"
    path.write_bytes(content)
    return read_mounts(str(path))


@given(mountpoint=NAMES, source=NAMES)
def test_any_name_comes_back_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, mountpoint: bytes, source: bytes
) -> None:
    directory = Path(tmp_path_factory.getbasetemp())
    (mount,) = read(directory, line(mountpoint, source))
    assert mount == Mount(mountpoint, "fuse.fusemount", source, (0, 71))


@pytest.mark.parametrize("optional", [b"", b"shared:1 ", b"shared:1 master:2 "])
def test_optional_fields_are_passed_over(tmp_path: Path, optional: bytes) -> None:
    (mount,) = read(tmp_path, line(b"/m", b"src", optional))
    assert (mount.mountpoint, mount.source) == (b"/m", b"src")


def test_source_may_be_empty(tmp_path: Path) -> None:
    (mount,) = read(tmp_path, line(b"/m", b""))
    assert mount.source == b""


def test_backslash_before_digits_in_a_name_is_no_escape(tmp_path: Path) -> None:
    (mount,) = read(tmp_path, line(b"/m\\040x"))
    assert mount.mountpoint == b"/m\\040x"


def test_topmost_of_several_mounts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [
        Mount(b"/m", "ext4", b"low", (8, 1)),
        Mount(b"/m", "fuse", b"high", (0, 2)),
        Mount(b"/m/x", "proc", b"other", (0, 3)),
    ]
    monkeypatch.setattr("fusemount.mountinfo.read_mounts", lambda: mounts)
    assert find_mount(b"/m") == mounts[1]
    assert find_mount(b"/m/") is None


def test_this_machine_has_a_root_and_a_proc() -> None:
    kinds = {mount.mountpoint: mount.filesystem_type for mount in read_mounts()}
    assert b"/" in kinds
    assert kinds[b"/proc"] == "proc"


def test_links_to_a_mount_point_are_resolved(tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "m").mkdir(parents=True)
    (tmp_path / "above").symlink_to("real")
    (tmp_path / "link").symlink_to("above/m")
    assert resolve_mountpoint(str(tmp_path / "link")) == os.path.realpath(real / "m")
    assert resolve_mountpoint(f"{tmp_path}/above/./m/") == os.path.realpath(real / "m")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert os.path.dirname(resolve_mountpoint(str(tmp_path / "a"))) == os.path.realpath(tmp_path)


def test_watch_sees_what_is_mounted_below(tmp_path: Path) -> None:
    table, below = tmp_path / "mountinfo", tmp_path / "root" / "sub"
    times = itertools.count(0.0, 10.0)
    below.mkdir(parents=True)

    def mount(*places: tuple[Path, str]) -> None:
        table.write_text(
            "".join(f"36 35 98:0 / {path} rw - {kind} from rw\n" for path, kind in places)
        )

    fd = os.open(tmp_path / "root", os.O_PATH)
    try:
        watch = MountWatch(fd, str(table))
        assert not watch.may_hang(next(times))  # no table: nothing is known
        elsewhere = ((tmp_path / "root-2", "fuse.x"), (tmp_path / "root", "nfs"))
        mount(*elsewhere, (below, "ext4"))
        assert not watch.may_hang(next(times))
        for kind in ("fuse.bindfs", "nfs4", "autofs"):
            mount(*elsewhere, (below, kind))
            assert watch.may_hang(next(times)), kind
            mount(*elsewhere)
            assert not watch.may_hang(next(times))
    finally:
        os.close(fd)
