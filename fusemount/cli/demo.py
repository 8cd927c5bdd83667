"""fusemount demo: a real sample on slow storage, loaded direct and through the mount."""

import json
import os
import sys
from typing import Any

import click
from rich.table import Table

from fusemount.bench.endings import ending_in_order
from fusemount.bench.report import make_console
from fusemount.demo import default_directory, run_demo
from fusemount.preflight import check_device
from fusemount.sample import DEFAULT_SIZE_MB

_MIB = 1024 * 1024


@click.command("demo")
@click.option(
    "--directory", type=click.Path(), help="Where the sample is made and kept [a cache directory]."
)
@click.option(
    "--size-mb",
    type=int,
    default=DEFAULT_SIZE_MB,
    show_default=True,
    help="Size of the sample in MB.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(directory: str | None, size_mb: int, as_json: bool) -> int:
    """Load real models from slow storage: direct, through the mount cold, and again.

    Makes a sample, once, serves it as slowly as an object store, mounts that, and loads each model
    with its library. Unmounts everything at the end, also after Ctrl-C.
    """
    check_device()
    with ending_in_order():
        place = default_directory(size_mb) if directory is None else os.path.abspath(directory)
        document = run_demo(place, size_mb, _tell)
    if as_json:
        json.dump(document, sys.stdout, indent=2)
        print()
    else:
        _show(document)
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(document: dict[str, Any]) -> None:
    console, pace = make_console(), document["pace"]
    table = Table(
        title=f"seconds to load from a source of {pace['latency_ms']:g} ms,"
        f" {pace['stream_mbps']:g} MB/s a stream, {pace['total_mbps']:g} MB/s in all",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("model", "loader"):
        table.add_column(column)
    for column in ("MB", "direct", "cold", "", "again", "", "hits cold", "again"):
        table.add_column(column, justify="right")
    for model in document["models"]:
        cold, again = model["cold"], model["again"]
        table.add_row(
            model["model"],
            model["library"],
            f"{model['loaded_bytes'] / 1e6:.0f}",
            f"{model['direct']['seconds']:.2f}",
            f"{cold['seconds']:.2f}",
            f"{cold['speed_up']:.1f}x",
            f"{again['seconds']:.2f}",
            f"{again['speed_up']:.0f}x",
            f"{cold['hit_ratio']:.0%}",
            f"{again['hit_ratio']:.0%}",
        )
    console.print(table)
    for model in document["models"]:
        applied = model["recommendation"]
        console.print(
            f"{model['model']}: first window {applied['first_window_bytes'] / _MIB:g} MiB,"
            f" strategy {applied['cache_strategy']}",
            markup=False,
        )
        for reason in applied["reasons"]:
            console.print(f"    {reason}", markup=False, style="dim")
    source_mb = sum(model["cold"]["source_bytes"] for model in document["models"]) / 1e6
    again_mb = sum(model["again"]["source_bytes"] for model in document["models"]) / 1e6
    console.print(
        f"checksums are equal; cold fetched {source_mb:.0f} MB of the source, at most"
        f" {document['max_in_flight_bytes'] / _MIB:.0f} MiB at a time; again {again_mb:.0f} MB"
    )
    for problem in document["degraded"]:
        console.print(f"degraded: {problem}", markup=False)
