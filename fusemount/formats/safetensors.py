"""Safetensors files outside of a Hugging Face folder: one file, or its shards, as one model.

Told by the length of the header and its first character, whatever the file is called.
"""

from fusemount.formats.candidates import single_models
from fusemount.formats.folder import Folder
from fusemount.formats.inspection import Inspection
from fusemount.formats.model import Format, Framework, Model
from fusemount.formats.signature import Signature


def recognise(folder: Folder, inspection: Inspection) -> list[Model]:
    """The safetensors files of `folder` that belong to no larger model."""
    return single_models(
        folder, inspection, Signature.SAFETENSORS, Framework.SAFETENSORS, Format.SAFETENSORS
    )
