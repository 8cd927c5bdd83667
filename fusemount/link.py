"""The link between supervisor and worker: JSON messages and descriptors over a socket pair.

SOCK_SEQPACKET keeps message boundaries and tells when the other side is gone (an empty message).
"""

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

_MESSAGE_BYTES = 128 * 1024
_MAX_DESCRIPTORS = 8


def make_link() -> tuple[socket.socket, socket.socket]:
    """A connected pair: the supervisor's end and the worker's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_message(link: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> bool:
    """Send one message with duplicates of `fds`; False where the other side is gone."""
    try:
        socket.send_fds(link, [json.dumps(message).encode()], list(fds))
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def receive_message(link: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and its descriptors (close-on-exec); None where the other side is gone."""
    try:
        data, ancillary, _, _ = link.recvmsg(
            _MESSAGE_BYTES, socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS)
        )
    except ConnectionResetError:
        return None, []
    fds = array.array("i")
    for _, _, payload in ancillary:
        fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    if not data:
        return None, list(fds)
    message: dict[str, Any] = json.loads(data)
    return message, list(fds)
