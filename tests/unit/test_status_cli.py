"""The status command's text: whatever names and words come, it shows lines of printable text."""

import io
import json
import os
import sys
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fusemount.cli import status as status_command

ANYTHING = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.binary(max_size=20).map(os.fsdecode),
    st.sampled_from(["\x1b[2J", "[bold]x[/bold]", "[/]", "\r\n", "\x9b31m", "\u202e", "\x07"]),
)


def make_status(
    path: str = "m/x", words: str = "a reason", *, with_advice: bool = True, window: int | None = 1
) -> dict[str, Any]:
    """A document as the mount answers it, with one of everything."""
    advice = {
        "should_preload": with_advice,
        "cache_strategy": words,
        "prefetch_size": 1 << 20,
        "priority": 5,
        "reasons": [words],
    }
    counters = dict.fromkeys(
        ("read_bytes", "hit_bytes", "prefetched_bytes", "used_bytes", "wasted_bytes"), 1 << 30
    )
    return {
        "source_path": path,
        "mountpoint": path,
        "reads": {
            "reads": 3,
            "read_bytes": 1023,
            "hit_ratio": 0.5,
            "errors": 0,
            "longest_read_s": 0.25,
        },
        "source": {
            "fetches": 1,
            "fetched_bytes": 1024,
            "prefetched_bytes": 1 << 40,
            "max_in_flight_bytes": 0,
        },
        "memory": dict.fromkeys(("used_bytes", "budget_bytes", "kept_bytes", "pinned_bytes"), 7),
        "optimizer": {"events_observed": 1, "events_dropped": 0},
        "preloads": [
            {
                "model_id": path,
                "state": "partial",
                "loaded_bytes": 1,
                "total_bytes": 2,
                "reason": words,
            }
        ],
        "degraded": [words],
        "models": [
            {
                "model_id": path,
                "format": "onnx",
                "version": words,
                "size_bytes": 1,
                "recommendation": advice,
            }
        ],
        "files": [
            {
                "path": path,
                **counters,
                "applied": {"first_window_bytes": 1, "window_bytes": window},
                "recommended": {"reasons": [words]},
            }
        ],
    }


def show(status: dict[str, Any], *arguments: str) -> str:
    """What the command prints of that status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status_command, "ask", lambda *_arguments: status)
        patch.setenv("NO_COLOR", "1")
        result = CliRunner().invoke(
            status_command.command, ["/mnt", *arguments], catch_exceptions=False
        )
    assert result.exit_code == 0
    return result.stdout


@given(path=ANYTHING, words=ANYTHING, with_advice=st.booleans(), window=st.none() | st.just(2))
def test_no_name_and_no_word_can_break_the_lines_or_the_terminal(
    path: str, words: str, with_advice: bool, window: int | None
) -> None:
    status = make_status(path, words, with_advice=with_advice, window=window)
    shown = show(status)
    assert all(c.isprintable() for c in shown.replace("\n", ""))
    assert shown.count("\n") == show(make_status()).count("\n")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"\xff", "\\xff"),
        ("ä/日本".encode(), "ä/日本"),
        (b"a\nb", "a\\nb"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"[bold]x", "[bold]x"),
    ],
)
def test_names_are_shown_as_text_or_escaped(name: bytes, shown: str) -> None:
    assert f"file      {shown}  read" in show(make_status(os.fsdecode(name)))


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 50, "1024.0 TiB"),
    ],
)
def test_sizes_have_the_unit_that_fits(size_bytes: int, shown: str) -> None:
    assert status_command._size(size_bytes) == shown


def test_reasons_are_below_what_they_explain() -> None:
    lines = show(make_status("m", "because")).splitlines()
    for kind in ("model", "file"):
        (index,) = (n for n, line in enumerate(lines) if line.startswith(f"{kind} "))
        assert lines[index + 1].strip() == "because"


def test_what_is_degraded_is_said() -> None:
    assert "degraded  slow" in show(make_status("m", "slow"))


def test_json_is_the_document_as_it_came() -> None:
    status = make_status(os.fsdecode(b"\xff\n"), "[x]")
    assert json.loads(show(status, "--json")) == status


def test_output_of_another_encoding_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(status_command, "ask", lambda *_arguments: make_status("ä"))
    assert status_command.command.main(["/mnt"], standalone_mode=False) == 0
    stream.flush()
    monkeypatch.undo()
    assert b"file      \\xe4  read" in buffer.getvalue()
