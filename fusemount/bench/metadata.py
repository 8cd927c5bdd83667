"""The case `metadata`: listing a large folder, and listing it with a stat of each file.

Each measurement has a mount of its own, so that no entry is known yet. On local files beside
other file systems; on a source of 10 ms a request beside that source itself.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fusemount.bench.measures import Spread, kept_rounds, run_reader
from fusemount.bench.mounts import OwnMount, ServedMount
from fusemount.bench.peers import BINDFS, installed_peers
from fusemount.bench.workplace import mount_point, write_folder
from fusemount.slowsource import SlowSource

_FOLDER, _SMALL_FOLDER = "parts", "few-parts"
# Direct on slow storage each stat waits, one after the other: a tenth of the files shows it.
_SMALL_SHARE = 10
_LATENCY_MS = 10.0
_READERS = {"list": "list", "list_and_stat": "list-and-stat"}

Mounter = Callable[[str, str], ServedMount]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a folder of `files` files is looked at: `mount` None is the source itself."""

    key: str
    label: str
    folder: str
    files: int
    mount: Mounter | None = None
    is_slow: bool = False


def plan_places(files: int) -> list[Place]:
    """What is measured; peers as far as they are installed."""
    whole = _FOLDER, files
    few = max(1, files // _SMALL_SHARE)
    places = [Place("native", "native", *whole), Place("mount", "mount", *whole, OwnMount)]
    for peer in installed_peers():
        places.append(Place(f"peer_{peer.key}", peer.name, *whole, peer.mount))
    direct = f"10 ms source, {few} files"
    places.append(Place("slow_direct", direct, _SMALL_FOLDER, few, is_slow=True))
    places.append(Place("slow_mount", "mount on 10 ms source", *whole, OwnMount, is_slow=True))
    return places


def measure_metadata(
    workplace: str, *, files: int, rounds: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Measure `files` files in one folder in `rounds` rounds: the document.

    `progress` is called with a line before each measurement. Raises MountError where a reader or
    a mount fails.
    """
    source = os.path.join(workplace, "source")
    os.mkdir(source)
    progress("writing the files")
    places = plan_places(files)
    for folder, count in {(place.folder, place.files) for place in places}:
        write_folder(os.path.join(source, folder), count)
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for place in places:
            for operation, reader in _READERS.items():
                progress(f"round {number + 1} of {rounds}: {place.label}, {operation}")
                took_s = _measure(place, reader, source, workplace)
                if number in kept_rounds(rounds):
                    seconds.setdefault((place.key, operation), []).append(took_s)
    return {
        "files": files,
        "latency_ms": _LATENCY_MS,
        "rounds": rounds,
        "rounds_kept": len(kept_rounds(rounds)),
        "places": [
            _describe(place, operation, seconds) for place in places for operation in _READERS
        ],
    }


def _measure(place: Place, reader: str, source: str, workplace: str) -> float:
    with contextlib.ExitStack() as stack:
        root = source
        if place.is_slow:
            root = stack.enter_context(mount_point(workplace))
            stack.enter_context(SlowSource(source, root, latency_ms=_LATENCY_MS))
        if place.mount is not None:
            below, root = root, stack.enter_context(mount_point(workplace))
            stack.enter_context(place.mount(below, root))
        return float(run_reader(reader, os.path.join(root, place.folder))["seconds"])


def _describe(
    place: Place, operation: str, seconds: dict[tuple[str, str], list[float]]
) -> dict[str, Any]:
    took = seconds[place.key, operation]
    bindfs = seconds.get((f"peer_{BINDFS.key}", operation))
    ratio = None
    if bindfs is not None and not place.is_slow:
        # Within a round: what else the machine did then slowed both.
        ratio = Spread.of([own / other for own, other in zip(took, bindfs, strict=True)]).to_json()
    return {
        "place": place.key,
        "label": place.label,
        "operation": operation,
        "files": place.files,
        "seconds": Spread.of(took).to_json(),
        "time_ratio_to_bindfs": ratio,
    }
