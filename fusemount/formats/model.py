"""What is known of a model that was found in the tree: values only."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum

# The root folder itself may be a model; an empty id means "unknown" to the optimizer.
ROOT_MODEL_ID = "."


class Framework(StrEnum):
    """Who lays the files out so: what the model is made for or served by."""

    TENSORFLOW = "tensorflow"
    TORCHSERVE = "torchserve"
    HUGGINGFACE = "huggingface"
    TRITON = "triton"
    ONNX = "onnx"
    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    PYTORCH = "pytorch"


class Format(StrEnum):
    """How the weights are stored."""

    SAVEDMODEL = "savedmodel"
    GRAPHDEF = "graphdef"
    MAR = "mar"
    SAFETENSORS = "safetensors"
    TORCH = "torch"
    GGUF = "gguf"
    ONNX = "onnx"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"
    PYTHON = "python"
    ENSEMBLE = "ensemble"
    UNKNOWN = "unknown"


class FileRole(Enum):
    """What a file is to its model; in the order in which loaders commonly ask for them."""

    CONFIG = "config"
    CODE = "code"
    TOKENIZER = "tokenizer"
    GRAPH = "graph"
    INDEX = "index"
    WEIGHTS = "weights"
    ASSET = "asset"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model.

    `path` is where the file really lies: what is opened once the kernel has resolved the links.
    `by_link` tells that the model's folder only links to it.
    """

    path: str
    size_bytes: int
    role: FileRole
    mtime_ns: int
    by_link: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """One version of one model.

    `path` is its folder, or its (first) file; `home` the folder that holds it: `path` itself or
    the file's folder. `model_id` is the path, '.' for the root. `version` is '' where the layout
    names none. `files` are in the order in which loaders read them, each once.
    """

    model_id: str
    path: str
    home: str
    version: str
    framework: Framework
    format: Format
    files: tuple[ModelFile, ...]
    size_bytes: int


def make_model(
    path: str,
    home: str,
    version: str,
    *,
    framework: Framework,
    weights_format: Format,
    files: Iterable[ModelFile],
) -> Model:
    """A model of these files; a file named twice (two links to one blob) counts once."""
    distinct = {file.path: file for file in reversed(list(files))}
    kept = tuple(reversed(distinct.values()))
    return Model(
        model_id=path or ROOT_MODEL_ID,
        path=path,
        home=home,
        version=version,
        framework=framework,
        format=weights_format,
        files=kept,
        size_bytes=sum(file.size_bytes for file in kept),
    )
