"""What the optimizer is told: access events of a mount and inference requests of a server.

Frozen values only. They say what happened; what it means is decided elsewhere. Timestamps and
deadlines are readings of the one monotonic clock that the optimizer was given, durations are
float seconds, sizes are int bytes. A file path is relative to the mount's root, without a leading
slash. Nothing is checked here: events come from a fast path, and the reader of an event
(`observation`) refuses nonsense without raising.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class AccessKind(Enum):
    """What a process did to a file."""

    OPEN = auto()
    READ = auto()
    RELEASE = auto()


class Origin(Enum):
    """Where the bytes of a read were when it came."""

    NONE = auto()
    """No bytes were asked for: an open, a release."""
    STORE = auto()
    """They were already in the mount's store."""
    JOINED = auto()
    """They were on their way; the read waited for a fetch that something else had begun."""
    SOURCE = auto()
    """The read itself fetched them from the source."""
    CACHED = auto()
    """The source was asked and answered from its own page cache."""


@dataclass(frozen=True, slots=True)
class AccessEvent:
    """One open, read or release that a mount has answered.

    `model_id` is None for a file that belongs to no model. `size` is the number of bytes that
    were answered, `latency` the seconds from request to answer, `timestamp` the moment of the
    answer. `pid` is the process that opened the handle, in its reads and its release as well.
    """

    kind: AccessKind
    model_id: str | None
    file_path: str
    offset: int
    size: int
    latency: float
    origin: Origin
    pid: int
    handle: int
    timestamp: float


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One request to a model, as a server or its telemetry reports it.

    `input_data` holds the paths of the files that the request reads. `deadline` is a time of the
    monotonic clock, or None where the request has none.
    """

    request_id: str
    model_id: str
    input_data: tuple[str, ...] = ()
    batch_size: int = 1
    priority: int = 0
    timestamp: float = 0.0
    deadline: float | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
