"""File systems mounted for a measurement: a child process that serves, awaited, asked, ended.

Knows only command lines and what /proc shows. Invariant: after `close`, also after a failed
`start`, the process has been reaped and nothing is mounted at its mount point.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any, Self

from fusemount.bench.endings import end_with_parent
from fusemount.client import ask
from fusemount.errors import MountError
from fusemount.handshake import unmount
from fusemount.mountinfo import find_mount

_START_DEADLINE_S = 30.0
# The supervisor detaches a busy mount after 2 s and gives its worker 4 s at most.
_STOP_DEADLINE_S = 15.0
_POLL_S = 0.005
# What a process says before it is ready, or why it is not.
_LOG_BYTES = 65536
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time that process `pid` has used; in steps of 10 ms, as /proc counts."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class ServedMount:
    """`command`, which serves `mountpoint` in the foreground, for the length of a `with`.

    `mountpoint` is an existing empty directory. Raises MountError with what the process said if
    it has not mounted within 30 s.
    """

    def __init__(self, name: str, command: Sequence[str], mountpoint: str) -> None:
        self.name = name
        self.mountpoint = os.path.realpath(mountpoint)
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._log: IO[bytes] = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                # Ctrl-C is its owner's, who first ends those that read from it.
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        except OSError as error:
            self._log.close()
            raise MountError(f"{self.name}: {self._command[0]}: {error.strerror}") from error
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process that answers requests, for its CPU time."""
        assert self._process is not None
        return self._process.pid

    def status(self) -> dict[str, Any] | None:
        """What the mount says of itself; None: it says nothing."""
        return None

    def close(self) -> None:
        """End the process with SIGTERM, after 15 s with SIGKILL and a lazy unmount."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        if self._is_mounted():
            unmount(self.mountpoint, os.geteuid() == 0, detach=True)
        process.wait()
        self._log.close()

    def _is_ready(self) -> bool:
        return self._is_mounted()

    def _is_mounted(self) -> bool:
        return find_mount(os.fsencode(self.mountpoint)) is not None

    def _said(self) -> str:
        # By position: the process writes where the shared offset stands.
        said = os.pread(self._log.fileno(), _LOG_BYTES, 0)
        return said.decode(errors="replace").strip()

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + _START_DEADLINE_S
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise MountError(f"{self.name}: {self._said() or 'did not mount'}")
            time.sleep(_POLL_S)


class OwnMount(ServedMount):
    """`fusemount mount SOURCE MOUNTPOINT OPTIONS`."""

    def __init__(
        self, source: str, mountpoint: str, options: Sequence[str] = (), name: str = "fusemount"
    ) -> None:
        command = [sys.executable, "-P", "-m", "fusemount", "mount", source, mountpoint, *options]
        super().__init__(name, command, mountpoint)

    @property
    def pid(self) -> int:
        """The worker's: the supervisor answers no request."""
        pid: int = self.status()["worker"]["pid"]
        return pid

    def status(self) -> dict[str, Any]:
        """The status document. Raises MountError where the mount does not answer."""
        return ask(self.mountpoint, "GET", "/status")

    def _is_ready(self) -> bool:
        return f"ready {self.mountpoint}" in self._said()
