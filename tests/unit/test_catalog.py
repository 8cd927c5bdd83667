"""The catalogue over time: what visits cost, what changes, what disappears."""

import errno

import pytest

from fusemount import catalog as catalog_module
from fusemount.catalog import Catalog
from tests.unit.fake_tree import SAFETENSORS, FakeTree, Sized


def ids(models: list[catalog_module.Model]) -> list[str]:
    return [model.model_id for model in models]


def test_a_directory_whose_time_stands_still_is_not_listed_again() -> None:
    tree = FakeTree({"m/a.gguf": Sized(9, b"GGUF")})
    catalog = Catalog(tree)
    mtime_ns = tree.mtime_ns("m")
    assert ids(catalog.visit("m", mtime_ns=mtime_ns)) == ["m/a.gguf"]
    tree.requests.clear()
    assert catalog.visit("m", mtime_ns=mtime_ns) == []
    assert tree.requests.total() == 0


def test_a_directory_whose_time_moved_is_listed_again() -> None:
    tree = FakeTree({"m/a.gguf": Sized(9, b"GGUF")})
    catalog = Catalog(tree)
    catalog.visit("m", mtime_ns=tree.mtime_ns("m"))
    tree.put("m/b.gguf", Sized(9, b"GGUF"))
    assert ids(catalog.visit("m", mtime_ns=tree.mtime_ns("m"))) == ["m/b.gguf"]


def test_entries_at_hand_save_the_listing() -> None:
    tree = FakeTree({"m/config.json": b"{}", "m/model.safetensors": SAFETENSORS})
    entries = tree.scan("m")
    tree.requests.clear()
    catalog = Catalog(tree)
    assert ids(catalog.visit("m", entries)) == ["m"]
    assert tree.requests.total() == 0


def test_the_same_entries_again_cost_nothing() -> None:
    tree = FakeTree({"n/1/saved_model.pb": b"\x08", "n/2/saved_model.pb": b"\x08"})
    catalog = Catalog(tree)
    entries = tree.scan("n")
    catalog.visit("n", entries)
    tree.requests.clear()
    assert catalog.visit("n", list(reversed(entries))) == []
    assert tree.requests.total() == 0


def test_a_new_version_costs_its_own_listing_only() -> None:
    tree = FakeTree({f"n/{v}/saved_model.pb": b"\x08" for v in range(1, 6)})
    catalog = Catalog(tree)
    catalog.visit("n")
    tree.put("n/6/saved_model.pb", b"\x08")
    entries = tree.scan("n")
    tree.requests.clear()
    assert ids(catalog.visit("n", entries)) == ["n/6"]
    assert tree.requests == {"scan": 1}


def test_a_file_that_grew_is_seen_when_asked_again() -> None:
    tree = FakeTree({"n/1/saved_model.pb": b"\x08", "n/1/variables/variables.data-x": Sized(5)})
    catalog = Catalog(tree)
    catalog.visit("n")
    tree.put("n/1/variables/variables.data-x", Sized(50))
    assert catalog.visit("n", mtime_ns=tree.mtime_ns("n")) == []
    (model,) = catalog.look_again("n/1")
    assert model.size_bytes == 51
    assert catalog.models["n/1"] == model


def test_looking_again_at_nothing_known_finds_nothing() -> None:
    assert Catalog(FakeTree()).look_again("absent") == []


def test_a_changed_model_is_reported_once() -> None:
    tree = FakeTree({"a.gguf": Sized(9, b"GGUF")})
    catalog = Catalog(tree)
    catalog.visit("")
    tree.put("a.gguf", Sized(10, b"GGUF"))
    assert [model.size_bytes for model in catalog.visit("")] == [10]
    assert catalog.visit("") == []
    assert catalog.take_removed() == []


def test_a_removed_file_removes_its_model() -> None:
    tree = FakeTree({"a.gguf": Sized(9, b"GGUF"), "b.gguf": Sized(9, b"GGUF")})
    catalog = Catalog(tree)
    catalog.visit("")
    tree.remove("a.gguf")
    assert catalog.visit("") == []
    assert catalog.take_removed() == ["a.gguf"]
    assert catalog.take_removed() == []
    assert list(catalog.models) == ["b.gguf"]
    assert catalog.model_of("a.gguf") is None


def test_a_removed_version_removes_its_model() -> None:
    tree = FakeTree({"n/1/saved_model.pb": b"\x08", "n/2/saved_model.pb": b"\x08"})
    catalog = Catalog(tree)
    catalog.visit("n")
    tree.remove("n/1")
    catalog.visit("n")
    assert catalog.take_removed() == ["n/1"]


def test_an_older_version_stays_when_newer_ones_push_it_out_of_sight() -> None:
    tree = FakeTree({f"n/{v}/saved_model.pb": b"\x08" for v in range(1, 9)})
    catalog = Catalog(tree)
    catalog.visit("n")
    tree.put("n/9/saved_model.pb", b"\x08")
    assert ids(catalog.visit("n")) == ["n/9"]
    assert set(catalog.models) == {f"n/{v}" for v in range(1, 10)}


def test_a_version_that_is_no_model_any_more_is_removed_from_above() -> None:
    tree = FakeTree({"n/1/saved_model.pb": b"\x08", "n/1/x": b""})
    catalog = Catalog(tree)
    catalog.visit("n")
    tree.remove("n/1/saved_model.pb")
    catalog.visit("n")
    assert catalog.take_removed() == ["n/1"]


def test_looking_at_a_version_from_above_keeps_what_was_found_inside() -> None:
    tree = FakeTree({"n/1/net.onnx": b"\x08"})
    catalog = Catalog(tree)
    catalog.visit("n/1")
    assert catalog.visit("n") == []
    assert list(catalog.models) == ["n/1/net.onnx"]


def test_a_vanished_directory_takes_its_models_with_it() -> None:
    tree = FakeTree({"a/b/x.gguf": Sized(9, b"GGUF"), "a/bb/y.gguf": Sized(9, b"GGUF")})
    catalog = Catalog(tree)
    for directory in ("a", "a/b", "a/bb"):
        catalog.visit(directory)
    tree.remove("a/b")
    catalog.visit("a")
    assert catalog.take_removed() == ["a/b/x.gguf"]


def test_visiting_what_is_gone_removes_it() -> None:
    tree = FakeTree({"a/x.gguf": Sized(9, b"GGUF")})
    catalog = Catalog(tree)
    catalog.visit("a")
    tree.remove("a")
    assert catalog.visit("a") == []
    assert catalog.take_removed() == ["a/x.gguf"]


@pytest.mark.parametrize("failure", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_visiting_what_cannot_be_listed_keeps_it(failure: int) -> None:
    tree = FakeTree({"a/x.gguf": Sized(9, b"GGUF")})
    catalog = Catalog(tree)
    catalog.visit("a")
    tree.failing["a"] = failure
    assert catalog.visit("a") == []
    assert list(catalog.models) == ["a/x.gguf"]
    assert catalog.problems[0].path == "a"


def test_a_failure_is_tried_again_a_few_times() -> None:
    tree = FakeTree({"n/1/saved_model.pb": b"\x08", "n/2/saved_model.pb": b"\x08"})
    catalog = Catalog(tree)
    entries = tree.scan("n")
    tree.failing["n/2"] = errno.EIO
    catalog.visit("n", entries)
    del tree.failing["n/2"]
    assert ids(catalog.visit("n", entries)) == ["n/2"]
    tree.requests.clear()
    catalog.visit("n", entries)
    assert tree.requests.total() == 0


def test_a_lasting_failure_is_not_tried_for_ever() -> None:
    tree = FakeTree({"n/1/saved_model.pb": b"\x08"})
    catalog = Catalog(tree)
    entries = tree.scan("n")
    tree.failing["n/1"] = errno.EIO
    tree.requests.clear()
    for _ in range(20):
        catalog.visit("n", entries)
    assert tree.requests == {"scan": 3}


def test_a_failure_keeps_what_was_known() -> None:
    tree = FakeTree({"n/1/saved_model.pb": b"\x08", "n/2/saved_model.pb": b"\x08"})
    catalog = Catalog(tree)
    catalog.visit("n")
    tree.failing["n/1"] = errno.EIO
    catalog.visit("n", again=True)
    assert set(catalog.models) == {"n/1", "n/2"}


def test_problems_are_bounded() -> None:
    catalog = Catalog(FakeTree())
    for n in range(200):
        catalog.visit(f"absent{n}")
    assert [problem.path for problem in catalog.problems] == [f"absent{n}" for n in range(136, 200)]


def test_models_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "MODEL_LIMIT", 3)
    catalog = Catalog(FakeTree({f"{n}.gguf": Sized(9, b"GGUF") for n in range(4)}))
    assert len(catalog.visit("")) == 3
    assert "not registered" in catalog.problems[-1].reason
