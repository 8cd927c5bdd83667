"""What a mount was asked to do: one frozen value from the command line to the worker."""

import dataclasses
from dataclasses import dataclass
from typing import Any

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options of one mount; sizes in bytes, times in seconds.

    `source` and `mountpoint` are absolute with links resolved, as os.fsdecode gives them.
    `first_window_bytes` None: as the optimizer recommends. `memory_bytes` None: a share of what
    is available.
    """

    source: str
    mountpoint: str
    allow_other: bool = False
    prefetch: bool = True
    first_window_bytes: int | None = None
    memory_bytes: int | None = None
    attribute_timeout_s: float = 1.0
    source_deadline_s: float = 30.0
    config: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "MountOptions":
        return cls(**{**fields, "config": tuple(fields["config"])})
