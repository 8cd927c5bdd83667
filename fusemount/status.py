"""The status document: what the mount does, why, and what is degraded. Reads state, changes none.

Units are in the names; inside `optimizer` and `recommendation` the seed's field names stand.
"""

import os
import resource
import time
from typing import Any

from fusemount.control import Control
from fusemount.filesystem import Filesystem
from fusemount.policy import UNKNOWN
from fusemount.preload import Preloader
from fusemount.store.extents import EXTENT_BYTES
from optimizer import Origin


class StatusReport:
    """Makes the document on demand, on the event loop."""

    def __init__(
        self, filesystem: Filesystem, control: Control, preloader: Preloader, facts: dict[str, Any]
    ) -> None:
        """`facts`: what does not change while the worker lives."""
        self._filesystem = filesystem
        self._control = control
        self._preloader = preloader
        self._facts = facts
        self._started = time.monotonic()

    def make(self) -> dict[str, Any]:
        """The whole document."""
        filesystem = self._filesystem
        metrics, store, fetch = filesystem.metrics, filesystem.store, filesystem.fetch
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            **self._facts,
            "degraded": [*self._facts["degraded"], *self._degraded_now()],
            "worker": {
                "pid": os.getpid(),
                "uptime_s": round(time.monotonic() - self._started, 3),
                "cpu_user_s": usage.ru_utime,
                "cpu_system_s": usage.ru_stime,
                "peak_memory_bytes": usage.ru_maxrss * 1024,
                "open_descriptors": len(os.listdir("/proc/self/fd")),
            },
            "reads": {
                "reads": metrics.reads,
                "read_bytes": metrics.read_bytes,
                "hit_ratio": round(metrics.hit_ratio, 4),
                "errors": metrics.read_errors,
                "longest_read_s": round(metrics.longest_read_s, 6),
                "mean_read_s": round(metrics.read_wait_s / max(1, metrics.reads), 6),
                "deadlines_missed": metrics.deadlines_missed,
                "by_origin": {
                    origin.name.lower(): {
                        "reads": metrics.reads_by_origin[origin],
                        "bytes": metrics.bytes_by_origin[origin],
                    }
                    for origin in Origin
                    if origin is not Origin.NONE
                },
            },
            "source": {
                "fetches": metrics.fetches,
                "fetch_errors": metrics.fetch_errors,
                "fetched_bytes": metrics.fetched_bytes,
                "prefetched_bytes": metrics.prefetched_bytes,
                "prefetch_refused": metrics.prefetch_refused,
                "in_flight": fetch.in_flight,
                "in_flight_bytes": fetch.in_flight_bytes,
                "max_in_flight": fetch.max_in_flight,
                "max_in_flight_bytes": fetch.max_in_flight_bytes,
                "changes_seen": metrics.source_changes,
                "timeouts": filesystem.source.timeouts,
                "is_local": filesystem.source.is_local,
            },
            "memory": {
                "budget_bytes": store.pool.capacity * EXTENT_BYTES,
                "used_bytes": store.pool.in_use * EXTENT_BYTES,
                "mapped_bytes": store.pool.mapped_bytes,
                "kept_bytes": store.kept_bytes,
                "pinned_bytes": store.pinned_bytes,
                "evicted_extents": store.evicted_extents,
            },
            "tables": {
                "nodes": len(filesystem.tree.inodes),
                "open_files": len(filesystem.handles),
                "open_directories": len(filesystem.tree.directories),
                "lookups": metrics.lookups,
                "opens": metrics.opens,
                "directories_listed": metrics.directories_listed,
                "handler_failures": metrics.handler_failures,
                "last_handler_failure": metrics.last_failure,
            },
            "optimizer": self._optimizer(),
            "models": list(self._control.publication.models),
            "files": self._files(),
            "preloads": [
                {
                    "model_id": progress.model_id,
                    "state": progress.state,
                    "loaded_bytes": progress.loaded_bytes,
                    "total_bytes": progress.total_bytes,
                    "reason": progress.reason,
                }
                for progress in self._preloader.progress.values()
            ],
        }

    def _optimizer(self) -> dict[str, Any]:
        control, feed = self._control, self._filesystem.feed
        return {
            **control.publication.metrics,
            "events_emitted": feed.emitted,
            "events_observed": control.events_observed,
            "events_dropped": feed.dropped,
            "rounds": control.rounds,
            "failures": dict(control.failures),
            "last_failure": control.last_failure,
            "catalogue_problems": list(control.publication.problems),
        }

    def _degraded_now(self) -> list[str]:
        degraded = []
        if self._control.failures:
            total = sum(self._control.failures.values())
            degraded.append(
                f"the optimizer failed {total} times (last: {self._control.last_failure});"
                " reads go on with the advice known before"
            )
        if self._filesystem.feed.dropped:
            degraded.append(
                f"{self._filesystem.feed.dropped} access events were dropped: the optimizer is"
                " slower than the readers"
            )
        if self._filesystem.metrics.handler_failures:
            degraded.append(
                f"{self._filesystem.metrics.handler_failures} requests met a defect of fusemount"
                f" (last: {self._filesystem.metrics.last_failure})"
            )
        stuck = self._filesystem.fetch.stuck
        if stuck:
            degraded.append(
                f"{stuck} reads of the source hang: reads of those files fail at the deadline"
            )
        stuck_calls = self._filesystem.source.stuck_calls
        if stuck_calls:
            degraded.append(f"{stuck_calls} calls for names and status hang in the source")
        return degraded + self._preloads_short()

    def _preloads_short(self) -> list[str]:
        """One line for the preloads that failed, one for those that ended early."""
        known = {model["model_id"] for model in self._control.publication.models}
        progresses = [p for p in self._preloader.progress.values() if p.model_id in known]
        lines = []
        for state, outcome in (
            ("failed", "failed: the first reader waits for the source"),
            ("partial", "held in part only: the rest is read from the source"),
        ):
            short = [progress for progress in progresses if progress.state == state]
            if short:
                last = short[-1]
                lines.append(
                    f"{len(short)} preloads {outcome} (last: {last.model_id}: {last.reason})"
                )
        return lines

    def _files(self) -> list[dict[str, Any]]:
        filesystem = self._filesystem
        open_windows: dict[str, int] = {}
        for handle in filesystem.handles.files():
            window = (handle.followed or handle.readahead).window_bytes
            open_windows[handle.path] = max(window, open_windows.get(handle.path, 0))
        described = []
        for path, counters in filesystem.metrics.files():
            policy = filesystem.policies.get(path, UNKNOWN)
            described.append(
                {
                    "path": path,
                    "model_id": policy.model_id,
                    "opens": counters.opens,
                    "reads": counters.reads,
                    "read_bytes": counters.read_bytes,
                    "hit_bytes": counters.hit_bytes,
                    "fetched_bytes": counters.fetched_bytes,
                    "prefetched_bytes": counters.prefetched_bytes,
                    "used_bytes": counters.used_bytes,
                    "wasted_bytes": counters.wasted_bytes,
                    "recommended": {
                        "prefetch_size": policy.first_window_bytes,
                        "cache_strategy": policy.strategy,
                        "priority": policy.priority,
                        "preload": policy.is_preloaded,
                        "reasons": list(policy.reasons),
                    },
                    "applied": {
                        "first_window_bytes": filesystem.first_window_bytes(policy),
                        "window_bytes": open_windows.get(path),
                        "keeps_read": policy.keeps_read,
                        "keeps_prefetched": policy.keeps_prefetched,
                    },
                }
            )
        return described
