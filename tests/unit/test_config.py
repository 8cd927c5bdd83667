"""The configuration file: what it says of a model, and mistakes that name file and key."""

import os
from pathlib import Path

import pytest

from fusemount.config import Configuration, ModelSettings, load_configuration
from fusemount.errors import UsageError
from optimizer import ServingPattern
from tests.unit.fakes import fake_model

HEAD = "version: 1\nname: test\n"


@pytest.fixture
def write(tmp_path: Path) -> "Write":
    return Write(tmp_path)


class Write:
    """Writes configuration files one after the other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def __call__(self, content: str | bytes) -> str:
        self._count += 1
        path = self._directory / f"{self._count}.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)


def test_without_a_file_every_model_is_unknown() -> None:
    info = load_configuration(()).serving_info(fake_model("m", size_bytes=7))
    assert (info.serving_pattern, info.batch_size) == (ServingPattern.UNKNOWN, 1)


def test_serving_info_carries_what_the_catalogue_knows() -> None:
    info = Configuration().serving_info(fake_model("a/m", "x", "y", size_bytes=7))
    assert (info.model_id, info.model_path, info.model_version) == ("a/m", "a/m", "1")
    assert (info.model_type, info.framework, info.model_size) == ("safetensors", "safetensors", 14)


@pytest.mark.parametrize(
    ("word", "pattern"),
    [
        ("unknown", ServingPattern.UNKNOWN),
        ("batch", ServingPattern.BATCH_INFERENCE),
        ("realtime", ServingPattern.REALTIME_INFERENCE),
        ("streaming", ServingPattern.STREAMING_INFERENCE),
        ("multi_modal", ServingPattern.MULTI_MODAL_SERVING),
        ("ensemble", ServingPattern.ENSEMBLE_SERVING),
        ("a_b", ServingPattern.A_B_SERVING),
        ("canary", ServingPattern.CANARY_SERVING),
        ("auto_scaling", ServingPattern.AUTO_SCALING_SERVING),
    ],
)
def test_every_pattern_has_its_word(write: Write, word: str, pattern: ServingPattern) -> None:
    path = write(f"{HEAD}models: [{{pattern: '*', serving_pattern: {word}}}]")
    info = load_configuration((path,)).serving_info(fake_model("m"))
    assert info.serving_pattern is pattern


def test_json_is_read_too(write: Write) -> None:
    path = write('{"version": "1", "name": "n", "models": [{"pattern": "m", "batch_size": 4}]}')
    assert load_configuration((path,)).serving_info(fake_model("m")).batch_size == 4


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("*", "", True),
        ("*", "a/b", True),
        ("a/*", "a/b", True),
        ("a/*", "b", False),
        ("a/?", "a/b", True),
        ("a/?", "a/bc", False),
        ("[ab]", "b", True),
        ("A", "a", False),
        ("a", "a/b", False),
    ],
)
def test_glob_is_held_against_the_whole_path(glob: str, path: str, matches: bool) -> None:
    configuration = Configuration(models=(ModelSettings(pattern=glob, batch_size=9),))
    assert configuration.serving_info(fake_model(path)).batch_size == (9 if matches else 1)


def test_later_entry_wins_key_by_key() -> None:
    configuration = Configuration(
        models=(
            ModelSettings(pattern="*", serving_pattern="batch", batch_size=8),
            ModelSettings(pattern="m", batch_size=16),
        )
    )
    info = configuration.serving_info(fake_model("m"))
    assert (info.serving_pattern, info.batch_size) == (ServingPattern.BATCH_INFERENCE, 16)


def test_later_file_wins_over_an_earlier_one(write: Write) -> None:
    first = write(f"{HEAD}models: [{{pattern: '*', batch_size: 8}}]")
    second = write("version: 1\nname: other\nmodels: [{pattern: m, batch_size: 16}]")
    merged = load_configuration((first, second))
    assert merged.name == "other"
    assert merged.serving_info(fake_model("m")).batch_size == 16
    assert merged.serving_info(fake_model("n")).batch_size == 8


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (f"{HEAD}modles: []", "modles"),
        (f"{HEAD}models: [{{pattern: '*', batch: 8}}]", "models.0.batch"),
        (f"{HEAD}models: [{{pattern: ''}}]", "models.0.pattern"),
        (f"{HEAD}models: [{{batch_size: 8}}]", "models.0.pattern"),
        (f"{HEAD}models: [{{pattern: a}}, {{pattern: b, batch_size: 0}}]", "models.1.batch_size"),
        (f"{HEAD}models: [{{pattern: b, batch_size: 1000001}}]", "models.0.batch_size"),
        (f"{HEAD}models: [{{pattern: b, serving_pattern: fast}}]", "models.0.serving_pattern"),
        (f"{HEAD}models: [{{pattern: b, batch_size: true}}]", "models.0.batch_size"),
        (f"{HEAD}a: &a {{k: v}}\nb: {{<<: *a}}", "merge keys"),
        (" " * (1024 * 1024 + 1), "larger than"),
        (f"{HEAD}models: 5", "models"),
        ("name: test", "version"),
        ("name: test\nversion: [1]", "version"),
        ("name: test\nversion: 0x" + "f" * 9000, "version"),
        ("version: 1", "name"),
        ("", "keys and values"),
        ("- a", "keys and values"),
        ("a: [", "line 1"),
        ("a: 2026-02-30", "day"),
        (b"name: \xff", "utf-8"),
        ("a: " + "[" * 1200, "recursion"),
    ],
)
def test_mistake_is_one_line_with_file_and_key(
    write: Write, content: str | bytes, names: str
) -> None:
    path = write(content)
    with pytest.raises(UsageError) as caught:
        load_configuration((path,))
    message = str(caught.value)
    assert message.startswith(f"configuration {path}: ")
    assert names in message
    assert "\n" not in message


@pytest.mark.parametrize("batch_size", [1, 1_000_000])
def test_bounds_of_the_batch_size_are_allowed(write: Write, batch_size: int) -> None:
    path = write(f"{HEAD}models: [{{pattern: '*', batch_size: {batch_size}}}]")
    assert load_configuration((path,)).models[0].batch_size == batch_size


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.yaml: No such file or directory"):
        load_configuration((str(tmp_path / "missing.yaml"),))


def test_directory_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        load_configuration((str(tmp_path),))


def test_pipe_that_nobody_writes_to_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a regular file"):
        load_configuration((str(tmp_path / "pipe"),))


def test_device_is_no_configuration() -> None:
    with pytest.raises(UsageError, match="is not a regular file"):
        load_configuration(("/dev/zero",))
