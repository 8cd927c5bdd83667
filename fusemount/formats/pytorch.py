"""PyTorch checkpoints: .pt, .pth, .ckpt, and any zip that holds a data.pkl.

A .pth that is text (Python's path configuration files are called so) is none.
"""

from fusemount.formats.candidates import single_models
from fusemount.formats.folder import Folder
from fusemount.formats.inspection import Inspection
from fusemount.formats.model import Format, Framework, Model
from fusemount.formats.signature import Signature


def recognise(folder: Folder, inspection: Inspection) -> list[Model]:
    """The checkpoints of `folder` that belong to no larger model."""
    return single_models(folder, inspection, Signature.TORCH, Framework.PYTORCH, Format.TORCH)
