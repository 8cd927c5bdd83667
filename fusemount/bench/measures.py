"""Figures of repeated measurements, and how one reader is timed."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fusemount.errors import MountError

# A read at 1 MB/s of the default part; whatever takes longer hangs.
_READER_DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of some figures of one kind."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one or more values."""
        return cls(statistics.median(values), min(values), max(values))

    def to_json(self) -> dict[str, float]:
        """Rounded to six digits after the point."""
        return {
            "median": round(self.median, 6),
            "min": round(self.least, 6),
            "max": round(self.most, 6),
        }


def kept_rounds(rounds: int) -> range:
    """The numbers of the rounds that count: the first one warms up, unless it is the only one."""
    return range(1 if rounds > 1 else 0, rounds)


def run_reader(command: str, path: str) -> dict[str, Any]:
    """What a fresh reader process of `fusemount.bench.readers` measured on `path`."""
    return _run_module("fusemount.bench.readers", command, path)


def run_loader(model: str, folder: str) -> dict[str, Any]:
    """What a fresh process says that loaded a model of the sample from `folder`."""
    return _run_module("fusemount.bench.loader", model, folder)


def time_dd(path: str, size_bytes: int) -> float:
    """Seconds that `dd bs=1M` takes for the first `size_bytes` of `path`, start included."""
    blocks = -(-size_bytes // (1024 * 1024))
    started = time.perf_counter()
    _run(["dd", f"if={path}", "of=/dev/null", "bs=1M", f"count={blocks}", "status=none"])
    return time.perf_counter() - started


def describe_machine() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    with open("/proc/meminfo", encoding="ascii") as file:
        memory_bytes = int(file.readline().split()[1]) * 1024
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_bytes,
    }


def _run_module(module: str, *arguments: str) -> dict[str, Any]:
    done = _run([sys.executable, "-P", "-m", module, *arguments])
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_READER_DEADLINE_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise MountError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise MountError(f"{' '.join(command)}: still there after 600 s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise MountError(f"{os.path.basename(command[0])}: {lines[-1]}")
    return done
