"""The demonstration: real loaders on slow storage, direct, through the mount cold, and again.

A small real sample is served by a slow source with the pace of an object store and mounted over
it. Each load is a process of its own, and its checksum must be the direct load's. Returns values;
the command shows them. Invariant: when `run_demo` is left, nothing it mounted or started is there.
"""

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fusemount.bench.measures import describe_machine, run_loader
from fusemount.bench.mounts import OwnMount
from fusemount.bench.workplace import mount_point
from fusemount.errors import MountError, UsageError
from fusemount.sample import Sample, make_sample
from fusemount.sample_loading import SAMPLE_MODELS, SampleModel
from fusemount.slowsource import SlowSource
from fusemount.slowsource_values import OBJECT_STORE

_PHASES = ("cold", "again")
# The mount lets the kernel keep no file that was written in the last 2 s.
_SETTLED_S = 2.1


def default_directory(size_mb: int) -> str:
    """Where a sample of that size is kept: in XDG_CACHE_HOME, else where temporary files go.

    Raises UsageError where another user could have made it.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        parent = os.path.join(cache, "fusemount")
    else:
        parent = os.path.join(tempfile.gettempdir(), f"fusemount-sample-{os.geteuid()}")
    try:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        status = os.lstat(parent)
    except OSError as error:
        raise UsageError(f"{parent}: {error.strerror}: choose --directory") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise UsageError(f"{parent}: not a directory of this user: remove it, or use --directory")
    return os.path.join(parent, f"sample-{size_mb}MB")


def run_demo(
    directory: str, size_mb: int, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Load each model of the sample in `directory`, made if it is not there: the document.

    Raises UsageError as make_sample does; MountError where a load fails or its bytes differ.
    """
    progress(f"sample of {size_mb} MB in {directory}")
    sample = make_sample(directory, size_mb)
    _wait_until_settled(sample)
    with contextlib.ExitStack() as stack:
        workplace = os.path.realpath(tempfile.mkdtemp(prefix="fusemount-demo-"))
        stack.callback(shutil.rmtree, workplace)
        slow_root = stack.enter_context(mount_point(workplace))
        slow = stack.enter_context(SlowSource(directory, slow_root, **asdict(OBJECT_STORE)))
        root = stack.enter_context(mount_point(workplace))
        mount = stack.enter_context(OwnMount(slow_root, root))
        models = []
        for model in SAMPLE_MODELS:
            progress(f"{model.name}: direct")
            slow.reset_stats()
            direct = run_loader(model.name, os.path.join(slow_root, model.path))
            described = {
                "model": model.name,
                "path": model.path,
                "library": model.library,
                "loaded_bytes": direct["loaded_bytes"],
                "checksum": direct["checksum"],
                "direct": {"seconds": direct["seconds"], "source_bytes": slow.stats().bytes},
            }
            for phase in _PHASES:
                progress(f"{model.name}: through the mount, {phase}")
                loaded = _load_mounted(model, mount, slow)
                checksum = loaded.pop("checksum")
                if checksum != direct["checksum"]:
                    raise MountError(
                        f"{model.name}: through the mount, {phase}: checksum {checksum},"
                        f" direct {direct['checksum']}"
                    )
                loaded["speed_up"] = round(direct["seconds"] / loaded["seconds"], 2)
                described[phase] = loaded
            described["recommendation"] = _recommendation(model, mount.status())
            models.append(described)
        status = mount.status()
    return {
        "sample": {"directory": sample.directory, "size_bytes": sample.size_bytes},
        "pace": asdict(OBJECT_STORE),
        "machine": describe_machine(),
        "models": models,
        "max_in_flight_bytes": status["source"]["max_in_flight_bytes"],
        "degraded": status["degraded"],
    }


def _wait_until_settled(sample: Sample) -> None:
    newest = max(os.stat(os.path.join(sample.directory, name)).st_mtime for name in sample.files)
    time.sleep(min(_SETTLED_S, max(0.0, newest + _SETTLED_S - time.time())))


def _load_mounted(model: SampleModel, mount: OwnMount, slow: SlowSource) -> dict[str, Any]:
    before = _counters(model, mount.status())
    slow.reset_stats()
    loaded = run_loader(model.name, os.path.join(mount.mountpoint, model.path))
    after = _counters(model, mount.status())
    read_bytes, hit_bytes = (now - then for now, then in zip(after, before, strict=True))
    missed_bytes = read_bytes - hit_bytes
    return {
        "seconds": loaded["seconds"],
        "checksum": loaded["checksum"],
        "source_bytes": slow.stats().bytes,
        "read_bytes": read_bytes,
        # What the mount is not even asked for, the kernel had: that is here as well.
        "hit_ratio": round(1 - missed_bytes / max(read_bytes, loaded["loaded_bytes"]), 4),
    }


def _files(model: SampleModel, status: dict[str, Any]) -> list[dict[str, Any]]:
    return [file for file in status["files"] if file["path"].startswith(f"{model.path}/")]


def _counters(model: SampleModel, status: dict[str, Any]) -> tuple[int, int]:
    files = _files(model, status)
    return sum(file["read_bytes"] for file in files), sum(file["hit_bytes"] for file in files)


def _recommendation(model: SampleModel, status: dict[str, Any]) -> dict[str, Any]:
    """What was applied to the file of the model that was read most, and why."""
    file = max(_files(model, status), key=lambda file: int(file["read_bytes"]))
    return {
        "path": file["path"],
        "first_window_bytes": file["applied"]["first_window_bytes"],
        "cache_strategy": file["recommended"]["cache_strategy"],
        "preload": file["recommended"]["preload"],
        "keeps_read": file["applied"]["keeps_read"],
        "reasons": file["recommended"]["reasons"],
    }
