"""Wrong and hostile content: nothing is raised, nothing outside of the tree is named."""

import errno
import zipfile

import pytest

from fusemount.catalog import Catalog, EntryKind, TreeEntry
from fusemount.formats import archive
from fusemount.formats.candidates import MODELS_IN_FOLDER
from fusemount.formats.entries import follow
from fusemount.formats.folder import File
from fusemount.formats.inspection import LINK_LIMIT, REQUEST_LIMIT, Inspection, Memory
from fusemount.formats.onnx import external_locations
from fusemount.formats.signature import Signature, identify
from tests.unit.fake_tree import SAFETENSORS, Content, FakeTree, Link, Sized, torch_zip

SNAPSHOT = "models--o--n/snapshots/r"


@pytest.mark.parametrize(
    "target",
    [
        "../../blobs/absent",
        "/etc/passwd",
        "../../../../outside",
        "model.safetensors",
        "../r/model.safetensors",
        "",
        "../../blobs",
        "../../blobs/x/../a",
        "../../blobs/a\0b",
    ],
)
def test_a_link_that_leads_nowhere_is_left_out(target: str) -> None:
    files: dict[str, Content] = {
        "models--o--n/blobs/a": b"{}",
        f"{SNAPSHOT}/config.json": Link("../../blobs/a"),
        f"{SNAPSHOT}/model.safetensors": Link(target),
    }
    assert Catalog(FakeTree(files)).visit(SNAPSHOT) == []


def test_a_circle_of_links_ends() -> None:
    files: dict[str, Content] = {
        "m/config.json": Link("b.json"),
        "m/b.json": Link("config.json"),
        "m/model.safetensors": SAFETENSORS,
    }
    catalog = Catalog(FakeTree(files))
    assert [model.path for model in catalog.visit("m")] == ["m/model.safetensors"]


def test_a_chain_of_links_is_followed() -> None:
    files: dict[str, Content] = {
        "m/config.json": Link("latest.json"),
        "m/latest.json": Link("../store/v3.json"),
        "store/v3.json": b"{}",
        "m/model.safetensors": SAFETENSORS,
    }
    (model,) = Catalog(FakeTree(files)).visit("m")
    assert [(file.path, file.by_link) for file in model.files] == [
        ("store/v3.json", True),
        ("m/model.safetensors", False),
    ]


@pytest.mark.parametrize(
    ("directory", "target", "expected"),
    [
        ("a/b", "c", "a/b/c"),
        ("a/b", "../c", "a/c"),
        ("a/b", "../../c", "c"),
        ("a/b", "../../../c", None),
        ("", "../c", None),
        ("a", "..", None),
        ("a", "./b//c", "a/b/c"),
        ("a", "b/../c", None),
    ],
)
def test_follow(directory: str, target: str, expected: str | None) -> None:
    assert follow(directory, target) == expected


def test_names_may_hold_anything() -> None:
    names = [
        "new\nline.gguf",
        "\udcff\udcfe.gguf",
        "x" * 250 + ".gguf",
        " .gguf",
        "a-00001-of-1.gguf",
    ]
    tree = FakeTree({name: Sized(10, b"GGUF") for name in names})
    assert {model.path for model in Catalog(tree).visit("")} == set(names)


def test_an_unreadable_directory_is_a_problem_and_the_rest_is_found() -> None:
    tree = FakeTree({"n/1/saved_model.pb": b"\x08", "n/2/saved_model.pb": b"\x08"})
    tree.failing["n/2"] = errno.EACCES
    catalog = Catalog(tree)
    assert [model.path for model in catalog.visit("n")] == ["n/1"]
    assert [problem.path for problem in catalog.problems] == ["n/2"]


def test_an_unreadable_file_is_known_by_its_name() -> None:
    tree = FakeTree({"a.pt": torch_zip()})
    tree.failing["a.pt"] = errno.EIO
    catalog = Catalog(tree)
    assert [model.path for model in catalog.visit("")] == ["a.pt"]
    assert catalog.problems[0].path == "a.pt"


def test_a_hundred_thousand_plain_files_cost_nothing() -> None:
    tree = FakeTree()
    entries = [TreeEntry(f"{n}.jpg", EntryKind.FILE, 2 << 20, n) for n in range(100_000)]
    assert Catalog(tree).visit("images", entries) == []
    assert tree.requests.total() == 0


def test_a_farm_of_links_costs_nothing() -> None:
    tree = FakeTree()
    entries = [TreeEntry(f"{n}.pt", EntryKind.LINK, 20, n) for n in range(100_000)]
    assert Catalog(tree).visit("farm", entries) == []
    assert tree.requests.total() == 0


def test_large_files_of_unknown_kind_cost_a_few_reads() -> None:
    tree = FakeTree({f"{n}.odd": Sized(2 << 20) for n in range(1000)})
    assert Catalog(tree).visit("") == []
    assert tree.requests["read"] <= 8


@pytest.mark.parametrize("over", [0, 1])
def test_many_checkpoints_in_one_folder_are_data(over: int) -> None:
    count = MODELS_IN_FOLDER + over
    tree = FakeTree({f"{n}.pt": torch_zip() for n in range(count)})
    catalog = Catalog(tree)
    assert len(catalog.visit("")) == (0 if over else count)
    assert bool(catalog.problems) == bool(over)


def test_a_visit_has_a_limit_of_requests() -> None:
    files: dict[str, Content] = {
        f"n/{v}/{a}/{b}/f": b"x" for v in range(9) for a in range(9) for b in range(9)
    }
    files["n/config.pbtxt"] = b""
    tree = FakeTree(files)
    catalog = Catalog(tree)
    catalog.visit("n")
    assert tree.requests["scan"] + tree.requests["read"] == REQUEST_LIMIT
    assert "limit of requests" in catalog.problems[-1].reason


def test_a_visit_has_a_limit_of_links() -> None:
    files: dict[str, Content] = {
        f"{SNAPSHOT}/{n}.json": Link("../../blobs/a") for n in range(LINK_LIMIT + 10)
    }
    tree = FakeTree(files)
    Catalog(tree).visit(SNAPSHOT)
    assert tree.requests["readlink"] == LINK_LIMIT


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"PK\x05\x06" + b"\0" * 18,
        b"PK\x05\x06" + b"\xff" * 18,
        b"x" * 100_000,
        Sized(1 << 45, b"PK\x03\x04"),
    ],
)
def test_a_broken_archive_is_a_model_without_version(content: Content) -> None:
    (model,) = Catalog(FakeTree({"a.mar": content})).visit("")
    assert model.version == ""


@pytest.mark.parametrize(
    "manifest", [b"", b"null", b"[]", b'{"model": 3}', b'{"model": {"modelVersion": []}}', b"{" * 9]
)
def test_a_broken_manifest_gives_no_version(manifest: bytes) -> None:
    tree = FakeTree({"m/MAR-INF/MANIFEST.json": manifest, "m/w.pt": torch_zip()})
    (model,) = Catalog(tree).visit("m")
    assert (model.path, model.version) == ("m", "")


def test_a_zip_bomb_is_read_to_its_limit(tmp_path: object) -> None:
    path = f"{tmp_path}/bomb.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("MAR-INF/MANIFEST.json", b" " * (64 << 20))
    with open(path, "rb") as stream:
        content = stream.read()
    inspection = Inspection(FakeTree({"bomb.mar": content}), Memory())
    read = archive.read_member(
        File("bomb.mar", "bomb.mar", len(content), 1), inspection, "MAR-INF/MANIFEST.json"
    )
    assert read is not None and len(read) == 1 << 20


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x3a",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x08" * 99,
        b"\x2a\x00" * 9,
    ],
)
def test_broken_protobuf_names_nothing(head: bytes) -> None:
    assert external_locations(head) == []


def test_endless_protobuf_ends() -> None:
    assert external_locations(b"\x3a\x00" * (2 << 20)) == []


@pytest.mark.parametrize(
    ("head", "size_bytes", "expected"),
    [
        (b"", 0, Signature.OTHER),
        (b"GGU", 3, Signature.OTHER),
        (b"GGUF", 4, Signature.GGUF),
        ((2).to_bytes(8, "little") + b"{}", 10, Signature.SAFETENSORS),
        ((2).to_bytes(8, "little") + b"{}", 9, Signature.OTHER),
        ((1).to_bytes(8, "little") + b"{}", 10, Signature.OTHER),
        ((100_000_000).to_bytes(8, "little") + b"{", 1 << 40, Signature.SAFETENSORS),
        ((100_000_001).to_bytes(8, "little") + b"{", 1 << 40, Signature.OTHER),
        (b"PK\x03\x04", 4, Signature.ZIP),
        (b"\x80\x04", 2, Signature.PICKLE),
        (b"\x80", 1, Signature.OTHER),
    ],
)
def test_signatures_at_their_bounds(head: bytes, size_bytes: int, expected: Signature) -> None:
    assert identify(head, size_bytes) is expected
