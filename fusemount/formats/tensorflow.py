"""TensorFlow SavedModels: a folder with saved_model.pb, or NAME/VERSION/saved_model.pb.

TF-Serving looks for folders with numbers for names and loads the highest; each of them is a
model version. Read in this order: the graph, variables.index, the data shards, then assets.
"""

from fusemount.formats.entries import name_of
from fusemount.formats.folder import File, Folder
from fusemount.formats.inspection import Inspection
from fusemount.formats.model import FileRole, Format, Framework, Model, make_model

# Versions of one name that a visit looks at, highest first; older ones when they are visited.
VERSION_LIMIT = 8
_GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
_BESIDE = ("fingerprint.pb", "keras_metadata.pb")
_ASSET_DEPTH = 1


def recognise(folder: Folder, inspection: Inspection) -> list[Model]:
    """The SavedModel that `folder` is, else those of its highest version folders.

    Three requests a version: the folder, its variables, its assets.
    """
    model = _saved_model(folder, inspection)
    if model is not None:
        return [model]
    models = []
    for entry in folder.versions(VERSION_LIMIT):
        child = inspection.child(folder, entry.name)
        model = _saved_model(child, inspection) if child is not None else None
        if model is not None:
            models.append(model)
    return models


def _saved_model(folder: Folder, inspection: Inspection) -> Model | None:
    graph = next((file for name in _GRAPHS if (file := folder.file(name)) is not None), None)
    if graph is None:
        return None
    parts = [graph.part(FileRole.GRAPH)]
    parts += [file.part(FileRole.CONFIG) for name in _BESIDE if (file := folder.file(name))]
    variables = inspection.child(folder, "variables")
    if variables is not None:
        files = [file for file in variables.named(*variables.suffixes()) if _is_variable(file)]
        index_first = sorted(files, key=lambda file: (file.name != "variables.index", file.name))
        parts += [
            file.part(FileRole.INDEX if file.name == "variables.index" else FileRole.WEIGHTS)
            for file in index_first
        ]
    for name in ("assets", "assets.extra"):
        assets = inspection.child(folder, name)
        if assets is not None:
            parts += [file.part(FileRole.ASSET) for file in inspection.walk(assets, _ASSET_DEPTH)]
    name = name_of(folder.path)
    version = folder.revision or (name if name.isascii() and name.isdigit() else "")
    return make_model(
        folder.path,
        folder.path,
        version,
        framework=Framework.TENSORFLOW,
        weights_format=Format.SAVEDMODEL,
        files=parts,
    )


def _is_variable(file: File) -> bool:
    return file.name == "variables.index" or file.name.startswith("variables.data-")
