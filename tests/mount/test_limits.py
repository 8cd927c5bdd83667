"""What the mount cannot do, as documented: holes, allocation, copies, writes, shared locks.

pyfuse3 hands over no lseek, fallocate, copy_file_range or lock requests; see docs/design.md.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.sample_tree import pattern
from tests.mount.shared_mounts import mount_in

CONTENT = pattern(3_000_001)
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("limits") / "source"
    (path / "sub").mkdir(parents=True)
    (path / "file").write_bytes(CONTENT)
    with open(path / "sparse", "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"data")
    return path


@pytest.fixture(scope="module")
def root(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mount_in(tmp_path_factory.mktemp("limits"), source) as tree:
        yield Path(tree.path)


@pytest.fixture
def opened(root: Path) -> Iterator[int]:
    fd = os.open(root / "file", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_limits_holes_are_not_seen(root: Path) -> None:
    fd = os.open(root / "sparse", os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        assert os.lseek(fd, 0, os.SEEK_HOLE) == size
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 1 << 20, os.SEEK_DATA) == 1 << 20
        with pytest.raises(OSError, match="No such device or address"):
            os.lseek(fd, size, os.SEEK_DATA)
        # The bytes are right all the same.
        assert os.pread(fd, 6, (4 << 20) - 1) == b"\0data\0"
    finally:
        os.close(fd)


_CHANGES: dict[str, Callable[[Path], object]] = {
    "open to write": lambda root: os.open(root / "file", os.O_WRONLY),
    "open to read and write": lambda root: os.open(root / "file", os.O_RDWR),
    "open to truncate": lambda root: os.open(root / "file", os.O_RDONLY | os.O_TRUNC),
    "create": lambda root: os.open(root / "new", os.O_CREAT | os.O_WRONLY),
    "mkdir": lambda root: os.mkdir(root / "new"),
    "mkfifo": lambda root: os.mkfifo(root / "new"),
    "symlink": lambda root: os.symlink("file", root / "new"),
    "link": lambda root: os.link(root / "file", root / "new"),
    "unlink": lambda root: os.unlink(root / "file"),
    "rmdir": lambda root: os.rmdir(root / "sub"),
    "rename": lambda root: os.rename(root / "file", root / "new"),
    "truncate": lambda root: os.truncate(root / "file", 0),
    "chmod": lambda root: os.chmod(root / "file", 0o600),
    "chown": lambda root: os.chown(root / "file", 1, 1),
    "utime": lambda root: os.utime(root / "file", (1, 1)),
    "setxattr": lambda root: os.setxattr(root / "file", "user.x", b"1"),
    "removexattr": lambda root: os.removexattr(root / "file", "user.x"),
}


@pytest.mark.parametrize("change", _CHANGES)
def test_limits_change_is_refused_as_on_a_read_only_mount(
    root: Path, source: Path, change: str
) -> None:
    before = sorted(os.listdir(source)), os.stat(source / "file")
    with pytest.raises(OSError) as refused:
        _CHANGES[change](root)
    assert refused.value.errno == errno.EROFS
    after = sorted(os.listdir(source)), os.stat(source / "file")
    assert before[0] == after[0]
    assert before[1].st_ctime_ns == after[1].st_ctime_ns


def test_limits_write_and_allocation_need_a_descriptor_that_nobody_gets(opened: int) -> None:
    for change in (
        lambda: os.write(opened, b"x"),
        lambda: os.ftruncate(opened, 1),
        lambda: os.posix_fallocate(opened, 0, 1),
        lambda: os.copy_file_range(opened, opened, 10, 0, 100),
    ):
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno in (errno.EBADF, errno.EINVAL)


def test_limits_copy_file_range_out_of_the_mount_is_right(opened: int, tmp_path: Path) -> None:
    """Between two file systems the kernel copies by itself or says EXDEV, as from any mount."""
    with open(tmp_path / "copy", "wb") as copy:
        try:
            copied = os.copy_file_range(opened, copy.fileno(), 100_000, 0, 0)
        except OSError as error:
            assert error.errno in (errno.EXDEV, errno.EOPNOTSUPP)
            return
    assert (tmp_path / "copy").read_bytes() == CONTENT[:copied]


def test_limits_sendfile_is_right(opened: int, tmp_path: Path) -> None:
    with open(tmp_path / "copy", "wb") as copy:
        sent = 0
        while count := os.sendfile(copy.fileno(), opened, sent, 1 << 20):
            sent += count
    assert (tmp_path / "copy").read_bytes() == CONTENT


_TRY_LOCK = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("locked")
except BlockingIOError:
    print("busy")
"""


def _lock_from_another_process(path: Path) -> str:
    command = [sys.executable, "-c", _TRY_LOCK, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_limits_locks_work_within_the_mount_and_are_local_to_it(
    opened: int, root: Path, source: Path
) -> None:
    fcntl.flock(opened, fcntl.LOCK_EX)
    assert _lock_from_another_process(root / "file") == "busy"
    assert _lock_from_another_process(source / "file") == "locked"
    fcntl.flock(opened, fcntl.LOCK_UN)
    assert _lock_from_another_process(root / "file") == "locked"


def test_limits_record_locks_are_local_to_the_mount(opened: int, source: Path) -> None:
    fcntl.lockf(opened, fcntl.LOCK_SH, 10, 0)
    with open(source / "file", "r+b") as file:
        # From the same process it would be granted in any case; asked for by another.
        child = os.fork()
        if child == 0:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
            except OSError:
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("size", [4096, 65_536, 1 << 20])
def test_limits_direct_reads_are_right(root: Path, size: int) -> None:
    """The flag is dropped at the source, which may want aligned buffers."""
    fd = os.open(root / "file", os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, size)  # page-aligned
    try:
        for offset in (0, 4096, 1 << 20, len(CONTENT) // 4096 * 4096):
            count = os.preadv(fd, [buffer], offset)
            assert buffer[:count] == CONTENT[offset : offset + size]
        assert os.preadv(fd, [buffer], (len(CONTENT) // 4096 + 1) * 4096) == 0
    finally:
        buffer.close()
        os.close(fd)


def test_limits_direct_read_beside_cached_reads_and_a_mapping_is_right(root: Path) -> None:
    with open(root / "file", "rb") as cached:
        mapped = mmap.mmap(cached.fileno(), 0, prot=mmap.PROT_READ)
        fd = os.open(root / "file", os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, 1 << 20)
        try:
            assert cached.read(1000) == CONTENT[:1000]
            assert os.preadv(fd, [buffer], 0) == 1 << 20
            assert buffer[:] == CONTENT[: 1 << 20]
            assert mapped[:] == CONTENT
        finally:
            buffer.close()
            os.close(fd)
            mapped.close()


def test_limits_unknown_ioctl_is_refused_and_the_mount_lives(opened: int, root: Path) -> None:
    with pytest.raises(OSError) as refused:
        fcntl.ioctl(opened, 0x6601, b"\0" * 8)  # FS_IOC_GETFLAGS
    assert refused.value.errno in (errno.ENOTTY, errno.ENOSYS)
    assert (root / "file").stat().st_size == len(CONTENT)


def test_limits_extended_attribute_that_is_not_there(root: Path) -> None:
    with pytest.raises(OSError) as refused:
        os.getxattr(root / "file", "user.none")
    assert refused.value.errno == errno.ENODATA


def test_limits_sync_of_a_file_read_is_no_error(opened: int, root: Path) -> None:
    os.fsync(opened)
    os.fdatasync(opened)
    fd = os.open(root, os.O_RDONLY)
    os.fsync(fd)
    assert _libc.syncfs(fd) == 0
    os.close(fd)
