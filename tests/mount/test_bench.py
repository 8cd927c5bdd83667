"""`fusemount bench` with tiny sizes: what it measures, what it refuses, what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fusemount.bench.peers import PLAIN
from fusemount.bench.workplace import write_file, write_folder
from fusemount.mountinfo import read_mounts
from tests.mount.commands import assert_refused, run_fusemount
from tests.mount.harness import FUSEMOUNT
from tests.mount.slow_places import wait_for

_MIB = 1024 * 1024
_TINY = ("--size=16MiB", "--part=4MiB", "--rounds=1")


def _mounts_below(path: Path) -> list[bytes]:
    inside = os.fsencode(path.resolve()) + b"/"
    return [mount.mountpoint for mount in read_mounts() if mount.mountpoint.startswith(inside)]


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document of one tiny run; it left nothing behind."""
    place = tmp_path_factory.mktemp("cold")
    output = place / "cold.json"
    work = place / "work"
    work.mkdir()
    answer = run_fusemount(
        "bench", "cold", *_TINY, "--json", "--output", output, "--directory", work
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    assert list(work.iterdir()) == []
    document: dict[str, Any] = json.loads(answer.stdout)
    assert json.loads(output.read_text()) == document
    return document


def _ways(document: dict[str, Any]) -> dict[str, Any]:
    return {way["way"]: way for way in document["ways"]}


def test_cold_says_what_was_measured_and_where(cold: dict[str, Any]) -> None:
    assert cold["case"] == "cold"
    assert cold["size_bytes"] == 16 * _MIB
    assert cold["pace"] == {"latency_ms": 10.0, "stream_mbps": 60.0, "total_mbps": 800.0}
    assert (cold["rounds"], cold["rounds_kept"]) == (1, 1)
    assert cold["machine"]["cpus"] >= 1


def test_cold_measures_every_way(cold: dict[str, Any]) -> None:
    ways = _ways(cold)
    expected = {
        "limit",
        "direct",
        "direct_uncached",
        "mount",
        "mount_cached_source",
        "mount_no_prefetch",
        "mount_first_window_64kib",
        "mount_first_window_10mib",
        "peer_plain_pyfuse3",
    }
    assert expected <= set(ways)
    assert ways["limit"]["ratio_to_limit"]["median"] == 1.0
    for way in ways.values():
        assert way["seconds"]["min"] <= way["seconds"]["median"] <= way["seconds"]["max"]
        assert way["mb_per_s"]["median"] > 0


def test_cold_ways_really_read_from_the_source(cold: dict[str, Any]) -> None:
    # Some KiB may have been looked at before; the kernel may read ahead of a part.
    assert all(way["fetched_per_read_bytes"]["median"] > 0.99 for way in cold["ways"])


def test_cold_mount_fetches_each_byte_once(cold: dict[str, Any]) -> None:
    assert _ways(cold)["mount"]["fetched_per_read_bytes"]["median"] == 1.0


def test_cold_windows_show_in_what_is_in_flight(cold: dict[str, Any]) -> None:
    ways = _ways(cold)
    no_prefetch = ways["mount_no_prefetch"]["max_in_flight_bytes"]
    assert 0 < no_prefetch < ways["mount_first_window_64kib"]["max_in_flight_bytes"]
    assert ways["mount_first_window_10mib"]["max_in_flight_bytes"] >= 10 * _MIB
    assert ways["direct"]["max_in_flight_bytes"] is None


def test_metadata_shows_a_row_for_each_place(tmp_path: Path) -> None:
    arguments = ("--files=40", "--rounds=1", "--directory", tmp_path)
    answer = run_fusemount("bench", "metadata", *arguments)
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0] == "40 files in one folder, one round, in seconds"
    starts = {line.split("  ")[0] for line in lines[2:]}
    expected = {"native", "mount", "plain pyfuse3", "10 ms source, 4 files"}
    assert expected | {"mount on 10 ms source"} <= starts
    assert list(tmp_path.iterdir()) == []


def test_stalls_counts_reads_with_and_without_kills(tmp_path: Path) -> None:
    arguments = ("--size=16MiB", "--kills=5", "--quiet=0.2", "--directory", tmp_path)
    answer = run_fusemount("bench", "stalls", *arguments, "--json")
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    for phase in ("without_kills", "with_kills"):
        assert document[phase]["passes"] >= 1
        assert document[phase]["reads"] >= 16
        assert document[phase]["longest_read_s"] >= document[phase]["p99_read_s"] > 0
    assert document["kills"] == 5
    assert document["longest_killed_client_s"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cold", "--size=1KiB"), ("--size", "1KiB")),
        (("cold", "--size=much"), ("--size", "much", "256MiB")),
        (("cold", "--size=1000TiB"), ("MiB free", "--directory")),
        (("cold", "--rounds=0"), ("--rounds",)),
        (("metadata", "--files=0"), ("--files",)),
        (("stalls", "--kills=0"), ("--kills",)),
        (("metadata", "--directory=/absent/place"), ("/absent/place", "No such file")),
        (("stalls", "--output=/absent/place"), ("--output", "/absent/place", "No such file")),
        (("warm",), ("warm",)),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_refused(run_fusemount("bench", *arguments), *words)


def _start_bench(place: Path) -> "subprocess.Popen[bytes]":
    """A run that would take minutes, once it has mounted something below `place`."""
    process = subprocess.Popen(
        [*FUSEMOUNT, "bench", "metadata", "--files=40", "--rounds=1000", "--directory", place],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: bool(_mounts_below(place)) or process.poll() is not None, "a mount")
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with _start_bench(tmp_path) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    assert b"Traceback" not in said
    assert _mounts_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_mounts_end_with_a_run_that_was_killed(tmp_path: Path) -> None:
    with _start_bench(tmp_path) as process:
        process.kill()
        process.communicate(timeout=30)
    wait_for(lambda: not _mounts_below(tmp_path), "everything unmounted")


def test_the_plain_peer_shows_the_tree_as_it_is(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    source.mkdir()
    root.mkdir()
    write_file(str(source / "file"), 3 * _MIB + 1)
    write_folder(str(source / "folder"), 300)
    (source / "link").symlink_to("file")
    with PLAIN.mount(str(source), str(root)):
        assert (root / "file").read_bytes() == (source / "file").read_bytes()
        assert sorted(os.listdir(root / "folder")) == sorted(os.listdir(source / "folder"))
        assert os.readlink(root / "link") == "file"
        assert (root / "file").stat().st_mtime_ns == (source / "file").stat().st_mtime_ns
        with pytest.raises(FileNotFoundError):
            (root / "absent").stat()


def test_the_plain_peer_refuses_a_file_as_source(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = subprocess.run(
        [sys.executable, "-m", "fusemount.bench.passthrough", tmp_path / "file", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert "is not a directory" in answer.stderr
