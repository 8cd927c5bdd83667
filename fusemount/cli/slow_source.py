"""`fusemount slow-source`: serve a directory as slow, faulty storage, in the foreground."""

import os
import sys
from dataclasses import replace
from typing import Any

import click

from fusemount.slowsource_server import serve
from fusemount.slowsource_values import OBJECT_STORE, Fault, Pace, Presentation

_PROFILES = {"none": Pace(), "object-store": OBJECT_STORE}


@click.command(context_settings={"show_default": True})
@click.argument("source")
@click.argument("mountpoint")
@click.option(
    "--profile",
    type=click.Choice(list(_PROFILES)),
    default="none",
    help="Where the pace starts from; object-store is 10 ms, 60 MB/s a stream, 800 MB/s in all.",
)
@click.option("--latency-ms", type=float, help="Wait of every request, in ms.")
@click.option("--stream-mbps", type=float, help="Rate of one READ's bytes, in MB/s; 0: no limit.")
@click.option("--total-mbps", type=float, help="Rate of all READs, in MB/s; 0: no limit.")
@click.option("--attr-timeout", "attr_timeout_s", type=float, default=1.0, help="In s.")
@click.option("--entry-timeout", "entry_timeout_s", type=float, default=1.0, help="In s.")
@click.option(
    "--list-page-entries",
    type=int,
    default=1000,
    help="A listing pays the latency once for so many entries.",
)
@click.option("--max-read-kib", type=int, default=1024, help="Largest READ, in KiB.")
@click.option(
    "--page-cache/--no-page-cache",
    help="Let the kernel keep what was read; without it only mappings are cached.",
)
@click.option(
    "--readdirplus/--no-readdirplus",
    default=True,
    help="List attributes with the names, or have each asked for.",
)
@click.option(
    "--moving-inodes/--no-moving-inodes",
    help="Give inode numbers at lookup and forget them, as path-based FUSE file systems do.",
)
@click.option(
    "--allow-other/--no-allow-other",
    default=os.geteuid() == 0,
    help="Let other users in, with the source's own rights; on for root.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KEY=VALUE,...",
    help="action=eio|estale|hang|short, op=read|open|lookup|getattr|readdir|any|..., path=GLOB, "
    "nth=N (from the Nth matching request on), count=N (so many), short_bytes=N. Repeatable.",
)
@click.option("--control", "control_path", metavar="PATH", help="Unix socket for JSON commands.")
@click.option("--lifeline-fd", type=int, hidden=True)
def command(
    *,
    source: str,
    mountpoint: str,
    profile: str,
    latency_ms: float | None,
    stream_mbps: float | None,
    total_mbps: float | None,
    faults: tuple[str, ...],
    control_path: str | None,
    lifeline_fd: int | None,
    **presentation: Any,
) -> None:
    """Show SOURCE read-only at MOUNTPOINT, as slow as remote storage, until unmounted.

    Prints `ready MOUNTPOINT` on standard error once it can be used. Every lookup, getattr, open,
    readlink, xattr, page of a listing and READ waits the latency; READs also share the rates. A
    stream is one READ. Ctrl-C and SIGTERM unmount.

    The control socket takes one JSON object a connection, as
    {"command": "set-fault", "action": "eio", "nth": 3, "count": 1}; the commands are stats,
    reset-stats, set-fault, clear-faults, release, set-pace and move-inodes.
    """
    given = {"latency_ms": latency_ms, "stream_mbps": stream_mbps, "total_mbps": total_mbps}
    chosen = {name: value for name, value in given.items() if value is not None}
    serve(
        source,
        mountpoint,
        replace(_PROFILES[profile], **chosen),
        Presentation(**presentation),
        faults=[Fault.parse(text) for text in faults],
        control_path=control_path,
        lifeline_fd=lifeline_fd,
        on_ready=lambda: print(f"ready {mountpoint}", file=sys.stderr, flush=True),
    )
