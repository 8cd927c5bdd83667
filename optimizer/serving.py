"""The optimizer's vocabulary: models, their histories, strategies and recommendations.

The names, defaults and formulas of this package are those of the serving optimizer of a
distributed file system's mount. Durations are float seconds, sizes int bytes, timestamps of the
optimizer's monotonic clock. None stands for a moment that has not come ("never accessed"), 0 for a
target or measurement that is not set. Values that are handed out are frozen; what the optimizer
keeps and changes (`ModelServingInfo`, `ServingHistory`) is not, and leaves it only as a copy.

Invariant: a series in a history never holds more than `SERIES_LIMIT` samples (`append_bounded`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from optimizer.patterns import ServingPattern

SERIES_LIMIT = 1000
"""Samples a series may hold; one more, and it is cut."""
SERIES_KEPT = 500
"""Newest samples that are left by a cut: half, so that cutting is rare."""

SAMPLE_AGE_LIMIT_S = 86_400.0
"""Access and performance samples are kept while they are younger than a day."""

_Sample = TypeVar("_Sample")


def append_bounded(series: list[_Sample], sample: _Sample) -> None:
    """Append to a series; past `SERIES_LIMIT` only the newest `SERIES_KEPT` stay."""
    series.append(sample)
    if len(series) > SERIES_LIMIT:
        del series[:-SERIES_KEPT]


@dataclass(slots=True)
class ModelServingInfo:
    """Everything that is known of one served model.

    Who registers a model fills in its identity, characteristics and configuration; the optimizer
    keeps a copy and fills in the rest from what it observes.
    """

    model_id: str
    model_path: str = ""
    model_version: str = ""
    model_type: str = ""
    framework: str = ""

    model_size: int = 0
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    batch_size: int = 1
    precision: str = ""

    serving_pattern: ServingPattern = ServingPattern.UNKNOWN
    min_replicas: int = 0
    max_replicas: int = 0
    target_latency: float = 0.0
    target_throughput: float = 0.0

    current_latency: float = 0.0
    current_throughput: float = 0.0
    cache_hit_rate: float = 0.0
    load_time: float = 0.0
    warmup_time: float = 0.0

    cpu_usage: float = 0.0
    memory_usage: int = 0
    gpu_usage: float = 0.0
    gpu_memory_usage: int = 0

    access_frequency: dict[str, int] = field(default_factory=dict)
    hot_files: tuple[str, ...] = ()
    cold_files: tuple[str, ...] = ()

    deployed_at: float | None = None
    last_accessed: float | None = None
    request_count: int = 0
    error_count: int = 0


@dataclass(frozen=True, slots=True)
class AccessPatternSample:
    """What one request showed. `requests_per_second` is the model's rate over the last minute."""

    timestamp: float
    requests_per_second: float
    avg_batch_size: float
    pattern: ServingPattern


@dataclass(frozen=True, slots=True)
class PerformanceSample:
    """How a model did when an optimization round looked at it."""

    timestamp: float
    latency: float
    throughput: float
    cpu_usage: float
    memory_usage: int


@dataclass(frozen=True, slots=True)
class ScalingEvent:
    """A change of replicas; `action` is scale_up, scale_down, scale_out or scale_in."""

    timestamp: float
    action: str
    reason: str
    old_replicas: int
    new_replicas: int


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """A request that failed."""

    timestamp: float
    error_type: str
    error_msg: str
    request_id: str
    model_id: str
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ThroughputSample:
    """Requests per second of one model when an optimization round looked at it."""

    timestamp: float
    throughput: float
    model_id: str


@dataclass(slots=True)
class ServingHistory:
    """The bounded series of one model, each oldest first."""

    model_id: str
    access_patterns: list[AccessPatternSample] = field(default_factory=list)
    performance_metrics: list[PerformanceSample] = field(default_factory=list)
    scaling_events: list[ScalingEvent] = field(default_factory=list)
    error_events: list[ErrorEvent] = field(default_factory=list)


def drop_old_samples(history: ServingHistory, now: float) -> int:
    """Drop access and performance samples that are a day old or older; return how many."""
    dropped = 0
    series: list[AccessPatternSample] | list[PerformanceSample]
    for series in (history.access_patterns, history.performance_metrics):
        # Oldest first, so the old ones are all in front.
        old = 0
        while old < len(series) and now - series[old].timestamp >= SAMPLE_AGE_LIMIT_S:
            old += 1
        del series[:old]
        dropped += old
    return dropped


@dataclass(frozen=True, slots=True)
class ServingOptimizationRule:
    """When `condition` holds for a model that matches `model_pattern`, do `action`."""

    name: str
    condition: str
    action: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    model_pattern: str = "*"
    priority: int = 0
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ServingCacheStrategy:
    """What a cache may keep, how much and how long."""

    model_caching: bool = True
    result_caching: bool = True
    input_caching: bool = False
    cache_size_limit: int = 1 << 30
    cache_ttl: float = 600.0
    eviction_policy: str = "LRU"
    cache_warmup: bool = True


@dataclass(frozen=True, slots=True)
class ModelLoadBalancer:
    """How reads are spread over replicas: round_robin, least_connections or weighted."""

    strategy: str = "least_connections"
    health_checks: bool = True
    weights: Mapping[str, int] = field(default_factory=dict)
    active_replicas: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileAccessOptimization:
    """What is recommended for one file, and in words why."""

    file_path: str
    should_cache: bool
    prefetch_size: int
    priority: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelAccessOptimization:
    """What is recommended for a model, by file path for its files, and in words why."""

    model_id: str
    should_preload: bool
    cache_strategy: str
    prefetch_size: int
    priority: int
    file_optimizations: Mapping[str, FileAccessOptimization] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServingOptimizerMetrics:
    """The optimizer as a whole. Averages are over the models that have a value other than 0."""

    active_models: int
    total_requests: int
    cached_requests: int
    optimization_events: int
    avg_latency: float
    avg_throughput: float
    cache_hit_rate: float
    models_by_pattern: Mapping[ServingPattern, int]
