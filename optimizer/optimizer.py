"""The facade: register models, tell it what happens, ask what to do, run a round now and then.

It has no clock, no thread and no I/O of its own: the clock is handed in, and a round is run by
whoever owns the optimizer (`is_round_due` says when). One thread uses it; nothing is locked. Every
call is short: an event costs microseconds, a round is linear in models and their samples.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite

from optimizer.events import AccessEvent, InferenceRequest
from optimizer.observation import ObservationCounts, Observer
from optimizer.patterns import ServingPattern, classify_request
from optimizer.recommend import is_recent, recommend_access
from optimizer.registry import ModelRegistry
from optimizer.requests import RequestBook
from optimizer.serving import (
    AccessPatternSample,
    ErrorEvent,
    ModelAccessOptimization,
    ModelServingInfo,
    ServingCacheStrategy,
    ServingHistory,
    ServingOptimizerMetrics,
    ThroughputSample,
    append_bounded,
    drop_old_samples,
)

OPTIMIZATION_INTERVAL_S = 30.0
"""Seconds between rounds: loads and servers' habits change over minutes."""


@dataclass(frozen=True, slots=True)
class OptimizationRound:
    """What one round did. `changed_models` are those whose recommendation may be another now."""

    timestamp: float
    models_sampled: int
    samples_dropped: int
    sessions_ended: int
    changed_models: tuple[str, ...]


class ServingOptimizer:
    """Decides how the files of served models should be read, kept and preloaded."""

    def __init__(self, enabled: bool = True, *, clock: Callable[[], float]) -> None:
        """Begin with no models.

        `clock` returns monotonic seconds; events must be stamped by the same one. A disabled
        optimizer registers, observes and answers like another, but its rounds are never due.
        """
        self._enabled = enabled
        self._clock = clock
        self._newest = clock()
        self._last_round = self._newest
        self._is_shut_down = False
        self._registry = ModelRegistry()
        self._observer = Observer(self._registry)
        self._requests = RequestBook()
        self._throughput_history: list[ThroughputSample] = []
        self._inference_requests = 0
        self._cached_requests = 0
        self.cache_strategy = ServingCacheStrategy()

    @property
    def enabled(self) -> bool:
        """Whether rounds become due."""
        return self._enabled

    @property
    def throughput_history(self) -> tuple[ThroughputSample, ...]:
        """Throughput that rounds saw, of models that had requests, oldest first."""
        return tuple(self._throughput_history)

    @property
    def pending_requests(self) -> tuple[InferenceRequest, ...]:
        """Recorded requests that have not been completed."""
        return self._requests.pending

    @property
    def completed_requests(self) -> tuple[InferenceRequest, ...]:
        """The newest completed requests."""
        return self._requests.completed

    @property
    def observations(self) -> ObservationCounts:
        """What became of the observed events."""
        return self._observer.counts()

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The registered models, in order of registration."""
        return tuple(record.info.model_id for record in self._registry)

    def register_model(self, info: ModelServingInfo) -> None:
        """Take a copy of a model's description, and join it with what is known of its id.

        A changed identity resets history and measurements and appends the version; use counts
        stay. See `ModelRegistry.register`. Raises ValueError for an empty id or negative counts.
        """
        self._registry.register(info, self._now())

    def describe_model(self, model_id: str) -> ModelServingInfo | None:
        """Return a copy of what is known of a model, measurements up to date; None if unknown."""
        record = self._registry.find(model_id)
        if record is None:
            return None
        record.refresh_measurements(self._now())
        record.refresh_hot_files()
        return record.snapshot()

    def serving_history(self, model_id: str) -> ServingHistory | None:
        """Return a copy of a model's history, None where there is none."""
        record = self._registry.find(model_id)
        if record is None or record.history is None:
            return None
        history = record.history
        return ServingHistory(
            history.model_id,
            list(history.access_patterns),
            list(history.performance_metrics),
            list(history.scaling_events),
            list(history.error_events),
        )

    def model_versions(self, model_path: str) -> tuple[str, ...]:
        """Return the versions registered for a model's path, oldest first."""
        return self._registry.versions(model_path)

    def observe(self, events: Iterable[AccessEvent]) -> None:
        """Take access events in the order in which they happened. Never raises for an event."""
        self._observer.observe(events, self._now())

    def record_inference_request(self, request: InferenceRequest) -> None:
        """Note a request that a server received; its input files count as accessed once each.

        One for an unknown model counts in the total and is otherwise only waited for.
        """
        now = self._now()
        self._inference_requests += 1
        self._requests.add(request)
        record = self._registry.find(request.model_id)
        if record is None:
            return
        record.info.request_count += 1
        record.touch(now)
        record.changed = True
        record.arrivals.mark(now)
        for path in request.input_data:
            record.count_access(path)
        if record.history is not None:
            sample = AccessPatternSample(
                timestamp=now,
                requests_per_second=record.arrivals.per_second(now) or 0.0,
                avg_batch_size=float(request.batch_size),
                pattern=classify_request(request.batch_size),
            )
            append_bounded(record.history.access_patterns, sample)

    def complete_inference_request(
        self,
        request_id: str,
        latency: float,
        cached: bool = False,
        error: BaseException | str | None = None,
    ) -> bool:
        """Note that a recorded request was answered after `latency` seconds, or failed.

        The latency of a failed request, or one that is negative or not finite, is not measured.
        Returns whether the request was pending; one that was not changes nothing.
        """
        request = self._requests.complete(request_id)
        if request is None:
            return False
        self._cached_requests += cached
        record = self._registry.find(request.model_id)
        if record is None:
            return True
        now = self._now()
        if error is None:
            record.completions.mark(now)
            if isfinite(latency) and latency >= 0:
                record.request_latencies.add(latency)
        else:
            record.info.error_count += 1
            if record.history is not None:
                event = _describe_error(error, request, now)
                append_bounded(record.history.error_events, event)
        return True

    def optimize_model_access(
        self, model_id: str, file_paths: Iterable[str]
    ) -> ModelAccessOptimization:
        """Recommend how a model's files are to be read; changes nothing."""
        record = self._registry.find(model_id)
        if record is None:
            return recommend_access(None, False, (), self._now())
        has_history = record.history is not None
        return recommend_access(record.info, has_history, file_paths, self._now())

    def is_round_due(self) -> bool:
        """Say whether 30 s have passed since the last round; never where disabled or shut down."""
        if not self._enabled or self._is_shut_down:
            return False
        return self._now() - self._last_round >= OPTIMIZATION_INTERVAL_S

    def perform_optimization(self) -> OptimizationRound:
        """Run one round: end quiet loads, sample models, tell hot from cold, forget the old.

        Runs when it is called, also where disabled.
        """
        now = self._now()
        self._last_round = now
        sessions_ended = self._observer.end_sessions(now)
        sampled = 0
        dropped = 0
        changed = []
        for record in self._registry:
            record.refresh_measurements(now)
            record.refresh_hot_files()
            sampled += record.sample_performance(now)
            throughput = record.info.current_throughput
            if throughput > 0:
                sample = ThroughputSample(now, throughput, record.info.model_id)
                append_bounded(self._throughput_history, sample)
            if record.history is not None:
                dropped += drop_old_samples(record.history, now)
            recent = is_recent(record.info.last_accessed, now)
            if record.changed or recent != record.was_recent:
                changed.append(record.info.model_id)
            record.changed = False
            record.was_recent = recent
        return OptimizationRound(
            timestamp=now,
            models_sampled=sampled,
            samples_dropped=dropped,
            sessions_ended=sessions_ended,
            changed_models=tuple(changed),
        )

    def get_serving_metrics(self) -> ServingOptimizerMetrics:
        """Return the totals and averages over all models."""
        now = self._now()
        models_by_pattern: dict[ServingPattern, int] = {}
        latencies = []
        throughputs = []
        for record in self._registry:
            record.refresh_measurements(now)
            info = record.info
            pattern = info.serving_pattern
            models_by_pattern[pattern] = models_by_pattern.get(pattern, 0) + 1
            if info.current_latency > 0:
                latencies.append(info.current_latency)
            if info.current_throughput > 0:
                throughputs.append(info.current_throughput)
        total = self._inference_requests + self._observer.load_requests
        cached = self._cached_requests + self._observer.cached_loads
        return ServingOptimizerMetrics(
            active_models=len(self._registry),
            total_requests=total,
            cached_requests=cached,
            # Counts the actions of rules; without rules nothing acts.
            optimization_events=0,
            avg_latency=sum(latencies) / len(latencies) if latencies else 0.0,
            avg_throughput=sum(throughputs) / len(throughputs) if throughputs else 0.0,
            cache_hit_rate=cached / total if total else 0.0,
            models_by_pattern=models_by_pattern,
        )

    def shutdown(self) -> None:
        """End all load sessions; no round becomes due after this. It still answers."""
        if not self._is_shut_down:
            self._is_shut_down = True
            self._observer.end_all_sessions(self._now())

    def _now(self) -> float:
        """Read the clock; series stay ordered even where it steps back."""
        self._newest = max(self._newest, self._clock())
        return self._newest


def _describe_error(
    error: BaseException | str, request: InferenceRequest, now: float
) -> ErrorEvent:
    return ErrorEvent(
        timestamp=now,
        error_type="error" if isinstance(error, str) else type(error).__name__,
        error_msg=str(error),
        request_id=request.request_id,
        model_id=request.model_id,
        metadata=request.metadata,
    )
