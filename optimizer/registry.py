"""The models that are being served: one record each, their versions, their limits.

Knows how a registration changes what was known before; knows nothing of events. Invariants: a
record's `info` is never the object that was registered, so nobody outside changes it; at most
`MODEL_LIMIT` models, and `FILE_LIMIT` access counts in each.
"""

from collections.abc import Iterator
from dataclasses import replace

from optimizer.meters import RecentMean, RequestRate, split_hot_files, trim_access_counts
from optimizer.serving import (
    ModelServingInfo,
    PerformanceSample,
    ServingHistory,
    append_bounded,
)

MODEL_LIMIT = 4096
"""Models kept; past that the tenth that was left alone longest goes. A tree with more than this
is looked at lazily, and a model that is looked at again is registered again."""
FILE_LIMIT = 10_000
"""Files of one model whose accesses are counted; past that the least accessed half is dropped."""


class ModelRecord:
    """A registered model with its history and what is measured of it."""

    __slots__ = (
        "arrivals",
        "changed",
        "completions",
        "counts_changed",
        "history",
        "hits",
        "info",
        "read_times",
        "request_latencies",
        "was_recent",
    )

    def __init__(self, info: ModelServingInfo) -> None:
        self.info = info
        self.changed = True
        """Something that a recommendation depends on moved since the last round."""
        self.counts_changed = True
        """Access counts moved since hot and cold files were last told apart."""
        self.was_recent = False
        self.forget_measurements()

    def forget_measurements(self) -> None:
        """Begin a new history and new measurements, as for other bytes under the same name."""
        self.history: ServingHistory | None = ServingHistory(self.info.model_id)
        self.read_times = RecentMean()
        self.hits = RecentMean()
        self.request_latencies = RecentMean()
        self.arrivals = RequestRate()
        self.completions = RequestRate()

    def count_access(self, file_path: str) -> None:
        """Count one access of one file."""
        counts = self.info.access_frequency
        counts[file_path] = counts.get(file_path, 0) + 1
        if len(counts) > FILE_LIMIT:
            trim_access_counts(counts, FILE_LIMIT)
        self.changed = True
        self.counts_changed = True

    def touch(self, moment: float) -> None:
        """Note an access at `moment`; an older one than the last changes nothing."""
        last = self.info.last_accessed
        if last is None or moment > last:
            self.info.last_accessed = moment

    def refresh_measurements(self, now: float) -> None:
        """Bring the measured fields up to date; what was never measured stays as registered."""
        info = self.info
        latency = self.request_latencies.mean()
        if latency is None:
            latency = self.read_times.mean()
        if latency is not None:
            info.current_latency = latency
        throughput = self.completions.per_second(now)
        if throughput is not None:
            info.current_throughput = throughput
        hit_rate = self.hits.mean()
        if hit_rate is not None:
            info.cache_hit_rate = hit_rate

    def refresh_hot_files(self) -> None:
        """Tell hot from cold files, where counts moved since the last time."""
        if self.counts_changed:
            info = self.info
            info.hot_files, info.cold_files = split_hot_files(info.access_frequency)
            self.counts_changed = False

    def sample_performance(self, now: float) -> bool:
        """Append a sample to the history; not where nothing has ever been measured or stated.

        A tree may hold thousands of models that nobody uses: zeros would be all that is kept.
        """
        info = self.info
        values = (
            info.current_latency,
            info.current_throughput,
            info.cpu_usage,
            info.memory_usage,
        )
        if self.history is None or not any(values):
            return False
        append_bounded(self.history.performance_metrics, PerformanceSample(now, *values))
        return True

    def snapshot(self) -> ModelServingInfo:
        """Return a copy that stays as it is."""
        return replace(self.info, access_frequency=dict(self.info.access_frequency))


class ModelRegistry:
    """Records by model id, and versions by model path."""

    def __init__(self) -> None:
        self._records: dict[str, ModelRecord] = {}
        self._versions: dict[str, list[str]] = {}
        self.find = self._records.get
        """Return the record of a model id or None. The dictionary's own method: it is called
        once for every read."""

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[ModelRecord]:
        return iter(self._records.values())

    def versions(self, model_path: str) -> tuple[str, ...]:
        """Return the versions registered for a path, oldest first."""
        return tuple(self._versions.get(model_path, ()))

    def register(self, described: ModelServingInfo, now: float) -> None:
        """Take a model as described, and join it with what is known under its id.

        Unchanged identity: characteristics and configuration are replaced, everything else is
        kept. Changed identity (path, version, type, framework or size): also a new history and
        new measurements, and the version is appended to those of its path. How often the model
        was used stays in both cases, as that belongs to the name and not to the bytes, unless the
        description brings counts of its own. Raises ValueError for a description that cannot be.
        """
        _check_description(described)
        info = replace(described, access_frequency=dict(described.access_frequency))
        trim_access_counts(info.access_frequency, FILE_LIMIT)
        if info.deployed_at is None:
            info.deployed_at = now
        record = self._records.get(info.model_id)
        if record is None:
            record = self._records[info.model_id] = ModelRecord(info)
            self._append_version(info)
            self._drop_excess()
        else:
            known = record.info
            is_same = _identity(known) == _identity(info)
            if not _brings_usage(info):
                _inherit_usage(info, known, is_same)
            record.info = info
            if is_same:
                _inherit_measurements(info, known)
            else:
                record.forget_measurements()
                self._append_version(info)
            record.changed = True
            record.counts_changed = True
        record.refresh_hot_files()

    def _append_version(self, info: ModelServingInfo) -> None:
        append_bounded(self._versions.setdefault(info.model_path, []), info.model_version)
        if len(self._versions) > MODEL_LIMIT:
            del self._versions[next(iter(self._versions))]

    def _drop_excess(self) -> None:
        if len(self._records) > MODEL_LIMIT:
            # The last is the one that was just registered. Many go at once, because finding them
            # is linear and a tree with too many models registers on.
            *others, _ = self._records.values()
            for record in sorted(others, key=_last_sign)[: MODEL_LIMIT // 10]:
                del self._records[record.info.model_id]


def _last_sign(record: ModelRecord) -> float:
    """Return when a model last showed that it is there."""
    info = record.info
    return max(
        (moment for moment in (info.last_accessed, info.deployed_at) if moment is not None),
        default=float("-inf"),
    )


def _identity(info: ModelServingInfo) -> tuple[object, ...]:
    return (
        info.model_path,
        info.model_version,
        info.model_type,
        info.framework,
        info.model_size,
    )


def _brings_usage(info: ModelServingInfo) -> bool:
    return info.request_count > 0 or any(info.access_frequency.values())


def _inherit_usage(info: ModelServingInfo, known: ModelServingInfo, is_same: bool) -> None:
    """Take over how often a model was used; if it changed, only for the files that it lists."""
    listed = info.access_frequency
    if is_same or not listed:
        listed = listed | known.access_frequency
    info.access_frequency = {path: known.access_frequency.get(path, 0) for path in listed}
    trim_access_counts(info.access_frequency, FILE_LIMIT)
    info.last_accessed = known.last_accessed
    info.request_count = known.request_count
    info.error_count = known.error_count


def _inherit_measurements(info: ModelServingInfo, known: ModelServingInfo) -> None:
    """Take over what was measured of the same bytes."""
    info.deployed_at = known.deployed_at
    info.current_latency = known.current_latency
    info.current_throughput = known.current_throughput
    info.cache_hit_rate = known.cache_hit_rate
    info.load_time = known.load_time
    info.warmup_time = known.warmup_time


def _check_description(info: ModelServingInfo) -> None:
    if not info.model_id:
        raise ValueError("a model needs a model_id")
    for name in ("model_size", "batch_size", "request_count", "error_count"):
        if getattr(info, name) < 0:
            raise ValueError(f"{name} of model {info.model_id!r} is negative")
