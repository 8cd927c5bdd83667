"""Weights as the Hugging Face hub, llama.cpp and PyTorch lay them out."""

import io
import json
import zipfile

import pytest

from fusemount.catalog import Catalog, FileRole, Format, Framework
from tests.unit.fake_tree import (
    SAFETENSORS,
    Content,
    FakeTree,
    Link,
    Other,
    Sized,
    found,
    paths,
    torch_zip,
)


def sharded(parts: int, suffix: str = "safetensors", stem: str = "model") -> dict[str, Content]:
    files: dict[str, Content] = {
        f"m/{stem}-{n:05}-of-{parts:05}.{suffix}": Sized(1000 + n) for n in range(1, parts + 1)
    }
    return files


def index(*names: str) -> bytes:
    return json.dumps({"weight_map": {f"t{n}": name for n, name in enumerate(names)}}).encode()


def test_huggingface_folder_with_index() -> None:
    files = {
        "m/README.md": b"read",
        "m/config.json": b"{}",
        "m/tokenizer.json": b"t" * 9,
        "m/generation_config.json": b"g" * 8,
        "m/model.safetensors.index.json": index("model-00003-of-00003.safetensors"),
        **sharded(3),
    }
    model = found(files, "m")["m"]
    assert model.framework is Framework.HUGGINGFACE
    assert model.format is Format.SAFETENSORS
    assert paths(model) == [
        "m/config.json",
        "m/generation_config.json",
        "m/tokenizer.json",
        "m/model.safetensors.index.json",
        "m/model-00001-of-00003.safetensors",
        "m/model-00002-of-00003.safetensors",
        "m/model-00003-of-00003.safetensors",
    ]
    assert [file.role for file in model.files][-4:] == [FileRole.INDEX] + [FileRole.WEIGHTS] * 3


def test_complete_shards_need_no_request_beyond_the_listing() -> None:
    tree = FakeTree(
        {
            "m/config.json": b"{}",
            "m/model.safetensors.index.json": index("x"),
            **sharded(163),
        }
    )
    (model,) = Catalog(tree).visit("m")
    assert len(model.files) == 165
    assert tree.requests == {"scan": 1}


def test_shards_with_names_of_their_own_come_from_the_index_sorted() -> None:
    files: dict[str, Content] = {
        "m/config.json": b"{}",
        "m/model.safetensors.index.json": index("b.safetensors", "a.safetensors", "gone", "../x"),
        "m/a.safetensors": Sized(1),
        "m/b.safetensors": Sized(2),
        "m/unrelated.safetensors": SAFETENSORS,
    }
    models = found(files, "m")
    assert paths(models["m"])[2:] == ["m/a.safetensors", "m/b.safetensors"]
    assert "m/unrelated.safetensors" in models


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"[]",
        b'{"weight_map": 3}',
        b'{"weight_map": {"a": ["x"]}}',
        b"[" * 100_000,
        b"\xff\xfe",
        Sized(40 * 1024 * 1024),
    ],
)
def test_an_index_that_tells_nothing_leaves_the_names(content: Content) -> None:
    files = {
        "m/config.json": b"{}",
        "m/model.safetensors.index.json": content,
        **sharded(3),
    }
    del files["m/model-00002-of-00003.safetensors"]
    weights = [p for p in paths(found(files, "m")["m"]) if p.endswith(".safetensors")]
    assert weights == ["m/model-00001-of-00003.safetensors", "m/model-00003-of-00003.safetensors"]


def test_huge_index_is_not_read() -> None:
    tree = FakeTree(
        {
            "m/config.json": b"{}",
            "m/model.safetensors.index.json": Sized(40 * 1024 * 1024),
            "m/model-00001-of-00003.safetensors": Sized(10),
        }
    )
    catalog = Catalog(tree)
    catalog.visit("m")
    assert tree.requests["read"] == 0
    assert "index too large" in catalog.problems[0].reason


def test_huggingface_safetensors_win_and_bin_is_a_model_of_its_own() -> None:
    files: dict[str, Content] = {
        "m/config.json": b"{}",
        "m/model.safetensors": SAFETENSORS,
        "m/pytorch_model.bin": torch_zip(),
    }
    models = found(files, "m")
    assert paths(models["m"]) == ["m/config.json", "m/model.safetensors"]
    assert models["m/pytorch_model.bin"].framework is Framework.PYTORCH


def test_huggingface_torch_shards() -> None:
    files = {
        "m/config.json": b"{}",
        "m/pytorch_model.bin.index.json": index("x"),
        **sharded(2, "bin", "pytorch_model"),
    }
    model = found(files, "m")["m"]
    assert model.format is Format.TORCH
    assert len(model.files) == 4


def test_config_without_weights_is_no_model() -> None:
    assert found({"m/config.json": b"{}", "m/app.bin": Sized(10)}, "m") == {}


HUB: dict[str, Content] = {
    "hub/models--org--net/refs/main": b"rev2",
    "hub/models--org--net/blobs/aaa": b"{}",
    "hub/models--org--net/blobs/bbb": SAFETENSORS,
    "hub/models--org--net/blobs/ccc": SAFETENSORS + b"\0",
    "hub/models--org--net/snapshots/rev1/config.json": Link("../../blobs/aaa"),
    "hub/models--org--net/snapshots/rev1/model.safetensors": Link("../../blobs/bbb"),
    "hub/models--org--net/snapshots/rev2/config.json": Link("../../blobs/aaa"),
    "hub/models--org--net/snapshots/rev2/model.safetensors": Link("../../blobs/ccc"),
}
CACHE = "hub/models--org--net"


def test_hub_revisions_are_versions_and_files_are_blobs() -> None:
    models = found(HUB, CACHE)
    model = models[f"{CACHE}/snapshots/rev2"]
    assert model.version == "rev2"
    assert paths(model) == [f"{CACHE}/blobs/aaa", f"{CACHE}/blobs/ccc"]
    assert model.size_bytes == 2 + len(SAFETENSORS) + 1
    assert models[f"{CACHE}/snapshots/rev1"].version == "rev1"


def test_a_shared_blob_belongs_to_the_current_revision() -> None:
    catalog = Catalog(FakeTree(HUB))
    catalog.visit(CACHE)
    owner = catalog.model_of(f"{CACHE}/blobs/aaa")
    assert owner is not None and owner.version == "rev2"


@pytest.mark.parametrize("below", ["blobs", "snapshots"])
def test_hub_is_found_from_its_blobs(below: str) -> None:
    assert found(HUB, f"{CACHE}/{below}") == found(HUB, CACHE)


def test_hub_is_found_from_a_snapshot() -> None:
    snapshot = f"{CACHE}/snapshots/rev1"
    assert found(HUB, snapshot) == {snapshot: found(HUB, CACHE)[snapshot]}


def test_gguf_in_a_hub_snapshot() -> None:
    files: dict[str, Content] = {
        "models--o--g/blobs/a": Sized(100, b"GGUF"),
        "models--o--g/snapshots/r/q/x-Q4.gguf": Link("../../../blobs/a"),
    }
    model = found(files, "models--o--g/snapshots/r/q")["models--o--g/snapshots/r/q/x-Q4.gguf"]
    assert (model.format, model.version, paths(model)) == (
        Format.GGUF,
        "r",
        ["models--o--g/blobs/a"],
    )


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize(
    "content",
    [
        torch_zip(),
        torch_zip("archive/code/x.py"),
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.rest",
    ],
)
def test_torch_checkpoints(suffix: str, content: bytes) -> None:
    model = found({f"net{suffix}": content})[f"net{suffix}"]
    assert (model.framework, model.format, model.version) == (Framework.PYTORCH, Format.TORCH, "")


def test_python_path_file_is_no_checkpoint() -> None:
    assert found({"site.pth": b"import sys\n"}) == {}


@pytest.mark.parametrize("name", ["weights", "weights.xyz", "model.bin", "model.zip"])
def test_a_zip_with_a_pickle_is_a_checkpoint_whatever_its_name(name: str) -> None:
    head = torch_zip()
    assert found({name: Sized(2 << 20, head)})[name].format is Format.TORCH


def test_a_zip_with_its_pickle_further_back_is_found_by_its_directory() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data/0", b"\0" * (1 << 20))
        archive.writestr("x/data.pkl", b"p")
    assert found({"weights": buffer.getvalue()})["weights"].format is Format.TORCH


def test_a_zip_without_a_pickle_is_nothing() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data/0", b"\0" * (1 << 20))
    assert found({"weights": buffer.getvalue()}) == {}


def test_content_comes_before_name() -> None:
    files: dict[str, Content] = {"a.pt": Sized(99, b"GGUF"), "b.bin": Sized(2 << 20, SAFETENSORS)}
    models = found(files)
    assert models["a.pt"].format is Format.GGUF
    assert models["b.bin"].format is Format.SAFETENSORS


def test_split_gguf_is_one_model() -> None:
    files: dict[str, Content] = {
        f"q/big-{n:05}-of-00003.gguf": Sized(10 * n, b"GGUF") for n in (2, 3, 1)
    }
    files["q/other.gguf"] = Sized(7, b"GGUF")
    models = found(files, "q")
    assert set(models) == {"q/big-00001-of-00003.gguf", "q/other.gguf"}
    model = models["q/big-00001-of-00003.gguf"]
    assert paths(model) == [f"q/big-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
    assert model.size_bytes == 60


def test_parts_of_different_splits_do_not_mix() -> None:
    files: dict[str, Content] = {
        f"big-00001-of-{parts:05}.gguf": Sized(10, b"GGUF") for parts in (1, 2, 3)
    }
    assert len(found(files)) == 3


def test_others_are_no_models() -> None:
    files: dict[str, Content] = {"a.pt": Other(), "config.json": Other(), "x.gguf": Other()}
    assert found(files) == {}


def test_the_root_may_be_a_model() -> None:
    models = found({"config.json": b"{}", "model.safetensors": SAFETENSORS})
    assert models["."].path == ""
