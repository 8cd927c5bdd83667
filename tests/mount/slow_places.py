"""What the slow source's tests share: places to mount, waiting, a running command."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusemount.mountinfo import find_mount

FUSEMOUNT = [sys.executable, "-m", "fusemount", "slow-source"]
MIB = 1 << 20
DEADLINE_S = 20.0


class Places:
    """An empty source and an empty mount point."""

    def __init__(self, root: Path) -> None:
        self.source, self.mountpoint = root / "source", root / "mount"
        self.source.mkdir()
        self.mountpoint.mkdir()

    def write(self, name: str, content: bytes) -> bytes:
        (self.source / name).write_bytes(content)
        return content

    def is_mounted(self) -> bool:
        return find_mount(os.fsencode(self.mountpoint.resolve())) is not None


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {DEADLINE_S} s: {what}")
        time.sleep(0.005)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fails_with(number: int, call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as error:
        return error.errno == number
    return False


@contextlib.contextmanager
def running(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """The command once it has said ready; it must end with 0 at SIGTERM or have ended so."""
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        try:
            assert line == b"ready " + os.fsencode(command[-1]) + b"\n"
            yield process
        finally:
            process.terminate()
            code = process.wait(DEADLINE_S)
        assert process.stderr.read() == b""
        assert code == 0
