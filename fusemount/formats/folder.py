"""A listed folder as the families see it: its files, links resolved where that was worth it.

State of one visit: families take files out of it, and what is taken nobody else sees.
Invariant: `files` holds regular files only; a link that leads nowhere is not in it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fusemount.formats.entries import EntryKind, TreeEntry, join, suffix_of
from fusemount.formats.model import FileRole, ModelFile
from fusemount.formats.signature import Signature


@dataclass(frozen=True, slots=True)
class File:
    """A regular file of a folder: its name there, and where it really lies."""

    name: str
    path: str
    size_bytes: int
    mtime_ns: int
    by_link: bool = False

    def part(self, role: FileRole) -> ModelFile:
        """This file as a part of a model."""
        return ModelFile(self.path, self.size_bytes, role, self.mtime_ns, self.by_link)


# The parts of one single-file model, first part first.
Candidate = tuple[File, ...]


class Folder:
    """The files and directories of `path`; `revision` is that of a hub snapshot, else ''."""

    def __init__(self, path: str, entries: Iterable[TreeEntry], revision: str = "") -> None:
        self.path = path
        self.revision = revision
        self.directories: dict[str, TreeEntry] = {}
        self.links: dict[str, TreeEntry] = {}
        # Filled when the first single-file family asks; see `candidates`.
        self.candidates: list[tuple[Candidate, Signature]] | None = None
        self._files: dict[str, TreeEntry] = {}
        self._linked: dict[str, File] = {}
        for entry in entries:
            if entry.kind is EntryKind.FILE:
                self._files[entry.name] = entry
            elif entry.kind is EntryKind.DIRECTORY:
                self.directories[entry.name] = entry
            elif entry.kind is EntryKind.LINK:
                self.links[entry.name] = entry
        self._by_suffix: dict[str, list[str]] = {}
        for name in self._files:
            self._by_suffix.setdefault(suffix_of(name), []).append(name)

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._linked

    def add_linked(self, file: File) -> None:
        """Let `file`, which a link of this folder leads to, stand for the link."""
        self._linked[file.name] = file
        self._by_suffix.setdefault(suffix_of(file.name), []).append(file.name)

    def file(self, name: str) -> File | None:
        """The file of that name that nobody has taken."""
        entry = self._files.get(name)
        if entry is None:
            return self._linked.get(name)
        return File(name, join(self.path, name), entry.size_bytes, entry.mtime_ns)

    def suffixes(self) -> list[str]:
        """The extensions that occur, as `suffix_of` gives them."""
        return list(self._by_suffix)

    def named(self, *suffixes: str) -> Iterator[File]:
        """The files with one of these extensions, in the order of their names."""
        names = sorted(name for suffix in suffixes for name in self._by_suffix.get(suffix, ()))
        for name in names:
            file = self.file(name)
            if file is not None:
                yield file

    def own(self, *suffixes: str) -> Iterator[File]:
        """As `named`, without what an ordinary folder only links to.

        The target of such a link is a model where it lies; only a hub snapshot's blobs have no
        names of their own.
        """
        return (file for file in self.named(*suffixes) if self.revision or not file.by_link)

    def versions(self, limit: int) -> list[TreeEntry]:
        """The directories with numbers for names, highest first, at most `limit`."""
        numbered = [
            entry
            for name, entry in self.directories.items()
            if name.isascii() and name.isdigit() and len(name) <= 20
        ]
        return sorted(numbered, key=lambda entry: (-int(entry.name), entry.name))[:limit]

    def drop_versions(self) -> None:
        """Let no later family see the directories with numbers for names."""
        for entry in self.versions(len(self.directories)):
            del self.directories[entry.name]

    def take(self, paths: Iterable[str]) -> None:
        """Remove the files that really lie at `paths`."""
        taken = set(paths)
        if not taken:
            return
        prefix = len(self.path) + 1 if self.path else 0
        for path in taken:
            if path == join(self.path, path[prefix:]):
                self._files.pop(path[prefix:], None)
        for name in [name for name, file in self._linked.items() if file.path in taken]:
            del self._linked[name]
