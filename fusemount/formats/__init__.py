"""Which models a folder holds: one module a family, asked in the order of `FAMILIES`.

Each family module has `recognise(folder, inspection) -> list[Model]`: given a listed folder it
returns the models that it sees, in the folder or in the few children that its layout needs. It
asks the tree through the inspection only, which keeps requests few and turns failures into
problems. A family never sees a file that an earlier one took.

Precedence, and why:
1. Triton: its `config.pbtxt` says what the files beside it are, whatever their format.
2. TensorFlow and TorchServe: a layout of several files under one well-known name.
3. Hugging Face folders: `config.json` makes single weight files parts of one model.
4. ONNX before the single files, because any file may be a graph's external data.
5. Single files (and their split parts): GGUF, safetensors, PyTorch, told by their first bytes.

Hub caches are no family: a snapshot is turned into an ordinary folder with its links resolved,
and the families above are asked about that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fusemount.formats import (
    gguf,
    hub,
    huggingface,
    onnx,
    pytorch,
    safetensors,
    tensorflow,
    torchserve,
    triton,
)
from fusemount.formats.entries import TreeEntry
from fusemount.formats.folder import Folder
from fusemount.formats.inspection import Inspection
from fusemount.formats.model import Model

Family = Callable[[Folder, Inspection], list[Model]]

FAMILIES: tuple[Family, ...] = (
    triton.recognise,
    tensorflow.recognise,
    torchserve.recognise,
    huggingface.recognise,
    onnx.recognise,
    gguf.recognise,
    safetensors.recognise,
    pytorch.recognise,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A model, and the rank of the family that found it: 0 comes before all others."""

    rank: int
    model: Model


def recognise(
    directory: str, entries: Sequence[TreeEntry], inspection: Inspection
) -> list[Finding]:
    """The models that `directory` with these `entries` holds.

    No file is in two of the findings, but a blob that two revisions of a hub cache share.
    Raises nothing: what the tree refuses is in `inspection.problems`.
    """
    snapshots = hub.snapshots(directory, entries, inspection)
    folders = [inspection.open(directory, entries)] if snapshots is None else snapshots
    findings: list[Finding] = []
    for folder in folders:
        for rank, family in enumerate(FAMILIES):
            models = family(folder, inspection)
            for model in models:
                folder.take(file.path for file in model.files)
            findings.extend(Finding(rank, model) for model in models)
    return findings
