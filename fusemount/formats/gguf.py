"""GGUF: one file, or NAME-00001-of-00005.gguf and its parts as one model.

Told by its magic number, whatever it is called.
"""

from fusemount.formats.candidates import single_models
from fusemount.formats.folder import Folder
from fusemount.formats.inspection import Inspection
from fusemount.formats.model import Format, Framework, Model
from fusemount.formats.signature import Signature


def recognise(folder: Folder, inspection: Inspection) -> list[Model]:
    """The GGUF models of `folder`; llama.cpp opens the first part and counts up from there."""
    return single_models(folder, inspection, Signature.GGUF, Framework.GGUF, Format.GGUF)
