"""fusemount bench: measure the mount beside its source's limit and beside other file systems."""

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from fusemount.bench.cold import measure_cold
from fusemount.bench.endings import ending_in_order
from fusemount.bench.measures import describe_machine
from fusemount.bench.metadata import measure_metadata
from fusemount.bench.report import make_console, show
from fusemount.bench.stalls import measure_stalls
from fusemount.bench.workplace import temporary_workplace
from fusemount.cli.parameters import Size
from fusemount.errors import UsageError
from fusemount.options import GIB, MIB
from fusemount.preflight import check_device

# A file of a folder with 10,000 takes a block of 4 KiB and an inode.
_SMALL_FILE_BYTES = 8192

_directory = click.option(
    "--directory", type=click.Path(), help="Where to make temporary files [where they go]."
)
_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on standard output."
)
_output = click.option(
    "--output", type=click.Path(), help="Write the JSON document to this file as well."
)
_rounds = click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="How often each is measured in turn; of several the first only warms up.",
)


@click.group("bench")
def command() -> None:
    """Measure the mount, beside its source's limit and beside what else is installed.

    Everything is temporary and removed at the end, also after Ctrl-C.
    """


@command.command("cold")
@click.option(
    "--size",
    "size_bytes",
    type=Size(MIB),
    default=GIB,
    show_default="1GiB",
    help="Size of the file that is read.",
)
@click.option(
    "--part",
    "part_bytes",
    type=Size(MIB),
    default=256 * MIB,
    show_default="256MiB",
    help="How much of it is read where it is slow; other file systems read a quarter of that.",
)
@_rounds
@_directory
@_json
@_output
def cold(
    size_bytes: int,
    part_bytes: int,
    rounds: int,
    directory: str | None,
    as_json: bool,
    output: str | None,
) -> int:
    """One cold reader on slow storage: direct, through the mount and its variants, and others."""
    measure = functools.partial(
        measure_cold, size_bytes=size_bytes, part_bytes=part_bytes, rounds=rounds
    )
    return _run("cold", measure, directory, size_bytes, as_json, output)


@command.command("metadata")
@click.option(
    "--files",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    help="Files in the folder.",
)
@_rounds
@_directory
@_json
@_output
def metadata(
    files: int, rounds: int, directory: str | None, as_json: bool, output: str | None
) -> int:
    """List a large folder, and stat each of its files."""
    measure = functools.partial(measure_metadata, files=files, rounds=rounds)
    return _run("metadata", measure, directory, files * _SMALL_FILE_BYTES, as_json, output)


@command.command("stalls")
@click.option(
    "--size",
    "size_bytes",
    type=Size(MIB),
    default=256 * MIB,
    show_default="256MiB",
    help="Size of each of the two files that are read.",
)
@click.option(
    "--kills",
    type=click.IntRange(1, 100_000),
    default=200,
    show_default=True,
    help="Clients to kill.",
)
@click.option(
    "--quiet",
    "quiet_s",
    type=click.FloatRange(0.1, 3600.0),
    default=5.0,
    show_default=True,
    help="Seconds of reading without kills before, to compare with.",
)
@click.option(
    "--seed", type=int, default=1, show_default=True, help="Of the random moments and places."
)
@_directory
@_json
@_output
def stalls(
    size_bytes: int,
    kills: int,
    quiet_s: float,
    seed: int,
    directory: str | None,
    as_json: bool,
    output: str | None,
) -> int:
    """Kill clients at random moments while another reader loads: its longest stall."""
    measure = functools.partial(
        measure_stalls, size_bytes=size_bytes, kills=kills, quiet_s=quiet_s, seed=seed
    )
    return _run("stalls", measure, directory, 2 * size_bytes, as_json, output)


def _run(
    case: str,
    measure: Callable[..., dict[str, Any]],
    directory: str | None,
    needed_bytes: int,
    as_json: bool,
    output: str | None,
) -> int:
    check_device()
    if output is not None:
        _check_output(output)
    with ending_in_order(), temporary_workplace(directory, needed_bytes) as workplace:
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        measured = measure(workplace, progress=_tell)
    document = {"case": case, "started": started, "machine": describe_machine(), **measured}
    if output is not None:
        with open(output, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
    if as_json:
        json.dump(document, sys.stdout, indent=2)
        print()
    else:
        show(make_console(), document)
    return 0


def _check_output(output: str) -> None:
    """Before minutes of measuring: the file can be written. Leaves no empty one."""
    is_new = not os.path.lexists(output)
    try:
        os.close(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        if is_new:
            os.unlink(output)
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror}: choose another file") from error


def _tell(line: str) -> None:
    """Progress, for somebody who watches."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
