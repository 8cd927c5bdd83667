"""Fetch threads: what a job reads, and who goes first."""

import errno
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from fusemount import fetch
from fusemount.fetch import FILE_THREADS, FetchThreads, Job
from fusemount.identity import version_of
from tests.unit.fakes import wait_until

_real_preadv = os.preadv
_DEADLINE_S = 20.0


class Gate:
    """Holds reads of the source until a test lets them go, and tells in which order they came."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self._changed = threading.Condition()
        self._open = False
        self._passes: set[int] = set()

    def preadv(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        with self._changed:
            self.began.append(offset)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open or offset in self._passes, _DEADLINE_S)
        return _real_preadv(fd, buffers, offset)

    def let_pass(self, offset: int) -> None:
        with self._changed:
            self._passes.add(offset)
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    async def wait_for(self, count: int) -> None:
        """Wait until that many reads have begun."""
        await wait_until(lambda: len(self.began) >= count)


@pytest.fixture
def file_fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 16)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr("os.preadv", gate.preadv)
    yield gate
    gate.open()


class Fetching:
    """Threads with the jobs that they have finished."""

    def __init__(self, threads: int, fd: int, file_threads: int = FILE_THREADS) -> None:
        self.threads = FetchThreads(threads, file_threads=file_threads)
        self.finished: list[Job] = []
        self._fd = fd
        self._submitted = 0

    def submit(
        self, offset: int, size: int = 1, *, demand: bool = True, priority: int = 0, fd: int = -1
    ) -> Job:
        job = Job(
            self._fd if fd < 0 else fd,
            offset,
            memoryview(bytearray(size)),
            demand,
            self.finished.append,
            priority,
        )
        self._submitted += 1
        self.threads.submit(job)
        return job

    async def wait(self) -> None:
        """Wait until all jobs are back."""
        await wait_until(lambda: len(self.finished) >= self._submitted)

    async def wait_for_idle_thread(self) -> None:
        await wait_until(lambda: self.threads._idle)


def fetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fetch-")]


def run(
    threads: int,
    fd: int,
    work: Callable[[Fetching], Awaitable[None]],
    file_threads: int = FILE_THREADS,
) -> None:
    async def main() -> None:
        fetching = Fetching(threads, fd, file_threads)
        try:
            await work(fetching)
        finally:
            fetching.threads.close()

    trio.run(main)
    for thread in fetch_threads():
        thread.join(_DEADLINE_S)


def test_job_fills_its_buffer_from_its_offset(file_fd: int) -> None:
    async def work(fetching: Fetching) -> None:
        job = fetching.submit(10, 100)
        await fetching.wait()
        assert bytes(job.buffer) == bytes(range(10, 110))
        assert (job.filled, job.error) == (100, 0)

    run(2, file_fd, work)


def test_end_of_file_is_a_short_fill_without_error(file_fd: int) -> None:
    async def work(fetching: Fetching) -> None:
        jobs = [fetching.submit(offset, 2) for offset in (4094, 4095, 4096)]
        await fetching.wait()
        assert [(job.filled, job.error) for job in jobs] == [(2, 0), (1, 0), (0, 0)]

    run(2, file_fd, work)


def test_failure_is_its_errno(tmp_path: Path, file_fd: int) -> None:
    directory_fd = os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC)

    async def work(fetching: Fetching) -> None:
        job = fetching.submit(0, fd=directory_fd)
        await fetching.wait()
        assert (job.error, job.version) == (errno.EISDIR, None)

    run(2, file_fd, work)
    os.close(directory_fd)


def test_short_fill_has_the_version_that_the_source_vouches_for(file_fd: int) -> None:
    async def work(fetching: Fetching) -> None:
        job = fetching.submit(4000, 1000)
        await fetching.wait()
        assert (job.filled, job.version) == (96, version_of(os.fstat(file_fd)))

    run(1, file_fd, work)


def test_defect_in_a_thread_is_eio_and_the_thread_goes_on(
    file_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise RuntimeError

    async def work(fetching: Fetching) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("os.preadv", fail)
            job = fetching.submit(0)
            await fetching.wait()
        assert job.error == errno.EIO
        assert (await finish(fetching, 0)).filled == 1

    run(1, file_fd, work)


async def finish(fetching: Fetching, offset: int) -> Job:
    job = fetching.submit(offset)
    await fetching.wait()
    return job


def test_short_reads_are_continued(file_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_little(fd: int, buffers: list[memoryview], offset: int) -> int:
        return _real_preadv(fd, [buffers[0][:7]], offset)

    monkeypatch.setattr("os.preadv", read_little)

    async def work(fetching: Fetching) -> None:
        job = fetching.submit(0, 100)
        await fetching.wait()
        assert bytes(job.buffer) == bytes(range(100))

    run(1, file_fd, work)


def test_version_is_what_the_file_showed_after_the_read(
    tmp_path: Path, file_fd: int, gate: Gate
) -> None:
    async def work(fetching: Fetching) -> None:
        before = version_of(os.fstat(file_fd))
        job = fetching.submit(0)
        await gate.wait_for(1)
        os.truncate(tmp_path / "file", 10)
        gate.open()
        await fetching.wait()
        assert job.version == version_of(os.fstat(file_fd))
        assert job.version != before

    run(1, file_fd, work)


def test_demand_goes_before_prefetch_that_waits_longer(file_fd: int, gate: Gate) -> None:
    async def work(fetching: Fetching) -> None:
        fetching.submit(0)
        await gate.wait_for(1)
        fetching.submit(1, demand=False)
        fetching.submit(2, demand=True)
        gate.open()
        await fetching.wait()
        assert gate.began == [0, 2, 1]

    run(1, file_fd, work)


def test_prefetch_goes_by_priority_and_then_by_age(file_fd: int, gate: Gate) -> None:
    async def work(fetching: Fetching) -> None:
        fetching.submit(0)
        await gate.wait_for(1)
        for offset, priority in enumerate((-1, 5, 0, 5, 25), start=1):
            fetching.submit(offset, demand=False, priority=priority)
        gate.open()
        await fetching.wait()
        assert gate.began == [0, 5, 2, 4, 3, 1]

    run(1, file_fd, work)


def test_prefetch_leaves_threads_to_demand(file_fd: int, gate: Gate) -> None:
    async def work(fetching: Fetching) -> None:
        for offset in range(8):
            fetching.submit(offset, demand=False)
        await gate.wait_for(4)
        for offset in range(8, 12):
            fetching.submit(offset)
        await gate.wait_for(8)
        assert sorted(gate.began) == [0, 1, 2, 3, 8, 9, 10, 11]
        gate.open()
        await fetching.wait()

    run(8, file_fd, work)


def test_waiting_prefetch_goes_on_when_one_ends(file_fd: int, gate: Gate) -> None:
    async def work(fetching: Fetching) -> None:
        for offset in range(3):
            fetching.submit(offset, demand=False)
        await gate.wait_for(2)
        gate.let_pass(0)
        gate.let_pass(1)
        await gate.wait_for(3)
        gate.open()
        await fetching.wait()

    run(4, file_fd, work)


def test_file_that_hangs_leaves_threads_to_others(file_fd: int, gate: Gate) -> None:
    other_fd = os.dup(file_fd)

    async def work(fetching: Fetching) -> None:
        for offset in range(6):
            fetching.submit(offset)
        await gate.wait_for(3)
        for offset in range(10, 12):
            fetching.submit(offset, fd=other_fd)
        await gate.wait_for(5)
        assert sorted(gate.began) == [0, 1, 2, 10, 11]
        gate.open()
        await fetching.wait()
        assert sorted(gate.began) == [0, 1, 2, 3, 4, 5, 10, 11]

    run(5, file_fd, work, file_threads=3)
    os.close(other_fd)


def test_prefetch_of_a_file_leaves_threads_to_its_demand(
    file_fd: int, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_FILE_DEMAND_THREADS", 2)

    async def work(fetching: Fetching) -> None:
        for offset in range(6):
            fetching.submit(offset, demand=False)
        await gate.wait_for(2)
        for offset in range(10, 13):
            fetching.submit(offset)
        await gate.wait_for(4)
        assert sorted(gate.began) == [0, 1, 10, 11]
        gate.open()
        await fetching.wait()

    run(12, file_fd, work, file_threads=4)


def test_jobs_that_waited_for_their_file_go_on_in_order(file_fd: int, gate: Gate) -> None:
    async def work(fetching: Fetching) -> None:
        for offset in range(5):
            fetching.submit(offset)
            await gate.wait_for(min(offset + 1, 1))
        for offset in range(4):
            gate.let_pass(offset)
            await gate.wait_for(offset + 2)
        gate.open()
        await fetching.wait()
        assert gate.began == [0, 1, 2, 3, 4]

    run(4, file_fd, work, file_threads=1)


def test_others_start_for_threads_that_hang(
    file_fd: int, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_STUCK_S", 0.02)

    async def work(fetching: Fetching) -> None:
        for offset in range(2):
            fetching.submit(offset)
        await gate.wait_for(2)
        await trio.sleep(0.03)
        fetching.submit(2)
        await gate.wait_for(3)
        gate.open()
        await fetching.wait()

    run(2, file_fd, work)


def test_burst_after_a_pause_runs_at_once_and_not_behind_one_idle_thread(
    file_fd: int, gate: Gate
) -> None:
    async def work(fetching: Fetching) -> None:
        gate.let_pass(0)
        fetching.submit(0)
        await fetching.wait()
        await fetching.wait_for_idle_thread()
        for offset in range(1, 7):
            fetching.submit(offset)
        await gate.wait_for(7)
        gate.open()
        await fetching.wait()

    run(6, file_fd, work)


def test_no_more_threads_than_allowed_start(file_fd: int, gate: Gate) -> None:
    async def work(fetching: Fetching) -> None:
        for offset in range(20):
            fetching.submit(offset)
        await gate.wait_for(3)
        assert len(fetch_threads()) == 3
        gate.open()
        await fetching.wait()
        assert len(fetch_threads()) == 3

    run(3, file_fd, work)


def test_idle_threads_are_reused(file_fd: int) -> None:
    async def work(fetching: Fetching) -> None:
        for _ in range(5):
            await finish(fetching, 0)
            await fetching.wait_for_idle_thread()
        assert len(fetch_threads()) == 1

    run(8, file_fd, work)


def test_close_ends_the_threads(file_fd: int) -> None:
    async def work(fetching: Fetching) -> None:
        await finish(fetching, 0)

    run(2, file_fd, work)
    assert fetch_threads() == []


def test_what_is_in_flight_is_counted_until_it_is_back(file_fd: int, gate: Gate) -> None:
    async def work(fetching: Fetching) -> None:
        fetching.submit(0, 100)
        fetching.submit(1, 10, demand=False)
        threads = fetching.threads
        assert (threads.in_flight, threads.in_flight_bytes) == (2, 110)
        gate.open()
        await fetching.wait()
        assert (threads.in_flight, threads.in_flight_bytes) == (0, 0)
        assert (threads.max_in_flight, threads.max_in_flight_bytes) == (2, 110)

    run(2, file_fd, work)


def test_job_that_outlives_the_event_loop_ends_its_thread(file_fd: int, gate: Gate) -> None:
    async def main() -> None:
        Fetching(1, file_fd).submit(0)
        await gate.wait_for(1)

    trio.run(main)
    (thread,) = fetch_threads()
    gate.open()
    thread.join(_DEADLINE_S)
    assert not thread.is_alive()


def test_job_that_has_not_begun_can_be_withdrawn(file_fd: int, gate: Gate) -> None:
    async def work(fetching: Fetching) -> None:
        running = fetching.submit(0)
        await gate.wait_for(1)
        parked, queued = fetching.submit(1, 10), fetching.submit(2, 20)
        threads = fetching.threads
        assert not threads.withdraw(running)
        assert threads.withdraw(parked)
        assert threads.withdraw(queued)
        assert not threads.withdraw(queued)
        assert (threads.in_flight, threads.in_flight_bytes) == (1, 1)
        gate.open()
        await wait_until(lambda: running in fetching.finished)
        await finish_after(fetching, 3)
        assert gate.began == [0, 3]
        assert parked not in fetching.finished
        assert queued not in fetching.finished

    run(2, file_fd, work, file_threads=1)


async def finish_after(fetching: Fetching, offset: int) -> None:
    job = fetching.submit(offset)
    await wait_until(lambda: job in fetching.finished)


def test_file_of_which_nothing_comes_back_gets_one_read_more_at_a_time(
    file_fd: int, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_STUCK_S", 0.3)
    other_fd = os.dup(file_fd)

    async def work(fetching: Fetching) -> None:
        for offset in range(2):
            fetching.submit(offset)
        await wait_until(lambda: fetching.threads.stuck == 2)
        for offset in range(2, 5):
            fetching.submit(offset)
        fetching.submit(10, fd=other_fd)
        await gate.wait_for(4)
        assert sorted(gate.began) == [0, 1, 2, 10]
        gate.let_pass(2)
        await gate.wait_for(6)
        gate.open()
        await fetching.wait()
        assert sorted(gate.began) == [0, 1, 2, 3, 4, 10]
        assert fetching.threads.stuck == 0

    run(8, file_fd, work)
    os.close(other_fd)


def test_without_any_thread_a_job_fails_and_the_next_has_one_again(
    file_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(fetching: Fetching) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", refuse)
            job = fetching.submit(0)
            assert not fetching.finished
            await fetching.wait()
        assert job.error == errno.EAGAIN
        assert fetching.threads.in_flight == 0
        assert (await finish(fetching, 0)).filled == 1

    run(1, file_fd, work)


def refuse(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_job_waits_for_a_thread_that_there_is_where_no_other_starts(
    file_fd: int, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(fetching: Fetching) -> None:
        fetching.submit(0)
        await gate.wait_for(1)
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", refuse)
            fetching.submit(1)
        fetching.submit(2)
        await gate.wait_for(2)
        gate.open()
        await fetching.wait()
        assert [job.error for job in fetching.finished] == [0, 0, 0]

    run(2, file_fd, work)
