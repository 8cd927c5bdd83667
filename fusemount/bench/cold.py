"""The case `cold`: one cold reader of a large file on slow storage, each way in turn.

The source is a slow source with the pace of an object store; its limit is what 64 direct readers
get. Every measurement has a source and a mount of its own, so nothing is cached but the file below
the source. What would take minutes reads only the first part of the file and is compared by rate.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fusemount.bench.measures import Spread, kept_rounds, run_reader, time_dd
from fusemount.bench.mounts import OwnMount, ServedMount, cpu_s
from fusemount.bench.peers import Peer, installed_peers
from fusemount.bench.workplace import mount_point, write_file
from fusemount.slowsource import SlowSource
from fusemount.slowsource_values import OBJECT_STORE

LIMIT = "limit"
_FILE = "weights.bin"
# Peers read one request after the other: at 10 MB/s a quarter is enough.
_PEER_SHARE = 4

Mounter = Callable[[str, str], ServedMount]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to read: `mount` None is direct; `page_cache` is the source's."""

    key: str
    label: str
    read_bytes: int
    mount: Mounter | None = None
    page_cache: bool = False
    is_parallel: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement; None is what cannot be known of that way."""

    seconds: float
    read_bytes: int
    fetched_bytes: int
    max_in_flight_requests: int
    max_in_flight_bytes: int | None
    cpu_s: float | None

    @property
    def mb_per_s(self) -> float:
        """10^6 bytes a second."""
        return self.read_bytes / 1e6 / self.seconds


def plan_ways(size_bytes: int, part_bytes: int, peers: list[Peer] | None = None) -> list[Way]:
    """What is measured, the limit first; `part_bytes` at most is read where it is slow."""
    part = min(part_bytes, size_bytes)

    def own(*options: str) -> Mounter:
        return lambda source, mountpoint: OwnMount(source, mountpoint, options)

    ways = [
        Way(LIMIT, "64 direct readers (limit)", size_bytes, is_parallel=True),
        Way("direct", "direct, read-ahead 128 KiB", part, page_cache=True),
        Way("direct_uncached", "direct, 1 MiB requests", part),
        Way("mount", "mount", size_bytes, own()),
        Way("mount_cached_source", "mount, source as in line 2", size_bytes, own(), True),
        Way("mount_no_prefetch", "mount --no-prefetch", part, own("--no-prefetch")),
        Way(
            "mount_first_window_64kib",
            "mount --first-window 64KiB",
            size_bytes,
            own("--first-window=64KiB"),
        ),
        Way(
            "mount_first_window_10mib",
            "mount --first-window 10MiB",
            size_bytes,
            own("--first-window=10MiB"),
        ),
    ]
    peer_bytes = max(1, part // _PEER_SHARE)
    for peer in installed_peers() if peers is None else peers:
        ways.append(Way(f"peer_{peer.key}", peer.name, peer_bytes, peer.mount))
    return ways


def measure_cold(
    workplace: str,
    *,
    size_bytes: int,
    part_bytes: int,
    rounds: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Measure all ways in `rounds` rounds: the document.

    `progress` is called with a line before each measurement. Raises MountError where a reader or
    a mount fails.
    """
    source = os.path.join(workplace, "source")
    os.mkdir(source)
    progress("writing the file")
    write_file(os.path.join(source, _FILE), size_bytes)
    ways = plan_ways(size_bytes, part_bytes)
    samples: dict[str, list[Sample]] = {way.key: [] for way in ways}
    for number in range(rounds):
        for way in ways:
            progress(f"round {number + 1} of {rounds}: {way.label}")
            sample = _measure(way, source, workplace)
            if number in kept_rounds(rounds):
                samples[way.key].append(sample)
    return {
        "pace": asdict(OBJECT_STORE),
        "size_bytes": size_bytes,
        "rounds": rounds,
        "rounds_kept": len(kept_rounds(rounds)),
        "ways": [describe_way(way, samples[way.key], samples[LIMIT]) for way in ways],
    }


def _measure(way: Way, source: str, workplace: str) -> Sample:
    with contextlib.ExitStack() as stack:
        slow_root = stack.enter_context(mount_point(workplace))
        pace = asdict(OBJECT_STORE)
        slow = stack.enter_context(SlowSource(source, slow_root, page_cache=way.page_cache, **pace))
        mount = None
        root = slow_root
        if way.mount is not None:
            root = stack.enter_context(mount_point(workplace))
            mount = stack.enter_context(way.mount(slow_root, root))
        path = os.path.join(root, _FILE)
        pid = mount.pid if mount is not None else None
        used_before_s = cpu_s(pid) if pid is not None else 0.0
        slow.reset_stats()
        if way.is_parallel:
            seconds = float(run_reader("parallel", path)["seconds"])
        else:
            seconds = time_dd(path, way.read_bytes)
        used_s = cpu_s(pid) - used_before_s if pid is not None else None
        stats = slow.stats()
        status = mount.status() if mount is not None else None
        return Sample(
            seconds=seconds,
            read_bytes=way.read_bytes,
            fetched_bytes=stats.bytes,
            max_in_flight_requests=stats.max_in_flight,
            max_in_flight_bytes=status["source"]["max_in_flight_bytes"] if status else None,
            cpu_s=used_s,
        )


def describe_way(way: Way, samples: list[Sample], limits: list[Sample]) -> dict[str, Any]:
    """The figures of one way; `limits` are the limit's samples of the same rounds.

    Ratios are taken within a round: what else the machine did then slowed both.
    """
    ratios = [
        sample.mb_per_s / limit.mb_per_s for sample, limit in zip(samples, limits, strict=True)
    ]
    described: dict[str, Any] = {
        "way": way.key,
        "label": way.label,
        "read_bytes": way.read_bytes,
        "seconds": Spread.of([sample.seconds for sample in samples]).to_json(),
        "mb_per_s": Spread.of([sample.mb_per_s for sample in samples]).to_json(),
        "ratio_to_limit": Spread.of(ratios).to_json(),
        "max_in_flight_requests": max(sample.max_in_flight_requests for sample in samples),
        "fetched_per_read_bytes": Spread.of(
            [sample.fetched_bytes / sample.read_bytes for sample in samples]
        ).to_json(),
        "max_in_flight_bytes": None,
        "cpu_s_per_gb": None,
    }
    in_flight = [s.max_in_flight_bytes for s in samples if s.max_in_flight_bytes is not None]
    if in_flight:
        described["max_in_flight_bytes"] = max(in_flight)
    cpu = [sample.cpu_s * 1e9 / sample.read_bytes for sample in samples if sample.cpu_s is not None]
    if cpu:
        described["cpu_s_per_gb"] = Spread.of(cpu).to_json()
    return described
