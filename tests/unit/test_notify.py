"""What systemd is told."""

import os
import socket
from pathlib import Path

import pytest

from fusemount.notify import notify_systemd


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> "socket.socket":
    name = str(tmp_path / "notify") if request.param == "path" else f"@fusemount-{os.getpid()}"
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    request.addfinalizer(receiver.close)
    receiver.bind(name.replace("@", "\0", 1))
    receiver.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    return receiver


def test_assignments_are_the_lines_of_one_datagram(manager: socket.socket) -> None:
    assert notify_systemd("READY=1", "STATUS=serving")
    assert manager.recv(100) == b"READY=1\nSTATUS=serving"


def test_path_that_is_no_text_passes_and_adds_no_line(manager: socket.socket) -> None:
    assert notify_systemd("STATUS=serving " + os.fsdecode(b"/m\xff\nMAINPID=1"))
    assert manager.recv(100) == b"STATUS=serving /m\xff MAINPID=1"


def test_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify_systemd("READY=1")


def test_manager_that_has_gone_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify_systemd("READY=1")
