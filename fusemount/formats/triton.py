"""Triton repositories: NAME/config.pbtxt beside folders with numbers for names.

Each numeric folder is a model version. What lies in it is told by names (`model.onnx`,
`model.savedmodel/`, `model.plan`, …), or by the backend that the configuration asks for. The
configuration counts to the highest version, which is the one that Triton loads by default.
"""

import re

from fusemount.formats.entries import join, suffix_of
from fusemount.formats.folder import File, Folder
from fusemount.formats.inspection import Inspection
from fusemount.formats.model import FileRole, Format, Framework, Model, make_model
from fusemount.formats.roles import parts_by_role

# Versions that a visit looks at, highest first.
VERSION_LIMIT = 8
_CONFIG_LIMIT_BYTES = 64 * 1024
# model.savedmodel/variables/… is the deepest layout.
_DEPTH = 3
_FORMAT_OF_SUFFIX = {
    ".savedmodel": Format.SAVEDMODEL,
    ".graphdef": Format.GRAPHDEF,
    ".onnx": Format.ONNX,
    ".plan": Format.TENSORRT,
    ".engine": Format.TENSORRT,
    ".pt": Format.TORCH,
    ".pt2": Format.TORCH,
    ".xml": Format.OPENVINO,
    ".safetensors": Format.SAFETENSORS,
    ".gguf": Format.GGUF,
    ".py": Format.PYTHON,
}
_FORMAT_OF_BACKEND = {
    "ensemble": Format.ENSEMBLE,
    "onnxruntime": Format.ONNX,
    "onnxruntime_onnx": Format.ONNX,
    "tensorrt": Format.TENSORRT,
    "tensorrt_plan": Format.TENSORRT,
    "tensorrtllm": Format.TENSORRT,
    "pytorch": Format.TORCH,
    "pytorch_libtorch": Format.TORCH,
    "tensorflow": Format.SAVEDMODEL,
    "tensorflow_savedmodel": Format.SAVEDMODEL,
    "tensorflow_graphdef": Format.GRAPHDEF,
    "openvino": Format.OPENVINO,
    "python": Format.PYTHON,
}
_SETTING = re.compile(rb'^\s*(platform|backend|default_model_filename)\s*:\s*"([^"]*)"', re.M)


def recognise(folder: Folder, inspection: Inspection) -> list[Model]:
    """The versions of the model that `folder` is, at most `VERSION_LIMIT`, highest first."""
    config = folder.file("config.pbtxt")
    versions = folder.versions(VERSION_LIMIT)
    if config is None or not versions:
        return []
    settings = _settings(inspection.read(config.path, 0, _CONFIG_LIMIT_BYTES))
    models: list[Model] = []
    for entry in versions:
        child = inspection.child(folder, entry.name)
        files = inspection.walk(child, _DEPTH) if child is not None else []
        weights_format = _format(child, files, settings)
        if not files and weights_format is not Format.ENSEMBLE:
            continue
        parts = parts_by_role(files)
        if not models:
            parts.insert(0, config.part(FileRole.CONFIG))
        path = join(folder.path, entry.name)
        models.append(
            make_model(
                path,
                path,
                entry.name,
                framework=Framework.TRITON,
                weights_format=weights_format,
                files=parts,
            )
        )
    # Older versions belong to this model too; no other family may see them.
    folder.drop_versions()
    return models


def _settings(content: bytes | None) -> dict[str, str]:
    return {
        key.decode(): value.decode(errors="replace")
        for key, value in _SETTING.findall(content or b"")
    }


def _format(child: Folder | None, files: list[File], settings: dict[str, str]) -> Format:
    backend = settings.get("backend") or settings.get("platform", "")
    if backend == "ensemble":
        return Format.ENSEMBLE
    names = [file.name for file in files if child is not None and file.name in child]
    names += child.directories if child is not None else []
    wanted = settings.get("default_model_filename", "")
    ordered = sorted(names, key=lambda name: (name != wanted, not name.startswith("model."), name))
    for name in ordered:
        found = _FORMAT_OF_SUFFIX.get(suffix_of(name))
        if found is not None:
            return found
    return _FORMAT_OF_BACKEND.get(backend, Format.UNKNOWN)
