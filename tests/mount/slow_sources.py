"""Fixtures: slow sources, and files whose every byte says which version and place it is from.

A slow source is taken away after the mounts above it: name `slow_source` before `mounted`.
"""

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from fusemount.slowsource import SlowSource

MIB = 1024 * 1024
_POLL_S = 0.02


class SlowSourceStarter(Protocol):
    """`slow_source(directory, **options)`: a running slow source of the directory."""

    def __call__(self, directory: Path, **options: Any) -> SlowSource: ...


@pytest.fixture
def slow_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowSourceStarter]:
    """Start slow sources in new, empty directories; nothing hangs in them when they are ended."""
    with contextlib.ExitStack() as stack:

        def start(directory: Path, **options: Any) -> SlowSource:
            slow = SlowSource(directory, tmp_path_factory.mktemp("slow"), **options)
            stack.enter_context(slow)
            stack.callback(_clear, slow)
            return slow

        yield start


def _clear(slow: SlowSource) -> None:
    with contextlib.suppress(OSError):  # a test may have ended it
        slow.clear_faults()


def make_bytes(size: int, seed: object) -> bytes:
    """Bytes that are the same for the same seed, and nowhere alike for another place or seed."""
    source = random.Random(f"{seed}")
    whole, rest = divmod(size, 64 * MIB)
    return b"".join(map(source.randbytes, (*[64 * MIB] * whole, rest)))


def make_gguf(size: int, seed: object) -> bytes:
    """`make_bytes`, with the head by which the catalogue knows a model."""
    return b"GGUF" + make_bytes(size - 4, seed)


def forget_pages(path: str | os.PathLike[str]) -> None:
    """Have the kernel drop its pages of a file: the next reads reach the mount."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def write_file(path: Path, content: bytes, *, age_s: float = 60.0) -> None:
    """Write a file that looks as if it had been left alone for `age_s` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    moment = time.time() - age_s
    os.utime(path, (moment, moment))


def read_at(fd: int, offset: int, size: int) -> bytes:
    """[offset, offset + size) of an open file, fewer bytes only at its end."""
    parts = []
    while size:
        part = os.pread(fd, size, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


def read_whole(path: str | os.PathLike[str], piece_bytes: int = MIB) -> bytes:
    """A whole file by plain reads of `piece_bytes`."""
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(fd, piece_bytes):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def wait_until(holds: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    """Return once `holds()`; fail the test after `deadline_s`."""
    deadline = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(_POLL_S)
