"""Where a measurement happens: a directory of its own, with room, files and mount points.

Invariant: everything made is below one new directory, which is removed at the end.
"""

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator

from fusemount.errors import UsageError

_MIB = 1024 * 1024
# Logs and folders; and a disk filled to its last block is slow.
_SPARE_BYTES = 64 * _MIB


@contextlib.contextmanager
def temporary_workplace(directory: str | None, needed_bytes: int) -> Iterator[str]:
    """A new directory in `directory`, or where temporary files go, with that much room.

    Raises UsageError where there is too little, or nothing can be made.
    """
    needed_bytes += _SPARE_BYTES
    parents = [directory] if directory is not None else [tempfile.gettempdir(), "/var/tmp"]
    parent = next((place for place in parents if _free_bytes(place) >= needed_bytes), None)
    if parent is None:
        free_mib = _free_bytes(parents[0]) // _MIB
        raise UsageError(
            f"{parents[0]}: {free_mib} MiB free, {needed_bytes // _MIB} MiB are needed:"
            " choose --directory on a larger disk, or less to read"
        )
    try:
        place = tempfile.mkdtemp(prefix="fusemount-bench-", dir=parent)
    except OSError as error:
        raise UsageError(f"{parent}: {error.strerror}: choose another --directory") from error
    try:
        yield os.path.realpath(place)
    finally:
        shutil.rmtree(place)


@contextlib.contextmanager
def mount_point(workplace: str) -> Iterator[str]:
    """A new empty directory in `workplace`."""
    path = tempfile.mkdtemp(prefix="mount-", dir=workplace)
    try:
        yield path
    finally:
        os.rmdir(path)


def write_file(path: str, size_bytes: int) -> None:
    """A file without two equal blocks, the same in every run; it is in the page cache then."""
    block = bytearray(random.Random(size_bytes).randbytes(_MIB))
    with open(path, "wb", buffering=0) as file:
        for offset in range(0, size_bytes, _MIB):
            block[:8] = offset.to_bytes(8, "little")
            file.write(memoryview(block)[: size_bytes - offset])


def write_folder(path: str, files: int) -> None:
    """A folder of that many small files."""
    os.mkdir(path)
    for number in range(files):
        with open(os.path.join(path, f"part-{number:06}.bin"), "wb") as file:
            file.write(b"%d\n" % number)


def _free_bytes(directory: str) -> int:
    try:
        return shutil.disk_usage(directory).free
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}: choose another --directory") from error
