"""The process that serves a slow source: checks, mounts, and answers its control socket.

The C part serves requests without the interpreter; a thread here answers the control socket, so
the mount can be asked and changed while every request hangs. A connection carries one JSON object
in a line and gets one line back: `{"ok": true, ...}` or `{"ok": false, "error": TEXT}`.
"""

import contextlib
import json
import os
import resource
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fusemount.errors import MountError, UsageError
from fusemount.mountinfo import find_mount
from fusemount.slowsource_values import Fault, FileStats, Pace, Presentation, Stats

try:
    from fusemount import _slowsource
except ImportError as error:  # optional: a build without libfuse's headers has none
    _import_error: ImportError | None = error
else:
    _import_error = None

# A node costs a descriptor; more than this many files are not looked at in one go.
_DESCRIPTORS = 1 << 20
# Answer what is due; each may have to wait for the source's own disk.
_THREADS = 16
# A client that connects and says nothing keeps the others waiting for so long.
_REQUEST_DEADLINE_S = 5.0
_REQUEST_MAX_BYTES = 1 << 16
_COUNTER_OF_OPERATION = {
    "read": "reads",
    "open": "opens",
    "lookup": "lookups",
    "getattr": "getattrs",
    "readlink": "readlinks",
    "readdir": "readdirs",
    "xattr": "xattrs",
    "statfs": "statfs",
}


def serve(
    source: str,
    mountpoint: str,
    pace: Pace,
    presentation: Presentation,
    *,
    faults: Sequence[Fault] = (),
    control_path: str | None = None,
    lifeline_fd: int | None = None,
    on_ready: Callable[[], object] = lambda: None,
) -> None:
    """Mount `source` on `mountpoint` and return when it is unmounted.

    Ends at SIGINT, SIGTERM, SIGHUP, an unmount by anybody, and when `lifeline_fd` becomes
    readable or closed at its other end. Call it once, in the main thread. Raises UsageError for
    what the user can change, MountError if the mount fails.
    """
    if _import_error is not None:
        raise UsageError(
            "slow-source: this installation has no C part: install libfuse3-dev, pkg-config and "
            f"a C compiler, then this package again ({_import_error})"
        )
    source, mountpoint = _check_places(source, mountpoint)
    _raise_descriptor_limit()
    for fault in faults:
        _add_fault(fault)
    latency_s, stream_bytes_per_s, total_bytes_per_s = pace.in_seconds_and_bytes()
    settings = asdict(presentation)
    del settings["max_read_kib"], settings["allow_other"]
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listening(control_path)) if control_path else None

        def be_ready() -> None:
            # Not before: the thread inherits the signals that run() has blocked by now.
            if listener is not None:
                threading.Thread(target=_answer_all, args=(listener,), daemon=True).start()
            on_ready()

        try:
            _slowsource.run(
                os.fsencode(source),
                os.fsencode(mountpoint),
                _mount_options(source, presentation),
                be_ready,
                latency_s=latency_s,
                stream_bytes_per_s=stream_bytes_per_s,
                total_bytes_per_s=total_bytes_per_s,
                max_read_bytes=presentation.max_read_kib * 1024,
                threads=_THREADS,
                lifeline_fd=-1 if lifeline_fd is None else lifeline_fd,
                **settings,
            )
        except OSError as error:
            raise MountError(f"slow-source: {mountpoint}: {error.strerror}") from error


def _check_places(source: str, mountpoint: str) -> tuple[str, str]:
    """Both with links resolved, or a UsageError that says which of them is wrong and why."""
    places = []
    for role, given in (("source", source), ("mount point", mountpoint)):
        try:
            place = os.path.realpath(given, strict=True)
            os.listdir(place)
        except OSError as error:
            raise UsageError(
                f"slow-source: {role} {given}: {error.strerror}; give a readable directory"
            ) from error
        places.append(place)
    source, mountpoint = places
    if find_mount(os.fsencode(mountpoint)) is not None:
        raise UsageError(f"slow-source: mount point {mountpoint}: already mounted; unmount it")
    if os.path.commonpath(places) in places:
        raise UsageError(
            f"slow-source: mount point {mountpoint}: must not contain the source nor lie in it"
        )
    if os.listdir(mountpoint):
        raise UsageError(f"slow-source: mount point {mountpoint}: not empty; give an empty one")
    if not os.path.exists("/dev/fuse"):
        raise UsageError("slow-source: /dev/fuse: not there; load the fuse module or pass it in")
    return source, mountpoint


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(hard, _DESCRIPTORS), hard):
        # Only root may raise the hard limit, and only as far as the kernel's own.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (max(soft, min(wanted, _DESCRIPTORS)), wanted)
            )
            return


def _mount_options(source: str, presentation: Presentation) -> bytes:
    name = source.replace("\\", "\\\\").replace(",", "\\,")
    options = [
        *("ro", "nosuid", "nodev", "default_permissions", "subtype=slow-source"),
        f"max_read={presentation.max_read_kib * 1024}",
        f"fsname={name}",
    ]
    if presentation.allow_other:
        options.append("allow_other")
    return os.fsencode(",".join(options))


@contextlib.contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    """A Unix socket at `path` for this user only; removed at the end."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        _remove_stale(path)
        listener.bind(path)
        listener.listen()
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise UsageError(f"slow-source: --control {path}: {reason}; give another path") from error
    finally:
        os.umask(mask)
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody answers any more; whatever else is there stays."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _answer_all(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # closed: the mount has ended
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_REQUEST_DEADLINE_S)
            with connection.makefile("rb") as stream:
                line = stream.readline(_REQUEST_MAX_BYTES)
            connection.sendall(json.dumps(_answer(line)).encode() + b"\n")


def _answer(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise UsageError("slow source: a request is a JSON object")
        command = request.pop("command", None)
        if command not in _COMMANDS:
            raise UsageError(f"slow source: command {command!r}: one of {', '.join(_COMMANDS)}")
        return {"ok": True, **_COMMANDS[command](request)}
    except (ValueError, TypeError, UsageError) as error:
        return {"ok": False, "error": str(error)}


def _stats(_: Mapping[str, Any]) -> dict[str, Any]:
    counters = _slowsource.stats()
    for operation, name in _COUNTER_OF_OPERATION.items():
        counters[name] = counters.pop(operation)
    files = {
        os.fsdecode(path): FileStats(*counts)
        for path, counts in _slowsource.file_stats().items()
        if any(counts)
    }
    return {"stats": Stats(files=files, **counters).to_json()}


def _reset_stats(_: Mapping[str, Any]) -> dict[str, Any]:
    _slowsource.reset_stats()
    return {}


def _add_fault(fault: Fault) -> None:
    action, error = fault.kind
    glob = os.fsencode(fault.path)
    _slowsource.add_fault(action, error, fault.short_bytes, fault.op, glob, fault.nth, fault.count)


def _set_fault(fields: Mapping[str, Any]) -> dict[str, Any]:
    _add_fault(Fault.from_json(fields))
    return {}


def _set_pace(fields: Mapping[str, Any]) -> dict[str, Any]:
    _slowsource.set_pace(*Pace(**fields).in_seconds_and_bytes())
    return {}


_COMMANDS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "stats": _stats,
    "reset-stats": _reset_stats,
    "set-fault": _set_fault,
    "clear-faults": lambda _: {"released": _slowsource.clear_faults()},
    "release": lambda _: {"released": _slowsource.release()},
    "set-pace": _set_pace,
    "move-inodes": lambda _: {"moved": _slowsource.move_inodes()},
}
