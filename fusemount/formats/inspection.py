"""Requests to the tree on behalf of one visit: few, counted, and never raising.

Invariants: a visit makes at most `REQUEST_LIMIT` scans and reads and `LINK_LIMIT` readlinks;
no directory is listed twice in a visit; a child whose modification time has not moved since an
earlier visit is not listed again unless asked. What fails, or is not asked for because a limit
is reached, is a problem and makes the visit incomplete.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from fusemount.formats.entries import EntryKind, Tree, TreeEntry, follow, join, name_of, parent_of
from fusemount.formats.folder import File, Folder

# At 10 ms a request a visit ends within a second, however hostile the folder.
REQUEST_LIMIT = 96
# A snapshot has one link a file, and the largest public models have a few hundred files.
LINK_LIMIT = 1024
# The kernel gives up at 40; caches made by tools need one or two.
_HOP_LIMIT = 8
# Listings and heads that are kept between visits, in entries and in files.
_KEPT_ENTRIES = 65_536
_KEPT_HEADS = 4_096
HEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be looked at, for the status."""

    path: str
    reason: str


class Memory:
    """What visits leave for later ones: listings of children and first bytes, bounded."""

    def __init__(self) -> None:
        self.listings: LRUCache[str, tuple[int, Sequence[TreeEntry]]] = LRUCache(
            _KEPT_ENTRIES, getsizeof=lambda kept: len(kept[1]) + 1
        )
        self.heads: LRUCache[tuple[str, int, int], bytes] = LRUCache(_KEPT_HEADS)


class Inspection:
    """The tree as one visit may ask it."""

    def __init__(self, tree: Tree, memory: Memory, again: bool = False) -> None:
        self._tree = tree
        self._memory = memory
        self._again = again
        self._listed: dict[str, dict[str, TreeEntry] | None] = {}
        self._requests_left = REQUEST_LIMIT
        self._links_left = LINK_LIMIT
        self.problems: list[Problem] = []
        # Set where something was left out that another attempt may find.
        self.incomplete = False
        # The failure of the first listing, which decides whether the directory is still there.
        self.error: OSError | None = None

    def listed(self, directory: str) -> bool:
        """Whether this visit knows what is in `directory`."""
        return self._listed.get(directory) is not None

    def note(self, path: str, reason: str) -> None:
        """Remember for the status that something at `path` is not as it should be."""
        self.problems.append(Problem(path, reason))

    def hand_over(self, directory: str, entries: Sequence[TreeEntry]) -> None:
        """Use `entries` wherever this visit needs the listing of `directory`."""
        self._listed[directory] = {entry.name: entry for entry in entries}

    def scan(self, directory: str, mtime_ns: int | None = None) -> list[TreeEntry] | None:
        """The entries of `directory`, or None where they cannot be had.

        `mtime_ns`, where known, lets an earlier visit's listing serve.
        """
        if directory not in self._listed:
            self._listed[directory] = self._scan(directory, mtime_ns)
        listing = self._listed[directory]
        return None if listing is None else list(listing.values())

    def _scan(self, directory: str, mtime_ns: int | None) -> dict[str, TreeEntry] | None:
        kept = self._memory.listings.get(directory)
        if kept is not None and kept[0] == mtime_ns and not self._again:
            return {entry.name: entry for entry in kept[1]}
        if not self._spend(directory):
            return None
        try:
            entries = self._tree.scan(directory)
        except OSError as error:
            self._fail(directory, error)
            self.error = self.error or error
            return None
        if mtime_ns is not None and len(entries) < _KEPT_ENTRIES // 8:
            self._memory.listings[directory] = (mtime_ns, tuple(entries))
        return {entry.name: entry for entry in entries}

    def read(self, path: str, offset: int, size: int) -> bytes | None:
        """At most `size` bytes from `offset`, or None where they cannot be had."""
        if not self._spend(path):
            return None
        try:
            return self._tree.read(path, offset, size)
        except OSError as error:
            self._fail(path, error)
            return None

    def head(self, file: File) -> bytes | None:
        """The file's first bytes, at most `HEAD_BYTES`; remembered while it does not change."""
        key = (file.path, file.size_bytes, file.mtime_ns)
        kept = self._memory.heads.get(key)
        if kept is not None and not self._again:
            return kept
        head = self.read(file.path, 0, HEAD_BYTES)
        if head is not None:
            self._memory.heads[key] = head
        return head

    def open(self, path: str, entries: Sequence[TreeEntry], revision: str = "") -> Folder:
        """The folder with these entries, its links resolved where a family could use them.

        All are in a hub snapshot; elsewhere only in folders that are one model by their names,
        so that a large farm of links costs nothing.
        """
        folder = Folder(path, entries, revision)
        if folder.links and (revision or _is_one_model(folder)):
            for name in sorted(folder.links):
                file = self._resolve(join(path, name), name)
                if file is not None:
                    folder.add_linked(file)
        return folder

    def child(self, folder: Folder, name: str) -> Folder | None:
        """The directory `name` of `folder` as a folder, or None where it cannot be had."""
        entry = folder.directories.get(name)
        if entry is None:
            return None
        path = join(folder.path, name)
        entries = self.scan(path, entry.mtime_ns)
        return None if entries is None else self.open(path, entries, folder.revision)

    def walk(self, folder: Folder, depth: int) -> list[File]:
        """The files of `folder` and of its directories down to `depth` below it."""
        files = list(folder.named(*folder.suffixes()))
        if depth > 0:
            for name in sorted(folder.directories):
                child = self.child(folder, name)
                if child is not None:
                    files.extend(self.walk(child, depth - 1))
        return files

    def _resolve(self, path: str, name: str) -> File | None:
        """The file that the link at `path` leads to; None if dangling, outside or a circle."""
        for _ in range(_HOP_LIMIT):
            target = self._readlink(path)
            followed = None if target is None else follow(parent_of(path), target)
            if followed is None:
                return None
            path = followed
            directory = parent_of(path)
            self.scan(directory)
            listing = self._listed[directory]
            entry = None if listing is None else listing.get(name_of(path))
            if entry is None:
                return None
            if entry.kind is EntryKind.FILE:
                return File(name, path, entry.size_bytes, entry.mtime_ns, by_link=True)
            if entry.kind is not EntryKind.LINK:
                return None
        return None

    def _readlink(self, path: str) -> str | None:
        if self._links_left <= 0:
            self._exhausted(path, "links")
            return None
        self._links_left -= 1
        try:
            return self._tree.readlink(path)
        except OSError as error:
            self._fail(path, error)
            return None

    def _spend(self, path: str) -> bool:
        if self._requests_left <= 0:
            self._exhausted(path, "requests")
            return False
        self._requests_left -= 1
        return True

    def _fail(self, path: str, error: OSError) -> None:
        self.incomplete = True
        self.note(path, error.strerror or type(error).__name__)

    def _exhausted(self, path: str, what: str) -> None:
        # Once is enough: the first path says where the visit stopped looking.
        if not any(problem.reason.startswith("not looked at") for problem in self.problems):
            self.note(path, f"not looked at: the limit of {what} a visit is reached")
        self.incomplete = True


def _is_one_model(folder: Folder) -> bool:
    marks = ("config.json", "saved_model.pb", "saved_model.pbtxt", "variables.index")
    return any(mark in folder or mark in folder.links for mark in marks)
