"""A tree in memory that counts requests and fails where it is told to."""

import errno
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from fusemount.catalog import Catalog, EntryKind, Model, TreeEntry


@dataclass(frozen=True)
class Link:
    """A symbolic link's text."""

    target: str


@dataclass(frozen=True)
class Sized:
    """A file of that size, zeros behind its head."""

    size_bytes: int
    head: bytes = b""


class Other:
    """A fifo, socket or device."""


Content = bytes | Link | Sized | Other


class FakeTree:
    """Files by path; directories are what paths imply, or what ends in a slash."""

    def __init__(self, files: Mapping[str, Content] | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.failing: dict[str, int] = {}
        self._directories: dict[str, dict[str, Content | None]] = {"": {}}
        self._mtimes: dict[str, int] = {"": 1}
        self._clock = 1
        for path, content in (files or {}).items():
            if path.endswith("/"):
                self._make(path[:-1])
            else:
                self.put(path, content)

    def put(self, path: str, content: Content) -> None:
        """Make or replace a file; its directory's time moves as a kernel would move it."""
        directory, _, name = path.rpartition("/")
        self._make(directory)
        self._clock += 1
        if name not in self._directories[directory]:
            self._mtimes[directory] = self._clock
        self._directories[directory][name] = content
        self._mtimes[path] = self._clock

    def remove(self, path: str) -> None:
        """Remove a file, or a directory with all below it."""
        directory, _, name = path.rpartition("/")
        del self._directories[directory][name]
        self._clock += 1
        self._mtimes[directory] = self._clock
        for below in [d for d in self._directories if d == path or d.startswith(f"{path}/")]:
            del self._directories[below]

    def _make(self, directory: str) -> None:
        if directory in self._directories:
            return
        parent, _, name = directory.rpartition("/")
        self._make(parent)
        self._clock += 1
        self._directories[directory] = {}
        self._directories[parent][name] = None
        self._mtimes[directory] = self._mtimes[parent] = self._clock

    def mtime_ns(self, path: str) -> int:
        return self._mtimes[path]

    def scan(self, directory: str) -> list[TreeEntry]:
        self.requests["scan"] += 1
        self._check(directory)
        if directory not in self._directories:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        prefix = f"{directory}/" if directory else ""
        return [
            self._entry(name, f"{prefix}{name}", content)
            for name, content in self._directories[directory].items()
        ]

    def _entry(self, name: str, path: str, content: Content | None) -> TreeEntry:
        mtime_ns = self._mtimes[path]
        if content is None:
            return TreeEntry(name, EntryKind.DIRECTORY, 4096, mtime_ns)
        if isinstance(content, Link):
            return TreeEntry(name, EntryKind.LINK, len(content.target), mtime_ns)
        if isinstance(content, Other):
            return TreeEntry(name, EntryKind.OTHER, 0, mtime_ns)
        size = content.size_bytes if isinstance(content, Sized) else len(content)
        return TreeEntry(name, EntryKind.FILE, size, mtime_ns)

    def read(self, path: str, offset: int, size: int) -> bytes:
        self.requests["read"] += 1
        content = self._get(path)
        if isinstance(content, Sized):
            end = min(offset + size, content.size_bytes)
            return content.head[offset:end].ljust(max(0, end - offset), b"\0")
        if not isinstance(content, bytes):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return content[offset : offset + size]

    def readlink(self, path: str) -> str:
        self.requests["readlink"] += 1
        content = self._get(path)
        if not isinstance(content, Link):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return content.target

    def _get(self, path: str) -> Content | None:
        self._check(path)
        directory, _, name = path.rpartition("/")
        try:
            return self._directories[directory][name]
        except KeyError:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from None

    def _check(self, path: str) -> None:
        if path in self.failing:
            raise OSError(self.failing[path], os.strerror(self.failing[path]))


SAFETENSORS = (2).to_bytes(8, "little") + b"{}" + b"\0" * 90


def torch_zip(first: str = "archive/data.pkl", size_bytes: int = 4096) -> bytes:
    """The head of a zip whose first member has that name."""
    name = first.encode()
    head = b"PK\x03\x04" + b"\0" * 22 + len(name).to_bytes(2, "little") + b"\0\0" + name
    return head.ljust(size_bytes, b"\0")


def found(files: Mapping[str, Content], directory: str = "") -> dict[str, Model]:
    """The models that one visit finds, by id."""
    return {model.model_id: model for model in Catalog(FakeTree(files)).visit(directory)}


def paths(model: Model) -> list[str]:
    """The model's files in their order."""
    return [file.path for file in model.files]
