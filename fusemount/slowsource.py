"""A slow source for benchmarks, the demonstration and fault tests: started, asked, ended.

`SlowSource` runs `fusemount slow-source` as a child process and speaks to its control socket;
`SlowSourceControl` speaks to one that somebody else started. Neither touches the mount. Invariant:
the child ends and unmounts when its owner closes it, and also when the owner dies: they share a
pipe, and the child watches for its end.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from fusemount.errors import MountError, UsageError
from fusemount.mountinfo import find_mount
from fusemount.slowsource_values import Fault, Pace, Presentation, Stats

_START_DEADLINE_S = 30.0
_STOP_DEADLINE_S = 10.0
_ANSWER_DEADLINE_S = 10.0
_POLL_S = 0.005


class SlowSourceControl:
    """The control socket at `control_path` of a running slow source."""

    def __init__(self, control_path: str) -> None:
        self.control_path = control_path

    def stats(self) -> Stats:
        """Counters since the last reset."""
        return Stats.from_json(self._ask("stats")["stats"])

    def reset_stats(self) -> None:
        """Set all counters to zero; what is in flight stays counted as such."""
        self._ask("reset-stats")

    def set_fault(
        self,
        action: str,
        *,
        op: str = "read",
        path: str = "",
        nth: int = 1,
        count: int = 0,
        short_bytes: int = 0,
    ) -> None:
        """Add a rule after those that are set; the first that applies wins. Fields as in Fault.

        Matching requests are counted from now on. Raises UsageError for a rule that cannot be.
        """
        fault = Fault(
            action=action, op=op, path=path, nth=nth, count=count, short_bytes=short_bytes
        )
        self._ask("set-fault", **asdict(fault))

    def clear_faults(self) -> int:
        """Drop all rules and let hung requests go on; returns how many went on."""
        released: int = self._ask("clear-faults")["released"]
        return released

    def release(self) -> int:
        """Let the requests go on that hang now; rules stay. Returns how many went on."""
        released: int = self._ask("release")["released"]
        return released

    def set_pace(
        self, *, latency_ms: float = 0.0, stream_mbps: float = 0.0, total_mbps: float = 0.0
    ) -> None:
        """Change all of the pace for requests that arrive from now on; 0 is no limit."""
        pace = Pace(latency_ms=latency_ms, stream_mbps=stream_mbps, total_mbps=total_mbps)
        self._ask("set-pace", **asdict(pace))

    def move_inodes(self) -> int:
        """Under moving inodes, give every known file the number of another; returns how many."""
        moved: int = self._ask("move-inodes")["moved"]
        return moved

    def _ask(self, command: str, **fields: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_DEADLINE_S)
            connection.connect(self.control_path)
            connection.sendall(json.dumps({"command": command, **fields}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer: dict[str, Any] = json.loads(stream.readline())
        if not answer.pop("ok"):
            raise UsageError(answer["error"])
        return answer


class SlowSource(SlowSourceControl):
    """A directory served slowly for the length of a `with`.

    `source` and `mountpoint` are existing directories, `mountpoint` empty. Options are the fields
    of Pace and Presentation by name, rates and latency unlimited by default; `allow_other` is on
    for root. Raises MountError, with what the process said, if it does not mount within 30 s.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        mountpoint: str | os.PathLike[str],
        *,
        latency_ms: float = 0.0,
        stream_mbps: float = 0.0,
        total_mbps: float = 0.0,
        attr_timeout_s: float = 1.0,
        entry_timeout_s: float = 1.0,
        list_page_entries: int = 1000,
        max_read_kib: int = 1024,
        page_cache: bool = False,
        readdirplus: bool = True,
        moving_inodes: bool = False,
        allow_other: bool | None = None,
    ) -> None:
        self.source = os.path.realpath(source)
        self.mountpoint = os.path.realpath(mountpoint)
        self._pace = Pace(latency_ms=latency_ms, stream_mbps=stream_mbps, total_mbps=total_mbps)
        self._presentation = Presentation(
            attr_timeout_s=attr_timeout_s,
            entry_timeout_s=entry_timeout_s,
            list_page_entries=list_page_entries,
            max_read_kib=max_read_kib,
            page_cache=page_cache,
            readdirplus=readdirplus,
            moving_inodes=moving_inodes,
            allow_other=os.geteuid() == 0 if allow_other is None else allow_other,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
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
        """The process that serves, for signals; only while it is started."""
        if self._process is None:
            raise MountError(f"slow source {self.mountpoint}: not started")
        return self._process.pid

    def start(self) -> None:
        """Start the process and return once the mount can be used; at most once at a time."""
        if self._process is not None:
            raise MountError(f"slow source {self.mountpoint}: already started")
        self._directory = tempfile.mkdtemp(prefix="slow-source-")
        self.control_path = os.path.join(self._directory, "control")
        self._log_path = os.path.join(self._directory, "log")
        watched, self._lifeline = os.pipe()
        try:
            with open(self._log_path, "wb") as log:
                self._process = subprocess.Popen(
                    self._command(watched),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    pass_fds=[watched],
                    # Ctrl-C is its owner's, who first ends what is mounted above this.
                    start_new_session=True,
                )
        except OSError:
            os.close(self._lifeline)
            shutil.rmtree(self._directory)
            raise
        finally:
            os.close(watched)
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Unmount and end the process: SIGTERM, after 10 s SIGKILL and a lazy unmount.

        Does nothing if it is not started. Raises MountError if it had to be killed or ended by
        an error of its own; a process that somebody else killed is only cleaned up after.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        killed = False
        try:
            process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            killed = True
            process.kill()
        os.close(self._lifeline)  # too late for it to matter to the process
        if killed or process.returncode < 0:
            self._detach()
        said = self._read_log()
        process.wait()
        shutil.rmtree(self._directory)
        if killed or process.returncode > 0:
            how = "had to be killed" if killed else f"ended with {process.returncode}"
            raise MountError(f"slow source {self.mountpoint}: {how}: {said}")

    def _command(self, lifeline_fd: int) -> list[str]:
        command = [sys.executable, "-P", "-m", "fusemount", "slow-source"]
        command += [self.source, self.mountpoint]
        command += ["--control", self.control_path, "--lifeline-fd", str(lifeline_fd)]
        for field, value in {**asdict(self._pace), **asdict(self._presentation)}.items():
            name = field.removesuffix("_s").replace("_", "-")
            if isinstance(value, bool):
                command.append(f"--{name}" if value else f"--no-{name}")
            else:
                command += [f"--{name}", str(value)]
        return command

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + _START_DEADLINE_S
        while b"ready " not in self._read_log().encode():
            if process.poll() is not None or time.monotonic() > deadline:
                said = self._read_log() or "no answer"
                process.kill()
                raise MountError(f"slow source {self.mountpoint}: {said}")
            time.sleep(_POLL_S)

    def _read_log(self) -> str:
        with open(self._log_path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()

    def _detach(self) -> None:
        if find_mount(os.fsencode(self.mountpoint)) is None:
            return
        command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
        subprocess.run([*command, "--", self.mountpoint], check=False)
