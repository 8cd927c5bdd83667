"""Runs the command line as a user does, to its end, and says what it answered."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from tests.mount.harness import FUSEMOUNT

_DEADLINE_S = 60.0


def run_fusemount(
    *arguments: str | bytes | os.PathLike[str],
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> "subprocess.CompletedProcess[str]":
    """`fusemount ARGUMENTS`, behind the command `prefix`; must end within a minute."""
    return subprocess.run(
        [*prefix, *FUSEMOUNT, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_DEADLINE_S,
        env={**os.environ, **(environment or {})},
        check=False,
    )


def assert_refused(answer: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """It was a user's mistake: exit code 2, one line on standard error that holds the words."""
    said = answer.stderr
    assert answer.returncode == 2, f"exit code {answer.returncode}: {said}"
    assert answer.stdout == ""
    assert said.startswith("fusemount: ")
    assert said.endswith("\n")
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    for word in words:
        assert word in said, said
