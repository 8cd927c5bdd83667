"""Whatever the tree holds: nothing is raised, sizes add up, a file has one owner."""

import errno
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fusemount.catalog import Catalog, Model
from fusemount.formats.inspection import LINK_LIMIT, REQUEST_LIMIT
from tests.unit.fake_tree import SAFETENSORS, Content, FakeTree, Link, Other, Sized, torch_zip

# Names that mean something to a family, so that layouts collide; and names that mean nothing.
DIRECTORIES = ["a", "1", "2", "variables", "MAR-INF", "blobs", "snapshots", "models--o--n", "refs"]
NAMES = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "pytorch_model.bin",
    "saved_model.pb",
    "variables.index",
    "MANIFEST.json",
    "config.pbtxt",
    "model.onnx",
    "model.onnx_data",
    "x.mar",
    "x.pt",
    "x-00001-of-00002.gguf",
    "x-00002-of-00002.gguf",
    "main",
    "unknown",
    "new\nline.pt",
    "\udcff.gguf",
]
names = st.sampled_from(NAMES)
directories = st.lists(st.sampled_from(DIRECTORIES), max_size=3).map("/".join)
paths = st.builds(lambda d, n: f"{d}/{n}" if d else n, directories, names)
links = st.builds(
    lambda up, path: Link("../" * up + path), st.integers(0, 3), st.one_of(paths, st.text())
)
contents = st.one_of(
    st.binary(max_size=64),
    st.sampled_from([SAFETENSORS, torch_zip(), b"GGUF", b'{"weight_map": {"a": "x.pt"}}', Other()]),
    st.builds(Sized, st.integers(0, 1 << 50), st.binary(max_size=16)),
    links,
)
trees = st.dictionaries(paths, contents, max_size=14)
failures = st.lists(st.one_of(paths, directories), max_size=3)


def check(catalog: Catalog) -> None:
    owners: Counter[str] = Counter()
    for model_id, model in catalog.models.items():
        assert model.model_id == model_id != ""
        assert model.size_bytes == sum(file.size_bytes for file in model.files)
        assert len({file.path for file in model.files}) == len(model.files) > 0
        for file in model.files:
            assert not file.path.startswith(("/", "../")) and "/../" not in file.path
            owner = catalog.model_of(file.path)
            assert owner is not None and owner.model_id in catalog.models
            assert file.path in {other.path for other in owner.files}
            if not file.by_link:
                owners[file.path] += 1
                assert owner == model
    assert all(count == 1 for count in owners.values())


@given(trees, failures, st.lists(directories, max_size=6))
def test_any_tree(files: dict[str, Content], failing: list[str], visits: list[str]) -> None:
    tree = FakeTree(dict(sorted(files.items(), key=lambda item: -item[0].count("/"))))
    tree.failing = dict.fromkeys(failing, errno.EIO)
    catalog = Catalog(tree)
    for directory in visits:
        tree.requests.clear()
        catalog.visit(directory)
        assert tree.requests["scan"] + tree.requests["read"] <= REQUEST_LIMIT + 1
        assert tree.requests["readlink"] <= LINK_LIMIT
        check(catalog)
    for _ in catalog.visit_top(3):
        check(catalog)


@given(trees, st.lists(st.tuples(paths, contents), max_size=6), st.lists(directories, max_size=4))
def test_a_tree_that_changes(
    files: dict[str, Content], changes: list[tuple[str, Content]], visits: list[str]
) -> None:
    tree = FakeTree(files)
    catalog = Catalog(tree)
    known: dict[str, Model] = {}
    for path, content in [*changes, ("a/x.pt", b"")]:
        for directory in ["", *visits]:
            for model in catalog.visit(directory, again=True):
                known[model.model_id] = model
            for model_id in catalog.take_removed():
                del known[model_id]
        check(catalog)
        # What was reported is what is known.
        assert known == dict(catalog.models)
        tree.put(path, content)
