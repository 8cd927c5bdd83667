"""Asks a running mount over its control socket. Blocking; for the command line."""

import http.client
import json
import socket
from typing import Any

from fusemount.errors import MountError, UsageError
from fusemount.runtime import connect, peer_of

_TIMEOUT_S = 15.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, mountpoint: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._mountpoint = mountpoint

    def connect(self) -> None:
        self.sock = connect(self._mountpoint, _TIMEOUT_S)


def _not_served(mountpoint: str) -> UsageError:
    return UsageError(
        f"nothing is mounted by this user on {mountpoint}: see findmnt -t fuse.fusemount"
    )


def ask(mountpoint: str, method: str, path: str) -> dict[str, Any]:
    """One request; the answered document.

    Raises UsageError where nothing is mounted there, MountError where the mount does not answer.
    """
    connection = _UnixConnection(mountpoint)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        document = json.loads(response.read())
        if not isinstance(document, dict):
            raise ValueError("not a document")
    except (FileNotFoundError, ConnectionRefusedError):
        raise _not_served(mountpoint) from None
    except TimeoutError:
        raise MountError(
            f"the mount on {mountpoint} did not answer in {_TIMEOUT_S:.0f} s"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = " ".join(str(error).split())
        raise MountError(f"the mount on {mountpoint} gave no answer: {said}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise MountError(f"the mount on {mountpoint} says: {document.get('error')}")
    return document


def supervisor_of(mountpoint: str) -> int:
    """The process id of the mount's supervisor, as the kernel vouches for it.

    Raises UsageError where nothing is mounted there.
    """
    connection: socket.socket
    try:
        connection = connect(mountpoint)
    except OSError:
        raise _not_served(mountpoint) from None
    with connection:
        return peer_of(connection)[0]
