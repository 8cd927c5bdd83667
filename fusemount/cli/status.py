"""fusemount status: what a mount does and why."""

import io
import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from fusemount.client import ask
from fusemount.mountinfo import resolve_mountpoint


@click.command("status")
@click.argument("mountpoint")  # not click.Path, which asks a mount that may not answer
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(mountpoint: str, as_json: bool) -> int:
    """Show what the mount on MOUNTPOINT read, fetched ahead and recommends, and why."""
    status = ask(resolve_mountpoint(mountpoint), "GET", "/status")
    if as_json:
        json.dump(status, sys.stdout, indent=2)
        print()
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or file of another encoding than the names.
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(soft_wrap=True)
    _show_summary(console, status)
    _show_models(console, status["models"])
    _show_files(console, status["files"])
    return 0


def _size(number: int) -> str:
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _printable(text: str) -> str:
    """Text as it can be shown: names, and what is said of them, may hold anything."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    # Lone surrogates are how os.fsdecode spells bytes that are no text.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode()


def _show_summary(console: Console, status: dict[str, Any]) -> None:
    reads, source, memory = status["reads"], status["source"], status["memory"]
    optimizer = status["optimizer"]
    console.print(
        Text.assemble(
            _printable(status["source_path"]),
            " on ",
            _printable(status["mountpoint"]),
            ", read-only",
        )
    )
    console.print(
        f"reads     {reads['reads']} ({_size(reads['read_bytes'])}),"
        f" {reads['hit_ratio']:.0%} of the bytes were here,"
        f" {reads['errors']} errors, longest {reads['longest_read_s'] * 1000:.0f} ms"
    )
    console.print(
        f"source    {source['fetches']} fetches ({_size(source['fetched_bytes'])}),"
        f" {_size(source['prefetched_bytes'])} ahead of readers,"
        f" at most {_size(source['max_in_flight_bytes'])} in flight"
    )
    console.print(
        f"memory    {_size(memory['used_bytes'])} of {_size(memory['budget_bytes'])},"
        f" {_size(memory['kept_bytes'])} kept, {_size(memory['pinned_bytes'])} pinned"
    )
    console.print(
        f"optimizer {optimizer['events_observed']} events, {optimizer['events_dropped']} dropped,"
        f" {len(status['models'])} models"
    )
    for preload in status["preloads"]:
        line = Text("preload   ")
        line.append(_printable(preload["model_id"]))
        line.append(f": {preload['state']}, {_size(preload['loaded_bytes'])}")
        line.append(f" of {_size(preload['total_bytes'])} {_printable(preload['reason'])}")
        console.print(line)
    for problem in status["degraded"]:
        console.print(Text(f"degraded  {_printable(problem)}", style="yellow"))


def _line(head: str, path: str, rest: str) -> Text:
    line = Text(f"{head:<10}", style="bold")
    line.append(f"{_printable(path)}  {_printable(rest)}")
    return line


def _show_reasons(console: Console, reasons: list[str]) -> None:
    for reason in reasons:
        console.print(Text(f"            {_printable(reason)}", style="dim"))


def _show_models(console: Console, models: list[dict[str, Any]]) -> None:
    for model in models:
        advice = model["recommendation"]
        preload = ", preload" if advice["should_preload"] else ""
        version = f" version {model['version']}" if model["version"] else ""
        console.print(
            _line(
                "model",
                model["model_id"],
                f"{model['format']}{version}, {_size(model['size_bytes'])}:"
                f" strategy {advice['cache_strategy']}, first window"
                f" {_size(advice['prefetch_size'])}, priority {advice['priority']}{preload}",
            )
        )
        _show_reasons(console, advice["reasons"])


def _show_files(console: Console, files: list[dict[str, Any]]) -> None:
    for file in files:
        window = file["applied"]["window_bytes"]
        grown = "" if window is None else f", now {_size(window)}"
        console.print(
            _line(
                "file",
                file["path"],
                f"read {_size(file['read_bytes'])} ({_size(file['hit_bytes'])} were here),"
                f" ahead {_size(file['prefetched_bytes'])}"
                f" (used {_size(file['used_bytes'])}, wasted {_size(file['wasted_bytes'])}),"
                f" window {_size(file['applied']['first_window_bytes'])}{grown}",
            )
        )
        _show_reasons(console, file["recommended"]["reasons"])
