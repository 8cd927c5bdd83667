"""What the optimizer recommends reaches the read path, and status says what and why."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import MountStarter
from tests.mount.harness import MountedTree
from tests.mount.slow_sources import (
    MIB,
    SlowSourceStarter,
    forget_pages,
    make_gguf,
    read_at,
    read_whole,
    wait_until,
    write_file,
)

KIB = 1024
_SIZE = 24 * MIB + 999
_NAME = "model.gguf"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with one model."""
    write_file(tmp_path / "source" / _NAME, make_gguf(_SIZE, _NAME))
    return tmp_path / "source"


def _configuration(directory: Path, **settings: object) -> str:
    """A configuration file (JSON is YAML) for all models."""
    path = directory / "configuration.yaml"
    content = {"version": "1", "name": "test", "models": [{"pattern": "*", **settings}]}
    path.write_text(json.dumps(content))
    return str(path)


def _file(tree: MountedTree) -> dict[str, Any]:
    [described] = [file for file in tree.status()["files"] if file["path"] == _NAME]
    file: dict[str, Any] = described
    return file


def _preload(tree: MountedTree) -> dict[str, Any]:
    """The one preload, once it has come to an end."""

    def has_ended() -> bool:
        preloads = tree.status()["preloads"]
        return bool(preloads) and preloads[0]["state"] not in ("waiting", "loading")

    wait_until(has_ended, "the preload ends")
    [preload] = tree.status()["preloads"]
    ended: dict[str, Any] = preload
    return ended


def _is_read_from_memory(tree: MountedTree, reset: Any, source_bytes: Any) -> bool:
    """Read all of it past the kernel's pages: whether the source was not asked."""
    forget_pages(f"{tree.path}/{_NAME}")
    reset()
    assert read_whole(f"{tree.path}/{_NAME}") == make_gguf(_SIZE, _NAME)
    return int(source_bytes()) == 0


def test_realtime_model_is_preloaded_and_held(
    model: Path, tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    slow = slow_source(model, latency_ms=2.0)
    config = _configuration(tmp_path, serving_pattern="realtime")
    tree = mounted(slow.mountpoint, "--config", config, "--memory", "64MiB")
    preload = _preload(tree)
    assert (preload["state"], preload["loaded_bytes"]) == ("done", _SIZE), preload
    slow.reset_stats()
    for _ in range(3):
        assert _is_read_from_memory(tree, slow.reset_stats, lambda: slow.stats().bytes)
    status = tree.status()
    assert status["memory"]["pinned_bytes"] >= _SIZE
    recommended = _file(tree)["recommended"]
    assert (recommended["cache_strategy"], recommended["preload"]) == ("memory", True)
    assert any("realtime" in reason for reason in recommended["reasons"])
    # A tenth of the model.
    assert _file(tree)["applied"]["first_window_bytes"] == _SIZE // 10
    assert status["reads"]["by_origin"]["store"]["bytes"] >= 3 * _SIZE


def test_pinned_bytes_outlast_a_file_that_streams_by(
    model: Path, tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    # No model, so that only the first is pinned.
    write_file(model / "other", make_gguf(100 * MIB, "other")[4:])
    slow = slow_source(model)
    config = _configuration(tmp_path, serving_pattern="realtime")
    tree = mounted(slow.mountpoint, "--config", config, "--memory", "40MiB")
    assert _preload(tree)["state"] == "done"
    assert read_whole(f"{tree.path}/other") == make_gguf(100 * MIB, "other")[4:]
    assert _is_read_from_memory(tree, slow.reset_stats, lambda: slow.stats().bytes)


def test_model_larger_than_what_may_be_pinned_is_streamed_and_says_so(
    model: Path, tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    slow = slow_source(model)
    config = _configuration(tmp_path, serving_pattern="realtime")
    tree = mounted(slow.mountpoint, "--config", config, "--memory", "16MiB")
    preload = _preload(tree)
    assert preload["state"] == "partial"
    assert "larger than what may be held" in preload["reason"]
    assert tree.status()["memory"]["pinned_bytes"] == 0
    assert read_whole(f"{tree.path}/{_NAME}") == make_gguf(_SIZE, _NAME)
    assert tree.status()["memory"]["mapped_bytes"] <= 16 * MIB


def test_opening_a_pinned_model_again_and_again_pins_it_once(
    model: Path, tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    slow = slow_source(model)
    config = _configuration(tmp_path, serving_pattern="realtime")
    tree = mounted(slow.mountpoint, "--config", config, "--memory", "64MiB")
    _preload(tree)
    for content in (make_gguf(9 * MIB, "new"), make_gguf(17 * MIB, "newer")):
        write_file(model / _NAME, content)
        for _ in range(5):
            os.close(os.open(f"{tree.path}/{_NAME}", os.O_RDONLY))
    wait_until(lambda: tree.status()["tables"]["open_files"] == 0, "every file is released")
    assert tree.status()["memory"]["pinned_bytes"] <= 20 * MIB
    newer = make_gguf(17 * MIB, "newer")
    wait_until(lambda: read_whole(f"{tree.path}/{_NAME}") == newer, "the new size is seen")
    wait_until(lambda: tree.status()["memory"]["pinned_bytes"] == 20 * MIB, "it is pinned")


def test_batch_model_is_read_ahead_by_its_batches_and_kept(
    model: Path, tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    slow = slow_source(model, latency_ms=2.0)
    config = _configuration(tmp_path, serving_pattern="batch", batch_size=40)
    tree = mounted(slow.mountpoint, "--config", config, "--memory", "64MiB")
    fd = os.open(f"{tree.path}/{_NAME}", os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead by the kernel
        assert os.pread(fd, 4 * KIB, 0) == make_gguf(_SIZE, _NAME)[: 4 * KIB]
        file = _file(tree)
        assert file["applied"]["first_window_bytes"] == 40 * 64 * KIB
        assert file["applied"]["window_bytes"] == 40 * 64 * KIB
        assert file["recommended"]["cache_strategy"] == "aggressive"
        assert any("batch" in reason for reason in file["recommended"]["reasons"])
        wait_until(lambda: slow.stats().in_flight == 0, "the window is fetched")
        fetched = slow.stats().files[_NAME].bytes
        assert 40 * 64 * KIB <= fetched <= 40 * 64 * KIB + MIB
    finally:
        os.close(fd)
    assert read_whole(f"{tree.path}/{_NAME}") == make_gguf(_SIZE, _NAME)
    assert _is_read_from_memory(tree, slow.reset_stats, lambda: slow.stats().bytes)
    assert tree.status()["memory"]["kept_bytes"] >= _SIZE


def test_unconfigured_model_is_read_ahead_and_not_kept(
    model: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    slow = slow_source(model, latency_ms=2.0)
    tree = mounted(slow.mountpoint, "--memory", "64MiB")
    assert read_whole(f"{tree.path}/{_NAME}") == make_gguf(_SIZE, _NAME)
    file, status = _file(tree), tree.status()
    assert file["recommended"]["cache_strategy"] == "default"
    assert file["applied"]["first_window_bytes"] == 256 * KIB
    assert 0.8 * _SIZE < file["prefetched_bytes"] <= file["fetched_bytes"] <= _SIZE + 64 * KIB
    assert file["used_bytes"] >= 0.8 * _SIZE
    assert file["wasted_bytes"] == 0
    assert status["memory"]["kept_bytes"] == 0
    assert status["preloads"] == []
    assert not _is_read_from_memory(tree, slow.reset_stats, lambda: slow.stats().bytes)


def test_prefetch_switched_off_fetches_what_is_asked_for_only(
    model: Path, tmp_path: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    slow = slow_source(model)
    config = _configuration(tmp_path, serving_pattern="realtime")
    tree = mounted(slow.mountpoint, "--config", config, "--no-prefetch")
    slow.reset_stats()
    fd = os.open(f"{tree.path}/{_NAME}", os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        assert read_at(fd, 0, MIB) == make_gguf(_SIZE, _NAME)[:MIB]
    finally:
        os.close(fd)
    file, status = _file(tree), tree.status()
    assert slow.stats().files[_NAME].bytes <= MIB + 64 * KIB
    assert file["prefetched_bytes"] == 0
    assert file["applied"]["first_window_bytes"] == 0
    assert file["recommended"]["prefetch_size"] > 0  # what it would be is shown still
    assert status["preloads"] == []


def test_first_window_of_the_command_line_overrides_the_optimizers(
    model: Path, slow_source: SlowSourceStarter, mounted: MountStarter
) -> None:
    slow = slow_source(model)
    tree = mounted(slow.mountpoint, "--first-window", "10MiB")
    fd = os.open(f"{tree.path}/{_NAME}", os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(fd, 4096, 0) == make_gguf(_SIZE, _NAME)[:4096]
        file = _file(tree)
        assert file["applied"]["first_window_bytes"] == 10 * MIB
        assert file["applied"]["window_bytes"] == 10 * MIB
        assert file["recommended"]["prefetch_size"] == 256 * KIB
        wait_until(lambda: slow.stats().in_flight == 0, "the window is fetched")
        assert 10 * MIB <= slow.stats().files[_NAME].bytes <= 11 * MIB
    finally:
        os.close(fd)


def test_counts_in_status_are_what_was_done(model: Path, mounted: MountStarter) -> None:
    tree = mounted(model)
    path = f"{tree.path}/{_NAME}"
    for _ in range(3):
        forget_pages(path)
        assert read_whole(path) == make_gguf(_SIZE, _NAME)
    wait_until(lambda: tree.status()["tables"]["open_files"] == 0, "every file is released")
    file, status = _file(tree), tree.status()
    assert file["opens"] == status["tables"]["opens"] == 6
    assert file["read_bytes"] == status["reads"]["read_bytes"] == 3 * _SIZE
    assert sum(kind["bytes"] for kind in status["reads"]["by_origin"].values()) == 3 * _SIZE
    assert file["reads"] == status["reads"]["reads"]
    events = 6 + 6 + status["reads"]["reads"]  # opens, releases, reads
    assert status["optimizer"]["events_emitted"] == events
    wait_until(
        lambda: tree.status()["optimizer"]["events_observed"] == events, "all events are observed"
    )
    assert tree.status()["optimizer"]["total_requests"] >= 1
