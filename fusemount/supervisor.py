"""The supervisor: owns the mount, its descriptor and its control socket; runs one worker.

Small on purpose: no pyfuse3, no trio, no look into its own mount. The worker is a fresh
interpreter that gets everything over the link, so that another one can take its place.
States: starting (worker imports) -> mounted (INIT answered) -> serving -> stopping -> ended.
Invariant: whatever way `run` ends, nothing is mounted and the socket is gone.
"""

import base64
import contextlib
import errno
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from fusemount.errors import MountError, UsageError
from fusemount.handshake import Connection, MountRequest, mount_fuse, unmount
from fusemount.link import make_link, receive_message, send_message
from fusemount.mountinfo import find_mount
from fusemount.notify import notify_systemd
from fusemount.options import MountOptions
from fusemount.runtime import open_listener, socket_path

_log = logging.getLogger(__name__)

# A worker imports in about half a second; a machine under load may take long.
_START_DEADLINE_S = 60.0
# How long a busy mount is left to its users at SIGTERM before it is detached.
_BUSY_GRACE_S = 2.0
_RETRY_S = 0.1
# What the worker gets to leave by itself once the mount is gone.
_LEAVE_DEADLINE_S = 2.0
# Read-ahead of the mount. With extents filled ahead of the reader 512 KiB reaches what larger
# values do, and random page faults stay cheap; 128 KiB is what the kernel gives.
READ_AHEAD_KIB = 512


class Supervisor:
    """Serves one mount from start to end; `run` once."""

    def __init__(self, options: MountOptions, announce: Callable[[], None]) -> None:
        """`announce` is called once, when the mount can be used."""
        self._options = options
        self._announce = announce
        self._privileged = os.geteuid() == 0
        self._mounted = False
        # Device number of the mount, by which it is told from another at the same place.
        self._device: tuple[int, int] | None = None
        self._degraded: list[str] = []
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Mount, serve until told to stop, unmount. Returns the exit code.

        Raises UsageError or MountError where it could not start.
        """
        self._catch_signals()
        listener = open_listener(self._options.mountpoint)
        link, worker_link = make_link()
        connection: Connection | None = None
        with listener, link:
            worker = self._spawn(worker_link)
            try:
                self._expect(link, worker, "imported")
                connection = mount_fuse(self._request())
                self._mounted = True
                self._raise_read_ahead()
                self._attach(link, listener, connection)
                self._expect(link, worker, "serving")
                self._announce()
                # Leaving the terminal has changed where messages go, for the worker too: whoever
                # waits for the end of the caller's standard error must not wait for the worker.
                send_message(link, {"command": "log"}, [sys.stderr.fileno()])
                notify_systemd("READY=1", f"STATUS=serving {self._options.mountpoint}")
                return self._serve(link, worker)
            finally:
                notify_systemd("STOPPING=1")
                self._end(link, worker, connection)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(socket_path(self._options.mountpoint))

    def _catch_signals(self) -> None:
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)

    def _request(self) -> MountRequest:
        return MountRequest(
            mountpoint=self._options.mountpoint,
            source_name=self._options.source,
            read_only=True,
            allow_other=self._options.allow_other,
            privileged=self._privileged,
        )

    def _spawn(self, worker_link: socket.socket) -> "subprocess.Popen[bytes]":
        with worker_link:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "fusemount.worker", str(worker_link.fileno())],
                pass_fds=[worker_link.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Ctrl-C is the supervisor's to act on.
                process_group=0,
            )

    def _expect(
        self, link: socket.socket, worker: "subprocess.Popen[bytes]", state: str
    ) -> dict[str, Any]:
        deadline = time.monotonic() + _START_DEADLINE_S
        while True:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([link.fileno(), self._wakeup_read], [], [], left)
            if self._wakeup_read in ready:
                raise MountError("interrupted before it was mounted")
            if not ready:
                raise MountError(f"the worker was not {state} within {_START_DEADLINE_S:.0f} s")
            message, _ = receive_message(link)
            if message is None:
                code = worker.wait(_LEAVE_DEADLINE_S)
                raise MountError(f"the worker ended before it was {state} (exit code {code})")
            if message["state"] == "failed":
                raise (UsageError if message["usage"] else MountError)(message["reason"])
            if message["state"] == state:
                return message

    def _raise_read_ahead(self) -> None:
        mount = find_mount(os.fsencode(self._options.mountpoint))
        if mount is None:
            raise MountError(f"{self._options.mountpoint} is not mounted any more")
        self._device = major, minor = mount.device
        try:
            with open(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb", "w") as knob:
                knob.write(str(READ_AHEAD_KIB))
        except OSError as error:
            self._degraded.append(
                f"read-ahead stays at the kernel's 128 KiB instead of {READ_AHEAD_KIB} KiB:"
                f" /sys/class/bdi is not writable ({error.strerror})"
            )

    def _attach(self, link: socket.socket, listener: socket.socket, connection: Connection) -> None:
        message = {
            "command": "attach",
            "options": self._options.to_json(),
            "init_message": base64.b64encode(connection.init_message).decode(),
            "flags": int(connection.flags),
            "protocol": f"{connection.protocol[0]}.{connection.protocol[1]}",
            "degraded": self._degraded,
            "supervisor_pid": os.getpid(),
        }
        send_message(link, message, [connection.fuse_fd, listener.fileno()])

    def _serve(self, link: socket.socket, worker: "subprocess.Popen[bytes]") -> int:
        """Wait for a signal, or for the worker's end. Returns the exit code."""
        while True:
            ready, _, _ = select.select([link.fileno(), self._wakeup_read], [], [])
            if self._wakeup_read in ready and self._stop_asked():
                return 0
            if link.fileno() in ready:
                message, _ = receive_message(link)
                if message is None:
                    return self._worker_ended(worker)

    def _stop_asked(self) -> bool:
        numbers = os.read(self._wakeup_read, 64)
        return bool({signal.SIGTERM, signal.SIGINT} & set(numbers))

    def _worker_ended(self, worker: "subprocess.Popen[bytes]") -> int:
        try:
            code = worker.wait(_LEAVE_DEADLINE_S)
        except subprocess.TimeoutExpired:
            code = 1
        if code == 0:
            return 0  # unmounted from outside
        _log.error("the worker of %s ended with %s: unmounting", self._options.mountpoint, code)
        return 1

    def _end(
        self,
        link: socket.socket,
        worker: "subprocess.Popen[bytes]",
        connection: Connection | None,
    ) -> None:
        if self._mounted:
            self._unmount()
        send_message(link, {"command": "stop"})
        if connection is not None:
            # The last descriptor outside the worker: with the worker's, the connection ends.
            os.close(connection.fuse_fd)
        try:
            worker.wait(_LEAVE_DEADLINE_S)
        except subprocess.TimeoutExpired:
            _log.warning("the worker did not leave within %.0f s: killed", _LEAVE_DEADLINE_S)
            worker.kill()
            # A thread in the kernel may keep it as a zombie: never wait for long.
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(_LEAVE_DEADLINE_S)

    def _unmount(self) -> None:
        mountpoint = self._options.mountpoint
        deadline = time.monotonic() + _BUSY_GRACE_S
        while True:
            mount = find_mount(os.fsencode(mountpoint))
            if mount is None or (self._device is not None and mount.device != self._device):
                return  # unmounted from outside; what is there now is not ours
            error = unmount(mountpoint, self._privileged)
            if error in (0, errno.EINVAL, errno.ENOENT):
                return
            if error != errno.EBUSY or time.monotonic() >= deadline:
                break
            time.sleep(_RETRY_S)
        _log.warning("%s is busy: detached; what is open there fails from now on", mountpoint)
        error = unmount(mountpoint, self._privileged, detach=True)
        if error:
            _log.error("cannot unmount %s: %s", mountpoint, os.strerror(error))
