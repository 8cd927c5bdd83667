"""Shows what the cases measured as tables: medians, with least and most behind them."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

_MIB = 1024 * 1024
_FILE_WIDTH = 200


def make_console() -> Console:
    """Standard output: as wide as the terminal, else wide enough for every table."""
    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else _FILE_WIDTH)


def show(console: Console, document: dict[str, Any]) -> None:
    """The table of a case's document."""
    _SHOWN[document["case"]](console, document)


def _spread(figures: dict[str, float] | None, digits: int) -> str:
    if figures is None:
        return "-"
    text = f"{figures['median']:.{digits}f}"
    if figures["min"] == figures["max"]:
        return text
    return f"{text} ({figures['min']:.{digits}f}-{figures['max']:.{digits}f})"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _rounds(document: dict[str, Any]) -> str:
    kept = document["rounds_kept"]
    return f"median of {kept} rounds (least-most)" if kept > 1 else "one round"


def _pace(document: dict[str, Any]) -> str:
    pace = document["pace"]
    return (
        f"source: {pace['latency_ms']:g} ms, {pace['stream_mbps']:g} MB/s a stream,"
        f" {pace['total_mbps']:g} MB/s in all"
    )


def _show_cold(console: Console, document: dict[str, Any]) -> None:
    size_mib = document["size_bytes"] / _MIB
    table = _table(
        f"one cold reader of {size_mib:g} MiB, {_rounds(document)}; {_pace(document)}",
        *("way", "MiB read", "seconds", "MB/s", "of limit"),
        *("in flight", "requests", "fetched/read", "CPU s/GB"),
    )
    for way in document["ways"]:
        in_flight_bytes = way["max_in_flight_bytes"]
        table.add_row(
            way["label"],
            f"{way['read_bytes'] / _MIB:g}",
            _spread(way["seconds"], 2),
            _spread(way["mb_per_s"], 0),
            _spread(way["ratio_to_limit"], 3),
            "-" if in_flight_bytes is None else f"{in_flight_bytes / _MIB:.2f} MiB",
            str(way["max_in_flight_requests"]),
            f"{way['fetched_per_read_bytes']['median']:.2f}",
            "-" if way["cpu_s_per_gb"] is None else f"{way['cpu_s_per_gb']['median']:.2f}",
        )
    console.print(table)
    rates = {way["way"]: way["mb_per_s"]["median"] for way in document["ways"]}
    console.print(
        f"the mount reads {rates['mount'] / rates['direct']:.1f} times as fast as direct with"
        f" read-ahead 128 KiB, {rates['mount'] / rates['direct_uncached']:.1f} times as fast as"
        " direct in 1 MiB requests"
    )


def _show_metadata(console: Console, document: dict[str, Any]) -> None:
    table = _table(
        f"{document['files']} files in one folder, {_rounds(document)}, in seconds",
        *("place", "list", "of bindfs", "list and stat", "of bindfs"),
    )
    rows: dict[str, list[str]] = {}
    for place in document["places"]:
        row = rows.setdefault(place["label"], [])
        row.append(_spread(place["seconds"], 3))
        row.append(_spread(place["time_ratio_to_bindfs"], 2))
    for label, row in rows.items():
        table.add_row(label, *row)
    console.print(table)


def _show_stalls(console: Console, document: dict[str, Any]) -> None:
    c_part = "with" if document["c_part"] else "without"
    table = _table(
        f"reads of 1 MiB while {document['kills']} other clients were killed, {c_part} the C part;"
        f" {_pace(document)}; in ms",
        *("", "reads", "median", "99 %", "longest"),
    )
    for key, label in (("without_kills", "nobody killed"), ("with_kills", "clients killed")):
        figures = document[key]
        table.add_row(
            label,
            str(figures["reads"]),
            f"{figures['median_read_s'] * 1e3:.2f}",
            f"{figures['p99_read_s'] * 1e3:.1f}",
            f"{figures['longest_read_s'] * 1e3:.0f}",
        )
    console.print(table)
    gone_ms = document["longest_killed_client_s"] * 1e3
    console.print(f"a killed client was gone after {gone_ms:.0f} ms at the latest")


_SHOWN = {"cold": _show_cold, "metadata": _show_metadata, "stalls": _show_stalls}
