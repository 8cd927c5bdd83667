"""What access events do: file accesses, load sessions, measurements, and nothing for nonsense."""

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import (
    AccessEvent,
    AccessKind,
    ModelServingInfo,
    Origin,
    ServingOptimizer,
    ServingPattern,
)
from optimizer import sessions as sessions_module
from optimizer.sessions import SessionTable

START = 1e6


class Mount:
    """An optimizer with one model `m`, and events at times relative to its start."""

    def __init__(self) -> None:
        self.now = START
        self.optimizer = ServingOptimizer(clock=lambda: self.now)
        self.optimizer.register_model(ModelServingInfo("m", "m", "1"))

    def observe(self, *events: AccessEvent) -> None:
        self.now = max(self.now, *(event.timestamp for event in events))
        self.optimizer.observe(events)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.optimizer.perform_optimization()

    @property
    def model(self) -> ModelServingInfo:
        info = self.optimizer.describe_model("m")
        assert info is not None
        return info


@pytest.fixture
def mount() -> Mount:
    return Mount()


def opened(at: float, path: str = "m/a", pid: int = 1, handle: int = 1) -> AccessEvent:
    return AccessEvent(AccessKind.OPEN, "m", path, 0, 0, 0.0, Origin.NONE, pid, handle, START + at)


def released(at: float, path: str = "m/a", pid: int = 1, handle: int = 1) -> AccessEvent:
    return replace(opened(at, path, pid, handle), kind=AccessKind.RELEASE)


def read(
    at: float,
    origin: Origin = Origin.SOURCE,
    size: int = 100,
    latency: float = 0.0,
    pid: int = 1,
) -> AccessEvent:
    return AccessEvent(AccessKind.READ, "m", "m/a", 0, size, latency, origin, pid, 1, START + at)


# File accesses and requests


def test_an_open_is_one_access_however_much_is_read(mount: Mount) -> None:
    mount.observe(opened(0), read(1), read(2), released(3))
    mount.observe(opened(4, "m/b"), opened(5, pid=2), read(6))
    assert mount.model.access_frequency == {"m/a": 2, "m/b": 1}
    assert mount.model.last_accessed == START + 6


def test_release_is_no_access(mount: Mount) -> None:
    mount.observe(opened(0), released(50))
    assert mount.model.last_accessed == START


@pytest.mark.parametrize(("gap", "requests"), [(9.999, 1), (10.0, 2), (10.001, 2)])
def test_opens_less_than_10_s_apart_are_one_request(
    mount: Mount, gap: float, requests: int
) -> None:
    mount.observe(opened(0), opened(gap, "m/b"))
    assert mount.model.request_count == requests
    assert mount.optimizer.get_serving_metrics().total_requests == requests


def test_gaps_are_between_neighbours(mount: Mount) -> None:
    mount.observe(*(opened(9.0 * number) for number in range(5)))
    assert mount.model.request_count == 1


def test_reads_do_not_hold_a_request_open(mount: Mount) -> None:
    mount.observe(opened(0), *(read(second) for second in range(1, 12)), opened(12, "m/b"))
    assert mount.model.request_count == 2


def test_each_process_makes_its_own_request(mount: Mount) -> None:
    mount.observe(opened(0, pid=1), opened(1, pid=2), opened(2, pid=1))
    assert mount.model.request_count == 2


def test_51_opens_make_a_file_kept(mount: Mount) -> None:
    mount.observe(*(opened(0, handle=number) for number in range(50)))
    before = mount.optimizer.optimize_model_access("m", ["m/a"]).file_optimizations["m/a"]
    mount.observe(opened(0, handle=50))
    after = mount.optimizer.optimize_model_access("m", ["m/a"]).file_optimizations["m/a"]
    assert (before.should_cache, after.should_cache) == (False, True)


# Load time


def test_load_time_is_from_first_open_to_last_release(mount: Mount) -> None:
    mount.observe(opened(0, handle=1), opened(1, "m/b", handle=2), released(3, handle=1))
    assert mount.model.load_time == 0.0
    mount.observe(released(7, "m/b", handle=2))
    assert mount.model.load_time == 7.0


def test_load_that_keeps_its_file_open_ends_by_silence(mount: Mount) -> None:
    mount.observe(opened(0), read(4))
    mount.advance(9.999)
    assert mount.model.load_time == 0.0
    mount.advance(0.001)
    assert mount.model.load_time == 4.0


def test_reads_long_after_the_load_are_not_load(mount: Mount) -> None:
    mount.observe(opened(0), read(4), read(14.5), read(15))
    mount.advance(10)
    assert mount.model.load_time == 4.0


def test_a_slow_read_is_load(mount: Mount) -> None:
    mount.observe(opened(0), read(30, latency=29))
    mount.advance(10)
    assert mount.model.load_time == 30.0


def test_load_time_is_that_of_the_last_load(mount: Mount) -> None:
    mount.observe(opened(0), read(5), released(5), opened(20), read(22), released(22))
    assert mount.model.load_time == 2.0


def test_a_new_session_ends_the_old_one(mount: Mount) -> None:
    mount.observe(opened(0), read(5), opened(20, handle=2))
    assert mount.model.load_time == 5.0


def test_release_of_an_older_sessions_handle_does_not_end_the_load(mount: Mount) -> None:
    mount.observe(opened(0, handle=1), opened(20, handle=2), released(21, handle=1))
    assert mount.model.load_time == 0.0
    mount.observe(released(23, handle=2))
    assert mount.model.load_time == 3.0


# Measurements


@pytest.mark.parametrize(
    ("origin", "rate"),
    [
        (Origin.STORE, 1.0),
        (Origin.CACHED, 1.0),
        (Origin.JOINED, 0.5),
        (Origin.SOURCE, 0.5),
        (Origin.NONE, 1.0),
    ],
)
def test_hit_rate_is_of_reads_that_did_not_wait(mount: Mount, origin: Origin, rate: float) -> None:
    mount.observe(read(0, Origin.STORE), read(1, origin))
    assert mount.model.cache_hit_rate == rate


@pytest.mark.parametrize(
    ("origins", "cached"),
    [
        ([Origin.STORE, Origin.CACHED], 1),
        ([Origin.STORE, Origin.SOURCE], 0),
        ([Origin.JOINED], 0),
        ([], 0),
    ],
)
def test_load_without_waiting_is_a_cached_request(
    mount: Mount, origins: list[Origin], cached: int
) -> None:
    mount.observe(opened(0), *(read(1, origin) for origin in origins), released(2))
    mount.advance(10)
    metrics = mount.optimizer.get_serving_metrics()
    assert (metrics.cached_requests, metrics.cache_hit_rate) == (cached, float(cached))


def test_ended_loads_are_throughput(mount: Mount) -> None:
    mount.observe(opened(0, pid=1), opened(0, pid=2))
    assert mount.model.current_throughput == 0.0
    mount.advance(10)
    assert mount.model.current_throughput == pytest.approx(2 / 60)


def test_latency_is_that_of_reads_until_requests_are_completed(mount: Mount) -> None:
    mount.observe(read(0, latency=0.2), read(1, latency=0.4))
    assert mount.model.current_latency == pytest.approx(0.3)


def test_counts(mount: Mount) -> None:
    outside = replace(opened(0), model_id=None)
    unknown = replace(opened(0), model_id="who")
    refused = replace(read(0), size=-1)
    mount.observe(opened(0), read(1, size=10, latency=0.5), read(2, Origin.STORE, size=5))
    mount.observe(outside, unknown, refused)
    counts = mount.optimizer.observations
    assert (counts.events, counts.opens, counts.reads, counts.hits) == (6, 1, 2, 1)
    assert (counts.outside_models, counts.unknown_models, counts.refused) == (1, 1, 1)
    assert (counts.read_bytes, counts.hit_bytes, counts.read_seconds) == (15, 5, 0.5)


# Bounds


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "SESSION_LIMIT", 3)
    table = SessionTable()
    results = [table.open("m", pid, 1, float(pid)) for pid in range(5)]
    assert len(table) == 3
    assert [ended.first_open if ended else None for _, ended in results] == [
        None,
        None,
        None,
        0.0,
        1.0,
    ]


def test_handles_of_a_session_are_bounded(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "HANDLE_LIMIT", 2)
    table = SessionTable()
    for handle in range(5):
        table.open("m", 1, handle, 0.0)
    session = table.find(("m", 1))
    assert session is not None
    assert session.handles == {0, 1}


# Nonsense


def refuse_counts(mount: Mount, event: Any) -> None:
    """Observe one event, and check that it changed nothing but the counter of refused ones."""
    before = (mount.model, mount.optimizer.get_serving_metrics(), mount.optimizer.observations)
    mount.optimizer.observe([event])
    counts = mount.optimizer.observations
    assert (counts.events, counts.refused) == (before[2].events + 1, before[2].refused + 1)
    assert mount.model == before[0]
    assert mount.optimizer.get_serving_metrics() == before[1]
    assert replace(counts, events=0, refused=0) == replace(before[2], events=0, refused=0)


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": 1 << 41},
        {"size": 1.5},
        {"size": "1"},
        {"latency": -0.1},
        {"latency": float("nan")},
        {"latency": float("inf")},
        {"latency": None},
        {"latency": Decimal("0.5")},
        {"origin": "store"},
        {"pid": []},
        {"model_id": []},
        {"timestamp": START - 86_401},
        {"timestamp": float("-inf")},
        {"timestamp": "now"},
        {"kind": None},
    ],
    ids=str,
)
def test_nonsense_reads_are_refused_whole(mount: Mount, change: dict[str, Any]) -> None:
    refuse_counts(mount, replace(read(0), **change))


@pytest.mark.parametrize(
    "change", [{"file_path": b"m/a"}, {"file_path": None}, {"handle": []}, {"pid": {}}], ids=str
)
def test_nonsense_opens_are_refused_whole(mount: Mount, change: dict[str, Any]) -> None:
    refuse_counts(mount, replace(opened(0), **change))


@pytest.mark.parametrize("event", [None, 7, SimpleNamespace(model_id="m")], ids=str)
def test_what_is_no_event_is_refused(mount: Mount, event: object) -> None:
    refuse_counts(mount, event)


@pytest.mark.parametrize("timestamp", [float("nan"), float("inf"), START + 1e9])
def test_an_event_from_the_future_is_now(mount: Mount, timestamp: float) -> None:
    mount.optimizer.observe([replace(opened(0), timestamp=timestamp)])
    assert mount.model.last_accessed == START


ODD = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.decimals(),
    st.fractions(),
    st.complex_numbers(),
    st.lists(st.integers(), max_size=2),
)
PATHS = st.sampled_from(["m/a", "m/b", "m/\udcff", ""])
SANE_EVENTS = st.builds(
    AccessEvent,
    kind=st.sampled_from(AccessKind),
    model_id=st.sampled_from(["m", "n", "unknown", None]),
    file_path=PATHS,
    offset=st.integers(0, 1 << 33),
    size=st.integers(0, 1 << 20),
    latency=st.floats(0, 100),
    origin=st.sampled_from(Origin),
    pid=st.integers(0, 3),
    handle=st.integers(0, 3),
    timestamp=st.floats(START - 40, START),
)
ODD_EVENTS = st.builds(
    AccessEvent,
    kind=st.sampled_from(AccessKind) | ODD,
    model_id=st.just("m") | ODD,
    file_path=PATHS | ODD,
    offset=ODD,
    size=st.integers() | ODD,
    latency=st.floats() | ODD,
    origin=st.sampled_from(Origin) | ODD,
    pid=st.integers() | ODD,
    handle=st.integers() | ODD,
    timestamp=st.floats() | st.just(START) | ODD,
)
ANY_EVENTS = st.lists(SANE_EVENTS | ODD_EVENTS | ODD, max_size=30)


def watch(events: Iterable[Any]) -> ServingOptimizer:
    mount = Mount()
    mount.optimizer.register_model(
        ModelServingInfo("n", "n", "1", serving_pattern=ServingPattern.REALTIME_INFERENCE)
    )
    mount.optimizer.observe(events)
    mount.advance(15)
    return mount.optimizer


@given(ANY_EVENTS)
def test_no_event_raises_or_breaks_what_is_known(events: list[Any]) -> None:
    optimizer = watch(events)
    counts = optimizer.observations
    assert counts.events == len(events)
    assert counts.hits <= counts.reads
    assert counts.hit_bytes <= counts.read_bytes
    metrics = optimizer.get_serving_metrics()
    assert metrics.cached_requests <= metrics.total_requests
    for model_id in optimizer.model_ids:
        info = optimizer.describe_model(model_id)
        assert info is not None
        assert sorted(info.hot_files + info.cold_files) == sorted(info.access_frequency)
        assert 0.0 <= info.cache_hit_rate <= 1.0
        assert 0.0 <= info.load_time <= 86_400.0
        assert 0.0 <= info.current_latency <= 86_400.0
        assert info.request_count <= sum(info.access_frequency.values())


@given(st.lists(SANE_EVENTS, max_size=30))
def test_every_sane_open_of_a_known_model_is_counted(events: list[AccessEvent]) -> None:
    optimizer = watch(events)
    assert optimizer.observations.refused == 0
    for model_id in ("m", "n"):
        expected: dict[str, int] = {}
        for event in events:
            if event.kind is AccessKind.OPEN and event.model_id == model_id:
                expected[event.file_path] = expected.get(event.file_path, 0) + 1
        info = optimizer.describe_model(model_id)
        assert info is not None
        assert info.access_frequency == expected


@given(st.lists(SANE_EVENTS, max_size=20), st.lists(PATHS, max_size=5))
def test_asking_has_no_side_effects(events: list[AccessEvent], paths: list[str]) -> None:
    asked, left_alone = watch(events), watch(events)
    for model_id in ("m", "n", "unknown"):
        first = asked.optimize_model_access(model_id, paths)
        assert asked.optimize_model_access(model_id, paths) == first
        assert set(first.file_optimizations) == (set() if model_id == "unknown" else set(paths))
    for model_id in ("m", "n", "unknown"):
        assert asked.describe_model(model_id) == left_alone.describe_model(model_id)
        assert asked.serving_history(model_id) == left_alone.serving_history(model_id)
    assert asked.get_serving_metrics() == left_alone.get_serving_metrics()
    assert asked.observations == left_alone.observations
    assert asked.perform_optimization() == left_alone.perform_optimization()
