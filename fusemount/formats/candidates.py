"""Files that may be models by themselves, and what they are: content first, then name.

One read of a few hundred bytes for each of the largest candidates, for the first part only where
a model is split; the rest, and what cannot be read, is taken by its name. The three single-file
families share the answer, which is kept with the folder.
"""

import heapq

from fusemount.formats import archive, shards
from fusemount.formats.entries import join, suffix_of
from fusemount.formats.folder import Candidate, File, Folder
from fusemount.formats.inspection import Inspection
from fusemount.formats.model import FileRole, Format, Framework, Model, make_model
from fusemount.formats.signature import Signature, identify

_BY_NAME = {
    ".gguf": Signature.GGUF,
    ".safetensors": Signature.SAFETENSORS,
    ".pt": Signature.TORCH,
    ".pth": Signature.TORCH,
    ".ckpt": Signature.TORCH,
}
_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")
# Extensions that say clearly that a file is something else, or not there yet; so does
# .data-00000-of-00001, a shard of TensorFlow's.
_ORDINARY = frozenset(
    """
    .json .jsonl .txt .md .rst .html .xml .yaml .yml .toml .csv .tsv .log .py .pyc .so .c .h .sh
    .proto .pbtxt .pb .jpg .jpeg .png .gif .webp .bmp .tif .tiff .svg .pdf .mp3 .mp4 .wav .flac
    .ogg .mkv .webm .avi .mov .npy .npz .parquet .arrow .feather .tfrecord .lmdb .db .sqlite .h5
    .hdf5 .msgpack .gz .bz2 .xz .zst .lz4 .tar .tgz .rar .7z .jar .whl .docx .xlsx .iso .img
    .part .partial .tmp .temp .incomplete .download .crdownload .aria2 .lock .mar .onnx
    .onnx_data .plan .engine .tflite .index
    """.split()  # noqa: SIM905 - a table of words reads better than eighty quoted ones
)
# Smaller files of an unknown kind are not worth a request.
_UNKNOWN_LEAST_BYTES = 1024 * 1024
_UNKNOWN_PROBES = 8
_PROBES = 32
# More single-file checkpoints than this in one folder are a data set, not a model store.
MODELS_IN_FOLDER = 256


def single_models(
    folder: Folder,
    inspection: Inspection,
    signature: Signature,
    framework: Framework,
    weights_format: Format,
) -> list[Model]:
    """A model for each file, or set of shards, of `folder` with that signature."""
    if folder.candidates is None:
        folder.candidates = _identified(folder, inspection)
    chosen = [files for files, kind in folder.candidates if kind is signature]
    if len(chosen) > MODELS_IN_FOLDER:
        inspection.note(
            folder.path, f"{len(chosen)} {weights_format} files in one folder: taken for data"
        )
        return []
    models = []
    for files in chosen:
        parts = [file.part(FileRole.WEIGHTS) for file in files]
        index = _index_of(folder, files)
        if index is not None:
            parts.insert(0, index.part(FileRole.INDEX))
        path = join(folder.path, files[0].name)
        models.append(
            make_model(
                path,
                folder.path,
                folder.revision,
                framework=framework,
                weights_format=weights_format,
                files=parts,
            )
        )
    return models


def _index_of(folder: Folder, files: Candidate) -> File | None:
    stem = shards.group([files[0].name])[0].stem
    return folder.file(f"{stem}{suffix_of(files[0].name)}.index.json")


def _identified(folder: Folder, inspection: Inspection) -> list[tuple[Candidate, Signature]]:
    known = {file.name: file for file in folder.own(*_BY_NAME) if not file.name.startswith(".")}
    for file in folder.own(".bin"):
        if _is_torch_name(file.name) or file.size_bytes >= _UNKNOWN_LEAST_BYTES:
            known[file.name] = file
    unknown_suffixes = [
        suffix
        for suffix in folder.suffixes()
        if not (suffix in _BY_NAME or suffix in _ORDINARY or suffix == ".bin")
        and not suffix.startswith(".data-")
    ]
    unknown = heapq.nlargest(
        _UNKNOWN_PROBES,
        (
            file
            for file in folder.own(*unknown_suffixes)
            if file.size_bytes >= _UNKNOWN_LEAST_BYTES and not file.name.startswith(".")
        ),
        key=lambda file: file.size_bytes,
    )
    known.update((file.name, file) for file in unknown)
    sets = [tuple(known[name] for name in group.names) for group in shards.group(known)]
    sets.sort(key=lambda files: -sum(file.size_bytes for file in files))
    identified = [
        (files, _signature(files[0], inspection) if n < _PROBES else _by_name(files[0].name))
        for n, files in enumerate(sets)
    ]
    return sorted(identified, key=lambda pair: pair[0][0].name)


def _signature(file: File, inspection: Inspection) -> Signature:
    head = inspection.head(file)
    if head is None:
        return _by_name(file.name)
    signature = identify(head, file.size_bytes)
    if signature in (Signature.ZIP, Signature.PICKLE):
        if suffix_of(file.name) in _TORCH_SUFFIXES:
            return Signature.TORCH
        if signature is Signature.ZIP:
            names = archive.member_names(file, inspection) or []
            if any(name.rpartition("/")[2] == "data.pkl" for name in names):
                return Signature.TORCH
    return signature


def _by_name(name: str) -> Signature:
    if _is_torch_name(name):
        return Signature.TORCH
    return _BY_NAME.get(suffix_of(name), Signature.OTHER)


def _is_torch_name(name: str) -> bool:
    return name.startswith("pytorch_model") and name.endswith(".bin")
