"""The worker's life: attaches pyfuse3 to the supervisor's connection and serves until unmounted.

pyfuse3 is given one end of a socket pair as its device and the saved FUSE_INIT message through
the other; in its init callback the real descriptor is put in that place. libfuse's own INIT
answer then goes to the kernel, which refuses it without harm.
Tasks, all in one nursery: pyfuse3's loop, the control socket, the supervisor's link, preloads.
"""

import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

import pyfuse3
import trio

from fusemount.api import serve_api
from fusemount.catalog import Catalog
from fusemount.config import load_configuration
from fusemount.control import Control, Publication
from fusemount.errors import MountError, UsageError
from fusemount.fetch import FetchThreads
from fusemount.filesystem import Filesystem
from fusemount.formats.model import Model
from fusemount.handshake import InitFlag, unmount
from fusemount.interpose import Interposer
from fusemount.link import receive_message, send_message
from fusemount.memory_budget import default_budget_bytes
from fusemount.operations import Operations
from fusemount.options import MountOptions
from fusemount.preload import Preloader
from fusemount.source import Source
from fusemount.source_tree import SourceTree
from fusemount.status import StatusReport
from optimizer import ServingOptimizer

_log = logging.getLogger(__name__)

# Requests handled at once: what the kernel keeps in flight, and some for those it does not count.
_MAX_TASKS = 640
# Idle tasks that pyfuse3 keeps: each new one takes a fresh 1 MiB buffer.
_IDLE_TASKS = 16
_INIT_DEADLINE_S = 20.0
# What the models of the top levels get to be known before the mount is called ready.
_FIRST_LOOK_S = 1.0


class _WithdrawnFilter(logging.Filter):
    """Drops pyfuse3's complaint that a killed client's request could not be answered."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "fuse_reply_* failed with No such file or directory" not in record.getMessage()


class Session:
    """One attachment of this process to a mount; `serve` once."""

    def __init__(
        self,
        attach: dict[str, Any],
        fuse_fd: int,
        listener: socket.socket,
        link: socket.socket,
        interposer: Interposer,
    ) -> None:
        self._attach = attach
        self._options = MountOptions.from_json(attach["options"])
        self._fuse_fd = fuse_fd
        self._listener = listener
        self._link = link
        self._interposer = interposer
        self._initialized = trio.Event()

    def serve(self, init_message: bytes) -> None:
        """Serve until unmounted or told to stop. Raises UsageError or MountError at the start."""
        trio.run(self._serve, init_message)

    async def _serve(self, init_message: bytes) -> None:
        _raise_descriptor_limit()
        configuration = load_configuration(self._options.config)
        try:
            source = Source(self._options.source, self._options.source_deadline_s)
        except OSError as error:
            raise UsageError(f"source {self._options.source}: {error.strerror}") from error
        budget = self._options.memory_bytes or default_budget_bytes()
        fetch = FetchThreads()
        filesystem = Filesystem(self._options, source, fetch, budget)
        tree = SourceTree(source.root_fd)
        preloader = Preloader(filesystem, tree)
        token = trio.lowlevel.current_trio_token()

        def take(publication: Publication, models: list[Model]) -> None:
            filesystem.apply_policies(publication.changed)
            if self._options.prefetch:
                preloader.request(models)

        def publish(publication: Publication, models: list[Model]) -> None:
            token.run_sync_soon(take, publication, models)

        def make_optimizer() -> ServingOptimizer:
            return ServingOptimizer(clock=time.monotonic)

        control = Control(filesystem.feed, Catalog(tree), configuration, publish, make_optimizer)
        filesystem.on_directory = control.look_into
        logging.getLogger("pyfuse3").addFilter(_WithdrawnFilter())
        operations = Operations(filesystem, lambda: self._put_device(device))
        # Both ends must outlive the handshake; the device's number is libfuse's from here on.
        replay, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pyfuse3.init(operations, f"/dev/fd/{device.fileno()}", set())
        replay.send(init_message)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_fuse, nursery.cancel_scope)
            with trio.move_on_after(_INIT_DEADLINE_S):
                await self._initialized.wait()
            if not self._initialized.is_set():
                raise MountError("libfuse did not take the FUSE_INIT message")
            replay.close()
            control.start()
            await trio.to_thread.run_sync(
                control.first_look.wait, _FIRST_LOOK_S, abandon_on_cancel=True
            )
            report = StatusReport(filesystem, control, preloader, self._facts())
            nursery.start_soon(preloader.run)
            nursery.start_soon(serve_api, self._listener, {("GET", "/status"): report.make})
            nursery.start_soon(self._obey, nursery.cancel_scope)
            send_message(self._link, {"state": "serving"})
        control.stop()
        fetch.close()
        # libfuse closes the descriptor with the process.
        device.detach()

    def _put_device(self, device: socket.socket) -> None:
        """Called by libfuse while it handles the replayed FUSE_INIT."""
        if self._interposer.in_effect():
            os.set_blocking(self._fuse_fd, False)
        os.dup2(self._fuse_fd, device.fileno(), inheritable=False)
        self._initialized.set()

    async def _run_fuse(self, cancel_scope: trio.CancelScope) -> None:
        await pyfuse3.main(min_tasks=_IDLE_TASKS, max_tasks=_MAX_TASKS)
        _log.debug("unmounted")
        cancel_scope.cancel()

    async def _obey(self, cancel_scope: trio.CancelScope) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._link)
            message, fds = receive_message(self._link)
            if message is not None and message["command"] == "log":
                for fd in fds:  # none where descriptors are exhausted
                    os.dup2(fd, 2)
                    os.close(fd)
                continue
            if message is None:
                # Nobody is left who would unmount.
                _log.error("the supervisor is gone: unmounting %s", self._options.mountpoint)
                detach: Callable[[], int] = lambda: unmount(  # noqa: E731
                    self._options.mountpoint, os.geteuid() == 0, detach=True
                )
                await trio.to_thread.run_sync(detach)
            if message is None or message["command"] == "stop":
                cancel_scope.cancel()
                return

    def _facts(self) -> dict[str, Any]:
        flags = InitFlag(self._attach["flags"])
        degraded = list(self._attach["degraded"])
        if not self._interposer.in_effect():
            missing = self._interposer.missing or "pyfuse3 does not go through it"
            degraded.append(
                f"the C part is not in effect ({missing}): the descriptor is blocking, and a client"
                " killed at the wrong moment can stall the mount until the next request"
            )
        if os.geteuid() == 0 and InitFlag.HAS_RESEND not in flags:
            degraded.append("the kernel cannot resend requests (before Linux 6.9)")
        return {
            "mountpoint": self._options.mountpoint,
            "source_path": self._options.source,
            "read_only": True,
            "options": self._options.to_json(),
            "supervisor_pid": self._attach["supervisor_pid"],
            "protocol": self._attach["protocol"],
            "negotiated": [flag.name for flag in flags],
            "c_part": self._interposer.in_effect(),
            "degraded": degraded,
        }


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
