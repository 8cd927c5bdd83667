"""Names, defaults, and the small instruments: series, means, rates, hot files, request book."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import (
    AccessPatternSample,
    InferenceRequest,
    ModelLoadBalancer,
    PerformanceSample,
    ServingCacheStrategy,
    ServingHistory,
    ServingPattern,
)
from optimizer.meters import (
    RATE_MARKS,
    RecentMean,
    RequestRate,
    split_hot_files,
    trim_access_counts,
)
from optimizer.patterns import classify_request
from optimizer.requests import COMPLETED_LIMIT, PENDING_LIMIT, RequestBook
from optimizer.serving import append_bounded, drop_old_samples

DAY_S = 86_400.0

PATTERN_NAMES = [
    "Unknown",
    "BatchInference",
    "RealtimeInference",
    "StreamingInference",
    "MultiModalServing",
    "EnsembleServing",
    "A_BServing",
    "CanaryServing",
    "AutoScalingServing",
]
COUNTS = st.dictionaries(st.text(max_size=3), st.integers(0, 5), max_size=30)


@pytest.mark.parametrize(
    ("number", "name"),
    list(enumerate(PATTERN_NAMES)),
)
def test_pattern_names(number: int, name: str) -> None:
    pattern = ServingPattern(number)
    assert str(pattern) == name
    assert f"{pattern}" == name
    assert f"{pattern:>20}" == name.rjust(20)


def test_there_are_nine_patterns() -> None:
    assert len(ServingPattern) == len(PATTERN_NAMES)


@pytest.mark.parametrize(
    ("batch_size", "pattern"),
    [
        (0, ServingPattern.REALTIME_INFERENCE),
        (32, ServingPattern.REALTIME_INFERENCE),
        (33, ServingPattern.BATCH_INFERENCE),
    ],
)
def test_request_of_more_than_32_is_a_batch(batch_size: int, pattern: ServingPattern) -> None:
    assert classify_request(batch_size) is pattern


def test_default_cache_strategy() -> None:
    assert ServingCacheStrategy() == ServingCacheStrategy(
        model_caching=True,
        result_caching=True,
        input_caching=False,
        cache_size_limit=1024 * 1024 * 1024,
        cache_ttl=600.0,
        eviction_policy="LRU",
        cache_warmup=True,
    )


def test_default_load_balancer() -> None:
    balancer = ModelLoadBalancer()
    assert balancer.strategy == "least_connections"
    assert balancer.health_checks


@pytest.mark.parametrize(("appended", "left"), [(999, 999), (1000, 1000), (1001, 500), (1002, 501)])
def test_series_is_cut_past_a_thousand(appended: int, left: int) -> None:
    series: list[int] = []
    for number in range(appended):
        append_bounded(series, number)
    assert series == list(range(appended - left, appended))


@pytest.mark.parametrize(("age", "kept"), [(DAY_S - 0.5, 1), (DAY_S, 0), (DAY_S + 0.5, 0)])
def test_samples_are_kept_while_younger_than_a_day(age: float, kept: int) -> None:
    now = 1e6
    history = ServingHistory(
        "m",
        [AccessPatternSample(now - age, 0.0, 1.0, ServingPattern.UNKNOWN)],
        [PerformanceSample(now - age, 0.0, 0.0, 0.0, 0)],
    )
    dropped = drop_old_samples(history, now)
    assert (len(history.access_patterns), len(history.performance_metrics)) == (kept, kept)
    assert dropped == 2 * (1 - kept)


@pytest.mark.parametrize(
    ("files", "hot"), [(0, 0), (1, 1), (4, 1), (5, 1), (9, 1), (10, 2), (14, 2), (15, 3)]
)
def test_hot_files_are_a_fifth(files: int, hot: int) -> None:
    counts = {f"f{number}": number for number in range(files)}
    hot_files, cold_files = split_hot_files(counts)
    assert hot_files == tuple(f"f{number}" for number in range(files - 1, files - 1 - hot, -1))
    assert len(cold_files) == files - hot


def test_ties_among_hot_files_go_by_path() -> None:
    hot_files, cold_files = split_hot_files(dict.fromkeys("edcba", 7))
    assert hot_files == ("a",)
    assert cold_files == ("b", "c", "d", "e")


@given(COUNTS)
def test_hot_and_cold_partition_the_files(counts: dict[str, int]) -> None:
    hot_files, cold_files = split_hot_files(counts)
    assert sorted(hot_files + cold_files) == sorted(counts)
    if cold_files:
        assert min(counts[path] for path in hot_files) >= max(counts[path] for path in cold_files)


@given(COUNTS, st.integers(2, 10))
def test_trimming_keeps_the_most_accessed(counts: dict[str, int], limit: int) -> None:
    trimmed = dict(counts)
    trim_access_counts(trimmed, limit)
    if len(counts) <= limit:
        assert trimmed == counts
    else:
        assert len(trimmed) == limit // 2
        dropped = counts.keys() - trimmed.keys()
        assert min(trimmed.values()) >= max(counts[path] for path in dropped)


def test_recent_mean_forgets_after_two_generations() -> None:
    mean = RecentMean()
    assert mean.mean() is None
    mean.add(1.0)
    mean.add(3.0)
    assert mean.mean() == 2.0
    for _ in range(1000):
        mean.add(5.0)
    assert mean.mean() == 5.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=499))
def test_recent_mean_of_a_few_is_their_mean(values: list[float]) -> None:
    mean = RecentMean()
    for value in values:
        mean.add(value)
    assert mean.mean() == pytest.approx(sum(values) / len(values))


def test_rate_is_over_the_last_minute() -> None:
    rate = RequestRate()
    assert rate.per_second(0.0) is None
    for second in range(30):
        rate.mark(float(second))
    assert rate.per_second(30.0) == pytest.approx(0.5)
    assert rate.per_second(59.5) == pytest.approx(0.5)
    assert rate.per_second(60.0) == pytest.approx(29 / 60)
    assert rate.per_second(1000.0) == 0.0


def test_rate_above_its_memory_is_measured_over_less() -> None:
    rate = RequestRate()
    for number in range(5 * RATE_MARKS):
        rate.mark(number / 100)
    assert rate.per_second(5 * RATE_MARKS / 100) == pytest.approx(100.0)


def test_request_book_completes_once() -> None:
    book = RequestBook()
    request = InferenceRequest("r", "m")
    book.add(request)
    assert book.complete("r") is request
    assert book.complete("r") is None
    assert book.pending == ()
    assert book.completed == (request,)


def test_request_book_replaces_the_same_id() -> None:
    book = RequestBook()
    book.add(InferenceRequest("r", "old"))
    other, second = InferenceRequest("other", "m"), InferenceRequest("r", "new")
    book.add(other)
    book.add(second)
    assert book.pending == (other, second)


def test_request_book_is_bounded() -> None:
    book = RequestBook()
    for number in range(PENDING_LIMIT + 1):
        book.add(InferenceRequest(str(number), "m"))
    assert len(book.pending) == PENDING_LIMIT
    assert book.complete("0") is None
    for number in range(1, COMPLETED_LIMIT + 2):
        book.complete(str(number))
    assert len(book.completed) == COMPLETED_LIMIT
    assert book.completed[0].request_id == "2"
