"""TorchServe: .mar archives, and model folders that hold a MAR-INF/MANIFEST.json.

The version stands in the manifest, also inside the archive, where two requests read it.
"""

import json
from typing import Any

from fusemount.formats import archive
from fusemount.formats.entries import join, suffix_of
from fusemount.formats.folder import Folder
from fusemount.formats.inspection import Inspection
from fusemount.formats.model import FileRole, Format, Framework, Model, make_model
from fusemount.formats.roles import parts_by_role, role_of

_MANIFEST = "MAR-INF/MANIFEST.json"
_MANIFEST_LIMIT_BYTES = 1024 * 1024
# Archives whose manifest a visit reads; those beyond are known by name, without a version.
_ARCHIVE_LIMIT = 24
_DEPTH = 2
_FORMAT_OF_SUFFIX = {
    ".pt": Format.TORCH,
    ".pth": Format.TORCH,
    ".bin": Format.TORCH,
    ".safetensors": Format.SAFETENSORS,
    ".onnx": Format.ONNX,
}


def recognise(folder: Folder, inspection: Inspection) -> list[Model]:
    """The archives in `folder`, and the unpacked model that it is itself."""
    models = []
    for number, file in enumerate(folder.own(".mar")):
        manifest: dict[str, Any] = {}
        if number < _ARCHIVE_LIMIT:
            manifest = _parsed(archive.read_member(file, inspection, _MANIFEST))
        models.append(
            make_model(
                join(folder.path, file.name),
                folder.path,
                folder.revision or _text(manifest, "modelVersion"),
                framework=Framework.TORCHSERVE,
                weights_format=Format.MAR,
                files=[file.part(FileRole.WEIGHTS)],
            )
        )
        folder.take([file.path])
    unpacked = _unpacked(folder, inspection)
    return [*models, unpacked] if unpacked is not None else models


def _unpacked(folder: Folder, inspection: Inspection) -> Model | None:
    inner = inspection.child(folder, "MAR-INF")
    file = inner.file("MANIFEST.json") if inner is not None else None
    if file is None:
        return None
    manifest = _parsed(inspection.read(file.path, 0, _MANIFEST_LIMIT_BYTES))
    others = [other for other in inspection.walk(folder, _DEPTH) if other.path != file.path]
    serialized = _text(manifest, "serializedFile")
    if not serialized:
        weights = [other for other in others if role_of(other.name) is FileRole.WEIGHTS]
        largest = max(weights, key=lambda other: other.size_bytes, default=None)
        serialized = largest.name if largest is not None else ""
    parts = [file.part(FileRole.CONFIG), *parts_by_role(others)]
    return make_model(
        folder.path,
        folder.path,
        folder.revision or _text(manifest, "modelVersion"),
        framework=Framework.TORCHSERVE,
        weights_format=_FORMAT_OF_SUFFIX.get(suffix_of(serialized), Format.MAR),
        files=parts,
    )


def _parsed(content: bytes | None) -> dict[str, Any]:
    """The manifest's `model` object; empty where it is malformed."""
    try:
        manifest = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    model = manifest.get("model") if isinstance(manifest, dict) else None
    return model if isinstance(model, dict) else {}


def _text(manifest: dict[str, Any], key: str) -> str:
    value = manifest.get(key)
    return str(value) if isinstance(value, str | int | float) else ""
