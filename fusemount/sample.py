"""A small real sample of models, for the demonstration: made once, used again.

Three models as their own tools lay them out: a sharded Hugging Face folder written by the
safetensors library, a graph with external data written by the onnx library, and the files of a
TensorFlow SavedModel, written by hand since TensorFlow is too large to install for it.

Every tensor's bytes are a seeded random block mixed with the tensor's number: quick to make, the
same in every run, nowhere constant, and different wherever two places could be mistaken. Read as
floats the values are finite. Knows nothing of mounts; `sample_loading` reads what is made here.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusemount.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_SIZE_MB = 384
# Below, the shares are too small to be models; above, a demonstration takes too long.
LEAST_SIZE_MB, MOST_SIZE_MB = 12, 65_536
_MB = 1_000_000

TEXT_MODEL = "text-model"
RANKER = "models/ranker"
CLASSIFIER = "classifier"
_PLACES = (TEXT_MODEL, "models", CLASSIFIER)
# Beside the models, so that a complete sample is known and a broken one is made anew.
_MANIFEST = ".fusemount-sample.json"
# Raised when the content changes: an older sample is then made anew.
_REVISION = 1

_SEED = 20260
_BLOCK_BYTES = 4 * 1024 * 1024
_SHARD_BYTES = 128 * 1024 * 1024
# Clears the exponent's highest bit of two-byte and of four-byte floats alike.
_FINITE_MASK = 0xBFFF_BFFF_BFFF_BFFF
_ODD_MULTIPLIER = 0x9E37_79B9_7F4A_7C15


@dataclass(frozen=True, slots=True)
class Sample:
    """A complete sample: the files below `directory` with their sizes in bytes."""

    directory: str
    files: dict[str, int]

    @property
    def size_bytes(self) -> int:
        """All of it, without the manifest."""
        return sum(self.files.values())


def make_sample(directory: str, size_mb: int = DEFAULT_SIZE_MB) -> Sample:
    """The sample of about `size_mb` (10^6 bytes) in `directory`; made unless it is there.

    Raises UsageError where the size is out of bounds, the directory holds anything else, cannot
    be written or has too little room, or a library of the extra `sample` is missing.
    """
    if not LEAST_SIZE_MB <= size_mb <= MOST_SIZE_MB:
        raise UsageError(
            f"sample size {size_mb} MB: choose between {LEAST_SIZE_MB} and {MOST_SIZE_MB}"
        )
    try:
        kept = _kept(directory, size_mb)
        if kept is not None:
            return kept
        require_libraries()
        os.makedirs(directory, exist_ok=True)
        _write_manifest(directory, size_mb, {})
        for place in _PLACES:
            shutil.rmtree(os.path.join(directory, place), ignore_errors=True)
        _require_room(directory, size_mb)
        mix = _mixer()
        _write_text_model(os.path.join(directory, TEXT_MODEL), size_mb * _MB * 2 // 3, mix)
        _write_ranker(os.path.join(directory, RANKER), size_mb * _MB // 4, mix)
        _write_classifier(os.path.join(directory, CLASSIFIER), size_mb * _MB // 12, mix)
        files = _sizes(directory)
        _write_manifest(directory, size_mb, files)
    except OSError as error:
        raise UsageError(
            f"{directory}: {error.strerror or error}: choose another directory for the sample"
        ) from error
    return Sample(directory, files)


def require_libraries() -> None:
    """Raise UsageError where a library that makes or loads the sample is missing."""
    try:
        import numpy  # noqa: F401, PLC0415 - an optional extra, imported where it is used
        import onnx  # noqa: F401, PLC0415
        import safetensors  # noqa: F401, PLC0415
    except ImportError as error:
        raise UsageError(
            f"the sample needs {error.name}: install it with pip install 'fusemount[sample]'"
        ) from error


def _kept(directory: str, size_mb: int) -> Sample | None:
    """The sample that is there, complete and of that size; None where one may be made."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return None
    if names and _MANIFEST not in names:
        raise UsageError(f"{directory}: not empty and no sample: choose another directory")
    try:
        with open(os.path.join(directory, _MANIFEST), encoding="utf-8") as stream:
            manifest: Any = json.load(stream)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("revision") != _REVISION:
        return None
    files = manifest.get("files")
    if not files or manifest.get("size_mb") != size_mb or files != _sizes(directory):
        return None
    return Sample(directory, files)


def _write_manifest(directory: str, size_mb: int, files: dict[str, int]) -> None:
    """Say what is in the directory; no files: not complete yet."""
    with open(os.path.join(directory, _MANIFEST), "w", encoding="utf-8") as stream:
        json.dump({"revision": _REVISION, "size_mb": size_mb, "files": files}, stream, indent=1)


def _sizes(directory: str) -> dict[str, int]:
    """The files of the models by their paths in `directory`."""
    sizes = {}
    for place in _PLACES:
        for folder, _, names in os.walk(os.path.join(directory, place)):
            for name in names:
                path = os.path.join(folder, name)
                sizes[os.path.relpath(path, directory)] = os.stat(path).st_size
    return dict(sorted(sizes.items()))


def _require_room(directory: str, size_mb: int) -> None:
    free_mb = shutil.disk_usage(directory).free // _MB
    # A tenth for what the file system needs itself.
    if free_mb < size_mb * 11 // 10:
        raise UsageError(f"{directory}: {free_mb} MB free, the sample needs {size_mb * 11 // 10}")


Mixer = Callable[[int, int], "NDArray[np.uint8]"]


def _mixer() -> Mixer:
    """A function from a tensor's number and size (a multiple of 8 bytes) to its bytes."""
    import numpy as np  # noqa: PLC0415

    words = np.random.default_rng(_SEED).integers(0, 1 << 64, _BLOCK_BYTES // 8, dtype=np.uint64)

    def mix(number: int, size_bytes: int) -> "NDArray[np.uint8]":
        count = size_bytes // 8
        # Each repetition of the block inside a large tensor gets a number of its own too.
        blocks = -(-count // words.size)
        numbers = np.arange(blocks, dtype=np.uint64) + np.uint64(1 + (number << 16))
        keys = numbers * np.uint64(_ODD_MULTIPLIER)
        mixed = (words[None, :] ^ keys[:, None]).reshape(-1)[:count]
        return (mixed & np.uint64(_FINITE_MASK)).view(np.uint8)

    return mix


def _write_text_model(folder: str, size_bytes: int, mix: Mixer) -> None:
    """A Hugging Face folder: config.json, shards of at most 128 MiB, and their index."""
    import numpy as np  # noqa: PLC0415
    from safetensors.numpy import save_file  # noqa: PLC0415

    os.makedirs(folder)
    columns = 1024
    tensor_bytes = min(_BLOCK_BYTES, size_bytes // 2) // (2 * columns) * (2 * columns)
    layers = max(2, size_bytes // tensor_bytes)
    shards = max(2, -(-layers * tensor_bytes // _SHARD_BYTES))
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        tensors = {}
        for layer in range(layers * shard // shards, layers * (shard + 1) // shards):
            prefix = f"model.layers.{layer}"
            weight = mix(2 * layer, tensor_bytes).view(np.float16).reshape(-1, columns)
            tensors[f"{prefix}.mlp.weight"] = weight
            tensors[f"{prefix}.norm.weight"] = mix(2 * layer + 1, 2 * columns).view(np.float16)
        save_file(tensors, os.path.join(folder, name), metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))
    total_bytes = layers * (tensor_bytes + 2 * columns)
    config = {"model_type": "sample", "num_hidden_layers": layers, "torch_dtype": "float16"}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    for name, content in (("config.json", config), ("model.safetensors.index.json", index)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1)


def _write_ranker(folder: str, size_bytes: int, mix: Mixer) -> None:
    """Version 1 of a SavedModel: graph, index, one data shard.

    The index is JSON, one tensor a line in the order of names, not TensorFlow's own table. The
    tensors lie in the file in the order in which they were made, so that loading seeks.
    """
    variables = os.path.join(folder, "1", "variables")
    os.makedirs(variables)
    tensor_bytes = min(_BLOCK_BYTES, size_bytes // 4) // 4096 * 4096
    count = size_bytes // tensor_bytes
    nodes = b""
    entries = []
    with open(os.path.join(variables, "variables.data-00000-of-00001"), "wb") as stream:
        for number in range(count):
            name = f"dense_{number}/kernel"
            entries.append((name, stream.tell(), tensor_bytes))
            stream.write(mix((1 << 20) + number, tensor_bytes).data)
            node = _field(1, name.encode()) + _field(2, b"VarHandleOp")
            nodes += _field(1, node)
    with open(os.path.join(variables, "variables.index"), "w", encoding="utf-8") as text:
        for entry in sorted(entries):
            text.write(json.dumps(entry) + "\n")
    meta_graph = _field(1, _field(4, b"serve")) + _field(2, nodes)
    with open(os.path.join(folder, "1", "saved_model.pb"), "wb") as stream:
        stream.write(b"\x08\x01" + _field(2, meta_graph))


def _write_classifier(folder: str, size_bytes: int, mix: Mixer) -> None:
    """A chain of matrix products whose weights lie in one file beside the graph."""
    import numpy as np  # noqa: PLC0415
    import onnx  # noqa: PLC0415
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    os.makedirs(folder)
    layers = max(1, size_bytes // _BLOCK_BYTES)
    width = int((size_bytes // layers // 4) ** 0.5) // 2 * 2
    nodes, weights = [], []
    for layer in range(layers):
        name = f"weight_{layer}"
        values = mix((1 << 21) + layer, width * width * 4).view(np.float32)
        weights.append(numpy_helper.from_array(values.reshape(width, width), name))
        nodes.append(helper.make_node("MatMul", [f"x_{layer}", name], [f"x_{layer + 1}"]))
    ends = [
        helper.make_tensor_value_info(f"x_{n}", TensorProto.FLOAT, ["batch", width])
        for n in (0, layers)
    ]
    graph = helper.make_graph(nodes, "classifier", ends[:1], ends[1:], weights)
    onnx.save_model(
        helper.make_model(graph),
        os.path.join(folder, "classifier.onnx"),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="classifier.onnx.data",
        size_threshold=0,
    )


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field; `number` below 16."""
    length, encoded = len(content), bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *encoded, length]) + content
