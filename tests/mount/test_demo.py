"""`fusemount demo` with the smallest sample: its figures, its cache, its ends."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import fusemount.demo
from fusemount.demo import run_demo
from fusemount.errors import MountError
from fusemount.mountinfo import read_mounts
from fusemount.sample import LEAST_SIZE_MB
from fusemount.sample_loading import SAMPLE_MODELS
from tests.mount.commands import assert_refused, run_fusemount
from tests.mount.harness import FUSEMOUNT
from tests.mount.slow_places import wait_for

_SMALL = f"--size-mb={LEAST_SIZE_MB}"


def _mounts_below(path: Path) -> list[bytes]:
    inside = os.fsencode(path.resolve()) + b"/"
    return [mount.mountpoint for mount in read_mounts() if mount.mountpoint.startswith(inside)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def document(place: Path) -> dict[str, Any]:
    """What a run says that kept its sample in `place`/cache; it left nothing else behind."""
    temporary = place / "temporary"
    temporary.mkdir()
    environment = {"XDG_CACHE_HOME": str(place / "cache"), "TMPDIR": str(temporary)}
    answer = run_fusemount("demo", _SMALL, "--json", environment=environment)
    assert answer.returncode == 0, answer.stderr
    assert list(temporary.iterdir()) == []
    said: dict[str, Any] = json.loads(answer.stdout)
    return said


@pytest.fixture
def sample(document: dict[str, Any]) -> str:
    return str(document["sample"]["directory"])


def test_every_model_is_loaded_from_slow_storage(document: dict[str, Any]) -> None:
    assert [model["model"] for model in document["models"]] == [m.name for m in SAMPLE_MODELS]
    assert document["pace"] == {"latency_ms": 10.0, "stream_mbps": 60.0, "total_mbps": 800.0}
    for model in document["models"]:
        assert model["direct"]["source_bytes"] >= model["loaded_bytes"]
        assert model["direct"]["seconds"] > 0


def test_a_cold_load_is_cold_and_the_next_one_is_not(document: dict[str, Any]) -> None:
    for model in document["models"]:
        assert model["cold"]["source_bytes"] >= model["loaded_bytes"]
        assert 0 <= model["cold"]["hit_ratio"] <= 1
        # A small file may be looked at again; the weights are not.
        assert model["again"]["source_bytes"] < model["loaded_bytes"] // 100
        assert model["again"]["hit_ratio"] > 0.99


def test_the_bytes_are_those_of_the_sample(document: dict[str, Any], sample: str) -> None:
    by_name = {model["model"]: model for model in document["models"]}
    for model in SAMPLE_MODELS:
        loaded = model.load(os.path.join(sample, model.path))
        assert by_name[model.name]["checksum"] == f"{loaded.checksum:08x}"
        assert by_name[model.name]["loaded_bytes"] == loaded.size_bytes


def test_what_was_applied_is_told_with_reasons(document: dict[str, Any]) -> None:
    for model in document["models"]:
        applied = model["recommendation"]
        assert applied["path"].startswith(model["path"] + "/")
        assert applied["first_window_bytes"] > 0
        assert applied["cache_strategy"]
        assert applied["reasons"]


def test_the_sample_is_kept_in_the_cache_directory(sample: str, place: Path) -> None:
    assert sample == str(place / "cache" / "fusemount" / f"sample-{LEAST_SIZE_MB}MB")


def test_the_sample_is_used_again_and_a_table_shown(sample: str) -> None:
    model_file = os.path.join(sample, "classifier", "classifier.onnx.data")
    before = os.stat(model_file).st_mtime_ns
    answer = run_fusemount("demo", _SMALL, "--directory", sample)
    assert answer.returncode == 0, answer.stderr
    assert os.stat(model_file).st_mtime_ns == before
    for model in SAMPLE_MODELS:
        assert model.name in answer.stdout
    assert "checksums are equal" in answer.stdout
    assert "Traceback" not in answer.stderr


def test_other_bytes_through_the_mount_are_an_error(
    sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = iter(["0000000a", "0000000a", "0000000b"])

    def load(_model: str, folder: str) -> dict[str, Any]:
        os.listdir(folder)
        return {"seconds": 1.0, "loaded_bytes": 1, "checksum": next(loads)}

    monkeypatch.setattr(fusemount.demo, "run_loader", load)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(MountError, match="again: checksum 0000000b, direct 0000000a"):
        run_demo(sample, LEAST_SIZE_MB)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_model_is_one_line_and_exit_code_1(sample: str, tmp_path: Path) -> None:
    # As long as it was, so that it is taken for the sample that was made.
    path = os.path.join(sample, "text-model", "config.json")
    with open(path, "r+b") as file:
        content = file.read()
        file.seek(0)
        file.write(b"?" * len(content))
    try:
        answer = run_fusemount(
            "demo", _SMALL, "--directory", sample, environment={"TMPDIR": str(tmp_path)}
        )
    finally:
        with open(path, "wb") as file:
            file.write(content)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].startswith("fusemount: ")
    assert "Traceback" not in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_size_out_of_bounds_is_refused(tmp_path: Path) -> None:
    answer = run_fusemount("demo", "--size-mb=1", "--directory", tmp_path / "sample")
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[-1].startswith("fusemount: sample size 1 MB")


def test_a_directory_of_somebody_s_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    answer = run_fusemount("demo", _SMALL, "--directory", tmp_path)
    assert answer.returncode == 2
    assert "not empty and no sample" in answer.stderr.splitlines()[-1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_a_planted_link_in_the_temporary_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"fusemount-sample-{os.geteuid()}").symlink_to("elsewhere")
    environment = {"TMPDIR": str(tmp_path), "XDG_CACHE_HOME": ""}
    answer = run_fusemount("demo", _SMALL, environment=environment)
    assert_refused(answer, "fusemount-sample", "not a directory of this user")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_ctrl_c_leaves_nothing(sample: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*FUSEMOUNT, "demo", _SMALL, "--directory", sample],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        wait_for(lambda: len(_mounts_below(tmp_path)) == 2, "source and mount")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    assert _mounts_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
