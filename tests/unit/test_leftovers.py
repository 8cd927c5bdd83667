"""The watch over leftovers sees each kind, waits for what is ending, and cleans up."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.leftovers import (
    Leftovers,
    clean_up,
    detach,
    find_leftovers,
    is_running,
    take_snapshot,
)

_SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_nothing_new_is_nothing_found(tmp_path: Path) -> None:
    before = take_snapshot(os.fsencode(tmp_path))
    assert not find_leftovers(before)


def test_running_child_is_named_and_killed(tmp_path: Path) -> None:
    before = take_snapshot(os.fsencode(tmp_path))
    process = subprocess.Popen(_SLEEPER)
    found = find_leftovers(before, grace_s=0)
    assert found.children == (process.pid,)
    assert "time.sleep(60)" in found.describe()
    clean_up(found)
    assert not is_running(process.pid)
    process.wait()


def test_child_that_ends_within_the_grace_is_no_leftover(tmp_path: Path) -> None:
    before = take_snapshot(os.fsencode(tmp_path))
    with subprocess.Popen(["sleep", "0.2"]):
        assert not find_leftovers(before, grace_s=10)


def test_orphan_is_seen_as_a_child(tmp_path: Path) -> None:
    before = take_snapshot(os.fsencode(tmp_path))
    script = "sleep 60 >/dev/null & echo $!"
    shell = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True)
    found = find_leftovers(before, grace_s=0)
    clean_up(found)
    assert found.children == (int(shell.stdout),)


def test_ended_child_counts_as_not_running() -> None:
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + 10
    while is_running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    running = is_running(process.pid)
    process.wait()
    assert not running


def test_open_descriptor_is_named(tmp_path: Path) -> None:
    before = take_snapshot(os.fsencode(tmp_path))
    descriptor = os.open(tmp_path, os.O_RDONLY)
    found = find_leftovers(before, grace_s=0)
    ignored = find_leftovers(before, with_descriptors=False, grace_s=0)
    os.close(descriptor)
    assert found == Leftovers((), (), {descriptor: str(tmp_path)})
    assert not ignored


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs, which only root may")
def test_mount_below_the_root_is_found_and_detached(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in side", tmp_path / "outside"
    (inside / "mnt").mkdir(parents=True)
    outside.mkdir()
    before = take_snapshot(os.fsencode(inside))
    for target in (inside / "mnt", outside):
        subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
    found = find_leftovers(before, grace_s=0)
    clean_up(found)
    after = find_leftovers(before, grace_s=0)
    detach(os.fsencode(outside))
    assert found.mounts == (os.fsencode(inside / "mnt"),)
    assert not after
