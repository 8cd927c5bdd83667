"""The control socket: who may ask, what is answered, and what a client is told."""

import contextlib
import json
import os
import resource
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from fusemount import api, client
from fusemount.api import Routes, serve_api
from fusemount.client import ask, supervisor_of
from fusemount.errors import MountError, UsageError
from fusemount.runtime import open_listener, socket_path
from tests.unit.fakes import open_descriptors

MOUNTPOINT = "/mnt/models"
STATUS = {"reads": 5, "path": os.fsdecode(b"/m\xff")}


def fail() -> dict[str, Any]:
    raise RuntimeError("a defect")


ROUTES: Routes = {("GET", "/status"): lambda: STATUS, ("GET", "/fail"): fail}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusemount.runtime.runtime_directory", lambda: str(tmp_path))


def serve(work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` beside a server."""

    async def main() -> None:
        with open_listener(MOUNTPOINT) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_api, listener, ROUTES)
                with trio.fail_after(20):
                    await work()
                nursery.cancel_scope.cancel()

    trio.run(main)


async def connect() -> trio.SocketStream:
    return await trio.open_unix_socket(socket_path(MOUNTPOINT))


async def request(content: bytes) -> bytes:
    """What the server says until it closes."""
    async with await connect() as stream:
        await stream.send_all(content)
        answer = b""
        while part := await stream.receive_some():
            answer += part
    return answer


def code_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def document_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"GET /status", 200),
        (b"GET /", 404),
        (b"POST /status", 404),
        (b"GET /status/", 404),
        (b"GET /\xff", 400),
        (b"GET /fail", 500),
    ],
)
def test_request_is_answered_with(line: bytes, code: int) -> None:
    async def work() -> None:
        answer = await request(line + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert code_of(answer) == code
        assert document_of(answer)

    serve(work)


@pytest.mark.parametrize(("path", "code"), [(b"/status", 200), (b"/fail", 500), (b"/", 404)])
def test_head_is_answered_without_a_body(path: bytes, code: int) -> None:
    async def work() -> None:
        answer = await request(b"HEAD " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert code_of(answer) == code
        assert answer.endswith(b"\r\n\r\n")

    serve(work)


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\r\n\r\n",
        b"GET /status HTTP/1.1\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"\0" * 100 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000,
    ],
)
def test_what_is_no_http_is_a_bad_request(content: bytes) -> None:
    async def work() -> None:
        assert code_of(await request(content)) == 400

    serve(work)


def test_body_is_passed_over() -> None:
    async def work() -> None:
        head = b"GET /status HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
        assert code_of(await request(head + b"hello")) == 200

    serve(work)


def test_defect_is_told_and_the_next_request_is_answered() -> None:
    async def work() -> None:
        answer = await request(b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n")
        assert document_of(answer) == {"error": "RuntimeError('a defect')"}
        assert code_of(await request(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n")) == 200

    serve(work)


@pytest.mark.parametrize(
    ("asker", "owner", "code"), [(0, 1000, 200), (1000, 1000, 200), (1001, 1000, 403)]
)
def test_only_the_user_and_root_are_answered(
    monkeypatch: pytest.MonkeyPatch, asker: int, owner: int, code: int
) -> None:
    monkeypatch.setattr(api, "peer_of_stream", lambda _stream: (1, asker))

    async def work() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(api.os, "geteuid", lambda: owner)
            answer = await request(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n")
        assert code_of(answer) == code
        assert ("reads" in document_of(answer)) is (code == 200)

    serve(work)


def test_peer_is_named_by_the_kernel() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            assert api.peer_of_stream(stream) == (os.getpid(), os.geteuid())
        theirs.close()

    trio.run(main)


def test_client_that_says_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_CLIENT_DEADLINE_S", 0.05)

    async def work() -> None:
        assert await request(b"GET /sta") == b""

    serve(work)


@pytest.mark.parametrize("content", [b"", b"GET /status HTTP/1.1\r\nHo"])
def test_client_that_leaves_is_no_failure(caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    async def work() -> None:
        before = open_descriptors()
        async with await connect() as stream:
            await stream.send_all(content)
        assert code_of(await request(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n")) == 200
        while open_descriptors() > before:  # noqa: ASYNC110 - the server closes by itself
            await trio.sleep(0.001)

    serve(work)
    assert not caplog.records


def test_more_clients_than_places_are_served_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "_CLIENTS", 2)
    answered = []

    async def ask_once() -> None:
        answered.append(code_of(await request(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n")))

    async def work() -> None:
        async with await connect(), await connect(), trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask_once)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert answered == []
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask_once)

    serve(work)
    assert answered == [200] * 5


def test_server_without_a_free_descriptor_waits_for_one() -> None:
    async def work() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with await connect() as stream:
            # The lowest free number is out of bounds now: accept() fails.
            spare = os.dup(0)
            os.close(spare)
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
            try:
                await stream.send_all(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n")
                await trio.sleep(0.15)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")

    serve(work)


# The client blocks: the server runs in a thread of its own.


@contextlib.contextmanager
def serving(answer: bytes | None = None) -> Iterator[None]:
    """A server in a thread; one that always says `answer`, where that is given."""
    stop = threading.Event()

    async def say(listener: socket.socket) -> None:
        connection, _ = await trio.socket.from_stdlib_socket(listener).accept()
        async with trio.SocketStream(connection) as stream:
            await stream.receive_some()
            assert answer is not None
            await stream.send_all(answer)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            if answer is None:
                nursery.start_soon(serve_api, listener, ROUTES)
            else:
                nursery.start_soon(say, listener)
            await trio.to_thread.run_sync(stop.wait, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()

    with open_listener(MOUNTPOINT) as listener:
        thread = threading.Thread(target=trio.run, args=(main,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def test_client_gets_the_document_with_names_that_are_no_text() -> None:
    with serving():
        assert ask(MOUNTPOINT, "GET", "/status") == STATUS


def test_client_names_the_supervisor() -> None:
    with open_listener(MOUNTPOINT):
        assert supervisor_of(MOUNTPOINT) == os.getpid()


@pytest.mark.parametrize("question", [supervisor_of, lambda path: ask(path, "GET", "/status")])
def test_client_of_nothing_says_so(question: Callable[[str], object]) -> None:
    open_listener(f"{MOUNTPOINT}2").close()
    for mountpoint in (MOUNTPOINT, f"{MOUNTPOINT}2"):
        with pytest.raises(UsageError, match="nothing is mounted by this user on /mnt/models"):
            question(mountpoint)


def test_client_is_told_what_the_mount_says() -> None:
    with serving(), pytest.raises(MountError, match=r"/mnt/models says: no GET /x here"):
        ask(MOUNTPOINT, "GET", "/x")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
def test_broken_answer_is_one_line(answer: bytes) -> None:
    with serving(answer), pytest.raises(MountError, match=r"/mnt/models gave no answer") as caught:
        ask(MOUNTPOINT, "GET", "/status")
    assert "\n" not in str(caught.value)


def test_mount_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TIMEOUT_S", 0.05)
    with open_listener(MOUNTPOINT), pytest.raises(MountError, match="did not answer in 0 s"):
        ask(MOUNTPOINT, "GET", "/status")
