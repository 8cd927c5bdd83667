"""From what is known of a model to how its files should be read, kept and preloaded.

Pure: no state, no side effects, the moment is an argument. The numbers are those of the system
that this follows (see `serving`), and every recommended value comes with a sentence that says
where it is from. The order matters: defaults, then popularity, then the serving pattern (which
overrides), then the files.
"""

from collections.abc import Iterable

from optimizer.patterns import ServingPattern
from optimizer.serving import FileAccessOptimization, ModelAccessOptimization, ModelServingInfo

KIB = 1024
MIB = 1024 * KIB

UNKNOWN_PREFETCH_BYTES = 64 * KIB
DEFAULT_PREFETCH_BYTES = 256 * KIB
BATCH_ITEM_PREFETCH_BYTES = 64 * KIB
REALTIME_PREFETCH_CAP_BYTES = 10 * MIB
REALTIME_MODEL_SHARE = 10
AUTO_SCALING_PREFETCH_BYTES = 1 * MIB
CONFIG_PREFETCH_BYTES = 64 * KIB

DEFAULT_PRIORITY = 10
POPULAR_PRIORITY = 20
POPULAR_WITH_HISTORY_PRIORITY = 25
ENSEMBLE_PRIORITY = 25

POPULAR_REQUESTS_ABOVE = 100
POPULAR_WITHIN_S = 300.0
KEPT_ACCESSES_ABOVE = 50
KEPT_PRIORITY_BONUS = 10

_TIMES = "\N{MULTIPLICATION SIGN}"


def is_recent(last_accessed: float | None, now: float) -> bool:
    """Say whether an access at `last_accessed` is less than five minutes old."""
    return last_accessed is not None and now - last_accessed < POPULAR_WITHIN_S


def recommend_access(
    model: ModelServingInfo | None, has_history: bool, file_paths: Iterable[str], now: float
) -> ModelAccessOptimization:
    """Recommend how a model's files are to be read.

    `model` is None for one that is not registered; `file_paths` are relative to the mount's root;
    `now` is of the clock that stamped `model.last_accessed`. The answer has one entry for each
    path, none for an unknown model.
    """
    if model is None:
        return ModelAccessOptimization(
            model_id="",
            should_preload=False,
            cache_strategy="none",
            prefetch_size=UNKNOWN_PREFETCH_BYTES,
            priority=0,
            reasons=(
                f"unknown model: nothing kept, {spell_size(UNKNOWN_PREFETCH_BYTES)} read ahead",
            ),
        )
    preload, priority, popularity = _weigh_popularity(model, has_history, now)
    strategy = "default"
    prefetch_bytes = DEFAULT_PREFETCH_BYTES
    match model.serving_pattern:
        case ServingPattern.BATCH_INFERENCE:
            strategy = "aggressive"
            prefetch_bytes = model.batch_size * BATCH_ITEM_PREFETCH_BYTES
            pattern = (
                f"batch inference: {model.batch_size} items {_TIMES} "
                f"{spell_size(BATCH_ITEM_PREFETCH_BYTES)} read ahead, everything read is kept"
            )
        case ServingPattern.REALTIME_INFERENCE:
            strategy = "memory"
            preload = True
            tenth_bytes = model.model_size // REALTIME_MODEL_SHARE
            prefetch_bytes = min(tenth_bytes, REALTIME_PREFETCH_CAP_BYTES)
            capped = (
                f", capped at {spell_size(prefetch_bytes)}" if tenth_bytes > prefetch_bytes else ""
            )
            pattern = (
                "realtime inference: preloaded and held in memory, read ahead a tenth of "
                f"{spell_size(model.model_size)}{capped}"
            )
        case ServingPattern.ENSEMBLE_SERVING:
            strategy = "coordinated"
            preload = True
            priority = ENSEMBLE_PRIORITY
            pattern = (
                f"ensemble serving: preloaded with its companions, priority {ENSEMBLE_PRIORITY}, "
                f"{spell_size(prefetch_bytes)} read ahead"
            )
        case ServingPattern.AUTO_SCALING_SERVING:
            strategy = "lazy"
            preload = False
            prefetch_bytes = AUTO_SCALING_PREFETCH_BYTES
            pattern = (
                "auto-scaling serving: no preload, to save memory; "
                f"{spell_size(prefetch_bytes)} read ahead for a quick start"
            )
        case other:
            pattern = (
                f"serving pattern {other}: the default strategy, "
                f"{spell_size(prefetch_bytes)} read ahead"
            )
    counts = model.access_frequency
    return ModelAccessOptimization(
        model_id=model.model_id,
        should_preload=preload,
        cache_strategy=strategy,
        prefetch_size=prefetch_bytes,
        priority=priority,
        file_optimizations={
            path: _recommend_file(path, counts.get(path, 0), prefetch_bytes, priority)
            for path in file_paths
        },
        reasons=(popularity, pattern),
    )


def _weigh_popularity(
    model: ModelServingInfo, has_history: bool, now: float
) -> tuple[bool, int, str]:
    """Return whether requests alone justify a preload, the priority, and why."""
    requests = model.request_count
    if requests <= POPULAR_REQUESTS_ABOVE:
        return (
            False,
            DEFAULT_PRIORITY,
            f"{requests} requests, not more than {POPULAR_REQUESTS_ABOVE}: "
            f"not popular, priority {DEFAULT_PRIORITY}",
        )
    if not is_recent(model.last_accessed, now):
        return (
            False,
            DEFAULT_PRIORITY,
            f"{requests} requests, but none within {POPULAR_WITHIN_S:.0f} s: "
            f"not popular now, priority {DEFAULT_PRIORITY}",
        )
    priority = POPULAR_WITH_HISTORY_PRIORITY if has_history else POPULAR_PRIORITY
    return (
        True,
        priority,
        f"{requests} requests, more than {POPULAR_REQUESTS_ABOVE}, accessed within "
        f"{POPULAR_WITHIN_S:.0f} s, {'with' if has_history else 'without'} history: "
        f"popular, preload, priority {priority}",
    )


def _recommend_file(
    path: str, accesses: int, prefetch_bytes: int, priority: int
) -> FileAccessOptimization:
    """Adjust the model's window and priority to one file."""
    if accesses <= KEPT_ACCESSES_ABOVE:
        why = f"accessed {accesses} times, not more than {KEPT_ACCESSES_ABOVE}: as the model"
        return FileAccessOptimization(path, False, prefetch_bytes, priority, (why,))
    why = (
        f"accessed {accesses} times, more than {KEPT_ACCESSES_ABOVE}: "
        f"kept, priority +{KEPT_PRIORITY_BONUS}"
    )
    priority += KEPT_PRIORITY_BONUS
    if "model.pb" in path or ".onnx" in path:
        kind = f"a model's definition by its path: window {_TIMES} 2, priority +20"
        return FileAccessOptimization(path, True, prefetch_bytes * 2, priority + 20, (why, kind))
    if "variables" in path or "weights" in path:
        kind = f"weights by its path: window {_TIMES} 3, priority +15"
        return FileAccessOptimization(path, True, prefetch_bytes * 3, priority + 15, (why, kind))
    if "config" in path or "metadata" in path:
        kind = (
            f"configuration by its path: window {spell_size(CONFIG_PREFETCH_BYTES)}, priority +25"
        )
        return FileAccessOptimization(path, True, CONFIG_PREFETCH_BYTES, priority + 25, (why, kind))
    return FileAccessOptimization(path, True, prefetch_bytes, priority, (why,))


def spell_size(size_bytes: int) -> str:
    """Write a size for people: bytes below 1 KiB, else KiB to GiB with at most one decimal."""
    if size_bytes < KIB:
        return f"{size_bytes} bytes"
    size, unit = size_bytes / KIB, "KiB"
    for larger in ("MiB", "GiB"):
        if size < KIB:
            break
        size, unit = size / KIB, larger
    return f"{size:.1f}".removesuffix(".0") + f" {unit}"
