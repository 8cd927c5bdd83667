"""Hugging Face folders: config.json beside safetensors or pytorch_model*.bin weights.

Which weights are the model's follows transformers: one file before an index before names,
safetensors before torch. Other weight files in the folder are left to the single-file families,
so that a folder with both forms does not count double.
"""

import json

from fusemount.formats import shards
from fusemount.formats.folder import File, Folder
from fusemount.formats.inspection import Inspection
from fusemount.formats.model import FileRole, Format, Framework, Model, ModelFile, make_model
from fusemount.formats.roles import role_of

# The largest public index has about 15 MB; beyond twice that names have to do.
INDEX_LIMIT_BYTES = 32 * 1024 * 1024
# Vocabularies of some ten MiB are common; larger JSON beside a model is data.
_SUPPORT_LIMIT_BYTES = 64 * 1024 * 1024
_SUPPORT_LIMIT = 64
_SUPPORT_SUFFIXES = (".json", ".jinja", ".tiktoken", ".model", ".py")
_SUPPORT_NAMES = ("vocab.txt", "merges.txt")
_SINGLE = {
    Format.SAFETENSORS: ("model.safetensors", "diffusion_pytorch_model.safetensors"),
    Format.TORCH: ("pytorch_model.bin", "diffusion_pytorch_model.bin"),
}
_SUFFIX = {Format.SAFETENSORS: ".safetensors", Format.TORCH: ".bin"}


def recognise(folder: Folder, inspection: Inspection) -> list[Model]:
    """The model that `folder` is, if any; an index is read only where names do not tell."""
    config = folder.file("config.json")
    if config is None:
        return []
    for weights_format in (Format.SAFETENSORS, Format.TORCH):
        weights = _weights(folder, inspection, weights_format)
        if weights:
            parts = [config.part(FileRole.CONFIG), *_support(folder), *weights]
            return [
                make_model(
                    folder.path,
                    folder.path,
                    folder.revision,
                    framework=Framework.HUGGINGFACE,
                    weights_format=weights_format,
                    files=parts,
                )
            ]
    return []


def _weights(folder: Folder, inspection: Inspection, weights_format: Format) -> list[ModelFile]:
    """The index, if one is used, and the weight files in the order of loading."""
    for name in _SINGLE[weights_format]:
        file = folder.file(name)
        if file is not None:
            return [file.part(FileRole.WEIGHTS)]
    suffix = _SUFFIX[weights_format]
    files = {
        file.name: file
        for file in folder.named(suffix)
        if weights_format is Format.SAFETENSORS or "pytorch_model" in file.name
    }
    indices = [file for file in folder.named(".json") if file.name.endswith(f"{suffix}.index.json")]
    # The one without a variant (model.fp16.safetensors.index.json) has the shortest name.
    for index in sorted(indices, key=lambda file: (len(file.name), file.name)):
        members = _members(index, files, inspection)
        if members:
            parts = [files[name].part(FileRole.WEIGHTS) for name in members]
            return [index.part(FileRole.INDEX), *parts]
    return [file.part(FileRole.WEIGHTS) for file in files.values()]


def _members(index: File, files: dict[str, File], inspection: Inspection) -> list[str]:
    """Those of `files` that belong to `index`, in the order in which loaders read them."""
    stem = index.name.removesuffix(".index.json").rpartition(".")[0]
    of_stem = [group for group in shards.group(files) if group.stem == stem and group.parts > 1]
    if len(of_stem) == 1 and of_stem[0].complete:
        return list(of_stem[0].names)
    named = _weight_map(index, inspection)
    if named is not None:
        return sorted(named & files.keys())
    return [name for group in of_stem for name in group.names]


def _weight_map(index: File, inspection: Inspection) -> set[str] | None:
    """The file names in an index; None where it is malformed, too large or unreadable."""
    if index.size_bytes > INDEX_LIMIT_BYTES:
        inspection.note(index.path, "index too large: shards are taken by their names")
        return None
    content = inspection.read(index.path, 0, INDEX_LIMIT_BYTES)
    if content is None:
        return None
    try:
        weight_map = json.loads(content)["weight_map"]
        return {name for name in weight_map.values() if isinstance(name, str)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        inspection.note(index.path, "index malformed: shards are taken by their names")
        return None


def _support(folder: Folder) -> list[ModelFile]:
    """Configuration, tokenizer and code beside the weights; tokenizers are read first of all."""
    named = [file for name in _SUPPORT_NAMES if (file := folder.file(name)) is not None]
    files = [
        file
        for file in [*folder.named(*_SUPPORT_SUFFIXES), *named]
        if file.name != "config.json"
        and not file.name.endswith(".index.json")
        and not file.name.startswith(".")
        and file.size_bytes <= _SUPPORT_LIMIT_BYTES
    ]
    return [file.part(_support_role(file.name)) for file in files[:_SUPPORT_LIMIT]]


def _support_role(name: str) -> FileRole:
    return FileRole.TOKENIZER if name.endswith((".txt", ".model")) else role_of(name)
