"""What the mount does for each request, without pyfuse3: opens, listings, status, release.

Brings tree, handles, store and reader together. Used by the event loop only.
Invariants: each handle holds its content, and so its descriptor, until release; a node that has
handles is asked about through them; whatever a handler awaits, the tables are consistent before.
"""

import itertools
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator

from fusemount.direct import DirectReads
from fusemount.errors import StaleNodeError
from fusemount.feed import Feed, RawEvent
from fusemount.fetch import FetchThreads
from fusemount.filler import Filler
from fusemount.handles import DirectoryHandle, FileHandle, Handles, Listing
from fusemount.identity import Found
from fusemount.inodes import Node
from fusemount.metrics import Metrics
from fusemount.options import MountOptions
from fusemount.policy import UNKNOWN, FilePolicy
from fusemount.readahead import Readahead
from fusemount.reader import Reader
from fusemount.source import Source
from fusemount.store.content import Content
from fusemount.store.memory import MemoryStore
from fusemount.tree import Tree
from optimizer import AccessKind, Origin

# Directory descriptors held open; the rest of the limit is for files.
_DIRECTORY_DESCRIPTORS = 256
# A file changed so recently may change again without its times showing it.
_SETTLED_NS = 2_000_000_000


class Filesystem:
    """The mounted filesystem of one source."""

    def __init__(
        self, options: MountOptions, source: Source, fetch: FetchThreads, budget_bytes: int
    ) -> None:
        self.options = options
        self.source = source
        self.fetch = fetch
        self.tree = Tree(source, _DIRECTORY_DESCRIPTORS, options.attribute_timeout_s)
        self.handles = Handles()
        self.store = MemoryStore(budget_bytes)
        self.feed = Feed()
        self.metrics = Metrics(self._emit_read)
        self.filler = Filler(self.store, fetch, self.metrics)
        self.reader = Reader(
            self.store,
            self.filler,
            DirectReads(self.store, fetch, self.metrics),
            self.metrics,
            self.tree.status_of_open,
            attribute_timeout_s=options.attribute_timeout_s,
            deadline_s=options.source_deadline_s,
        )
        # What the optimizer advises for each file, by path.
        self.policies: dict[str, FilePolicy] = {}
        # Told each directory that was listed, with its entries, and once that one is searched,
        # without; set by the session.
        self.on_directory: Callable[[str, Listing | None], None] = lambda _path, _listing: None
        self._closer = _Closer()

    async def lookup(self, parent_inode: int, name: bytes) -> tuple[Node, Found, float]:
        """The node at a name, and how many seconds ago it was found; the caller counts the
        lookup."""
        self.metrics.lookups += 1
        parent = self.tree.inodes.get(parent_inode)
        node, found, age_s = await self.tree.lookup(parent, name)
        if not parent.is_searched:
            self._look_into(parent, None)
        if node.handles:
            if age_s:
                found, age_s = await self.status(node), 0.0
            else:
                self._adopt(node, found)
        return node, found, age_s

    async def status(self, node: Node) -> Found:
        """What a node is now. An open file is asked by its descriptor, and its readers follow."""
        handles = self.handles.of_node(node)
        if not handles:
            return await self.tree.status(node)
        # The latest first: the source of older ones may have been remounted since.
        for asked in reversed(handles.copy()):
            try:
                found = await self.reader.revalidate(asked)
            except StaleNodeError:
                continue
            for handle in handles:
                if handle is not asked and handle.content.key == asked.content.key:
                    self.reader.adopt(handle, found)
            return found
        return await self.tree.status(node)

    def _adopt(self, node: Node, found: Found) -> None:
        """What the kernel is told of a node, those who have it open must know as well.

        Without an identity a node that changed is another node: nothing is to be told then.
        """
        if found.identity is None:
            return
        for handle in self.handles.of_node(node):
            if handle.content.key == found.identity:
                self.reader.adopt(handle, found)

    async def open(self, inode: int, pid: int) -> tuple[FileHandle, bool]:
        """Open a regular file for the process `pid`: its handle, and whether the kernel's pages
        of it are still good.

        Raises StaleNodeError where its name leads to another file now, OSError.
        """
        started = time.monotonic()
        node = self.tree.inodes.get(inode)
        fd, found, is_local = await self.tree.open_file(node)
        version = found.version
        path = os.fsdecode(self.tree.inodes.path_of(node) or b"")
        content = self._content(path, found, fd)
        content.checked_at = time.monotonic()
        policy = self.policies.get(path, UNKNOWN)
        self._apply(path, content, policy)
        node.version = version
        self._adopt(node, found)
        # There are no pages yet at the first open. To drop them then would drop what those who
        # open it at the same moment have read.
        keeps_cache = node.cached_version == version or not node.was_opened
        settled = time.time_ns() - version.mtime_ns > _SETTLED_NS
        node.cached_version = version if settled else None
        handle = FileHandle(
            fh=self.handles.next_fh(),
            node=node,
            path=path,
            content=content,
            pid=_process_of(pid),
            readahead=Readahead(self.first_window_bytes(policy)),
            priority=policy.priority,
            is_local=is_local,
            reads_cached=is_local,
        )
        content.hold()
        content.counters.opens += 1
        self.tree.inodes.opened(node)
        self.handles.add_file(handle)
        self.metrics.opens += 1
        now = time.monotonic()
        self._emit(AccessKind.OPEN, handle, version.size_bytes, now - started, now)
        return handle, keeps_cache

    def _content(self, path: str, found: Found, fd: int) -> Content:
        """The content of an open file's version; takes the descriptor over."""
        # Without an identity the path stands for it, as long as the source is the same mount.
        device = found.status.st_dev.to_bytes(8, "little")
        key = found.identity or b"/" + device + os.fsencode(path)
        content = self.store.find(key, found.version)
        if content is None:
            counters = self.metrics.counters_of(path)
            content = self.store.add(key, found.version, counters, self._closer.close)
        if content.fd < 0:
            content.fd = fd
        else:
            self._closer.close(fd)
        return content

    def first_window_bytes(self, policy: FilePolicy) -> int:
        """The first window that a policy gives, unless the command line overrides it."""
        if not self.options.prefetch:
            return 0
        if self.options.first_window_bytes is not None:
            return self.options.first_window_bytes
        return policy.first_window_bytes

    def apply_policies(self, changed: dict[str, FilePolicy | None]) -> None:
        """New advice, for the files open now and those opened later; None: no advice any more."""
        for path, policy in changed.items():
            if policy is None:
                self.policies.pop(path, None)
            else:
                self.policies[path] = policy
        for handle in self.handles.files():
            policy = changed.get(handle.path)
            if policy is not None:
                handle.readahead.set_first_window(self.first_window_bytes(policy))
                handle.priority = policy.priority
                self._apply(handle.path, handle.content, policy)
        for content in self.store.pinned:
            if content.path not in changed:
                continue
            if content.path not in self.policies:
                self.store.free(content)
            elif not self.policies[content.path].is_pinned:
                self.store.unpin(content)

    def _apply(self, path: str, content: Content, policy: FilePolicy) -> None:
        content.path = path
        content.keeps_read = policy.keeps_read
        content.keeps_prefetched = policy.keeps_prefetched
        if policy.is_pinned:
            self.store.pin(content)
        elif content.is_pinned:
            self.store.unpin(content)

    def open_for_preload(self, path: str, found: Found, fd: int, policy: FilePolicy) -> Content:
        """The content of a file that is loaded before anyone asks; released by the preloader."""
        content = self._content(path, found, fd)
        self._apply(path, content, policy)
        content.hold()
        return content

    def release(self, fh: int) -> None:
        """The last reference to an open file is gone."""
        handle = self.handles.remove_file(fh)
        if handle is None:
            return
        handle.content.release()
        self.store.forget_unused(handle.content)
        self.tree.inodes.released(handle.node)
        self._emit(AccessKind.RELEASE, handle, 0, 0.0, time.monotonic())

    async def open_directory(self, inode: int) -> int:
        """A new handle on a directory; raises StaleNodeError, OSError."""
        node = self.tree.inodes.get(inode)
        directory = await self.tree.directories.open(node)
        directory.release()
        self.metrics.directories_listed += 1
        return self.handles.add_directory(node).fh

    async def list(
        self, handle: DirectoryHandle, position: int
    ) -> Iterator[tuple[Node, bytes, Found, int]]:
        """Entries from `position` on, each with the position behind it; empty at the end.

        Positions 0 and 1 are . and .., the names follow as they were when position 0 was read.
        The nodes are made as the iterator goes, so that none is made in vain.
        """
        start = max(0, position - 2)
        while True:
            await self.tree.list(handle, start)
            # A whole stretch may be gone since its names were read; an answer without entries
            # would be the end.
            if start >= len(handle.found) or any(handle.found[start:]):
                break
            start = len(handle.found)
        if handle.is_whole and not handle.is_told:
            handle.is_told = True
            self._look_into(handle.node, Listing(tuple(handle.names or ()), tuple(handle.found)))
        dots = []
        if position == 0:
            dots.append((handle.node, b".", await self.status(handle.node), 1))
        if position <= 1:
            above = handle.node.names[0][0] if handle.node.names else handle.node
            dots.append((above, b"..", await self.status(above), 2))
        return itertools.chain(dots, self._listed(handle, start))

    def _listed(
        self, handle: DirectoryHandle, start: int
    ) -> Iterator[tuple[Node, bytes, Found, int]]:
        assert handle.names is not None
        for index in range(start, len(handle.found)):
            found = handle.found[index]
            if found is not None:
                name = handle.names[index]
                node = self.tree.remember(handle.node, name, found)
                yield node, name, found, index + 3

    def _look_into(self, node: Node, listing: Listing | None) -> None:
        path = self.tree.inodes.path_of(node)
        if path is not None:
            node.is_searched = True
            self.on_directory(os.fsdecode(path), listing)

    def _emit_read(
        self,
        handle: FileHandle,
        offset: int,
        size: int,
        latency_s: float,
        origin: Origin,
        started: float,
    ) -> None:
        self.feed.emit(
            RawEvent(
                AccessKind.READ,
                handle.path,
                offset,
                size,
                latency_s,
                origin,
                handle.pid,
                handle.fh,
                started + latency_s,
            )
        )

    def _emit(
        self, kind: AccessKind, handle: FileHandle, size: int, latency_s: float, now: float
    ) -> None:
        self.feed.emit(
            RawEvent(kind, handle.path, 0, size, latency_s, Origin.NONE, handle.pid, handle.fh, now)
        )


def is_regular(found: Found) -> bool:
    """Whether a regular file was found."""
    return stat.S_ISREG(found.status.st_mode)


def _process_of(thread_id: int) -> int:
    """The process that a thread belongs to: the kernel names the thread that asked."""
    try:
        with open(f"/proc/{thread_id}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Tgid:"):
                    return int(line[5:])
    except OSError:
        pass
    return thread_id


class _Closer:
    """Closes descriptors in a thread: close() waits for the daemon of a FUSE source."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="closer", daemon=True).start()

    def close(self, fd: int) -> None:
        self._queue.put(fd)

    def _work(self) -> None:
        while True:
            fd = self._queue.get()
            try:
                os.close(fd)
            except OSError:
                continue
