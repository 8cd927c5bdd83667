"""What every command line answers: help, mistakes, interruptions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fusemount import cli
from fusemount.daemon import detach_process
from fusemount.errors import UsageError


def _exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("arguments", [[], ["bench"]], ids=["fusemount", "bench"])
def test_no_arguments_show_the_help_as_it_is_written(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code(arguments) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("Usage: fusemount")
    assert len(shown) > 5


def test_interruption_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_arguments: object) -> None:
        raise KeyboardInterrupt

    main: Callable[..., None] = interrupted
    monkeypatch.setattr(cli.cli, "main", main)
    assert _exit_code([]) == 130
    assert capsys.readouterr().err == ""


def test_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["nosuch"]) == 2
    assert capsys.readouterr().err.splitlines() == ["fusemount: No such command 'nosuch'."]


def test_log_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nosuch/log: No such file or directory: name a file"):
        detach_process(lambda: None, f"{tmp_path}/nosuch/log")
