"""The facade: registering, requests, rounds, metrics, shutdown."""

from dataclasses import replace
from typing import Any

import pytest

from optimizer import (
    AccessEvent,
    AccessKind,
    InferenceRequest,
    ModelServingInfo,
    Origin,
    ServingOptimizer,
    ServingPattern,
)
from optimizer import registry as registry_module

DAY_S = 86_400.0


class FakeClock:
    def __init__(self, now: float = 5000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def optimizer(clock: FakeClock) -> ServingOptimizer:
    return ServingOptimizer(clock=clock)


def describe(model_id: str = "m", **fields: Any) -> ModelServingInfo:
    return replace(ModelServingInfo(model_id, f"path/{model_id}", "1"), **fields)


def known(optimizer: ServingOptimizer, model_id: str = "m") -> ModelServingInfo:
    info = optimizer.describe_model(model_id)
    assert info is not None
    return info


def use(optimizer: ServingOptimizer, model_id: str, path: str, times: int) -> None:
    for number in range(times):
        optimizer.record_inference_request(InferenceRequest(f"u{number}", model_id, (path,)))


# Registration


def test_registered_model_is_a_copy(optimizer: ServingOptimizer, clock: FakeClock) -> None:
    info = describe(access_frequency={"a": 1})
    optimizer.register_model(info)
    info.access_frequency["b"] = 1
    info.model_size = 99
    assert known(optimizer).access_frequency == {"a": 1}
    assert known(optimizer).model_size == 0
    assert known(optimizer).deployed_at == clock.now
    known(optimizer).access_frequency["c"] = 1
    assert known(optimizer).access_frequency == {"a": 1}


def test_known_model_has_history_from_registration(optimizer: ServingOptimizer) -> None:
    assert optimizer.serving_history("m") is None
    optimizer.register_model(describe(request_count=101, last_accessed=5000.0))
    assert optimizer.serving_history("m") is not None
    assert optimizer.optimize_model_access("m", []).priority == 25


def test_versions_are_appended_by_path(optimizer: ServingOptimizer) -> None:
    optimizer.register_model(describe("a", model_path="p"))
    optimizer.register_model(describe("b", model_path="p", model_version="2"))
    optimizer.register_model(describe("c", model_path="q", model_version="7"))
    assert optimizer.model_versions("p") == ("1", "2")
    assert optimizer.model_versions("q") == ("7",)
    assert optimizer.model_versions("none") == ()


def test_registering_the_same_again_keeps_everything(optimizer: ServingOptimizer) -> None:
    optimizer.register_model(describe(load_time=3.0))
    use(optimizer, "m", "a", 3)
    optimizer.register_model(describe(batch_size=8, access_frequency={"b": 0}))
    info = known(optimizer)
    assert (info.batch_size, info.request_count, info.load_time) == (8, 3, 3.0)
    assert info.access_frequency == {"a": 3, "b": 0}
    history = optimizer.serving_history("m")
    assert history is not None
    assert len(history.access_patterns) == 3
    assert optimizer.model_versions("path/m") == ("1",)


@pytest.mark.parametrize(
    "change",
    [
        {"model_version": "2"},
        {"model_size": 7},
        {"model_path": "elsewhere"},
        {"framework": "torch"},
        {"model_type": "onnx"},
    ],
)
def test_changed_identity_resets_history_and_keeps_use(
    optimizer: ServingOptimizer, clock: FakeClock, change: dict[str, Any]
) -> None:
    optimizer.register_model(describe(load_time=3.0))
    use(optimizer, "m", "a", 3)
    use(optimizer, "m", "gone", 1)
    clock.now += 1
    optimizer.register_model(describe(access_frequency={"a": 0, "new": 0}, **change))
    info = known(optimizer)
    assert (info.request_count, info.last_accessed, info.deployed_at) == (4, 5000.0, 5001.0)
    assert info.access_frequency == {"a": 3, "new": 0}
    assert info.load_time == 0.0
    history = optimizer.serving_history("m")
    assert history is not None
    assert history.access_patterns == []
    versions = optimizer.model_versions(info.model_path)
    assert versions[-1] == info.model_version
    assert len(versions) == (1 if "model_path" in change else 2)


def test_changed_identity_without_a_file_list_keeps_all_counts(optimizer: ServingOptimizer) -> None:
    optimizer.register_model(describe())
    use(optimizer, "m", "a", 2)
    optimizer.register_model(describe(model_version="2"))
    assert known(optimizer).access_frequency == {"a": 2}


def test_a_description_with_counts_of_its_own_is_believed(optimizer: ServingOptimizer) -> None:
    optimizer.register_model(describe())
    use(optimizer, "m", "a", 2)
    optimizer.register_model(describe(request_count=500, access_frequency={"x": 9}))
    info = known(optimizer)
    assert (info.request_count, info.access_frequency) == (500, {"x": 9})


@pytest.mark.parametrize(
    "bad", [{"model_id": ""}, {"model_size": -1}, {"batch_size": -1}, {"request_count": -1}]
)
def test_impossible_descriptions_are_refused(
    optimizer: ServingOptimizer, bad: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="model"):
        optimizer.register_model(replace(describe(), **bad))
    assert optimizer.model_ids == ()


def test_models_are_bounded_and_the_used_ones_stay(
    optimizer: ServingOptimizer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "MODEL_LIMIT", 20)
    for number in range(20):
        clock.now += 1
        optimizer.register_model(describe(f"m{number}"))
    clock.now += 1
    use(optimizer, "m0", "a", 1)
    clock.now += 1
    optimizer.register_model(describe("new"))
    assert len(optimizer.model_ids) == 19
    assert {"m0", "new"} <= set(optimizer.model_ids)
    assert not {"m1", "m2"} & set(optimizer.model_ids)


def test_access_counts_are_bounded(
    optimizer: ServingOptimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "FILE_LIMIT", 10)
    optimizer.register_model(describe())
    use(optimizer, "m", "often", 2)
    for number in range(30):
        use(optimizer, "m", f"f{number}", 1)
        assert len(known(optimizer).access_frequency) <= 10
    assert known(optimizer).access_frequency["often"] == 2


# Requests


@pytest.mark.parametrize(
    ("batch_size", "deadline_in_s", "pattern"),
    [
        (32, None, ServingPattern.REALTIME_INFERENCE),
        (33, None, ServingPattern.BATCH_INFERENCE),
        (32, 0.099, ServingPattern.REALTIME_INFERENCE),
        (32, 0.1, ServingPattern.REALTIME_INFERENCE),
        (32, 60.0, ServingPattern.REALTIME_INFERENCE),
        # A batch stays a batch, however near its deadline.
        (33, 0.099, ServingPattern.BATCH_INFERENCE),
        (33, 0.1, ServingPattern.BATCH_INFERENCE),
        (33, -1.0, ServingPattern.BATCH_INFERENCE),
    ],
)
def test_request_sample(
    optimizer: ServingOptimizer,
    clock: FakeClock,
    batch_size: int,
    deadline_in_s: float | None,
    pattern: ServingPattern,
) -> None:
    optimizer.register_model(describe())
    deadline = None if deadline_in_s is None else clock.now + deadline_in_s
    optimizer.record_inference_request(
        InferenceRequest("r", "m", batch_size=batch_size, deadline=deadline)
    )
    history = optimizer.serving_history("m")
    assert history is not None
    (sample,) = history.access_patterns
    assert (sample.pattern, sample.avg_batch_size) == (pattern, float(batch_size))
    assert sample.timestamp == clock.now
    assert sample.requests_per_second == pytest.approx(1 / 60)


def test_request_counts_its_files(optimizer: ServingOptimizer, clock: FakeClock) -> None:
    optimizer.register_model(describe())
    clock.now += 3
    optimizer.record_inference_request(InferenceRequest("r", "m", ("a", "b", "a")))
    info = known(optimizer)
    assert info.access_frequency == {"a": 2, "b": 1}
    assert (info.request_count, info.last_accessed) == (1, clock.now)


def test_request_for_an_unknown_model_counts_in_the_total_only(optimizer: ServingOptimizer) -> None:
    optimizer.record_inference_request(InferenceRequest("r", "nobody", ("a",)))
    metrics = optimizer.get_serving_metrics()
    assert (metrics.total_requests, metrics.active_models) == (1, 0)
    assert optimizer.model_ids == ()
    assert optimizer.complete_inference_request("r", 0.1)


def test_completed_requests_are_measured(optimizer: ServingOptimizer) -> None:
    optimizer.register_model(describe())
    for number, latency in enumerate([0.1, 0.3]):
        optimizer.record_inference_request(InferenceRequest(str(number), "m"))
        assert optimizer.complete_inference_request(str(number), latency, cached=number == 0)
    metrics = optimizer.get_serving_metrics()
    assert metrics.avg_latency == pytest.approx(0.2)
    assert metrics.avg_throughput == pytest.approx(2 / 60)
    assert (metrics.total_requests, metrics.cached_requests) == (2, 1)
    assert metrics.cache_hit_rate == 0.5


def test_completing_what_is_not_pending_changes_nothing(optimizer: ServingOptimizer) -> None:
    optimizer.register_model(describe())
    optimizer.record_inference_request(InferenceRequest("r", "m"))
    assert optimizer.complete_inference_request("r", 0.1, cached=True)
    before = optimizer.get_serving_metrics()
    assert not optimizer.complete_inference_request("r", 9.0, cached=True)
    assert not optimizer.complete_inference_request("other", 9.0, cached=True)
    assert optimizer.get_serving_metrics() == before


@pytest.mark.parametrize("latency", [-1.0, float("nan"), float("inf")])
def test_impossible_latencies_are_not_measured(optimizer: ServingOptimizer, latency: float) -> None:
    optimizer.register_model(describe())
    optimizer.record_inference_request(InferenceRequest("r", "m"))
    assert optimizer.complete_inference_request("r", latency)
    assert known(optimizer).current_latency == 0.0


@pytest.mark.parametrize(
    ("error", "error_type"), [(TimeoutError("late"), "TimeoutError"), ("late", "error")]
)
def test_failed_request_is_an_error_event(
    optimizer: ServingOptimizer, clock: FakeClock, error: BaseException | str, error_type: str
) -> None:
    optimizer.register_model(describe())
    optimizer.record_inference_request(InferenceRequest("r", "m", metadata={"k": 1}))
    optimizer.complete_inference_request("r", 5.0, error=error)
    history = optimizer.serving_history("m")
    assert history is not None
    (event,) = history.error_events
    assert (event.error_type, event.error_msg) == (error_type, "late")
    assert (event.request_id, event.model_id, event.timestamp) == ("r", "m", clock.now)
    assert dict(event.metadata) == {"k": 1}
    info = known(optimizer)
    assert (info.error_count, info.current_latency) == (1, 0.0)


def test_histories_of_requests_are_bounded(optimizer: ServingOptimizer) -> None:
    optimizer.register_model(describe())
    for number in range(1001):
        optimizer.record_inference_request(InferenceRequest(str(number), "m"))
        optimizer.complete_inference_request(str(number), 0.0, error="no")
    history = optimizer.serving_history("m")
    assert history is not None
    assert (len(history.access_patterns), len(history.error_events)) == (500, 500)
    assert history.error_events[-1].request_id == "1000"
    assert len(optimizer.completed_requests) == 1000
    assert optimizer.pending_requests == ()


# Rounds


@pytest.mark.parametrize(("seconds", "due"), [(29.9, False), (30.0, True)])
def test_round_is_due_every_30_s(clock: FakeClock, seconds: float, due: bool) -> None:
    optimizer = ServingOptimizer(clock=clock)
    clock.now += seconds
    assert optimizer.is_round_due() is due
    optimizer.perform_optimization()
    assert not optimizer.is_round_due()
    clock.now += seconds
    assert optimizer.is_round_due() is due


def test_disabled_optimizer_answers_and_is_never_due(clock: FakeClock) -> None:
    optimizer = ServingOptimizer(enabled=False, clock=clock)
    optimizer.register_model(describe(serving_pattern=ServingPattern.ENSEMBLE_SERVING))
    use(optimizer, "m", "a", 1)
    clock.now += 1e5
    assert not optimizer.enabled
    assert not optimizer.is_round_due()
    assert optimizer.optimize_model_access("m", ["a"]).cache_strategy == "coordinated"
    assert optimizer.get_serving_metrics().total_requests == 1


def test_round_samples_models_that_have_something_to_sample(
    optimizer: ServingOptimizer, clock: FakeClock
) -> None:
    optimizer.register_model(describe("idle"))
    optimizer.register_model(describe("busy", cpu_usage=50.0, memory_usage=7))
    optimizer.record_inference_request(InferenceRequest("r", "busy"))
    optimizer.complete_inference_request("r", 0.25)
    outcome = optimizer.perform_optimization()
    assert (outcome.timestamp, outcome.models_sampled) == (clock.now, 1)
    busy, idle = optimizer.serving_history("busy"), optimizer.serving_history("idle")
    assert busy is not None
    assert idle is not None
    (sample,) = busy.performance_metrics
    assert (sample.latency, sample.cpu_usage, sample.memory_usage) == (0.25, 50.0, 7)
    assert sample.throughput == pytest.approx(1 / 60)
    assert idle.performance_metrics == []
    assert [entry.model_id for entry in optimizer.throughput_history] == ["busy"]


def test_rounds_are_bounded(optimizer: ServingOptimizer, clock: FakeClock) -> None:
    optimizer.register_model(describe(current_throughput=2.0))
    for _ in range(1001):
        clock.now += 1
        optimizer.perform_optimization()
    history = optimizer.serving_history("m")
    assert history is not None
    assert len(history.performance_metrics) == 500
    assert history.performance_metrics[-1].timestamp == clock.now
    assert len(optimizer.throughput_history) == 500


@pytest.mark.parametrize(("age", "left"), [(DAY_S - 1, 2), (DAY_S, 1)])
def test_round_drops_samples_of_a_day(
    optimizer: ServingOptimizer, clock: FakeClock, age: float, left: int
) -> None:
    optimizer.register_model(describe(cpu_usage=1.0))
    use(optimizer, "m", "a", 1)
    optimizer.perform_optimization()
    clock.now += age
    dropped = optimizer.perform_optimization().samples_dropped
    history = optimizer.serving_history("m")
    assert history is not None
    assert len(history.performance_metrics) == left
    assert len(history.access_patterns) == left - 1
    assert dropped == 2 * (2 - left)


def test_errors_outlive_the_day(optimizer: ServingOptimizer, clock: FakeClock) -> None:
    optimizer.register_model(describe())
    optimizer.record_inference_request(InferenceRequest("r", "m"))
    optimizer.complete_inference_request("r", 0.0, error="no")
    clock.now += 2 * DAY_S
    optimizer.perform_optimization()
    history = optimizer.serving_history("m")
    assert history is not None
    assert len(history.error_events) == 1


def test_round_tells_hot_from_cold(optimizer: ServingOptimizer) -> None:
    optimizer.register_model(describe(access_frequency=dict.fromkeys("abcde", 1)))
    use(optimizer, "m", "c", 1)
    assert optimizer.perform_optimization().changed_models == ("m",)
    info = known(optimizer)
    assert info.hot_files == ("c",)
    assert info.cold_files == ("a", "b", "d", "e")


def test_round_names_models_whose_recommendation_may_differ(
    optimizer: ServingOptimizer, clock: FakeClock
) -> None:
    optimizer.register_model(describe("a"))
    optimizer.register_model(describe("b"))
    assert optimizer.perform_optimization().changed_models == ("a", "b")
    assert optimizer.perform_optimization().changed_models == ()
    use(optimizer, "b", "f", 1)
    assert optimizer.perform_optimization().changed_models == ("b",)
    optimizer.register_model(describe("a", batch_size=4))
    assert optimizer.perform_optimization().changed_models == ("a",)
    clock.now += 299
    assert optimizer.perform_optimization().changed_models == ()
    clock.now += 1
    assert optimizer.perform_optimization().changed_models == ("b",)
    assert optimizer.perform_optimization().changed_models == ()


# Metrics and the end


def test_averages_leave_out_models_without_a_value(optimizer: ServingOptimizer) -> None:
    optimizer.register_model(describe("a", current_latency=0.2, current_throughput=4.0))
    optimizer.register_model(describe("b", current_latency=0.4))
    optimizer.register_model(describe("c", serving_pattern=ServingPattern.CANARY_SERVING))
    metrics = optimizer.get_serving_metrics()
    assert metrics.avg_latency == pytest.approx(0.3)
    assert metrics.avg_throughput == 4.0
    assert metrics.active_models == 3
    assert dict(metrics.models_by_pattern) == {
        ServingPattern.UNKNOWN: 2,
        ServingPattern.CANARY_SERVING: 1,
    }


def test_metrics_of_nothing_are_zero(optimizer: ServingOptimizer) -> None:
    metrics = optimizer.get_serving_metrics()
    assert (metrics.total_requests, metrics.cache_hit_rate) == (0, 0.0)
    assert (metrics.avg_latency, metrics.avg_throughput) == (0.0, 0.0)


def test_shutdown_ends_loads_and_rounds(optimizer: ServingOptimizer, clock: FakeClock) -> None:
    optimizer.register_model(describe())
    optimizer.observe(
        [
            AccessEvent(AccessKind.OPEN, "m", "a", 0, 0, 0.0, Origin.NONE, 1, 1, clock.now - 2),
            AccessEvent(AccessKind.READ, "m", "a", 0, 9, 0.0, Origin.STORE, 1, 1, clock.now),
        ]
    )
    optimizer.shutdown()
    optimizer.shutdown()
    clock.now += 1e4
    assert not optimizer.is_round_due()
    assert known(optimizer).load_time == 2.0
    assert optimizer.get_serving_metrics().cached_requests == 1
    assert optimizer.optimize_model_access("m", ["a"]).model_id == "m"


def test_a_clock_that_steps_back_keeps_series_in_order(
    optimizer: ServingOptimizer, clock: FakeClock
) -> None:
    optimizer.register_model(describe(cpu_usage=1.0))
    optimizer.perform_optimization()
    clock.now -= 100
    optimizer.perform_optimization()
    history = optimizer.serving_history("m")
    assert history is not None
    assert [sample.timestamp for sample in history.performance_metrics] == [5000.0, 5000.0]
