"""Who owns a file that two layouts or folders claim, and what the top of a tree shows."""

import errno

import pytest

from fusemount import catalog as catalog_module
from fusemount.catalog import Catalog, Framework
from tests.unit.fake_tree import SAFETENSORS, Content, FakeTree, Link, Sized, torch_zip


def ids(models: list[catalog_module.Model]) -> list[str]:
    return [model.model_id for model in models]


TRITON: dict[str, Content] = {"n/config.pbtxt": b"", "n/1/model.onnx": b"\x08"}


def test_triton_takes_over_what_was_found_as_plain_onnx() -> None:
    catalog = Catalog(FakeTree(TRITON))
    assert ids(catalog.visit("n/1")) == ["n/1/model.onnx"]
    assert ids(catalog.visit("n")) == ["n/1"]
    assert catalog.take_removed() == ["n/1/model.onnx"]
    owner = catalog.model_of("n/1/model.onnx")
    assert owner is not None and owner.framework is Framework.TRITON


def test_plain_onnx_does_not_take_from_triton() -> None:
    catalog = Catalog(FakeTree(TRITON))
    catalog.visit("n")
    assert catalog.visit("n/1") == []
    assert list(catalog.models) == ["n/1"]


def test_the_configuration_moves_to_the_newest_triton_version() -> None:
    tree = FakeTree(TRITON)
    catalog = Catalog(tree)
    catalog.visit("n")
    tree.put("n/2/model.onnx", b"\x08")
    assert set(ids(catalog.visit("n"))) == {"n/1", "n/2"}
    owner = catalog.model_of("n/config.pbtxt")
    assert owner is not None and owner.version == "2"


def test_a_first_part_that_arrives_late_takes_the_split_over() -> None:
    tree = FakeTree({"x-00002-of-00002.gguf": Sized(9, b"GGUF")})
    catalog = Catalog(tree)
    catalog.visit("")
    tree.put("x-00001-of-00002.gguf", Sized(9, b"GGUF"))
    assert ids(catalog.visit("")) == ["x-00001-of-00002.gguf"]
    assert catalog.take_removed() == ["x-00002-of-00002.gguf"]
    owner = catalog.model_of("x-00002-of-00002.gguf")
    assert owner is not None and len(owner.files) == 2


def test_a_folder_of_links_does_not_take_the_files_it_links_to() -> None:
    tree = FakeTree(
        {
            "real/config.json": b"{}",
            "real/model.safetensors": SAFETENSORS,
            "alias/config.json": Link("../real/config.json"),
            "alias/model.safetensors": Link("../real/model.safetensors"),
        }
    )
    catalog = Catalog(tree)
    assert ids(catalog.visit("alias")) == ["alias"]
    owner = catalog.model_of("real/model.safetensors")
    assert owner is not None and owner.model_id == "alias"
    assert ids(catalog.visit("real")) == ["real"]
    owner = catalog.model_of("real/model.safetensors")
    assert owner is not None and owner.model_id == "real"
    tree.remove("real")
    catalog.visit("real")
    assert catalog.model_of("real/model.safetensors") is catalog.models["alias"]


def test_removing_a_revision_gives_its_blobs_to_the_other() -> None:
    base = "models--o--n"
    tree = FakeTree({f"{base}/blobs/a": b"{}", f"{base}/blobs/b": SAFETENSORS})
    for revision in ("r1", "r2"):
        tree.put(f"{base}/snapshots/{revision}/config.json", Link("../../blobs/a"))
        tree.put(f"{base}/snapshots/{revision}/model.safetensors", Link("../../blobs/b"))
    catalog = Catalog(tree)
    catalog.visit(base)
    before = catalog.model_of(f"{base}/blobs/b")
    assert before is not None
    tree.remove(before.path)
    catalog.visit(base, again=True)
    after = catalog.model_of(f"{base}/blobs/b")
    assert after is not None and after.version != before.version


TOP: dict[str, Content] = {
    "a.gguf": Sized(9, b"GGUF"),
    "net/1/saved_model.pb": b"\x08",
    "net/1/variables/variables.index": b"i",
    "org/name/config.json": b"{}",
    "org/name/model.safetensors": SAFETENSORS,
    "deep/er/still/x.pt": torch_zip(),
    ".cache/y.pt": torch_zip(),
}


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (0, {"a.gguf"}),
        (1, {"a.gguf", "net/1"}),
        (2, {"a.gguf", "net/1", "org/name"}),
        (3, {"a.gguf", "net/1", "org/name", "deep/er/still/x.pt"}),
    ],
)
def test_the_top_levels(levels: int, expected: set[str]) -> None:
    catalog = Catalog(FakeTree(TOP))
    found = [model.model_id for models in catalog.visit_top(levels) for model in models]
    assert set(found) == expected == set(catalog.models)
    assert len(found) == len(expected)


def test_the_top_is_found_below_what_was_visited_before() -> None:
    tree = FakeTree(TOP)
    catalog = Catalog(tree)
    catalog.visit("org", mtime_ns=tree.mtime_ns("org"))
    assert "org/name" in [model.model_id for models in catalog.visit_top() for model in models]


def test_the_top_visits_a_hub_cache_once() -> None:
    base = "models--o--n"
    tree = FakeTree(
        {
            f"{base}/blobs/a": b"{}",
            f"{base}/blobs/b": SAFETENSORS,
            f"{base}/snapshots/r/config.json": Link("../../blobs/a"),
            f"{base}/snapshots/r/model.safetensors": Link("../../blobs/b"),
        }
    )
    catalog = Catalog(tree)
    assert ids([model for models in catalog.visit_top() for model in models]) == [
        f"{base}/snapshots/r"
    ]
    # The root, the cache, its snapshots, the revision, its blobs.
    assert tree.requests["scan"] == 5


def test_the_top_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "TOP_DIRECTORY_LIMIT", 10)
    tree = FakeTree({f"d{n:03}/x": b"" for n in range(100)})
    catalog = Catalog(tree)
    assert len(list(catalog.visit_top())) == 10
    assert tree.requests["scan"] == 10
    assert "too many directories" in catalog.problems[-1].reason


def test_the_top_of_an_unreadable_tree_is_empty() -> None:
    tree = FakeTree(TOP)
    tree.failing[""] = errno.EIO
    assert list(Catalog(tree).visit_top()) == [[]]
