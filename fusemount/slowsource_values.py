"""What the slow source is told and what it answers: values, their limits, their JSON.

Shared by the command line, the process that serves (`slowsource_server`) and its client
(`slowsource`). Invariant: a value that exists is valid; whatever is not is a UsageError that
names the field. MB are 10**6 bytes; a rate of 0 is no limit.
"""

import errno
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fusemount.errors import UsageError

ACTIONS = ("eio", "estale", "hang", "short")
OPERATIONS = (
    "lookup",
    "getattr",
    "readlink",
    "open",
    "read",
    "readdir",
    "xattr",
    "statfs",
    "any",
)
_ERRNO_OF_ACTION = {"eio": errno.EIO, "estale": errno.ESTALE}
# The kernel takes no larger READ from libfuse 3.14, and none smaller than a page.
_MAX_READ_KIB = 1024
_MIN_READ_KIB = 4
# Beyond this a number is a mistake, and its nanoseconds no longer fit.
_LARGEST = 1e9
_LARGEST_COUNT = 2**62


def _require(valid: bool, field: str, value: object, rule: str) -> None:
    if not valid:
        raise UsageError(f"slow source: {field} {value!r}: {rule}")


def _require_amount(field: str, value: float) -> None:
    valid = math.isfinite(value) and 0 <= value <= _LARGEST
    _require(valid, field, value, f"must be between 0 and {_LARGEST:.0f}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How slow: the wait of each request, the rate of one request's bytes, that of all bytes."""

    latency_ms: float = 0.0
    stream_mbps: float = 0.0
    total_mbps: float = 0.0

    def __post_init__(self) -> None:
        for field, value in asdict(self).items():
            _require_amount(field, value)

    def in_seconds_and_bytes(self) -> tuple[float, float, float]:
        """Latency in s, stream rate and total rate in bytes/s."""
        return self.latency_ms / 1e3, self.stream_mbps * 1e6, self.total_mbps * 1e6


# What one machine gets of a large object store: each GET waits and is slow, many are fast.
OBJECT_STORE = Pace(latency_ms=10.0, stream_mbps=60.0, total_mbps=800.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation:
    """How the tree is shown to the kernel.

    Without `page_cache` every read of a client is a request (direct_io); what is read through a
    mapping is cached, and mapping shared needs Linux 6.6. With `moving_inodes` a file is its
    name, and its number is given at the lookup.
    """

    attr_timeout_s: float = 1.0
    entry_timeout_s: float = 1.0
    list_page_entries: int = 1000
    max_read_kib: int = 1024
    page_cache: bool = False
    readdirplus: bool = True
    moving_inodes: bool = False
    allow_other: bool = False

    def __post_init__(self) -> None:
        _require_amount("attr_timeout_s", self.attr_timeout_s)
        _require_amount("entry_timeout_s", self.entry_timeout_s)
        pages, kib = self.list_page_entries, self.max_read_kib
        _require(0 < pages < 2**31, "list_page_entries", pages, "must be positive")
        fits = _MIN_READ_KIB <= kib <= _MAX_READ_KIB and kib % _MIN_READ_KIB == 0
        rule = f"must be a multiple of 4 between {_MIN_READ_KIB} and {_MAX_READ_KIB}"
        _require(fits, "max_read_kib", kib, rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A rule: the `nth` matching request (from 1) and `count` in all (0: all later ones) fail.

    `path` is a glob on the path below the source, * matches / too, empty is every path. An
    `action` of short answers a read with `short_bytes` at most (0: half of what there is); hang
    answers nothing, not even an interrupted client, until released.
    """

    action: str
    op: str = "read"
    path: str = ""
    nth: int = 1
    count: int = 0
    short_bytes: int = 0

    def __post_init__(self) -> None:
        _require(self.action in ACTIONS, "action", self.action, f"one of {', '.join(ACTIONS)}")
        _require(self.op in OPERATIONS, "op", self.op, f"one of {', '.join(OPERATIONS)}")
        _require(1 <= self.nth < _LARGEST_COUNT, "nth", self.nth, "must be 1 or more")
        _require(0 <= self.count < _LARGEST_COUNT, "count", self.count, "must be 0 or more")
        fits = 0 <= self.short_bytes < _LARGEST_COUNT
        _require(fits, "short_bytes", self.short_bytes, "must be 0 or more")
        _require("\0" not in self.path, "path", self.path, "must not contain a null character")
        only_reads = self.action != "short" or self.op == "read"
        _require(only_reads, "op", self.op, "only a read can be short")
        no_bytes = self.action == "short" or self.short_bytes == 0
        _require(no_bytes, "short_bytes", self.short_bytes, "is for the action short")

    @property
    def kind(self) -> tuple[str, int]:
        """What is done and, for an error, its errno."""
        error = _ERRNO_OF_ACTION.get(self.action)
        return (self.action, 0) if error is None else ("error", error)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Fault":
        """The rule of a JSON object; a UsageError for a field unknown or of a wrong type."""
        types = {
            "action": str,
            "op": str,
            "path": str,
            "nth": int,
            "count": int,
            "short_bytes": int,
        }
        for field, value in fields.items():
            _require(field in types, "fault field", field, f"one of {', '.join(types)}")
            rule = "must be text" if types[field] is str else "must be a whole number"
            _require(type(value) is types[field], field, value, rule)
        _require("action" in fields, "fault", dict(fields), "needs an action")
        return cls(**fields)

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """The rule of `key=value,key=value`, as the command line takes it."""
        fields: dict[str, str | int] = {}
        for part in text.split(","):
            key, equals, value = part.partition("=")
            _require(bool(equals), "fault", text, "is not key=value,key=value")
            number = key in ("nth", "count", "short_bytes")
            _require(not number or value.isdecimal(), key, value, "must be a whole number")
            fields[key] = int(value) if number else value
        return cls.from_json(fields)


@dataclass(frozen=True, slots=True)
class FileStats:
    """Requests for one path since the last reset; bytes are those that were answered."""

    opens: int
    reads: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Requests since the last reset.

    `in_flight` and `max_in_flight` are READs; `hung` are requests held by a fault and `nodes` the
    files that the kernel knows, both now. A page of a listing is one of `readdirs`. `files` has a
    path below the source (of several hard links the one that was looked up last) once it was
    opened.
    """

    reads: int
    bytes: int
    opens: int
    lookups: int
    getattrs: int
    readlinks: int
    readdirs: int
    xattrs: int
    statfs: int
    in_flight: int
    max_in_flight: int
    hung: int
    faults: int
    nodes: int
    files: dict[str, FileStats]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Stats":
        """The counters of a JSON object that `to_json` made."""
        files = {path: FileStats(**counts) for path, counts in fields["files"].items()}
        return cls(**{**fields, "files": files})

    def to_json(self) -> dict[str, Any]:
        """As a JSON object: paths as os.fsdecode gives them, escaped by `json`."""
        return asdict(self)
