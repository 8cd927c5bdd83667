"""Ends a command in order at Ctrl-C, SIGTERM or SIGHUP: what it mounted is unmounted first."""

import contextlib
import ctypes
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _leave(number: int, _: FrameType | None) -> None:
    # A second signal must not end the cleaning up that the first one starts.
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """For the length of a `with` in the main thread, turn the first such signal into an exception.

    KeyboardInterrupt for SIGINT, else SystemExit with 128 and the signal's number. Later signals
    are ignored until the `with` is left.
    """
    before = {number: signal.signal(number, _leave) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies; runs in a new child."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
