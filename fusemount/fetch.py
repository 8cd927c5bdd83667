"""Fetch threads: large reads of the source into extents, demand before prefetch.

Policy stays on the event loop: a job names a descriptor, a buffer and a range, a thread fills it,
and the loop is told. A job's buffer belongs to its thread until the loop has taken the job back.
Invariants: prefetch never holds the last threads, so that demand always finds one; neither does
one file, so that the others go on while it hangs; for threads that a source keeps, others start;
a job that no thread has begun can be withdrawn, and one that none can begin fails.
"""

import errno
import heapq
import itertools
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from fusemount.identity import Version, ask_version, version_of

# Reads of the source at once. A stream of an object store gives tens of MB/s: 800 MB/s take
# about 22 requests of 1 MiB at 60 MB/s and 10 ms at any time; a faster source needs more.
FETCH_THREADS = 64
# Threads that only demand may use.
_DEMAND_THREADS = 12
# Reads of one file at once, so that a file that hangs leaves threads to the others ...
FILE_THREADS = 52
# ... and those of them that its prefetch leaves to its demand.
_FILE_DEMAND_THREADS = 8
# A read that takes so long hangs. It does not count among the threads ...
_STUCK_S = 5.0
# ... but there are no more than this. A file of which nothing comes back gets one read more at a
# time, and none once stuck reads leave only so many threads: the others are for other files.
_MOST_THREADS = 256
_HEALTHY_THREADS = 128


@dataclass(slots=True, eq=False)
class Job:
    """One read: `size` bytes at `offset` of `fd` into `buffer`.

    After it `error` is an errno or 0, `filled` the bytes read, and `version` what the file's
    status showed once they were.
    """

    fd: int
    offset: int
    buffer: memoryview
    is_demand: bool
    done: Callable[["Job"], None]
    priority: int = 0
    filled: int = 0
    error: int = 0
    version: Version | None = None


@dataclass(order=True, slots=True)
class _Queued:
    rank: tuple[int, int]
    job: Job = field(compare=False)


class FetchThreads:
    """Runs jobs; `submit` from the event loop, which gets each job back by its `done`."""

    def __init__(self, threads: int = FETCH_THREADS, *, file_threads: int = FILE_THREADS) -> None:
        """`threads` read at once, `file_threads` of them the same file."""
        self._threads = threads
        self._prefetch_threads = threads - min(_DEMAND_THREADS, threads // 2)
        self._token = trio.lowlevel.current_trio_token()
        self._condition = threading.Condition()
        self._demand: deque[Job] = deque()
        self._prefetch: list[_Queued] = []
        self._sequence = itertools.count()
        self._prefetching = 0
        # By descriptor: reads that run, and jobs that wait until fewer of them do.
        self._running: Counter[int] = Counter()
        self._parked_demand: dict[int, deque[Job]] = {}
        self._parked_prefetch: dict[int, deque[_Queued]] = {}
        self._file_threads = file_threads
        self._file_prefetch_threads = max(1, file_threads - _FILE_DEMAND_THREADS)
        # By thread, longest first: the descriptor it reads and since when.
        self._busy: dict[int, tuple[int, float]] = {}
        # By descriptor with reads that run: when one of it last came back.
        self._came_back: dict[int, float] = {}
        # Threads that wait and that nobody has woken yet: one that was woken is spoken for.
        self._idle = 0
        self._started = 0
        self._closed = False
        self._finished: deque[Job] = deque()
        self.in_flight_bytes = 0
        self.max_in_flight_bytes = 0
        self.in_flight = 0
        self.max_in_flight = 0

    def submit(self, job: Job) -> None:
        """Queue a job; never blocks. Prefetch of higher priority goes first."""
        self.in_flight += 1
        self.in_flight_bytes += len(job.buffer)
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.max_in_flight_bytes = max(self.max_in_flight_bytes, self.in_flight_bytes)
        with self._condition:
            if job.is_demand:
                self._demand.append(job)
            else:
                rank = (-job.priority, next(self._sequence))
                heapq.heappush(self._prefetch, _Queued(rank, job))
            if self._idle:
                self._wake_one()
            elif self._started < self._threads or self._started < self._spare() + self._threads:
                self._start_one()

    def withdraw(self, job: Job) -> bool:
        """Take a demand job back that no thread has begun: its `done` will not be called.

        False where a thread has it, or had it.
        """
        with self._condition:
            parked = self._parked_demand.get(job.fd)
            if job in self._demand:
                self._demand.remove(job)
            elif parked is not None and job in parked:
                parked.remove(job)
                if not parked:
                    del self._parked_demand[job.fd]
            else:
                return False
        self.in_flight -= 1
        self.in_flight_bytes -= len(job.buffer)
        return True

    @property
    def stuck(self) -> int:
        """Reads of the source that have taken so long that they seem to hang."""
        with self._condition:
            return self._stuck_reads().total()

    def close(self) -> None:
        """Let idle threads end; one that is in the kernel ends with the process."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _start_one(self) -> None:
        """One more thread; where the system has none, jobs wait for those that there are."""
        thread = threading.Thread(target=self._work, name=f"fetch-{self._started + 1}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            if not self._started:
                self._fail_queued(errno.EAGAIN)
            return
        self._started += 1

    def _fail_queued(self, error: int) -> None:
        """Give the jobs back that no thread will ever take; not before `submit` has returned."""
        failed = [*self._demand, *(queued.job for queued in self._prefetch)]
        self._demand.clear()
        self._prefetch.clear()
        for job in failed:
            job.error = error
        self._finished += failed
        self._token.run_sync_soon(self._deliver, idempotent=True)

    def _stuck_reads(self) -> Counter[int]:
        """Reads that a source keeps, by descriptor."""
        before = time.monotonic() - _STUCK_S
        stuck: Counter[int] = Counter()
        for fd, since in self._busy.values():
            if since >= before:
                break
            stuck[fd] += 1
        return stuck

    def _spare(self) -> int:
        """Threads that may start for those that a source keeps."""
        return min(self._stuck_reads().total(), _MOST_THREADS - self._threads)

    def _may_run(self, fd: int, limit: int) -> bool:
        """Whether one more read of the file may begin, of `limit` at once."""
        running = self._running[fd]
        if running >= limit:
            return False
        stuck = self._stuck_reads()
        if not stuck[fd] or self._came_back.get(fd, 0.0) >= time.monotonic() - _STUCK_S:
            return True
        # Nothing comes back: one read at a time looks whether that has changed.
        return running <= stuck[fd] and stuck.total() < _MOST_THREADS - _HEALTHY_THREADS

    def _next(self) -> Job | None:
        with self._condition:
            while not self._closed:
                job = self._take()
                if job is not None:
                    self._running[job.fd] += 1
                    self._prefetching += not job.is_demand
                    self._busy[threading.get_ident()] = job.fd, time.monotonic()
                    return job
                self._idle += 1
                self._condition.wait()
        return None

    def _take(self) -> Job | None:
        while self._demand:
            job = self._demand.popleft()
            if self._may_run(job.fd, self._file_threads):
                return job
            self._parked_demand.setdefault(job.fd, deque()).append(job)
        # Threads that were started for stuck ones serve prefetch as those did.
        spare = self._prefetch_threads + max(0, self._started - self._threads)
        while self._prefetch and self._prefetching < spare:
            queued = heapq.heappop(self._prefetch)
            if self._may_run(queued.job.fd, self._file_prefetch_threads):
                return queued.job
            self._parked_prefetch.setdefault(queued.job.fd, deque()).append(queued)
        return None

    def _finish(self, job: Job) -> None:
        """The job's thread is free, and jobs that waited for its file may run."""
        fd = job.fd
        with self._condition:
            del self._busy[threading.get_ident()]
            self._prefetching -= not job.is_demand
            self._running[fd] -= 1
            running = self._running[fd]
            if running:
                self._came_back[fd] = time.monotonic()
            else:
                del self._running[fd]
                self._came_back.pop(fd, None)
            demand = self._parked_demand.get(fd)
            while demand and running < self._file_threads:
                self._demand.append(demand.popleft())
                running += 1
            prefetch = self._parked_prefetch.get(fd)
            while prefetch and running < self._file_prefetch_threads:
                heapq.heappush(self._prefetch, prefetch.popleft())
                running += 1
            if demand is not None and not demand:
                del self._parked_demand[fd]
            if prefetch is not None and not prefetch:
                del self._parked_prefetch[fd]
            # This thread takes the next job itself; another may be wanted for what was parked.
            if self._idle and (self._demand or self._prefetch):
                self._wake_one()

    def _wake_one(self) -> None:
        # It counts itself idle again before it next waits. Counting it out here and not when it
        # runs lets a burst of jobs start as many threads as it needs.
        self._idle -= 1
        self._condition.notify()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            _fill(job)
            self._finish(job)
            self._finished.append(job)
            try:
                self._token.run_sync_soon(self._deliver, idempotent=True)
            except trio.RunFinishedError:
                return

    def _deliver(self) -> None:
        while self._finished:
            job = self._finished.popleft()
            self.in_flight -= 1
            self.in_flight_bytes -= len(job.buffer)
            job.done(job)


def _fill(job: Job) -> None:
    """Read until the buffer is full, the file ends or the source fails. Never raises."""
    size = len(job.buffer)
    try:
        while job.filled < size:
            got = os.preadv(job.fd, [job.buffer[job.filled :]], job.offset + job.filled)
            if got <= 0:
                break
            job.filled += got
        # Bytes that are missing may be the file's new end, which a remote source's cached status
        # does not show yet.
        is_whole = job.filled == size
        job.version = version_of(os.fstat(job.fd)) if is_whole else ask_version(job.fd)
    except OSError as error:
        job.error = error.errno or errno.EIO
    except Exception:  # a defect of ours must not cost the thread; the reader gets EIO
        job.error = errno.EIO
