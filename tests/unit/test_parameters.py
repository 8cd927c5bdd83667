"""Sizes on the command line."""

import click
import pytest

from fusemount.cli.parameters import Size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        ("65536", 65536),
        ("10MB", 10_000_000),
        ("10mb", 10_000_000),
        ("256MiB", 256 << 20),
        ("1.5 KiB", 1536),
        (" 5 ", 5),
        ("8GiB", 8 << 30),
    ],
)
def test_size_is_bytes_with_a_unit(text: str, size_bytes: int) -> None:
    assert Size().convert(text, None, None) == size_bytes


@pytest.mark.parametrize("text", ["", "x", "-1", "-1MiB", "nan", "inf", "5 parsecs", "1e9", "MiB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size: write 256MiB"):
        Size().convert(text, None, None)


def test_least_size_is_taken_and_one_less_is_refused() -> None:
    size = Size(16 * 1024 * 1024)
    assert size.convert("16MiB", None, None) == 16 << 20
    with pytest.raises(click.BadParameter, match="less than 16777216 bytes"):
        size.convert("16777215", None, None)


def test_zero_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="less than 1 bytes"):
        Size().convert("0", None, None)
