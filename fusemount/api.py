"""HTTP on the mount's Unix socket: small, local, for the user who mounted and root.

The listener belongs to the supervisor; whoever connects is checked by SO_PEERCRED.
"""

import errno
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import h11
import trio

from fusemount.runtime import peer_of

_log = logging.getLogger(__name__)

# One request and its answer; a client that stalls is dropped.
_CLIENT_DEADLINE_S = 10.0
_RECEIVE_BYTES = 16 * 1024
# Clients served at once; more wait in the backlog.
_CLIENTS = 16
# What accept() says when descriptors or memory are short, or the client has left already.
_ACCEPT_AGAIN = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED}
)
_ACCEPT_RETRY_S = 0.1

Routes = dict[tuple[str, str], Callable[[], dict[str, Any]]]


async def serve_api(listener: socket.socket, routes: Routes) -> None:
    """Answer requests until cancelled. `routes` maps (method, path) to what makes the document."""
    acceptor = trio.socket.from_stdlib_socket(listener)
    places = trio.Semaphore(_CLIENTS)
    async with trio.open_nursery() as nursery:
        while True:
            await places.acquire()
            connection = await _accept(acceptor)
            nursery.start_soon(_serve_client, trio.SocketStream(connection), routes, places)


async def _accept(acceptor: trio.socket.SocketType) -> trio.socket.SocketType:
    """The next client. Without a free descriptor it waits: that must not end the mount."""
    while True:
        try:
            return (await acceptor.accept())[0]
        except OSError as error:
            if error.errno not in _ACCEPT_AGAIN:
                raise
            await trio.sleep(_ACCEPT_RETRY_S)


async def _serve_client(stream: trio.SocketStream, routes: Routes, places: trio.Semaphore) -> None:
    try:
        async with stream:
            with trio.move_on_after(_CLIENT_DEADLINE_S):
                await _answer(stream, routes)
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        return
    except Exception:
        _log.exception("a request to the control socket failed")
    finally:
        places.release()


async def _answer(stream: trio.SocketStream, routes: Routes) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        request = await _receive(stream, connection)
    except h11.RemoteProtocolError as error:
        await _send(stream, connection, 400, {"error": str(error)})
        return
    if request is None:
        return
    method, path = request.method.decode(), request.target.decode(errors="replace")
    is_head = method == "HEAD"
    _, uid = peer_of_stream(stream)
    if uid not in (0, os.geteuid()):
        refusal = {"error": "only the mount's user and root may ask"}
        await _send(stream, connection, 403, refusal, is_head)
        return
    # HEAD is GET without the body, which h11 must not be handed.
    route = routes.get(("GET" if is_head else method, path))
    if route is None:
        await _send(stream, connection, 404, {"error": f"no {method} {path} here"}, is_head)
        return
    try:
        status, document = 200, route()
    except Exception as error:
        _log.exception("%s %s failed", method, path)
        status, document = 500, {"error": repr(error)}
    await _send(stream, connection, status, document, is_head)


def peer_of_stream(stream: trio.SocketStream) -> tuple[int, int]:
    """(pid, uid) at the other end of a stream."""
    with socket.fromfd(stream.socket.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        return peer_of(raw)


async def _receive(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request | None:
    """The request, read to its end; None where the client went away."""
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(_RECEIVE_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed):
            return None


async def _send(
    stream: trio.SocketStream,
    connection: h11.Connection,
    status: int,
    document: dict[str, Any],
    is_head: bool = False,
) -> None:
    body = json.dumps(document).encode()
    headers = [
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    parts = [connection.send(h11.Response(status_code=status, headers=headers))]
    if not is_head:
        parts.append(connection.send(h11.Data(data=body)))
    parts.append(connection.send(h11.EndOfMessage()))
    await stream.send_all(b"".join(part for part in parts if part))
