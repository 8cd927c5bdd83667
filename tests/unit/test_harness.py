"""The mount harness, tried on stand-in commands that end well or badly."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.leftovers import is_running
from tests.mount.harness import MountedTree, start_mount

# Says ready with its arguments, waits for SIGTERM, and ends with the code in EXIT_CODE.
_SERVE = """
import os, signal, sys
print("fusemount:", *map(os.path.basename, sys.argv[1:]), "ready", file=sys.stderr, flush=True)
signal.sigwait({signal.SIGTERM})
sys.exit(int(os.environ.get("EXIT_CODE", 0)))
"""
_BLOCK = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})"

Start = Callable[..., MountedTree]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    (tmp_path / "root").mkdir()

    def start_script(script: str, *options: str, **environment: str) -> MountedTree:
        return start_mount(
            "source",
            str(tmp_path / "root"),
            options,
            log_path=str(tmp_path / "log"),
            command=(sys.executable, "-c", f"{_BLOCK}\n{script}"),
            environment=environment,
        )

    return start_script


def test_ready_mount_gets_source_mountpoint_and_options_and_ends(start: Start) -> None:
    tree = start(_SERVE, "--option")
    tree.wait_until_ready()
    assert tree.log() == "fusemount: source root --option ready\n"
    assert is_running(tree.pid)
    tree.finish()
    assert not is_running(tree.pid)


def test_command_that_ends_before_it_is_ready_fails_with_its_words(start: Start) -> None:
    tree = start("import sys; sys.exit('fusemount: no such source')")
    with pytest.raises(pytest.fail.Exception, match="ended with 1:\nfusemount: no such source"):
        tree.wait_until_ready()
    tree.process.wait()


def test_wrong_exit_code_fails(start: Start) -> None:
    tree = start(_SERVE, EXIT_CODE="3")
    tree.wait_until_ready()
    with pytest.raises(pytest.fail.Exception, match="exit code 3, expected \\[0\\]"):
        tree.finish()


def test_expected_exit_code_passes(start: Start) -> None:
    tree = start(_SERVE, EXIT_CODE="3")
    tree.wait_until_ready()
    tree.expected_exit_codes = {3}
    tree.finish()
    assert tree.process.returncode == 3


def test_traceback_fails(start: Start) -> None:
    tree = start(f"import traceback\ntry: 1 / 0\nexcept Exception: traceback.print_exc()\n{_SERVE}")
    tree.wait_until_ready()
    with pytest.raises(pytest.fail.Exception, match="a traceback"):
        tree.finish()


def test_deaf_process_is_killed_and_fails(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.mount.harness._STOP_DEADLINE_S", 0.2)
    tree = start(_SERVE.replace("{signal.SIGTERM}", "{signal.SIGUSR1}"))
    tree.wait_until_ready()
    with pytest.raises(pytest.fail.Exception, match="still there"):
        tree.finish()
    assert not is_running(tree.pid)


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs, which only root may")
def test_mount_that_stays_is_detached_and_fails(start: Start) -> None:
    mount = "import subprocess, sys\nsubprocess.run(['mount', '-t', 'tmpfs', 'none', sys.argv[2]])"
    tree = start(f"{mount}\n{_SERVE}")
    tree.wait_until_ready()
    mounted = tree.is_mounted()
    with pytest.raises(pytest.fail.Exception, match="left mounted"):
        tree.finish()
    assert mounted
    assert not tree.is_mounted()


def test_waiting_ends_at_the_deadline(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.mount.harness._READY_DEADLINE_S", 0.2)
    tree = start("import time; time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(pytest.fail.Exception, match="not ready"):
        tree.wait_until_ready()
    assert time.monotonic() - started >= 0.2
    tree.process.kill()
    tree.process.wait()
