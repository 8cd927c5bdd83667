"""The optimizer's thread: events and directories in, policies and preloads out.

It alone touches the optimizer and the catalogue, so neither needs a lock, and neither can hold up
a read: what they raise is counted and shown, what they take long for only delays advice.
What changed is published to the event loop, which looks policies up without a lock.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVarTuple

from fusemount.catalog import Catalog
from fusemount.config import Configuration
from fusemount.feed import Feed, RawEvent
from fusemount.formats.model import Model
from fusemount.handles import Listing
from fusemount.policy import FilePolicy
from fusemount.source_tree import entries_of
from optimizer import AccessEvent, AccessKind, ModelAccessOptimization, ServingOptimizer

_log = logging.getLogger(__name__)
_Arguments = TypeVarTuple("_Arguments")

# How long events may wait; opens wake the thread at once.
_TICK_S = 0.25
# A directory that is polled every second is looked at this often.
_REVISIT_S = 5.0
# Directories waiting to be looked at; more are looked at when they are opened again.
_DIRECTORIES = 4096


@dataclass(frozen=True, slots=True)
class Publication:
    """What the optimizer's thread last made known; replaced as a whole.

    `changed`: the policies that are new since the publication before, None for a file without one.
    """

    changed: dict[str, FilePolicy | None] = field(default_factory=dict)
    models: tuple[dict[str, Any], ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


class Control:
    """Start with `start`; `publish` is called on this thread with each new publication and the
    models that are to be preloaded now."""

    def __init__(
        self,
        feed: Feed,
        catalog: Catalog,
        configuration: Configuration,
        publish: Callable[[Publication, list[Model]], None],
        make_optimizer: Callable[[], ServingOptimizer],
    ) -> None:
        self._feed = feed
        self._catalog = catalog
        self._configuration = configuration
        self._publish = publish
        self._make_optimizer = make_optimizer
        self._optimizer: ServingOptimizer | None = None
        self._directories: queue.Queue[tuple[str, Listing | None]] = queue.Queue(_DIRECTORIES)
        self._looked_at: dict[str, float] = {}
        self._registered: dict[str, Model] = {}
        self._preloaded: dict[str, Model] = {}
        self._changed: dict[str, FilePolicy | None] = {}
        self._descriptions: dict[str, dict[str, Any]] = {}
        self._stopping = threading.Event()
        self.first_look = threading.Event()
        self.failures: dict[str, int] = {}
        self.last_failure = ""
        self.events_observed = 0
        self.rounds = 0
        self.publication = Publication()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="optimizer", daemon=True).start()

    def stop(self) -> None:
        """Ask the thread to end; does not wait."""
        self._stopping.set()
        self._feed.wake.set()

    def look_into(self, directory: str, listing: Listing | None = None) -> None:
        """A directory was listed or searched: models may be in it. Never blocks."""
        now = time.monotonic()
        if now - self._looked_at.get(directory, -_REVISIT_S) < _REVISIT_S:
            return
        if len(self._looked_at) >= _DIRECTORIES:
            self._looked_at.clear()
        self._looked_at[directory] = now
        try:
            self._directories.put_nowait((directory, listing))
        except queue.Full:
            return
        self._feed.wake.set()

    def _run(self) -> None:
        self._guard("start", self._begin)
        self.first_look.set()
        while not self._stopping.is_set():
            self._feed.wake.wait(_TICK_S)
            self._feed.wake.clear()
            events = self._feed.take()
            touched: set[str] = set()
            self._guard("catalogue", self._look, touched)
            if events:
                self._guard("observe", self._observe, events, touched)
            self._guard("round", self._round, touched)
            if touched or self._changed:
                self._guard("recommend", self._recommend, touched)

    def _guard(
        self, what: str, work: Callable[[*_Arguments], None], *arguments: *_Arguments
    ) -> None:
        """Whatever the optimizer, a plugin of it or an event does, the thread goes on."""
        try:
            work(*arguments)
        except Exception as error:
            self.failures[what] = self.failures.get(what, 0) + 1
            self.last_failure = f"{what}: {error!r}"
            if self.failures[what] == 1:
                _log.exception("the optimizer failed in %s: reads go on without it", what)

    def _begin(self) -> None:
        self._optimizer = self._make_optimizer()
        touched: set[str] = set()
        for models in self._catalog.visit_top(2):
            for model in models:
                self._register(model, touched)
        if touched:
            self._recommend(touched)

    def _look(self, touched: set[str]) -> None:
        while True:
            try:
                directory, listing = self._directories.get_nowait()
            except queue.Empty:
                break
            # What the kernel was told need not be asked of the source again.
            entries = None if listing is None else entries_of(listing)
            for model in self._catalog.visit(directory, entries):
                self._register(model, touched)
        for model_id in self._catalog.take_removed():
            self._forget(model_id)
            touched.add(model_id)

    def _forget(self, model_id: str) -> None:
        """A model is not in the tree any more: its advice goes, what was learnt of it stays."""
        model = self._registered.pop(model_id, None)
        self._preloaded.pop(model_id, None)
        self._descriptions.pop(model_id, None)
        if model is not None:
            self._withdraw(model)

    def _withdraw(self, model: Model) -> None:
        """Files of the model that belong to no model now have no policy any more."""
        for file in model.files:
            if self._catalog.model_of(file.path) is None:
                self._changed[file.path] = None

    def _register(self, model: Model, touched: set[str]) -> None:
        if self._optimizer is None:
            return
        self._optimizer.register_model(self._configuration.serving_info(model))
        before = self._registered.get(model.model_id)
        if before is not None:
            self._withdraw(before)
        self._registered[model.model_id] = model
        touched.add(model.model_id)

    def _observe(self, events: list[RawEvent], touched: set[str]) -> None:
        if self._optimizer is None:
            return
        translated = []
        for event in events:
            model = self._catalog.model_of(event.path)
            model_id = None if model is None else model.model_id
            if model is not None and event.kind is AccessKind.OPEN:
                touched.add(model.model_id)
                if _has_grown(model, event):
                    for changed in self._catalog.look_again(model.model_id):
                        self._register(changed, touched)
            translated.append(
                AccessEvent(
                    event.kind,
                    model_id,
                    event.path,
                    event.offset,
                    event.size,
                    event.latency_s,
                    event.origin,
                    event.pid,
                    event.fh,
                    event.timestamp,
                )
            )
        self._optimizer.observe(translated)
        self.events_observed += len(translated)

    def _round(self, touched: set[str]) -> None:
        if self._optimizer is None or not self._optimizer.is_round_due():
            return
        touched.update(self._optimizer.perform_optimization().changed_models)
        self.rounds += 1

    def _recommend(self, touched: set[str]) -> None:
        if self._optimizer is None:
            return
        preload = []
        for model_id in touched:
            model = self._registered.get(model_id)
            if model is None:
                continue
            paths = [file.path for file in model.files]
            advice = self._optimizer.optimize_model_access(model_id, paths)
            if not advice.model_id:  # it remembers a bounded number of models
                self._optimizer.register_model(self._configuration.serving_info(model))
                advice = self._optimizer.optimize_model_access(model_id, paths)
            for file in model.files:
                self._changed[file.path] = self._policy(advice, file.path)
            self._descriptions[model_id] = _describe(model, advice)
            if advice.should_preload and self._preloaded.get(model_id) != model:
                self._preloaded[model_id] = model
                preload.append((advice.priority, model))
        preload.sort(key=lambda ranked: -ranked[0])
        changed, self._changed = self._changed, {}
        self.publication = Publication(
            changed=changed,
            models=tuple(self._descriptions.values()),
            metrics=self._metrics(),
            problems=tuple(
                f"{problem.path}: {problem.reason}" for problem in self._catalog.problems
            ),
        )
        self._publish(self.publication, [model for _, model in preload])

    def _policy(self, advice: ModelAccessOptimization, path: str) -> FilePolicy:
        file = advice.file_optimizations[path]
        strategy = advice.cache_strategy
        return FilePolicy(
            model_id=advice.model_id,
            strategy=strategy,
            first_window_bytes=max(0, file.prefetch_size),
            priority=file.priority,
            keeps_read=file.should_cache or strategy in ("lazy", "aggressive", "coordinated"),
            keeps_prefetched=file.should_cache or strategy in ("aggressive", "coordinated"),
            is_pinned=strategy == "memory",
            is_preloaded=advice.should_preload,
            reasons=(*advice.reasons, *file.reasons),
        )

    def _metrics(self) -> dict[str, Any]:
        assert self._optimizer is not None
        metrics = self._optimizer.get_serving_metrics()
        return {
            "active_models": metrics.active_models,
            "total_requests": metrics.total_requests,
            "cached_requests": metrics.cached_requests,
            "optimization_events": metrics.optimization_events,
            "avg_latency": metrics.avg_latency,
            "avg_throughput": metrics.avg_throughput,
            "cache_hit_rate": metrics.cache_hit_rate,
            "models_by_pattern": {
                str(pattern): count for pattern, count in metrics.models_by_pattern.items()
            },
        }


def _has_grown(model: Model, event: RawEvent) -> bool:
    """Whether an opened file has another size than the catalogue knows: its directory's time
    does not move when a file is written to."""
    return any(file.path == event.path and file.size_bytes != event.size for file in model.files)


def _describe(model: Model, advice: ModelAccessOptimization) -> dict[str, Any]:
    return {
        "model_id": model.model_id,
        "path": model.path,
        "version": model.version,
        "framework": str(model.framework),
        "format": str(model.format),
        "size_bytes": model.size_bytes,
        "files": [
            {"path": file.path, "size_bytes": file.size_bytes, "role": file.role.value}
            for file in model.files
        ],
        "recommendation": {
            "should_preload": advice.should_preload,
            "cache_strategy": advice.cache_strategy,
            "prefetch_size": advice.prefetch_size,
            "priority": advice.priority,
            "reasons": list(advice.reasons),
        },
    }
