"""Loading the sample's models with their real libraries, and proving that the bytes are right.

Each `load_*` touches every byte of the model once and returns how many they were and a checksum
of them, so that a direct load and one through a mount can be compared.
"""

import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusemount.sample import CLASSIFIER, RANKER, TEXT_MODEL, require_libraries

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load returned: the bytes of its tensors, and their checksum."""

    size_bytes: int
    checksum: int


@dataclass(frozen=True, slots=True)
class SampleModel:
    """A model of the sample: its folder in it, and how its library loads that folder."""

    name: str
    path: str
    library: str
    load: Callable[[str], Loaded]


class _Tally:
    """Bytes and checksum so far.

    The checksum is the CRC of the sums of 4 KiB pages: several times faster than a CRC of
    everything, so that it is not what is being timed, and still tells pages that are wrong,
    missing or in the wrong place.
    """

    def __init__(self) -> None:
        self._size_bytes = 0
        self._checksum = 0

    def add(self, data: "NDArray[Any]") -> None:
        import numpy as np  # noqa: PLC0415 - an optional extra, imported where it is used

        flat = data.reshape(-1).view(np.uint8)
        paged = flat.size // _PAGE_BYTES * _PAGE_BYTES
        pages = flat[:paged].view(np.uint64).reshape(-1, _PAGE_BYTES // 8)
        sums = pages.sum(axis=1, dtype=np.uint64)
        self._checksum = zlib.crc32(flat[paged:].data, zlib.crc32(sums.data, self._checksum))
        self._size_bytes += flat.size

    def result(self) -> Loaded:
        return Loaded(self._size_bytes, self._checksum)


def load_text_model(folder: str) -> Loaded:
    """Load a Hugging Face folder shard by shard, as transformers orders them.

    Raises OSError, or the safetensors library's own error where a file is broken.
    """
    require_libraries()
    from safetensors import safe_open  # noqa: PLC0415

    with open(os.path.join(folder, "config.json"), "rb") as stream:
        json.load(stream)
    with open(os.path.join(folder, "model.safetensors.index.json"), "rb") as stream:
        weight_map: dict[str, str] = json.load(stream)["weight_map"]
    tally = _Tally()
    for name in sorted(set(weight_map.values())):
        with safe_open(os.path.join(folder, name), framework="numpy") as shard:
            for key in shard.offset_keys():
                tally.add(shard.get_tensor(key))
    return tally.result()


def load_ranker(folder: str) -> Loaded:
    """Read a SavedModel's newest version as TensorFlow does, without TensorFlow.

    The graph, the index, then the tensors in the order of their names, each with one seek.
    Raises OSError; ValueError where a file ends too early or the index is malformed.
    """
    require_libraries()
    import numpy as np  # noqa: PLC0415

    tally = _Tally()
    version = max((name for name in os.listdir(folder) if name.isdecimal()), key=int)
    with open(os.path.join(folder, version, "saved_model.pb"), "rb") as stream:
        tally.add(np.frombuffer(stream.read(), np.uint8))
    variables = os.path.join(folder, version, "variables")
    with open(os.path.join(variables, "variables.index"), "rb") as stream:
        entries = [json.loads(line) for line in stream]
    path = os.path.join(variables, "variables.data-00000-of-00001")
    with open(path, "rb", buffering=0) as data:
        for _, offset, size_bytes in entries:
            data.seek(offset)
            tally.add(_read_whole(data.readinto, np.empty(size_bytes, np.uint8), path))
    return tally.result()


def _read_whole(
    readinto: Callable[[memoryview], int | None], buffer: "NDArray[np.uint8]", path: str
) -> "NDArray[np.uint8]":
    view = buffer.data
    while view:
        count = readinto(view)
        if not count:
            raise ValueError(f"{path}: ends too early")
        view = view[count:]
    return buffer


def load_classifier(folder: str) -> Loaded:
    """Load the graph and its external data with onnx. Raises OSError or onnx's own errors."""
    require_libraries()
    import numpy as np  # noqa: PLC0415
    import onnx  # noqa: PLC0415

    model = onnx.load(os.path.join(folder, "classifier.onnx"))
    tally = _Tally()
    for tensor in model.graph.initializer:
        tally.add(np.frombuffer(tensor.raw_data, np.uint8))
    return tally.result()


SAMPLE_MODELS: tuple[SampleModel, ...] = (
    SampleModel("text-model", TEXT_MODEL, "safetensors", load_text_model),
    SampleModel("ranker", RANKER, "SavedModel reads", load_ranker),
    SampleModel("classifier", CLASSIFIER, "onnx", load_classifier),
)
