"""The sample is real: its libraries load it, the catalogue finds it, and it is made once."""

import builtins
import os
import sys
from collections.abc import Iterator

import pytest

from fusemount.catalog import Catalog, EntryKind, Format, TreeEntry
from fusemount.errors import UsageError
from fusemount.sample import LEAST_SIZE_MB, MOST_SIZE_MB, Sample, make_sample
from fusemount.sample_loading import SAMPLE_MODELS, SampleModel

by_name = pytest.mark.parametrize("model", SAMPLE_MODELS, ids=lambda model: model.name)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(str(tmp_path_factory.mktemp("sample") / "models"), LEAST_SIZE_MB)


@pytest.fixture
def flipped(sample: Sample) -> Iterator[list[str]]:
    """Files put into it get their middle byte changed back at the end."""
    paths: list[str] = []
    yield paths
    for path in paths:
        flip(path)


def flip(path: str) -> None:
    with open(path, "r+b") as stream:
        stream.seek(os.path.getsize(path) // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))


def largest(sample: Sample, model: SampleModel) -> str:
    files = {path: size for path, size in sample.files.items() if path.startswith(model.path)}
    return os.path.join(sample.directory, max(files, key=lambda path: files[path]))


def test_the_size_is_about_what_was_asked_for(sample: Sample) -> None:
    assert 0.9 < sample.size_bytes / (LEAST_SIZE_MB * 1e6) < 1.1


@by_name
def test_a_load_touches_every_byte_of_the_weights(sample: Sample, model: SampleModel) -> None:
    loaded = model.load(os.path.join(sample.directory, model.path))
    on_disk = sum(size for path, size in sample.files.items() if path.startswith(model.path))
    # Beside the tensors there are headers, indices and configuration.
    assert on_disk - 20_000 <= loaded.size_bytes <= on_disk


@by_name
def test_two_loads_agree(sample: Sample, model: SampleModel) -> None:
    folder = os.path.join(sample.directory, model.path)
    assert model.load(folder) == model.load(folder)


@by_name
def test_one_changed_byte_changes_the_checksum(
    sample: Sample, model: SampleModel, flipped: list[str]
) -> None:
    folder = os.path.join(sample.directory, model.path)
    before = model.load(folder)
    path = largest(sample, model)
    flipped.append(path)
    flip(path)
    assert model.load(folder).checksum != before.checksum


def test_no_two_pages_of_the_sample_are_equal(sample: Sample) -> None:
    pages: set[bytes] = set()
    count = 0
    for model in SAMPLE_MODELS:
        with open(largest(sample, model), "rb") as stream:
            while page := stream.read(4096):
                pages.add(page)
                count += 1
    assert len(pages) == count


def test_the_content_is_the_same_wherever_it_is_made(sample: Sample, tmp_path: object) -> None:
    other = make_sample(f"{tmp_path}/again", LEAST_SIZE_MB)
    assert other.files == sample.files
    for model in SAMPLE_MODELS:
        here = model.load(os.path.join(sample.directory, model.path))
        assert model.load(os.path.join(other.directory, model.path)) == here


def test_the_graph_is_valid(sample: Sample) -> None:
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(os.path.join(sample.directory, "classifier/classifier.onnx"))


class DiskTree:
    """A directory as the catalogue wants to see it."""

    def __init__(self, root: str) -> None:
        self._root = root

    def scan(self, directory: str) -> list[TreeEntry]:
        with os.scandir(os.path.join(self._root, directory)) as entries:
            return [
                TreeEntry(
                    entry.name,
                    EntryKind.DIRECTORY if entry.is_dir() else EntryKind.FILE,
                    entry.stat().st_size,
                    entry.stat().st_mtime_ns,
                )
                for entry in entries
            ]

    def read(self, path: str, offset: int, size: int) -> bytes:
        with open(os.path.join(self._root, path), "rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def readlink(self, path: str) -> str:
        return os.readlink(os.path.join(self._root, path))


def test_the_catalogue_finds_all_of_it(sample: Sample) -> None:
    catalog = Catalog(DiskTree(sample.directory))
    found = [model for models in catalog.visit_top() for model in models]
    assert {model.model_id: model.format for model in found} == {
        "text-model": Format.SAFETENSORS,
        "models/ranker/1": Format.SAVEDMODEL,
        "classifier/classifier.onnx": Format.ONNX,
    }
    assert {file.path for model in found for file in model.files} == set(sample.files)


def test_a_complete_sample_is_used_again(sample: Sample) -> None:
    path = largest(sample, SAMPLE_MODELS[0])
    before = os.stat(path)
    assert make_sample(sample.directory, LEAST_SIZE_MB) == sample
    after = os.stat(path)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest", "interrupted"])
def test_a_damaged_sample_is_made_anew(tmp_path: object, damage: str) -> None:
    made = make_sample(f"{tmp_path}/s", LEAST_SIZE_MB)
    path = largest(made, SAMPLE_MODELS[1])
    manifest = f"{tmp_path}/s/.fusemount-sample.json"
    if damage == "truncated":
        os.truncate(path, 10)
    elif damage == "missing":
        os.unlink(path)
    else:
        with open(manifest, "w", encoding="utf-8") as stream:
            stream.write("{" if damage == "manifest" else '{"revision": 1, "files": {}}')
    assert make_sample(f"{tmp_path}/s", LEAST_SIZE_MB) == made
    assert os.path.getsize(path) == made.files[os.path.relpath(path, made.directory)]


def test_another_size_is_made_anew(tmp_path: object) -> None:
    first = make_sample(f"{tmp_path}/s", LEAST_SIZE_MB)
    second = make_sample(f"{tmp_path}/s", LEAST_SIZE_MB + 8)
    assert second.size_bytes > first.size_bytes


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: object) -> None:
    with open(f"{tmp_path}/thesis.txt", "w", encoding="utf-8") as stream:
        stream.write("mine")
    with pytest.raises(UsageError, match="not empty"):
        make_sample(str(tmp_path), LEAST_SIZE_MB)
    assert os.listdir(str(tmp_path)) == ["thesis.txt"]


def test_a_file_in_place_of_the_directory_is_one_line(tmp_path: object) -> None:
    with open(f"{tmp_path}/s", "w", encoding="utf-8"):
        pass
    with pytest.raises(UsageError) as raised:
        make_sample(f"{tmp_path}/s", LEAST_SIZE_MB)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size_mb", [LEAST_SIZE_MB - 1, MOST_SIZE_MB + 1, 0, -1])
def test_sizes_out_of_bounds_are_refused(tmp_path: object, size_mb: int) -> None:
    with pytest.raises(UsageError, match="choose between"):
        make_sample(f"{tmp_path}/s", size_mb)
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("library", ["numpy", "onnx", "safetensors"])
def test_a_missing_library_is_one_line(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *arguments: object) -> object:
        if name.partition(".")[0] == library:
            raise ImportError(name=library)
        return real_import(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, library, raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match=library) as raised:
        make_sample(f"{tmp_path}/s", LEAST_SIZE_MB)
    assert "\n" not in str(raised.value)
    assert os.listdir(str(tmp_path)) == []
