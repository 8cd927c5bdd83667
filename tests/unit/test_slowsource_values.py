"""What the slow source accepts: limits of its values, and the two ways a fault is written."""

import errno
import json
from typing import Any

import pytest

from fusemount.errors import UsageError
from fusemount.slowsource_values import Fault, FileStats, Pace, Presentation, Stats

_STATS = Stats(
    reads=1,
    bytes=2,
    opens=3,
    lookups=4,
    getattrs=5,
    readlinks=6,
    readdirs=7,
    xattrs=8,
    statfs=9,
    in_flight=10,
    max_in_flight=11,
    hung=12,
    faults=13,
    nodes=14,
    files={"not\udcfftext": FileStats(1, 2, 3)},
)


def test_a_pace_is_passed_on_in_seconds_and_bytes() -> None:
    pace = Pace(latency_ms=10, stream_mbps=60, total_mbps=800)
    assert pace.in_seconds_and_bytes() == (0.01, 60e6, 800e6)


@pytest.mark.parametrize("value", [-0.001, float("nan"), float("inf"), 1.1e9])
@pytest.mark.parametrize("field", ["latency_ms", "stream_mbps", "total_mbps"])
def test_an_impossible_pace_names_its_field(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field):
        Pace(**{field: value})


@pytest.mark.parametrize("max_read_kib", [4, 8, 1020, 1024])
def test_the_largest_read_may_be_whole_pages(max_read_kib: int) -> None:
    assert Presentation(max_read_kib=max_read_kib).max_read_kib == max_read_kib


@pytest.mark.parametrize("max_read_kib", [0, 3, 5, 1023, 1028])
def test_the_largest_read_may_be_nothing_else(max_read_kib: int) -> None:
    with pytest.raises(UsageError, match="max_read_kib"):
        Presentation(max_read_kib=max_read_kib)


def test_a_listing_has_pages_of_one_entry_at_least() -> None:
    with pytest.raises(UsageError, match="list_page_entries"):
        Presentation(list_page_entries=0)


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("eio", ("error", errno.EIO)),
        ("estale", ("error", errno.ESTALE)),
        ("hang", ("hang", 0)),
        ("short", ("short", 0)),
    ],
)
def test_an_action_is_an_errno_or_a_deed(action: str, kind: tuple[str, int]) -> None:
    assert Fault(action=action).kind == kind


def test_a_fault_of_the_command_line() -> None:
    fault = Fault.parse("action=short,path=*.bin,nth=3,count=1,short_bytes=7")
    assert fault == Fault(action="short", path="*.bin", nth=3, count=1, short_bytes=7)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("eio", "key=value"),
        ("nth=3", "action"),
        ("action=explode", "explode"),
        ("action=eio,op=write", "write"),
        ("action=eio,nth=0", "nth"),
        ("action=eio,nth=x", "nth"),
        ("action=eio,count=-1", "count"),
        ("action=eio,when=3", "when"),
        ("action=eio,short_bytes=3", "short_bytes"),
        ("action=short,op=open", "op"),
    ],
)
def test_a_wrong_fault_of_the_command_line_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Fault.parse(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "eio", "nth": "3"},
        {"action": "eio", "nth": True},
        {"action": "eio", "path": 3},
        {"action": "eio", "nth": 2**63},
        {"action": "eio", "path": "a\0b"},
        {"action": None},
        {},
    ],
)
def test_a_wrong_fault_of_the_control_socket_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Fault.from_json(fields)


def test_counters_survive_the_way_over_the_socket() -> None:
    assert Stats.from_json(json.loads(json.dumps(_STATS.to_json()))) == _STATS
