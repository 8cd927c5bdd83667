"""Every number of a recommendation, at its boundary and one beside it."""

import pytest

from optimizer import ModelAccessOptimization, ModelServingInfo, ServingPattern
from optimizer.recommend import recommend_access, spell_size

KIB = 1024
MIB = 1024 * KIB
NOW = 10_000.0


def make_model(
    *,
    size: int = 0,
    batch_size: int = 1,
    pattern: ServingPattern = ServingPattern.UNKNOWN,
    requests: int = 0,
    age: float | None = 0.0,
    accesses: dict[str, int] | None = None,
) -> ModelServingInfo:
    return ModelServingInfo(
        "m",
        model_size=size,
        batch_size=batch_size,
        serving_pattern=pattern,
        request_count=requests,
        last_accessed=None if age is None else NOW - age,
        access_frequency=accesses or {},
    )


def recommend(
    model: ModelServingInfo | None, *paths: str, has_history: bool = True
) -> ModelAccessOptimization:
    return recommend_access(model, has_history, paths, NOW)


def test_unknown_model_gets_64_kib_and_nothing_else() -> None:
    answer = recommend(None, "a", "b")
    assert answer.model_id == ""
    assert not answer.should_preload
    assert answer.cache_strategy == "none"
    assert answer.prefetch_size == 64 * KIB
    assert answer.priority == 0
    assert dict(answer.file_optimizations) == {}
    assert answer.reasons


@pytest.mark.parametrize(
    "pattern",
    [
        ServingPattern.UNKNOWN,
        ServingPattern.STREAMING_INFERENCE,
        ServingPattern.MULTI_MODAL_SERVING,
        ServingPattern.A_B_SERVING,
        ServingPattern.CANARY_SERVING,
    ],
)
def test_patterns_without_a_block_get_the_defaults(pattern: ServingPattern) -> None:
    answer = recommend(make_model(size=1 << 30, batch_size=64, pattern=pattern), "a")
    assert answer.model_id == "m"
    assert not answer.should_preload
    assert answer.cache_strategy == "default"
    assert answer.prefetch_size == 256 * KIB
    assert answer.priority == 10
    file = answer.file_optimizations["a"]
    assert (file.should_cache, file.prefetch_size, file.priority) == (False, 256 * KIB, 10)


@pytest.mark.parametrize(
    ("requests", "age", "has_history", "preload", "priority"),
    [
        (99, 0.0, True, False, 10),
        (100, 0.0, True, False, 10),
        (101, 0.0, True, True, 25),
        (101, 0.0, False, True, 20),
        (101, 299.999, True, True, 25),
        (101, 300.0, True, False, 10),
        (101, 300.001, True, False, 10),
        (101, None, True, False, 10),
        (100, 0.0, False, False, 10),
    ],
)
def test_popularity(
    requests: int, age: float | None, has_history: bool, preload: bool, priority: int
) -> None:
    answer = recommend(make_model(requests=requests, age=age), "a", has_history=has_history)
    assert (answer.should_preload, answer.priority) == (preload, priority)
    assert answer.file_optimizations["a"].priority == priority


@pytest.mark.parametrize(
    ("batch_size", "prefetch_bytes"), [(0, 0), (1, 64 * KIB), (8, 512 * KIB), (32, 2 * MIB)]
)
def test_batch_reads_ahead_64_kib_an_item(batch_size: int, prefetch_bytes: int) -> None:
    model = make_model(batch_size=batch_size, pattern=ServingPattern.BATCH_INFERENCE)
    answer = recommend(model)
    assert answer.prefetch_size == prefetch_bytes
    assert answer.cache_strategy == "aggressive"
    assert (answer.should_preload, answer.priority) == (False, 10)


@pytest.mark.parametrize(
    ("size", "prefetch_bytes"),
    [
        (0, 0),
        (9, 0),
        (10, 1),
        (19, 1),
        (100 * MIB - 1, 10 * MIB - 1),
        (100 * MIB, 10 * MIB),
        (100 * MIB + 10, 10 * MIB),
        (1 << 40, 10 * MIB),
    ],
)
def test_realtime_reads_ahead_a_tenth_up_to_10_mib(size: int, prefetch_bytes: int) -> None:
    answer = recommend(make_model(size=size, pattern=ServingPattern.REALTIME_INFERENCE))
    assert answer.prefetch_size == prefetch_bytes
    assert answer.cache_strategy == "memory"
    assert (answer.should_preload, answer.priority) == (True, 10)


@pytest.mark.parametrize(("requests", "priority"), [(0, 25), (101, 25)])
def test_ensemble_is_preloaded_with_priority_25(requests: int, priority: int) -> None:
    model = make_model(pattern=ServingPattern.ENSEMBLE_SERVING, requests=requests)
    answer = recommend(model, has_history=False)
    assert answer.cache_strategy == "coordinated"
    assert answer.prefetch_size == 256 * KIB
    assert (answer.should_preload, answer.priority) == (True, priority)


@pytest.mark.parametrize(("requests", "priority"), [(100, 10), (101, 25)])
def test_auto_scaling_cancels_preload_and_keeps_priority(requests: int, priority: int) -> None:
    model = make_model(pattern=ServingPattern.AUTO_SCALING_SERVING, requests=requests)
    answer = recommend(model)
    assert answer.cache_strategy == "lazy"
    assert answer.prefetch_size == 1 * MIB
    assert (answer.should_preload, answer.priority) == (False, priority)


@pytest.mark.parametrize(
    "pattern", [ServingPattern.BATCH_INFERENCE, ServingPattern.REALTIME_INFERENCE]
)
def test_popularity_stays_where_the_pattern_names_no_priority(pattern: ServingPattern) -> None:
    answer = recommend(make_model(pattern=pattern, requests=101))
    assert (answer.should_preload, answer.priority) == (True, 25)


@pytest.mark.parametrize(
    ("path", "times", "prefetch_factor", "bonus"),
    [
        ("a/weights.bin", 50, 1, 0),
        ("a/model.pb", 50, 1, 0),
        ("a/other.bin", 51, 1, 10),
        ("a/saved_model.pb", 51, 2, 30),
        ("a/net.onnx", 51, 2, 30),
        ("a/net.onnx_data", 51, 2, 30),
        ("a/variables/variables.index", 51, 3, 25),
        ("a/weights.bin", 51, 3, 25),
        # The first kind that matches decides.
        ("variables/model.pb", 51, 2, 30),
        ("weights/config.json", 51, 3, 25),
        # Anywhere in the path, but with its case.
        ("weights.d/x", 51, 3, 25),
        ("a/WEIGHTS.bin", 51, 1, 10),
        ("a/Model.PB", 51, 1, 10),
    ],
)
def test_file_adjustments(path: str, times: int, prefetch_factor: int, bonus: int) -> None:
    file = recommend(make_model(accesses={path: times}), path).file_optimizations[path]
    assert file.file_path == path
    assert file.should_cache is (times > 50)
    assert file.prefetch_size == 256 * KIB * prefetch_factor
    assert file.priority == 10 + bonus


@pytest.mark.parametrize("path", ["a/config.json", "a/metadata"])
def test_configuration_files_read_64_kib_ahead(path: str) -> None:
    model = make_model(accesses={path: 51}, pattern=ServingPattern.AUTO_SCALING_SERVING)
    file = recommend(model, path).file_optimizations[path]
    assert (file.should_cache, file.prefetch_size, file.priority) == (True, 64 * KIB, 45)


def test_files_start_from_the_patterns_window_and_priority() -> None:
    model = make_model(
        batch_size=3, pattern=ServingPattern.BATCH_INFERENCE, requests=101, accesses={"w.onnx": 51}
    )
    files = recommend(model, "w.onnx", "x").file_optimizations
    assert (files["w.onnx"].prefetch_size, files["w.onnx"].priority) == (384 * KIB, 55)
    assert (files["x"].prefetch_size, files["x"].priority) == (192 * KIB, 25)


def test_only_the_asked_files_are_answered() -> None:
    assert list(recommend(make_model(accesses={"a": 99}), "b").file_optimizations) == ["b"]


def test_reasons_name_the_numbers() -> None:
    model = make_model(
        batch_size=8, pattern=ServingPattern.BATCH_INFERENCE, requests=7, accesses={"a": 51}
    )
    answer = recommend(model, "a", "b")
    assert any("8 items \N{MULTIPLICATION SIGN} 64 KiB" in reason for reason in answer.reasons)
    assert any(reason.startswith("7 requests, not more than 100") for reason in answer.reasons)
    files = answer.file_optimizations
    assert files["a"].reasons[0].startswith("accessed 51 times, more than 50: kept")
    assert files["b"].reasons[0].startswith("accessed 0 times, not more than 50")


@pytest.mark.parametrize(("size", "capped"), [(100 * MIB, False), (101 * MIB, True)])
def test_realtime_reason_names_the_cap_where_it_applies(size: int, capped: bool) -> None:
    answer = recommend(make_model(size=size, pattern=ServingPattern.REALTIME_INFERENCE))
    assert any("capped at 10 MiB" in reason for reason in answer.reasons) is capped


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (MIB, "1 MiB"),
        (1 << 30, "1 GiB"),
        (1 << 41, "2048 GiB"),
    ],
)
def test_spell_size(size: int, text: str) -> None:
    assert spell_size(size) == text
