from collections.abc import Callable

def run(
    source: bytes,
    mountpoint: bytes,
    mount_options: bytes,
    on_ready: Callable[[], object],
    *,
    latency_s: float,
    stream_bytes_per_s: float,
    total_bytes_per_s: float,
    attr_timeout_s: float,
    entry_timeout_s: float,
    list_page_entries: int,
    max_read_bytes: int,
    threads: int,
    page_cache: bool,
    readdirplus: bool,
    moving_inodes: bool,
    lifeline_fd: int,
) -> None: ...
def stop() -> None: ...
def stats() -> dict[str, int]: ...
def file_stats() -> dict[bytes, tuple[int, int, int]]: ...
def reset_stats() -> None: ...
def set_pace(latency_s: float, stream_bytes_per_s: float, total_bytes_per_s: float, /) -> None: ...
def add_fault(
    action: str,
    error: int,
    short_bytes: int,
    op: str,
    glob: bytes,
    nth: int,
    count: int,
    /,
) -> None: ...
def clear_faults() -> int: ...
def release() -> int: ...
def move_inodes() -> int: ...
