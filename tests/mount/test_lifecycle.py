"""A mount's start and end: signals, umount, deaths, the background, systemd, the socket."""

import ctypes
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusemount.mountinfo import find_mount
from fusemount.runtime import socket_path
from tests.leftovers import is_running
from tests.mount.commands import assert_refused, run_fusemount
from tests.mount.conftest import MountStarter
from tests.mount.harness import MountedTree, start_mount

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")
_DEADLINE_S = 20.0


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    (path / "sub").mkdir(parents=True)
    (path / "model.bin").write_bytes(b"weights" * 1000)
    return path


def _worker_of(tree: MountedTree) -> int:
    with open(f"/proc/{tree.pid}/task/{tree.pid}/children", encoding="ascii") as file:
        (pid,) = map(int, file.read().split())
    return pid


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {_DEADLINE_S:.0f} s")
        time.sleep(0.02)


def _leaves_nothing(tree: MountedTree) -> None:
    assert not tree.is_mounted()
    assert not os.path.lexists(socket_path(tree.path))
    assert os.listdir(tree.path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_lifecycle_signal_unmounts(
    mounted: MountStarter, source: Path, number: signal.Signals
) -> None:
    tree = mounted(source)
    worker = _worker_of(tree)
    assert tree.terminate(number) == 0
    assert not is_running(worker)
    _leaves_nothing(tree)


def test_lifecycle_ctrl_c_to_the_whole_group_unmounts(mounted: MountStarter, source: Path) -> None:
    tree = mounted(source)
    os.killpg(tree.pid, signal.SIGINT)
    assert tree.process.wait(_DEADLINE_S) == 0
    _leaves_nothing(tree)


def test_lifecycle_signal_before_it_is_ready_leaves_nothing(tmp_path: Path, source: Path) -> None:
    mountpoint = tmp_path / "root"
    mountpoint.mkdir()
    for delay_s in (0.1, 0.25, 0.4):
        tree = start_mount(str(source), str(mountpoint), log_path=str(tmp_path / "log"))
        time.sleep(delay_s)
        # Before Python has set its handlers the signal itself ends the command.
        tree.expected_exit_codes = {0, 1, 130, -signal.SIGINT}
        tree.terminate(signal.SIGINT)
        tree.finish()
        _leaves_nothing(tree)


def test_lifecycle_umount_command_ends_the_mount(mounted: MountStarter, source: Path) -> None:
    tree = mounted(source)
    answer = run_fusemount("umount", tree.path)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert tree.process.wait(_DEADLINE_S) == 0
    _leaves_nothing(tree)


def test_lifecycle_umount_finds_the_mount_by_a_link(
    mounted: MountStarter, source: Path, tmp_path: Path
) -> None:
    tree = mounted(source)
    (tmp_path / "link").symlink_to(tree.path)
    assert run_fusemount("umount", tmp_path / "link").returncode == 0
    _leaves_nothing(tree)


@needs_root
def test_lifecycle_unmounted_by_others_ends_the_command(
    mounted: MountStarter, source: Path
) -> None:
    tree = mounted(source)
    subprocess.run(["umount", tree.path], check=True)
    assert tree.process.wait(_DEADLINE_S) == 0
    _leaves_nothing(tree)


@needs_root
def test_lifecycle_unmounted_by_others_leaves_the_mount_below_alone(
    tmp_path: Path, source: Path
) -> None:
    mountpoint = tmp_path / "root"
    mountpoint.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", mountpoint], check=True)
    try:
        tree = start_mount(str(source), str(mountpoint), log_path=str(tmp_path / "log"))
        tree.wait_until_ready()
        subprocess.run(["umount", mountpoint], check=True)
        assert tree.process.wait(_DEADLINE_S) == 0
        mount = find_mount(os.fsencode(mountpoint))
        assert mount is not None
        assert mount.filesystem_type == "tmpfs"
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def test_lifecycle_busy_mount_is_detached_after_a_grace(
    mounted: MountStarter, source: Path
) -> None:
    tree = mounted(source)
    inside = subprocess.Popen(["sleep", "60"], cwd=os.path.join(tree.path, "sub"))
    try:
        assert tree.terminate() == 0
        assert inside.poll() is None
        _leaves_nothing(tree)
        assert "busy: detached" in tree.log()
    finally:
        inside.kill()
        inside.wait()


def test_lifecycle_busy_mount_that_is_left_in_time_is_not_detached(
    mounted: MountStarter, source: Path
) -> None:
    tree = mounted(source)
    inside = subprocess.Popen(["sleep", "0.5"], cwd=os.path.join(tree.path, "sub"))
    assert tree.terminate() == 0
    assert inside.wait() == 0
    assert "detached" not in tree.log()


@needs_root
def test_lifecycle_orphaned_mount_can_be_unmounted(mounted: MountStarter, source: Path) -> None:
    tree = mounted(source)
    worker = _worker_of(tree)
    # Stopped first, so that the worker cannot unmount when its supervisor dies.
    os.kill(worker, signal.SIGSTOP)
    os.kill(tree.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    tree.expected_exit_codes = {-signal.SIGKILL}
    assert tree.process.wait(_DEADLINE_S) == -signal.SIGKILL
    _wait_until(lambda: not is_running(worker))
    assert tree.is_mounted()
    assert_refused(run_fusemount("mount", source, tree.path), "fusemount umount")
    answer = run_fusemount("umount", tree.path)
    assert (answer.returncode, answer.stderr) == (0, "")
    _leaves_nothing(tree)


def test_lifecycle_worker_unmounts_when_its_supervisor_dies(
    mounted: MountStarter, source: Path
) -> None:
    tree = mounted(source)
    worker = _worker_of(tree)
    os.kill(tree.pid, signal.SIGKILL)
    tree.expected_exit_codes = {-signal.SIGKILL}
    _wait_until(lambda: not is_running(worker) and not tree.is_mounted())
    # Its socket is stale now, and no obstacle to the next mount.
    assert os.path.lexists(socket_path(tree.path))
    again = run_fusemount("mount", "--daemon", source, tree.path)
    assert again.returncode == 0, again.stderr
    assert run_fusemount("umount", tree.path).returncode == 0
    _leaves_nothing(tree)


def test_lifecycle_umount_removes_what_a_killed_supervisor_left(
    mounted: MountStarter, source: Path
) -> None:
    tree = mounted(source)
    worker = _worker_of(tree)
    os.kill(tree.pid, signal.SIGKILL)
    tree.expected_exit_codes = {-signal.SIGKILL}
    _wait_until(lambda: not is_running(worker) and not tree.is_mounted())
    assert os.path.lexists(socket_path(tree.path))
    answer = run_fusemount("umount", tree.path)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert not os.path.lexists(socket_path(tree.path))
    assert_refused(run_fusemount("umount", tree.path), "not a mount of fusemount")


def test_lifecycle_background_returns_when_ready_and_serves_on(
    tmp_path: Path, source: Path
) -> None:
    mountpoint = tmp_path / "root"
    mountpoint.mkdir()
    log = tmp_path / "log"
    answer = run_fusemount("mount", "--daemon", "--log-file", log, source, mountpoint)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == f"ready {mountpoint}\n"
    assert (mountpoint / "model.bin").read_bytes() == b"weights" * 1000
    assert run_fusemount("umount", mountpoint).returncode == 0
    assert os.listdir(mountpoint) == []
    assert "Traceback" not in log.read_text()


def test_lifecycle_background_shows_why_it_did_not_start(tmp_path: Path, source: Path) -> None:
    (tmp_path / "root").mkdir()
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "pyfuse3.py").write_text("raise ImportError('no libfuse', name='pyfuse3')\n")
    environment = {"PYTHONPATH": f"{stub}:{os.getcwd()}"}
    answer = run_fusemount("mount", "--daemon", source, tmp_path / "root", environment=environment)
    assert_refused(answer, "libfuse 3 cannot be loaded")


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_lifecycle_systemd_is_told(
    mounted: MountStarter, source: Path, tmp_path: Path, abstract: bool
) -> None:
    address = f"@fusemount-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service_manager:
        service_manager.bind(address.replace("@", "\0") if abstract else address)
        service_manager.settimeout(_DEADLINE_S)
        tree = mounted(source, environment={"NOTIFY_SOCKET": address})
        said = service_manager.recv(4096).decode().split("\n")
        assert said[0] == "READY=1"
        assert said[1].startswith("STATUS=")
        # Ready means that it can be used.
        assert os.path.exists(os.path.join(tree.path, "model.bin"))
        tree.terminate()
        assert service_manager.recv(4096) == b"STOPPING=1"


def test_lifecycle_socket_is_the_users_own(mounted: MountStarter, source: Path) -> None:
    tree = mounted(source)
    path = socket_path(tree.path)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.lstat(os.path.dirname(path)).st_mode) == 0o700
    assert os.lstat(path).st_uid == os.geteuid()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """Somebody else on the control socket of tmp_path/root."""
    (tmp_path / "root").mkdir()
    os.makedirs(os.path.dirname(socket_path("/")), mode=0o700, exist_ok=True)
    path = socket_path(str(tmp_path / "root"))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(1)
        yield other
    Path(path).unlink(missing_ok=True)


def test_lifecycle_socket_that_is_answered_is_left_alone(
    listener: socket.socket, tmp_path: Path, source: Path
) -> None:
    answer = run_fusemount("mount", source, tmp_path / "root")
    assert_refused(answer, "served by process", str(os.getpid()))
    assert os.path.lexists(listener.getsockname())


def test_lifecycle_socket_with_a_full_backlog_is_left_alone(
    listener: socket.socket, tmp_path: Path, source: Path
) -> None:
    waiting = []
    try:
        while True:
            client = socket.socket(socket.AF_UNIX)
            waiting.append(client)
            client.setblocking(False)
            client.connect(listener.getsockname())
    except BlockingIOError:
        pass
    try:
        answer = run_fusemount("mount", source, tmp_path / "root")
    finally:
        for client in waiting:
            client.close()
    assert_refused(answer, "served already")
    assert os.path.lexists(listener.getsockname())


_ASK_AS_USER = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(b"GET /status HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print(os.getuid(), connection.makefile("rb").readline().split()[1].decode())
"""


@needs_root
@pytest.mark.parametrize(("uid", "answer"), [(0, "0 200"), (65_534, "65534 403")])
def test_lifecycle_socket_answers_its_user_only(
    mounted: MountStarter, source: Path, uid: int, answer: str
) -> None:
    tree = mounted(source)
    # The directory keeps others out; CAP_DAC_OVERRIDE takes this one past it, to be told apart
    # by the peer's credentials alone.
    capability = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    command = ["setpriv", "--reuid", str(uid), *capability, sys.executable, "-c", _ASK_AS_USER]
    done = subprocess.run(
        [*command, socket_path(tree.path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == answer, done.stderr
    assert os.path.exists(os.path.join(tree.path, "model.bin"))


def _connect_as(uid: int, path: str) -> int:
    """Fork, become `uid`, connect: the errno, 0 if it could."""
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).setgroups(0, None)
        os.setresuid(uid, uid, uid)
        with socket.socket(socket.AF_UNIX) as connection:
            os._exit(connection.connect_ex(path))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_root
def test_lifecycle_socket_cannot_be_reached_by_others(mounted: MountStarter, source: Path) -> None:
    tree = mounted(source)
    assert _connect_as(65_534, socket_path(tree.path)) == 13
    assert _connect_as(0, socket_path(tree.path)) == 0
