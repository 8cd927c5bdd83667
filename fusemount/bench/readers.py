"""Readers as processes of their own, started fresh for each measurement; one JSON line each.

`python -m fusemount.bench.readers COMMAND PATH`. They time themselves, so that starting an
interpreter is not measured. Standard library only.
"""

import json
import mmap
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_MIB = 1024 * 1024
# What it takes to be limited by a source that is slow for each stream only.
_STREAMS = 64


def read_in_parallel(path: str) -> dict[str, Any]:
    """The whole file by 64 threads in 1 MiB reads, into fresh memory of the file's size."""
    size_bytes = os.stat(path).st_size
    memory = memoryview(mmap.mmap(-1, max(1, size_bytes)))
    offsets = iter(range(0, size_bytes, _MIB))
    problems: list[str] = []
    lock = threading.Lock()

    def read_next() -> None:
        file = os.open(path, os.O_RDONLY)
        try:
            while True:
                with lock:
                    offset = next(offsets, None)
                if offset is None or problems:
                    return
                end = min(offset + _MIB, size_bytes)
                if os.preadv(file, [memory[offset:end]], offset) != end - offset:
                    problems.append("short read")
        except OSError as error:
            problems.append(error.strerror or str(error))
        finally:
            os.close(file)

    started = time.perf_counter()
    threads = [threading.Thread(target=read_next) for _ in range(_STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if problems:
        sys.exit(f"{path}: {problems[0]}")
    return {"seconds": seconds, "read_bytes": size_bytes}


def list_names(path: str) -> dict[str, Any]:
    """All names of a folder."""
    started = time.perf_counter()
    names = os.listdir(path)
    return {"seconds": time.perf_counter() - started, "entries": len(names)}


def list_and_stat(path: str) -> dict[str, Any]:
    """All names of a folder, then a stat of each by its path."""
    started = time.perf_counter()
    names = os.listdir(path)
    for name in names:
        os.stat(f"{path}/{name}")
    return {"seconds": time.perf_counter() - started, "entries": len(names)}


def read_steadily(path: str) -> dict[str, Any]:
    """The file over and over, dropped from the page cache each time, until standard input ends.

    Says `reading` once it does. Answers the longest and the typical read of 1 MiB.
    """
    buffer = bytearray(_MIB)
    durations: list[float] = []
    passes = 0
    print("reading", flush=True)
    ended = False
    while not ended:
        with open(path, "rb", buffering=0) as file:
            while True:
                started = time.perf_counter()
                count = file.readinto(buffer)
                durations.append(time.perf_counter() - started)
                if not count:
                    break
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        passes += 1
        ended = bool(select.select([sys.stdin], [], [], 0)[0])
    durations.sort()
    return {
        "reads": len(durations),
        "passes": passes,
        "median_read_s": durations[len(durations) // 2],
        "p99_read_s": durations[len(durations) * 99 // 100],
        "longest_read_s": durations[-1],
    }


_COMMANDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "parallel": read_in_parallel,
    "list": list_names,
    "list-and-stat": list_and_stat,
    "steady": read_steadily,
}


def main() -> None:
    """Run one reader and print what it measured."""
    command, path = sys.argv[1:]
    try:
        result = _COMMANDS[command](path)
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
