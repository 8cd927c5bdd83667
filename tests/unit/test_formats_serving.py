"""Layouts of serving systems: TensorFlow-Serving, TorchServe, Triton."""

import io
import json
import zipfile

import pytest

from fusemount.catalog import Catalog, Format, Framework
from tests.unit.fake_tree import (
    Content,
    FakeTree,
    Sized,
    found,
    paths,
    torch_zip,
)

SAVED_MODEL: dict[str, Content] = {
    "net/7/saved_model.pb": b"\x08\x01" * 50,
    "net/7/fingerprint.pb": b"f" * 10,
    "net/7/variables/variables.data-00001-of-00002": Sized(300),
    "net/7/variables/variables.data-00000-of-00002": Sized(200),
    "net/7/variables/variables.index": b"i" * 30,
    "net/7/assets/vocab.txt": b"v" * 5,
}


def test_savedmodel_version_is_found_from_its_name_folder() -> None:
    model = found(SAVED_MODEL, "net")["net/7"]
    assert (model.version, model.framework, model.format) == (
        "7",
        Framework.TENSORFLOW,
        Format.SAVEDMODEL,
    )
    assert paths(model) == [
        "net/7/saved_model.pb",
        "net/7/fingerprint.pb",
        "net/7/variables/variables.index",
        "net/7/variables/variables.data-00000-of-00002",
        "net/7/variables/variables.data-00001-of-00002",
        "net/7/assets/vocab.txt",
    ]
    assert model.size_bytes == 100 + 10 + 30 + 200 + 300 + 5


def test_savedmodel_is_the_same_from_its_own_folder() -> None:
    assert found(SAVED_MODEL, "net") == found(SAVED_MODEL, "net/7")


def test_savedmodel_without_number_has_no_version() -> None:
    files: dict[str, Content] = {"net/saved_model.pb": b"\x08\x01"}
    assert found(files, "net")["net"].version == ""


@pytest.mark.parametrize("version", ["1.5", "v2", "\u0661", "-1", "9" * 21])
def test_a_folder_that_is_no_number_is_no_version(version: str) -> None:
    assert found({f"net/{version}/saved_model.pb": b"\x08\x01"}, "net") == {}


def test_versions_beyond_the_limit_are_the_low_ones() -> None:
    files: dict[str, Content] = {f"net/{n}/saved_model.pb": b"\x08\x01" for n in range(1, 12)}
    assert set(found(files, "net")) == {f"net/{n}" for n in range(4, 12)}


def mar(manifest: bytes, padding: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("weights.pt"), b"w" * padding, zipfile.ZIP_STORED)
        archive.writestr("MAR-INF/MANIFEST.json", manifest)
    return buffer.getvalue()


MANIFEST = json.dumps(
    {"model": {"modelName": "m", "serializedFile": "w.pt", "modelVersion": "2.1"}}
).encode()


@pytest.mark.parametrize("padding", [0, 65_000, 65_600, 1_000_000])
def test_archive_has_the_version_of_its_manifest(padding: int) -> None:
    model = found({"store/m.mar": mar(MANIFEST, padding)}, "store")["store/m.mar"]
    assert (model.version, model.framework, model.format) == (
        "2.1",
        Framework.TORCHSERVE,
        Format.MAR,
    )


def test_archive_costs_two_reads() -> None:
    tree = FakeTree({"m.mar": mar(MANIFEST, 1_000_000)})
    Catalog(tree).visit("")
    assert tree.requests["read"] <= 2


def test_unpacked_model_folder() -> None:
    files: dict[str, Content] = {
        "m/MAR-INF/MANIFEST.json": MANIFEST,
        "m/w.pt": torch_zip(),
        "m/handler.py": b"code",
        "m/extra/index_to_name.json": b"{}",
    }
    models = found(files, "m")
    assert list(models) == ["m"]
    assert models["m"].version == "2.1"
    assert models["m"].format is Format.TORCH
    assert paths(models["m"]) == [
        "m/MAR-INF/MANIFEST.json",
        "m/extra/index_to_name.json",
        "m/handler.py",
        "m/w.pt",
    ]


TRITON: dict[str, Content] = {
    "net/config.pbtxt": b'name: "net"\nplatform: "onnxruntime_onnx"\n',
    "net/1/model.onnx": b"old",
    "net/2/model.onnx": b"\x08",
    "net/2/model.onnx.data": Sized(50),
    "net/labels.txt": b"cat",
}


def test_triton_versions() -> None:
    models = found(TRITON, "net")
    assert set(models) == {"net/1", "net/2"}
    model = models["net/2"]
    assert (model.framework, model.format, model.version) == (Framework.TRITON, Format.ONNX, "2")
    assert paths(model) == ["net/config.pbtxt", "net/2/model.onnx", "net/2/model.onnx.data"]
    assert paths(models["net/1"]) == ["net/1/model.onnx"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.plan", Format.TENSORRT),
        ("model.savedmodel/saved_model.pb", Format.SAVEDMODEL),
        ("model.graphdef", Format.GRAPHDEF),
        ("model.pt", Format.TORCH),
        ("model.xml", Format.OPENVINO),
        ("model.py", Format.PYTHON),
        ("model.strange", Format.UNKNOWN),
    ],
)
def test_triton_formats(name: str, expected: Format) -> None:
    files: dict[str, Content] = {"n/config.pbtxt": b"", f"n/1/{name}": b"x"}
    assert found(files, "n")["n/1"].format is expected


def test_triton_ensemble_has_its_configuration_only() -> None:
    files: dict[str, Content] = {"e/config.pbtxt": b'platform: "ensemble"\n', "e/1/": b""}
    model = found(files, "e")["e/1"]
    assert model.format is Format.ENSEMBLE
    assert paths(model) == ["e/config.pbtxt"]


def test_triton_savedmodels_are_tritons_also_beyond_the_versions_looked_at() -> None:
    files: dict[str, Content] = {
        f"n/{v}/model.savedmodel/saved_model.pb": b"\x08" for v in range(1, 12)
    }
    files["n/config.pbtxt"] = b""
    assert {model.framework for model in found(files, "n").values()} == {Framework.TRITON}
