"""The package decides and does nothing: what it may import is listed here."""

import ast
from pathlib import Path

import pytest

import optimizer

PACKAGE = Path(optimizer.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {"collections", "dataclasses", "enum", "math", "optimizer", "typing"}


def imported_packages(source: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add("optimizer" if node.level else (node.module or "").partition(".")[0])
    return packages


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 5
    assert "dataclasses" in imported_packages(PACKAGE / "events.py")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_imports_only_what_cannot_do_anything(source: Path) -> None:
    assert imported_packages(source) <= ALLOWED


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_calls_nothing_that_does_input_or_output(source: Path) -> None:
    names = {
        node.func.id
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not names & {"open", "print", "input", "exec", "eval", "__import__"}


def test_public_names_exist() -> None:
    for name in optimizer.__all__:
        assert hasattr(optimizer, name)
