"""Leaves the terminal: the caller's process waits until the mount is ready, then ends."""

import os
import sys
from collections.abc import Callable

from fusemount.errors import UsageError


def detach_process(announce: Callable[[], None], log_file: str | None) -> Callable[[], None]:
    """Fork; return in the child, whose new announcement lets the parent end.

    The parent shows what the child says until then, and ends with 0 once the child has announced
    itself, else with the child's exit code. Must be called while there is one thread.
    Raises UsageError where the log file cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        log_fd = os.open(log_file or os.devnull, flags, 0o600)
    except OSError as error:
        raise UsageError(
            f"log file {log_file}: {error.strerror}: name a file that can be written"
        ) from error
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child:
        os.close(ready_write)
        _await_child(child, ready_read, announce)
    os.close(ready_read)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)

    def announce_and_leave() -> None:
        # Standard error stays the caller's until here, so that a failure to start is seen.
        os.dup2(log_fd, 2)
        os.close(log_fd)
        os.write(ready_write, b"1")
        os.close(ready_write)

    return announce_and_leave


def _await_child(child: int, ready_read: int, announce: Callable[[], None]) -> None:
    if os.read(ready_read, 1):
        announce()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    sys.stderr.flush()
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)
