"""What the measurements are made of: figures, plans, readers, workplaces, ends. Mounts nothing."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from fusemount.bench import peers, readers
from fusemount.bench.cold import LIMIT, Sample, Way, describe_way, plan_ways
from fusemount.bench.endings import ending_in_order
from fusemount.bench.measures import Spread, kept_rounds, run_loader, run_reader, time_dd
from fusemount.bench.metadata import plan_places
from fusemount.bench.mounts import ServedMount, cpu_s
from fusemount.bench.workplace import mount_point, temporary_workplace, write_file, write_folder
from fusemount.errors import MountError, UsageError

_MIB = 1024 * 1024


def test_spread_is_median_least_and_most() -> None:
    assert Spread.of([3.0, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0)
    assert Spread.of([2.0]).to_json() == {"median": 2.0, "min": 2.0, "max": 2.0}


@pytest.mark.parametrize(("rounds", "kept"), [(1, [0]), (2, [1]), (3, [1, 2])])
def test_the_first_of_several_rounds_does_not_count(rounds: int, kept: list[int]) -> None:
    assert list(kept_rounds(rounds)) == kept


def _sample(seconds: float, cpu: float | None = None) -> Sample:
    return Sample(
        seconds=seconds,
        read_bytes=1_000_000,
        fetched_bytes=1_500_000,
        max_in_flight_requests=3,
        max_in_flight_bytes=None if cpu is None else 7,
        cpu_s=cpu,
    )


def test_ratios_are_taken_within_a_round() -> None:
    # In the second round everything took ten times as long: the ratio is the same.
    way = Way("mount", "mount", 1_000_000)
    described = describe_way(
        way, [_sample(2.0, 0.5), _sample(20.0, 0.5)], [_sample(1.0), _sample(10.0)]
    )
    assert described["ratio_to_limit"] == {"median": 0.5, "min": 0.5, "max": 0.5}
    assert described["mb_per_s"] == {"median": 0.275, "min": 0.05, "max": 0.5}
    assert described["fetched_per_read_bytes"]["median"] == 1.5
    assert described["cpu_s_per_gb"]["median"] == 500.0
    assert described["max_in_flight_bytes"] == 7


def test_what_a_way_cannot_know_is_null() -> None:
    described = describe_way(Way(LIMIT, "limit", 1), [_sample(1.0)], [_sample(1.0)])
    assert described["cpu_s_per_gb"] is None
    assert described["max_in_flight_bytes"] is None


@pytest.mark.parametrize("part_mib", [4, 16, 64])
def test_no_way_reads_more_than_there_is(part_mib: int) -> None:
    ways = plan_ways(16 * _MIB, part_mib * _MIB)
    part_bytes = min(part_mib, 16) * _MIB
    read_bytes = {way.key: way.read_bytes for way in ways}
    assert ways[0].key == LIMIT
    assert len(read_bytes) == len(ways)
    assert read_bytes[LIMIT] == read_bytes["mount"] == 16 * _MIB
    assert read_bytes["direct"] == read_bytes["mount_no_prefetch"] == part_bytes
    assert read_bytes["peer_plain_pyfuse3"] == part_bytes // 4


def test_peers_take_part_where_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert peers.installed_peers() == [peers.PLAIN]
    for name in ("bindfs", "rclone"):
        (tmp_path / name).touch(mode=0o755)
    keys = [peer.key for peer in peers.installed_peers()]
    assert keys == ["plain_pyfuse3", "bindfs", "rclone", "rclone_32_streams"]


def test_places_have_as_many_files_as_they_say() -> None:
    places = {place.key: place for place in plan_places(5)}
    assert places["native"].files == places["slow_mount"].files == 5
    assert places["slow_direct"].files == 1
    assert places["slow_direct"].folder != places["native"].folder


@pytest.mark.parametrize("size_bytes", [0, 1, _MIB, _MIB + 1, 3 * _MIB - 1])
def test_a_file_has_the_size_and_no_two_equal_blocks(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "file"
    write_file(str(path), size_bytes)
    content = path.read_bytes()
    blocks = [content[offset : offset + _MIB] for offset in range(0, len(content), _MIB)]
    assert len(content) == size_bytes
    assert len(set(blocks)) == len(blocks)


def test_a_folder_has_its_files(tmp_path: Path) -> None:
    write_folder(str(tmp_path / "folder"), 12)
    assert len(list((tmp_path / "folder").iterdir())) == 12


def test_a_workplace_is_removed_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(MountError), temporary_workplace(str(tmp_path), 1) as workplace:
        write_file(os.path.join(workplace, "file"), 10)
        with mount_point(workplace) as mountpoint:
            assert os.listdir(mountpoint) == []
            raise MountError("in the middle")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_with_too_little_room_is_refused(tmp_path: Path) -> None:
    free_bytes = shutil.disk_usage(tmp_path).free
    with (
        pytest.raises(UsageError, match=r"MiB free, \d+ MiB are needed: choose --directory"),
        temporary_workplace(str(tmp_path), 2 * free_bytes),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="absent: No such file or directory"),
        temporary_workplace(str(tmp_path / "absent"), 1),
    ):
        pass


def test_parallel_reads_cover_the_file(tmp_path: Path) -> None:
    write_file(str(tmp_path / "file"), 3 * _MIB + 5)
    result = readers.read_in_parallel(str(tmp_path / "file"))
    assert result["read_bytes"] == 3 * _MIB + 5
    assert result["seconds"] > 0


@pytest.mark.parametrize("command", ["list", "list-and-stat"])
def test_a_listing_counts_every_name(tmp_path: Path, command: str) -> None:
    write_folder(str(tmp_path / "folder"), 7)
    assert run_reader(command, str(tmp_path / "folder"))["entries"] == 7


@pytest.mark.parametrize("command", ["parallel", "list", "list-and-stat", "steady"])
def test_a_reader_of_nothing_fails_with_one_line(tmp_path: Path, command: str) -> None:
    with pytest.raises(MountError, match="absent: No such file or directory") as failure:
        run_reader(command, str(tmp_path / "absent"))
    assert "\n" not in str(failure.value)


def test_dd_of_nothing_fails_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="No such file or directory"):
        time_dd(str(tmp_path / "absent"), _MIB)


def test_a_model_that_is_not_there_fails_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="No such file or directory"):
        run_loader("ranker", str(tmp_path / "absent"))


def test_a_program_that_is_missing_fails_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MountError, match="dd is not installed"):
        time_dd(str(tmp_path), _MIB)


def test_cpu_time_is_the_process_s_own() -> None:
    before_s = cpu_s(os.getpid())
    own_before = os.times()
    while sum(os.times()[:2]) - sum(own_before[:2]) < 0.1:
        pass
    assert cpu_s(os.getpid()) - before_s >= 0.08


def test_a_file_system_that_ends_at_once_is_told_with_what_it_said(tmp_path: Path) -> None:
    mount = ServedMount("peer", ["sh", "-c", "echo no such option >&2; exit 3"], str(tmp_path))
    with pytest.raises(MountError, match="peer: no such option"), mount:
        pass


def test_a_file_system_that_is_not_installed_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(MountError, match="No such file"),
        ServedMount("peer", [str(tmp_path / "absent")], str(tmp_path)),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_ends_in_order_and_a_second_one_waits(
    number: signal.Signals, error: type[BaseException]
) -> None:
    before = signal.getsignal(number)
    cleaned = False
    with pytest.raises(error), ending_in_order():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned = True
    assert cleaned
    assert signal.getsignal(number) is before


class _AskedAllTheTime(ServedMount):
    def _is_ready(self) -> bool:
        return "ready" in self._said()


def test_what_a_file_system_says_is_read_beside_its_writing(tmp_path: Path) -> None:
    script = "for i in $(seq 200); do printf %03d $i; sleep 0.001; done; exit 1"
    mount = _AskedAllTheTime("peer", ["sh", "-c", script], str(tmp_path))
    words = "".join(f"{number:03}" for number in range(1, 201))
    with pytest.raises(MountError, match=f"^peer: {words}$"), mount:
        pass


def test_modules_of_the_current_directory_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('mine')")
    write_folder(str(tmp_path / "folder"), 3)
    monkeypatch.chdir(tmp_path)
    assert run_reader("list", "folder")["entries"] == 3
