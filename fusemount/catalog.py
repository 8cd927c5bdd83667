"""The models found in the mounted tree, directory by directory as these are looked at.

Knows paths, sizes and which file belongs to which model; knows neither nodes nor the optimizer.
Used by one thread; asks the tree through `Tree` only and never raises what the tree raises.

Bounds: a visit costs one listing (none where the caller has it) and what the layout needs:
nothing for a folder of plain files, 3 requests a version for TF-Serving (8 versions), one a
split or single file whose head is looked at (32 files), one readlink a file in a hub snapshot;
never more than `inspection.REQUEST_LIMIT` scans and reads and `LINK_LIMIT` readlinks.

Invariants: a path belongs to one model (see `claims`); of two layouts that claim a file the one
of higher precedence stays (see `formats`), in whichever order they were found.
"""

import errno
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from fusemount.claims import Claims
from fusemount.formats import Finding, hub, recognise
from fusemount.formats.entries import EntryKind, Tree, TreeEntry, join
from fusemount.formats.inspection import Inspection, Memory, Problem
from fusemount.formats.model import FileRole, Format, Framework, Model, ModelFile

__all__ = [
    "Catalog",
    "EntryKind",
    "FileRole",
    "Format",
    "Framework",
    "Model",
    "ModelFile",
    "Problem",
    "Tree",
    "TreeEntry",
]

# Some 10 KB each with their files: a catalogue that is full has a few hundred MB of tree above it.
MODEL_LIMIT = 20_000
_PROBLEM_LIMIT = 64
# Directories whose last look is remembered; the least recently visited is looked at anew.
_SEEN_LIMIT = 65_536
# A look that something failed in is repeated that often before the result is left as it is.
_ATTEMPTS = 3
# What is looked at when the mount starts, for trees whose top is wider than any model store's.
TOP_DIRECTORY_LIMIT = 1_000
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


@dataclass(slots=True)
class _Seen:
    """How a directory was when it was looked at."""

    mtime_ns: int | None
    fingerprint: int
    attempts: int
    complete: bool

    @property
    def settled(self) -> bool:
        return self.complete or self.attempts >= _ATTEMPTS


@dataclass(slots=True)
class _Record:
    """A model, the rank of its layout, and the directories whose visits found it."""

    model: Model
    rank: int
    finders: set[str] = field(default_factory=set)


class Catalog:
    """The models of one tree. One thread visits; `model_of` may be called from any."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._memory = Memory()
        self._models: dict[str, Model] = {}
        self._records: dict[str, _Record] = {}
        self._claims = Claims()
        # Model ids by the folder that holds them, and by the directory whose visit found them.
        self._homes: dict[str, set[str]] = {}
        self._found: dict[str, set[str]] = {}
        self._seen: dict[str, _Seen] = {}
        self._removed: dict[str, None] = {}
        self._problems: deque[Problem] = deque(maxlen=_PROBLEM_LIMIT)

    @property
    def models(self) -> Mapping[str, Model]:
        """Model id to model; a live view."""
        return MappingProxyType(self._models)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The latest things that could not be looked at, oldest first, at most 64."""
        return tuple(self._problems)

    def model_of(self, path: str) -> Model | None:
        """The model that the file at `path` belongs to; one look-up whatever the tree's size."""
        model_id = self._claims.owner(path)
        return self._models.get(model_id) if model_id is not None else None

    def take_removed(self) -> list[str]:
        """The ids of models that are gone, or became parts of others, since the last call."""
        removed = list(self._removed)
        self._removed.clear()
        return removed

    def visit(
        self,
        directory: str,
        entries: Sequence[TreeEntry] | None = None,
        *,
        mtime_ns: int | None = None,
        again: bool = False,
    ) -> list[Model]:
        """Look at `directory`; the models that are new or changed by it.

        `entries`: its listing, where the caller has one; nothing is listed for it then.
        `mtime_ns`: the directory's modification time, where the caller knows it: one that was
        seen already costs nothing. `again`: look even where nothing seems to have moved (a file
        grows without its directory's time moving). Raises nothing of the tree's: see `problems`.
        """
        return self._visit(directory, entries, mtime_ns, again=again)[0]

    def visit_top(self, levels: int = 2) -> Iterator[list[Model]]:
        """Visit the root and the directories down to `levels` below it, one at each step.

        Skips hidden directories and those that are known to be parts of a model. Stops after
        `TOP_DIRECTORY_LIMIT` directories and says so in `problems`.
        """
        queue: deque[tuple[str, int | None, int]] = deque([("", None, 0)])
        visited = 0
        while queue:
            directory, mtime_ns, level = queue.popleft()
            found_from_above = directory in self._homes and directory not in self._seen
            if found_from_above or hub.cache_of(directory) is not None:
                continue
            if visited == TOP_DIRECTORY_LIMIT:
                self._problems.append(Problem(directory, "not looked at yet: too many directories"))
                return
            visited += 1
            models, entries = self._visit(
                directory, None, mtime_ns, is_listing_wanted=level < levels
            )
            if level < levels:
                queue.extend(
                    (join(directory, entry.name), entry.mtime_ns, level + 1)
                    for entry in sorted(entries, key=lambda entry: entry.name)
                    if entry.kind is EntryKind.DIRECTORY and not entry.name.startswith(".")
                )
            yield models

    def look_again(self, model_id: str) -> list[Model]:
        """Visit anew where a model was found, because a file of it is not as catalogued."""
        record = self._records.get(model_id)
        models = []
        for directory in sorted(record.finders) if record is not None else ():
            models += self.visit(directory, again=True)
        return models

    def forget(self, directory: str) -> None:
        """Drop what is known of a directory that is no longer there, and of those below it."""
        self._seen.pop(directory, None)
        for home in [home for home in self._homes if _is_within(home, directory)]:
            self._seen.pop(home, None)
            for model_id in list(self._homes.get(home, ())):
                self._remove(model_id)

    def _visit(
        self,
        directory: str,
        entries: Sequence[TreeEntry] | None,
        mtime_ns: int | None,
        *,
        again: bool = False,
        is_listing_wanted: bool = False,
    ) -> tuple[list[Model], Sequence[TreeEntry]]:
        cache = hub.cache_of(directory)
        if cache is not None:
            return self._visit(cache, None, None, again=again)[0], ()
        seen = self._seen.get(directory)
        known = seen is not None and seen.settled and not again
        inspection = Inspection(self._tree, self._memory, again)
        if entries is not None:
            inspection.hand_over(directory, entries)
        else:
            unmoved = seen is not None and mtime_ns is not None and mtime_ns == seen.mtime_ns
            if known and unmoved and not is_listing_wanted:
                return [], ()
            entries = inspection.scan(directory)
            if entries is None:
                self._problems.extend(inspection.problems)
                if inspection.error is not None and inspection.error.errno in _GONE:
                    self.forget(directory)
                return [], ()
        fingerprint = _fingerprint(entries)
        if seen is not None and known and seen.fingerprint == fingerprint:
            seen.mtime_ns = mtime_ns if mtime_ns is not None else seen.mtime_ns
            return [], entries
        findings = recognise(directory, entries, inspection)
        self._problems.extend(inspection.problems)
        repeated = seen is not None and seen.fingerprint == fingerprint and not again
        attempts = seen.attempts + 1 if seen is not None and repeated else 1
        self._remember(directory, _Seen(mtime_ns, fingerprint, attempts, not inspection.incomplete))
        if seen is not None:
            self._drop_vanished(directory, entries)
        return self._update(directory, findings, inspection), entries

    def _update(
        self, directory: str, findings: Sequence[Finding], inspection: Inspection
    ) -> list[Model]:
        """Bring the catalogue to what a visit found; the models that are new or changed."""
        found = {finding.model.model_id for finding in findings}
        if not inspection.incomplete:
            for model_id in self._found.get(directory, set()) - found:
                # What lies where this visit did not look (an older version) is still there.
                if inspection.listed(self._models[model_id].home):
                    self._remove(model_id)
        changed = []
        for finding in findings:
            before = self._models.get(finding.model.model_id)
            if self._admit(finding, directory, found) and finding.model != before:
                changed.append(finding.model)
        return changed

    def _admit(self, finding: Finding, directory: str, found: set[str]) -> bool:
        """Enter a model unless a layout of higher precedence has its files."""
        model, model_id = finding.model, finding.model.model_id
        rivals = self._claims.rivals(model.files) - found
        before = self._records.get(model_id)
        if any(self._records[rival].rank < finding.rank for rival in rivals):
            self._remove(model_id)
            return False
        for rival in rivals:
            self._remove(rival)
        if before is None and len(self._records) >= MODEL_LIMIT:
            self._problems.append(Problem(model.path, f"not registered: {MODEL_LIMIT} models"))
            return False
        finders = before.finders if before is not None else set()
        finders.add(directory)
        self._records[model_id] = _Record(model, finding.rank, finders)
        self._models[model_id] = model
        self._found.setdefault(directory, set()).add(model_id)
        self._homes.setdefault(model.home, set()).add(model_id)
        self._removed.pop(model_id, None)
        if before is not None:
            kept = {file.path for file in model.files}
            self._claims.release(
                model_id, [file for file in before.model.files if file.path not in kept]
            )
        self._claims.claim(model_id, model.files)
        return True

    def _remove(self, model_id: str) -> None:
        record = self._records.pop(model_id, None)
        if record is None:
            return
        del self._models[model_id]
        self._claims.release(model_id, record.model.files)
        _discard(self._homes, record.model.home, model_id)
        for finder in record.finders:
            _discard(self._found, finder, model_id)
        self._removed[model_id] = None
        if len(self._removed) > MODEL_LIMIT:
            del self._removed[next(iter(self._removed))]

    def _drop_vanished(self, directory: str, entries: Sequence[TreeEntry]) -> None:
        """Forget models below directories that `entries` no longer shows."""
        names = {entry.name for entry in entries if entry.kind is EntryKind.DIRECTORY}
        start = len(directory) + 1 if directory else 0
        below = [home for home in self._homes if home != directory and _is_within(home, directory)]
        for name in {home[start:].partition("/")[0] for home in below} - names:
            self.forget(join(directory, name))

    def _remember(self, directory: str, seen: _Seen) -> None:
        self._seen.pop(directory, None)
        self._seen[directory] = seen
        if len(self._seen) > _SEEN_LIMIT:
            del self._seen[next(iter(self._seen))]


def _is_within(path: str, directory: str) -> bool:
    return not directory or path == directory or path.startswith(f"{directory}/")


def _discard(index: dict[str, set[str]], key: str, model_id: str) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(model_id)
        if not members:
            del index[key]


def _fingerprint(entries: Sequence[TreeEntry]) -> int:
    """A number that moves when a name, kind, size or time does; of this process only."""
    return hash(frozenset(entries))
