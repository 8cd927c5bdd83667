"""What the optimizer's advice means for one file in the read path: a frozen value.

The reader, the store and the preloader look policies up without locking; only `control` makes
them. A file without a policy gets UNKNOWN, the optimizer's answer for an unknown model.
"""

from dataclasses import dataclass

from fusemount.options import KIB


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """`first_window_bytes` beyond the reader's position; `priority` of its prefetch.

    `keeps_read` and `keeps_prefetched`: whether bytes stay after they were read, for those that a
    reader asked for and for those fetched ahead. `is_pinned`: all of it is held.
    """

    model_id: str
    strategy: str
    first_window_bytes: int
    priority: int
    keeps_read: bool
    keeps_prefetched: bool
    is_pinned: bool
    is_preloaded: bool
    reasons: tuple[str, ...]


UNKNOWN = FilePolicy(
    model_id="",
    strategy="none",
    first_window_bytes=64 * KIB,
    priority=0,
    keeps_read=False,
    keeps_prefetched=False,
    is_pinned=False,
    is_preloaded=False,
    reasons=("no model is known to hold this file",),
)
