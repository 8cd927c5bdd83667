"""fusemount mount: serve a directory of models at a mount point, in the foreground."""

import logging
import os
import sys

import click

from fusemount.cli.parameters import Size
from fusemount.config import load_configuration
from fusemount.daemon import detach_process
from fusemount.errors import UsageError
from fusemount.options import MIB, MountOptions
from fusemount.preflight import check_device, check_mountpoint, check_source, may_allow_other
from fusemount.supervisor import Supervisor


@click.command("mount")
# Not click.Path: it looks at the path by itself, and a mount point may be one that does not answer.
@click.argument("source")
@click.argument("mountpoint")
@click.option("--daemon", is_flag=True, help="Return once it is mounted, and serve on.")
@click.option(
    "--config",
    "config",
    multiple=True,
    type=click.Path(),
    help="A YAML or JSON file saying how models are served; may be given several times.",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=Size(16 * MIB),
    help="Memory for fetched bytes [a quarter of what is available].",
)
@click.option(
    "--first-window",
    "first_window_bytes",
    type=Size(),
    help="First readahead window of every file, instead of the optimizer's.",
)
@click.option("--no-prefetch", is_flag=True, help="Fetch only what is asked for.")
@click.option(
    "--attribute-timeout",
    "attribute_timeout_s",
    type=click.FloatRange(min=0.0, max=86400.0),
    default=1.0,
    show_default=True,
    help="Seconds for which a change in the source may stay unseen.",
)
@click.option(
    "--source-deadline",
    "source_deadline_s",
    type=click.FloatRange(min=0.1, max=3600.0),
    default=30.0,
    show_default=True,
    help="Seconds after which a request that the source does not answer fails.",
)
@click.option("--allow-nonempty", is_flag=True, help="Mount over a directory that holds files.")
@click.option(
    "--allow-other/--no-allow-other",
    default=None,
    help="Let other users in, by the source's modes and ACLs [where this user may].",
)
@click.option("--log-file", type=click.Path(), help="With --daemon: where messages go [nowhere].")
def command(
    source: str,
    mountpoint: str,
    daemon: bool,
    config: tuple[str, ...],
    memory_bytes: int | None,
    first_window_bytes: int | None,
    no_prefetch: bool,
    attribute_timeout_s: float,
    source_deadline_s: float,
    allow_nonempty: bool,
    allow_other: bool | None,
    log_file: str | None,
) -> int:
    """Mount SOURCE on MOUNTPOINT, read-only, and serve until Ctrl-C, SIGTERM or umount.

    Prints `ready MOUNTPOINT` on standard error once the mount can be used.
    """
    if no_prefetch and first_window_bytes is not None:
        raise UsageError("--first-window has no meaning with --no-prefetch: give one of them")
    if log_file is not None and not daemon:
        raise UsageError("--log-file goes with --daemon: in the foreground messages are shown")
    if allow_other and not may_allow_other():
        raise UsageError("--allow-other needs root, or user_allow_other in /etc/fuse.conf")
    load_configuration(config)
    source_path = check_source(source)
    check_device()
    mountpoint_path = check_mountpoint(mountpoint, source_path, allow_nonempty)
    options = MountOptions(
        source=source_path,
        mountpoint=mountpoint_path,
        allow_other=may_allow_other() if allow_other is None else allow_other,
        prefetch=not no_prefetch,
        first_window_bytes=first_window_bytes,
        memory_bytes=memory_bytes,
        attribute_timeout_s=attribute_timeout_s,
        source_deadline_s=source_deadline_s,
        config=tuple(os.path.abspath(path) for path in config),
    )
    logging.basicConfig(
        level=logging.DEBUG if os.environ.get("FUSEMOUNT_DEBUG") else logging.WARNING,
        format="fusemount: %(message)s",
    )

    def announce() -> None:
        print(f"ready {mountpoint_path}", file=sys.stderr, flush=True)

    if daemon:
        announce = detach_process(announce, log_file)
    return Supervisor(options, announce).run()
