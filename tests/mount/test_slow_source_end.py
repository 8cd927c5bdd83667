"""The slow source as a process: whoever ends it, nothing is left; the user's mistakes."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fusemount.errors import MountError
from fusemount.slowsource import SlowSource, SlowSourceControl
from fusemount.slowsource_values import Stats
from tests.mount.slow_places import (
    DEADLINE_S,
    FUSEMOUNT,
    Places,
    fails_with,
    running,
    wait_for,
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_a_busy_mount(places: Places, number: signal.Signals) -> None:
    places.write("file", b"x")
    with running([*FUSEMOUNT, str(places.source), str(places.mountpoint)]) as process:
        descriptor = os.open(places.mountpoint / "file", os.O_RDONLY)
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 0
    assert not places.is_mounted()
    assert fails_with(errno.ENOTCONN, lambda: os.pread(descriptor, 1, 0))
    with contextlib.suppress(OSError):  # its FLUSH meets no one
        os.close(descriptor)
    assert not any(places.mountpoint.iterdir())


def test_it_ends_when_somebody_else_unmounts(places: Places) -> None:
    command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    with running([*FUSEMOUNT, str(places.source), str(places.mountpoint)]) as process:
        subprocess.run([*command, str(places.mountpoint)], check=True)
        assert process.wait(DEADLINE_S) == 0


def test_the_control_socket_is_its_users_and_gone_at_the_end(places: Places) -> None:
    control_path = str(places.source.parent / "control")
    command = [*FUSEMOUNT, "--control", control_path]
    with running([*command, str(places.source), str(places.mountpoint)]):
        assert os.stat(control_path).st_mode & 0o777 == 0o600
        assert isinstance(SlowSourceControl(control_path).stats(), Stats)
    assert not os.path.exists(control_path)


def test_a_control_socket_that_nobody_answers_is_replaced(places: Places) -> None:
    control_path = str(places.source.parent / "control")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(control_path)
    command = [*FUSEMOUNT, "--control", control_path]
    with running([*command, str(places.source), str(places.mountpoint)]):
        assert SlowSourceControl(control_path).stats().reads == 0


def test_a_killed_source_is_cleaned_up_after(places: Places) -> None:
    with SlowSource(places.source, places.mountpoint) as slow:
        os.kill(slow.pid, signal.SIGKILL)
    assert not places.is_mounted()


def test_it_ends_when_its_owner_is_killed(places: Places) -> None:
    program = (
        "import sys, time; from fusemount.slowsource import SlowSource\n"
        "slow = SlowSource(*sys.argv[1:]); slow.start()\n"
        "print(slow.control_path, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(places.source), str(places.mountpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        control_path = owner.stdout.readline().decode().strip()
        assert places.is_mounted()
        owner.kill()
    wait_for(lambda: not places.is_mounted(), "the mount goes with its owner")
    wait_for(lambda: not os.path.exists(control_path), "the process has ended")
    shutil.rmtree(os.path.dirname(control_path))  # the owner's to remove, and it is dead


def test_a_mount_that_fails_says_why(places: Places) -> None:
    places.mountpoint.joinpath("something").touch()
    with pytest.raises(MountError, match="not empty"), SlowSource(places.source, places.mountpoint):
        pass


def test_it_can_be_started_again_after_it_was_closed(places: Places) -> None:
    places.write("file", b"x")
    slow = SlowSource(places.source, places.mountpoint)
    for _ in range(2):
        with slow:
            assert (places.mountpoint / "file").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["missing", "mount"], "missing"),
        (["file", "mount"], "file"),
        (["source", "nowhere"], "nowhere"),
        (["source", "file"], "file"),
        (["source", "full"], "not empty"),
        (["source", "source/inside"], "source"),
        ([".", "mount"], "source"),
        (["source", "/proc"], "already mounted"),
        (["source", "mount", "--latency-ms", "-1"], "latency_ms"),
        (["source", "mount", "--latency-ms", "slow"], "slow"),
        (["source", "mount", "--max-read-kib", "5"], "max_read_kib"),
        (["source", "mount", "--fault", "action=explode"], "explode"),
        (["source", "mount", "--control", "nowhere/control"], "nowhere/control"),
        (["source", "mount", "--control", "file"], "file"),
        (["source", "mount", "--profile", "abacus"], "abacus"),
        (["source"], "MOUNTPOINT"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    places: Places, arguments: list[str], named: str
) -> None:
    root = places.source.parent
    (root / "file").touch()
    (root / "full" / "inside").mkdir(parents=True)
    (places.source / "inside").mkdir()
    done = subprocess.run(
        [*FUSEMOUNT, *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fusemount: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
    assert done.stdout == ""
