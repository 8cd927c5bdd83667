"""The worker process: `python -m fusemount.worker LINK_FD`, started by the supervisor.

It says over the link when it has imported everything, is then given the connection, and serves.
"""

import base64
import gc
import logging
import os
import signal
import socket
import sys

from fusemount.errors import MountError, UsageError
from fusemount.interpose import load_interposer
from fusemount.link import receive_message, send_message

# Objects between two collections; Python's own 700 would make one for each 200 entries listed.
_COLLECT_AFTER = 50_000


def run(link: socket.socket) -> int:
    """Import, attach, serve. Returns the exit code; 0: unmounted or told to stop."""
    interposer = load_interposer()
    try:
        from fusemount.session import Session  # noqa: PLC0415
    except ImportError as error:
        if error.name is not None and not error.name.startswith("pyfuse3"):
            raise
        reason = f"libfuse 3 cannot be loaded ({error}): install the package libfuse3-3"
        send_message(link, {"state": "failed", "reason": reason, "usage": True})
        return 1
    # The tables hold many small objects for long; the collector need not walk them at every
    # listing, and what was imported never.
    gc.set_threshold(_COLLECT_AFTER, 20, 50)
    gc.freeze()
    send_message(link, {"state": "imported"})
    attach, fds = receive_message(link)
    if attach is None or attach["command"] != "attach":
        return 0
    fuse_fd, listener_fd = fds
    listener = socket.socket(fileno=listener_fd)
    try:
        session = Session(attach, fuse_fd, listener, link, interposer)
        session.serve(base64.b64decode(attach["init_message"]))
    except* (UsageError, MountError) as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        send_message(
            link,
            {
                "state": "failed",
                "reason": str(cause),
                "usage": isinstance(cause, UsageError),
            },
        )
        os._exit(1)
    return 0


def main() -> None:
    """Run, and leave without waiting for threads that the source keeps in the kernel."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(
        level=logging.DEBUG if os.environ.get("FUSEMOUNT_DEBUG") else logging.WARNING,
        format="fusemount: %(levelname)s %(name)s: %(message)s",
    )
    code = 1
    try:
        code = run(socket.socket(fileno=int(sys.argv[1])))
    except BaseException:
        logging.getLogger(__name__).exception("the worker failed")
    finally:
        logging.shutdown()
        os._exit(code)


if __name__ == "__main__":
    main()
