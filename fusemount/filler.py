"""Fills extents from the source: what is missing becomes jobs, what arrives becomes present.

Knows no readers: who waits is woken by the extent. Used by the event loop only.
Invariants: a unit is on its way at most once; one becomes present only if the file's version after
the fetch was still the content's; bytes of another version never reach an extent that is read.
"""

import errno
from collections.abc import Iterator
from functools import partial

from fusemount.fetch import FetchThreads, Job
from fusemount.metrics import Metrics
from fusemount.readahead import Plan
from fusemount.store.content import UNIT_BYTES, Content, Extent, runs, units_mask
from fusemount.store.extents import EXTENT_BYTES
from fusemount.store.memory import MemoryStore, Need

# One read of the source. A FUSE or network source cuts larger ones into requests of 1 MiB, one
# after the other: as single jobs they go at once.
_JOB_UNITS = 1024 * 1024 // UNIT_BYTES


class Filler:
    """Submits fetches into extents and takes them back."""

    def __init__(self, store: MemoryStore, fetch: FetchThreads, metrics: Metrics) -> None:
        self._store = store
        self._fetch = fetch
        self._metrics = metrics

    def demand(
        self, content: Content, offset: int, end: int, priority: int, jobs: list[Job]
    ) -> list[Extent] | None:
        """Fetch what of [offset, end) is neither here nor on its way; new jobs go into `jobs`.

        Returns the extents to wait for, or None where memory has no room for all of it.
        """
        unfinished = []
        for index in range(offset // EXTENT_BYTES, (end - 1) // EXTENT_BYTES + 1):
            extent = content.extents.get(index)
            if extent is None:
                extent = self._store.make_extent(content, index, Need.DEMAND)
            if extent is None:
                return None
            base = index * EXTENT_BYTES
            mask = units_mask(max(offset - base, 0), min(end - base, EXTENT_BYTES))
            missing = mask & ~(extent.present | extent.fetching)
            if missing:
                jobs += self._submit(extent, missing, priority, is_demand=True)
            if mask & ~extent.present:
                unfinished.append(extent)
        return unfinished

    def prefetch(self, content: Content, plan: Plan, priority: int, need: Need = Need.AHEAD) -> int:
        """Fetch what of the plan is neither here nor on its way, as far as memory allows.

        Never blocks. Returns the offset up to which memory sufficed.
        """
        asked = 0
        covered = plan.end
        for index in range(plan.start // EXTENT_BYTES, (plan.end - 1) // EXTENT_BYTES + 1):
            extent = content.extents.get(index)
            if extent is None:
                extent = self._store.make_extent(content, index, need)
                if extent is None:
                    self._metrics.prefetch_refused += 1
                    covered = max(plan.start, index * EXTENT_BYTES)
                    break
            base = index * EXTENT_BYTES
            mask = units_mask(max(plan.start - base, 0), min(plan.end - base, EXTENT_BYTES))
            missing = mask & extent.all_units & ~(extent.present | extent.fetching)
            if missing:
                extent.ahead |= missing
                for job in self._submit(extent, missing, priority, is_demand=False):
                    asked += len(job.buffer)
        content.counters.prefetched_bytes += asked
        self._metrics.prefetched_bytes += asked
        return covered

    def _submit(self, extent: Extent, missing: int, priority: int, *, is_demand: bool) -> list[Job]:
        content = extent.content
        base = extent.index * EXTENT_BYTES
        jobs = []
        for first, last in _pieces(missing):
            low = first * UNIT_BYTES
            high = min(last * UNIT_BYTES, content.size_bytes - base)
            mask = ((1 << (last - first)) - 1) << first
            job = Job(
                fd=content.fd,
                offset=base + low,
                buffer=extent.buffer[low:high],
                is_demand=is_demand,
                done=partial(self._on_fetched, extent, mask),
                priority=priority,
            )
            content.hold()
            extent.jobs += 1
            extent.fetching |= mask
            self._fetch.submit(job)
            jobs.append(job)
        return jobs

    def _on_fetched(self, extent: Extent, mask: int, job: Job) -> None:
        content = extent.content
        extent.fetching &= ~mask
        content.counters.fetched_bytes += job.filled
        self._metrics.fetched_bytes += job.filled
        self._metrics.fetches += 1
        if job.error:
            self._metrics.fetch_errors += 1
        elif job.version != content.version:
            if content.is_current:
                self._store.supersede(content)
        elif job.filled == len(job.buffer):
            if content.extents.get(extent.index) is extent:
                extent.present |= mask
                self._store.on_arrived(extent)
        else:
            # The status says that there is more: the source broke its word.
            job.error = errno.EIO
            self._metrics.fetch_errors += 1
        extent.wake()
        content.release()
        self._store.on_job_done(extent)


def _pieces(missing: int) -> Iterator[tuple[int, int]]:
    """Runs of set bits as half-open unit ranges, cut to what one job reads."""
    for first, last in runs(missing):
        for low in range(first, last, _JOB_UNITS):
            yield low, min(low + _JOB_UNITS, last)
