"""A real mount for a test: `fusemount mount` as a child process, watched until it has ended.

Knows only what a user sees: the command line, the line that says ready, the exit code. At the
end the process must have ended with the expected code, without a traceback, and unmounted.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from fusemount.mountinfo import find_mount
from tests.leftovers import detach

FUSEMOUNT = (sys.executable, "-m", "fusemount")
_READY = re.compile(r"\bready\b")
_READY_DEADLINE_S = 30.0
_STOP_DEADLINE_S = 15.0
_POLL_S = 0.01


class MountedTree:
    """One running mount; `path` is its root. Set `expected_*` where a test breaks it on purpose."""

    def __init__(self, process: "subprocess.Popen[bytes]", mountpoint: str, log_path: str) -> None:
        self.process = process
        self.path = mountpoint
        self.log_path = log_path
        self.expected_exit_codes = {0}
        self.expected_traceback = False

    @property
    def path_bytes(self) -> bytes:
        """The root as bytes, for names that are no text."""
        return os.fsencode(self.path)

    @property
    def pid(self) -> int:
        """The process that was started: the supervisor."""
        return self.process.pid

    def log(self) -> str:
        """Everything written to standard error so far."""
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def status(self) -> dict[str, Any]:
        """What `fusemount status --json` says of this mount."""
        answer = subprocess.run(
            [*FUSEMOUNT, "status", "--json", self.path],
            capture_output=True,
            timeout=_STOP_DEADLINE_S,
            check=False,
        )
        if answer.returncode != 0:
            pytest.fail(f"fusemount status: {answer.stderr.decode(errors='replace')}")
        status: dict[str, Any] = json.loads(answer.stdout)
        return status

    def is_mounted(self) -> bool:
        """Whether anything is mounted at `path`; touches no mount."""
        # Only the parent is resolved: resolving the root itself would ask a dead mount.
        parent, name = os.path.split(self.path_bytes)
        return find_mount(os.path.join(os.path.realpath(parent), name)) is not None

    def terminate(self, signal_number: int = signal.SIGTERM) -> int:
        """Ask the process to end and wait up to 15 s: its exit code. Fails the test beyond."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        try:
            return self.process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"still there {_STOP_DEADLINE_S:.0f} s after signal {signal_number}")

    def wait_until_ready(self) -> None:
        """Return once standard error says ready; fails the test if it ends or 30 s pass first."""
        deadline = time.monotonic() + _READY_DEADLINE_S
        while not _READY.search(self.log()):
            if self.process.poll() is not None:
                pytest.fail(f"mount ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                pytest.fail(f"mount not ready after {_READY_DEADLINE_S:.0f} s:\n{self.log()}")
            time.sleep(_POLL_S)

    def finish(self) -> None:
        """End it, remove what it left, and fail the test on anything that should not be."""
        problems = []
        try:
            code = self.terminate()
            if code not in self.expected_exit_codes:
                problems.append(f"exit code {code}, expected {sorted(self.expected_exit_codes)}")
        except pytest.fail.Exception as failure:
            problems.append(str(failure))
        if self.is_mounted():
            detach(self.path_bytes)
            problems.append("left mounted")
        log = self.log()
        if "Traceback" in log and not self.expected_traceback:
            problems.append("a traceback on standard error")
        if problems:
            pytest.fail(f"mount: {'; '.join(problems)}\n{log}", pytrace=False)


def start_mount(
    source: str | bytes,
    mountpoint: str,
    options: Sequence[str] = (),
    *,
    log_path: str,
    command: Sequence[str] = (*FUSEMOUNT, "mount"),
    environment: Mapping[str, str] | None = None,
) -> MountedTree:
    """Run `command` SOURCE MOUNTPOINT OPTIONS with `environment` added; does not wait for ready.

    The caller ends it with `finish`. It is in a session of its own, so that Ctrl-C on the test
    run reaches it through `finish` only.
    """
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [*command, source, mountpoint, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    return MountedTree(process, mountpoint, log_path)
