"""What a file is to its model by its name, for layouts that do not say it themselves."""

import re
from collections.abc import Iterable

from fusemount.formats.entries import suffix_of
from fusemount.formats.folder import File
from fusemount.formats.model import FileRole, ModelFile

_ORDER = {role: position for position, role in enumerate(FileRole)}
_BY_SUFFIX = {
    FileRole.CODE: (".py", ".so"),
    FileRole.CONFIG: (".json", ".yaml", ".yml", ".pbtxt", ".properties", ".cfg", ".toml"),
    FileRole.GRAPH: (".pb", ".onnx", ".xml", ".graphdef"),
    FileRole.INDEX: (".index",),
    FileRole.WEIGHTS: (
        *(".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".gguf"),
        *(".plan", ".engine", ".onnx_data", ".data", ".tflite", ".msgpack"),
    ),
}
_ROLE_OF_SUFFIX = {suffix: role for role, suffixes in _BY_SUFFIX.items() for suffix in suffixes}
_TENSORFLOW_DATA = re.compile(r".*\.data-\d{5}-of-\d{5}", re.S)
_TOKENIZER_PREFIXES = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spiece")


def role_of(name: str) -> FileRole:
    """The role that a file of this name most likely has; ASSET where it says nothing."""
    if name.startswith(_TOKENIZER_PREFIXES) or name.endswith((".tiktoken", ".jinja")):
        return FileRole.TOKENIZER
    if name.endswith(".index.json"):
        return FileRole.INDEX
    if _TENSORFLOW_DATA.fullmatch(name):
        return FileRole.WEIGHTS
    return _ROLE_OF_SUFFIX.get(suffix_of(name), FileRole.ASSET)


def parts_by_role(files: Iterable[File]) -> list[ModelFile]:
    """`files` as parts of a model in the common order of loading, then by path."""
    parts = [file.part(role_of(file.name)) for file in files]
    return sorted(parts, key=lambda part: (_ORDER[part.role], part.path))
