"""All metadata I/O on the backing tree: where it runs, and what each call does.

The functions are plain and blocking; `Source.call` decides where they run. On a filesystem of
this machine a call takes microseconds, a hand-over to a thread ten times that: there they run at
once, until one was slow. On every other source they run in threads with a deadline, and on all
while a mount that may hang lies below the source: a name can lead into it.
Nothing here follows a link: each name is resolved in a directory's descriptor.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, TypeVarTuple

import trio

from fusemount.errors import SourceTimeoutError
from fusemount.identity import Found, Identifier, filesystem_type, is_local_type
from fusemount.mountinfo import MountWatch

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

# A local call that took longer than this has met a disk or a stalled device ...
_SLOW_CALL_S = 0.005
# ... and for so long all calls go through threads, so that the next one stalls nobody.
_WARY_S = 10.0
# What an entry says that is gone or not for this user.
_GONE_ENTRY = frozenset({errno.ENOENT, errno.ESTALE, errno.EACCES})
# What has nothing to do with the entry.
_OWN_FAULTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBADF})
# Metadata requests in flight at a remote source. At 10 ms each, 128 stat 12,800 files a second.
METADATA_THREADS = 128
# Threads that may be stuck in calls given up, each replaced by another; past that, calls wait.
_MAX_STUCK_CALLS = 512


class _Outcome(Generic[Result]):
    """A thread's result, taken by its caller or, where that gave up, discarded: never lost.

    Of `abandon` while the function runs and `finish` behind it, exactly the later one learns of
    the other: so each thread that was given up is counted once, and once taken off again.
    """

    def __init__(self, discard: Callable[[Result], object] | None) -> None:
        self._discard = discard
        self._lock = threading.Lock()
        self._results: list[Result] = []
        self._abandoned = False
        self._is_running = False

    def start(self) -> bool:
        """In the thread, before the function: whether the caller still waits."""
        with self._lock:
            self._is_running = not self._abandoned
            return self._is_running

    def finish(self) -> bool:
        """In the thread, behind the function: whether the caller gave up meanwhile."""
        with self._lock:
            self._is_running = False
            return self._abandoned

    def put(self, result: Result) -> Result:
        with self._lock:
            self._results.append(result)
            abandoned = self._abandoned
        if abandoned:
            self._discard_result()
        return result

    def abandon(self) -> bool:
        """The caller gives up; whether the thread is still in the function."""
        with self._lock:
            self._abandoned = True
            is_running = self._is_running
        self._discard_result()
        return is_running

    def _discard_result(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        if self._discard is not None:
            for result in results:
                self._discard(result)


class Source:
    """A directory tree to mount. `root_fd` stays open for the life of the mount."""

    def __init__(self, path: str, deadline_s: float) -> None:
        """Raises OSError where `path` cannot be opened as a directory."""
        self.path = path
        self.deadline_s = deadline_s
        self.identifier = Identifier()
        self.root_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._filesystem_type = filesystem_type(self.root_fd)
        self.is_local = is_local_type(self._filesystem_type)
        self.timeouts = 0
        # Threads in calls that nobody waits for any more; each has another in its place.
        self.stuck_calls = 0
        self._wary_until = 0.0
        self._mounts = MountWatch(self.root_fd)
        self._limiter = trio.CapacityLimiter(METADATA_THREADS)

    def root(self) -> Found:
        """What the root is now; raises OSError."""
        status = os.fstat(self.root_fd)
        return Found(status, self.identifier.find_open(self.root_fd, status))

    def reopen_root(self) -> bool:
        """Open the root by its path again, as after a remount.

        False where it is the same mount, or a filesystem of another kind: then the source is not
        mounted yet, and what lies below its mount point is not the source. Raises OSError.
        """
        fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.stat(fd)
            if os.fstat(fd).st_dev == _device_of(self.root_fd):
                return False
            if filesystem_type(fd) != self._filesystem_type:
                return False
            os.dup2(fd, self.root_fd, inheritable=False)
        finally:
            os.close(fd)
        return True

    async def call(
        self,
        is_local: bool,
        function: Callable[[*Arguments], Result],
        *arguments: *Arguments,
        discard: Callable[[Result], object] | None = None,
    ) -> Result:
        """Run a blocking function where it suits the filesystem that it works on.

        `discard` takes a result that comes after the deadline or a cancellation (a descriptor).
        Raises what the function raises, or SourceTimeoutError after `deadline_s`.
        """
        now = time.monotonic()
        if is_local and now >= self._wary_until and not self._mounts.may_hang(now):
            try:
                return function(*arguments)
            finally:
                after = time.monotonic()
                if after - now > _SLOW_CALL_S:
                    self._wary_until = after + _WARY_S
        outcome = _Outcome(discard)
        token = trio.lowlevel.current_trio_token()

        def work() -> Result:
            if not outcome.start():
                raise SourceTimeoutError(self.path)  # to nobody
            try:
                return outcome.put(function(*arguments))
            finally:
                if outcome.finish():
                    with contextlib.suppress(trio.RunFinishedError):
                        token.run_sync_soon(self._count_stuck, -1)

        try:
            with trio.fail_after(self.deadline_s):
                return await trio.to_thread.run_sync(
                    work, abandon_on_cancel=True, limiter=self._limiter
                )
        except trio.TooSlowError:
            self._give_up(outcome)
            self.timeouts += 1
            raise SourceTimeoutError(self.path) from None
        except trio.Cancelled:
            self._give_up(outcome)
            raise

    def _give_up(self, outcome: _Outcome[Result]) -> None:
        if outcome.abandon():
            self._count_stuck(1)

    def _count_stuck(self, change: int) -> None:
        # A thread that hangs keeps its place until it ends: others get one more meanwhile.
        self.stuck_calls += change
        self._limiter.total_tokens = METADATA_THREADS + min(self.stuck_calls, _MAX_STUCK_CALLS)

    # The functions below block; each takes an O_PATH descriptor of the directory.

    def find(self, directory_fd: int, name: bytes) -> Found:
        """Status and identity of an entry; raises OSError."""
        status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        return Found(status, self.identifier.find(directory_fd, name, status))

    def find_open(self, fd: int) -> Found:
        """Status and identity of an open descriptor; raises OSError."""
        status = os.fstat(fd)
        return Found(status, self.identifier.find_open(fd, status))

    def find_many(self, directory_fd: int, names: Sequence[bytes]) -> list[Found | None]:
        """`find` for each name; None for one that is gone, or that alone fails.

        A dead mount or a broken entry must not make its directory unlistable. Raises OSError where
        the directory itself fails too, and where this process is out of something.
        """
        found: list[Found | None] = []
        answers = False
        for name in names:
            try:
                found.append(self.find(directory_fd, name))
            except OSError as error:
                if error.errno in _OWN_FAULTS:
                    raise
                if not answers and error.errno not in _GONE_ENTRY:
                    # Its filesystem's size: no kernel answers that from a cache.
                    os.fstatvfs(directory_fd)
                    answers = True
                found.append(None)
        return found

    async def find_all(
        self, is_local: bool, directory_fd: int, names: Sequence[bytes]
    ) -> list[Found | None]:
        """`find_many`, on a remote source by many threads at once. Raises what the first of them
        raised that failed."""
        if is_local:
            return await self.call(True, self.find_many, directory_fd, names)
        share_names = -(-len(names) // METADATA_THREADS) or 1
        shares: list[list[Found | None]] = [[] for _ in range(0, len(names), share_names)]
        failures: list[Exception] = []

        async def find_share(number: int) -> None:
            start = number * share_names
            share = names[start : start + share_names]
            try:
                shares[number] = await self.call(False, self.find_many, directory_fd, share)
            except (OSError, SourceTimeoutError) as error:
                # Kept aside: out of a nursery it would come in a group, which nobody's table knows.
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for number in range(len(shares)):
                nursery.start_soon(find_share, number)
        if failures:
            raise failures[0]
        return [found for share in shares for found in share]


def _device_of(fd: int) -> int:
    try:
        return os.fstat(fd).st_dev
    except OSError:
        return -1


def open_path(directory_fd: int, name: bytes) -> int:
    """An O_PATH descriptor of an entry, links not followed; raises OSError."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)


def open_directory(directory_fd: int, name: bytes) -> tuple[int, bool]:
    """An O_PATH descriptor of a sub-directory, and whether it is on a local filesystem."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=directory_fd)
    try:
        return fd, is_local_type(filesystem_type(fd))
    except BaseException:
        os.close(fd)
        raise


def open_file(directory_fd: int, name: bytes) -> int:
    """A descriptor to read a regular file by; never waits on a fifo that took its place."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    return os.open(name, flags, dir_fd=directory_fd)


def list_names(directory_fd: int) -> list[bytes]:
    """Names in a directory in the source's order, without . and ..; raises OSError."""
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def read_link(directory_fd: int, name: bytes) -> bytes:
    """A symbolic link's text, verbatim."""
    return os.readlink(name, dir_fd=directory_fd)


def _by_descriptor(fd: int) -> str:
    # xattr calls take no O_PATH descriptor; the link in /proc leads to the very object.
    return f"/proc/self/fd/{fd}"


def get_xattr(fd: int, name: bytes) -> bytes:
    """One extended attribute of what an O_PATH descriptor leads to."""
    return os.getxattr(_by_descriptor(fd), name)


def list_xattrs(fd: int) -> list[bytes]:
    """Names of the extended attributes of what an O_PATH descriptor leads to."""
    return [os.fsencode(name) for name in os.listxattr(_by_descriptor(fd))]
