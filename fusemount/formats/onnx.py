"""ONNX graphs and the files that hold their external data.

The graph says itself where its data lies (TensorProto.external_data, key `location`), so a
bounded head of it is read where the folder holds anything that could be data; names by
convention stand in where the head does not tell. Field numbers are those of onnx.proto.
"""

import os
import re
from collections.abc import Iterator

from fusemount.formats.entries import join
from fusemount.formats.folder import File, Folder
from fusemount.formats.inspection import Inspection
from fusemount.formats.model import FileRole, Format, Framework, Model, make_model

# A graph whose weights lie outside has rarely more than 2 MB.
HEAD_LIMIT_BYTES = 4 * 1024 * 1024
# Fields looked at in one head: some seconds of work at most, far above any real graph.
_FIELD_LIMIT = 200_000
_LOCATION_LIMIT = 4_096
_GRAPHS_READ = 16
_NEVER_DATA = frozenset((".onnx", ".json", ".txt", ".md", ".py", ".yaml", ".yml", ".jinja"))

_GRAPH, _INITIALIZER, _EXTERNAL_DATA, _KEY, _VALUE = 7, 5, 13, 1, 2


def recognise(folder: Folder, inspection: Inspection) -> list[Model]:
    """The graphs of `folder` with their data; data that two graphs share goes to the first."""
    graphs = [file for file in folder.own(".onnx") if not file.name.startswith(".")]
    if not graphs:
        return []
    may_be_external = bool(folder.directories) or any(
        suffix not in _NEVER_DATA for suffix in folder.suffixes()
    )
    models = []
    for number, graph in enumerate(graphs):
        data: dict[str, File] = {}
        if may_be_external and number < _GRAPHS_READ:
            head = inspection.read(graph.path, 0, HEAD_LIMIT_BYTES)
            for location in external_locations(head or b""):
                file = _locate(folder, inspection, location)
                if file is not None and file.path != graph.path:
                    data.setdefault(file.path, file)
        for file in _conventional(folder, graph):
            data.setdefault(file.path, file)
        parts = [graph.part(FileRole.GRAPH)]
        parts += [file.part(FileRole.WEIGHTS) for file in data.values()]
        folder.take(part.path for part in parts)
        models.append(
            make_model(
                join(folder.path, graph.name),
                folder.path,
                folder.revision,
                framework=Framework.ONNX,
                weights_format=Format.ONNX,
                files=parts,
            )
        )
    return models


def external_locations(head: bytes) -> list[str]:
    """The locations of external data that the head of a model names, each once, in its order.

    `head` may be cut off anywhere or be no protobuf at all.
    """
    budget = iter(range(_FIELD_LIMIT))
    locations: dict[str, None] = {}
    for graph in _messages(memoryview(head), _GRAPH, budget):
        for tensor in _messages(graph, _INITIALIZER, budget):
            for entry in _messages(tensor, _EXTERNAL_DATA, budget):
                key = next(_messages(entry, _KEY, budget, is_whole=True), None)
                value = next(_messages(entry, _VALUE, budget, is_whole=True), None)
                if key and value and bytes(key) == b"location":
                    locations[os.fsdecode(bytes(value))] = None
                    if len(locations) == _LOCATION_LIMIT:
                        return list(locations)
    return list(locations)


def _messages(
    data: memoryview, number: int, budget: Iterator[int], is_whole: bool = False
) -> Iterator[memoryview]:
    """The length-delimited fields of that number.

    The last may be cut off with `data`; `is_whole` leaves it out then.
    """
    at = 0
    while at < len(data) and next(budget, None) is not None:
        tag, at = _varint(data, at)
        wire_type = tag & 7
        if wire_type == 0:
            _, at = _varint(data, at)
        elif wire_type == 1:
            at += 8
        elif wire_type == 5:
            at += 4
        elif wire_type == 2:
            length, at = _varint(data, at)
            if tag >> 3 == number and (not is_whole or at + length <= len(data)):
                yield data[at : at + length]
            at += length
        else:
            return


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of at most ten bytes, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, at


def _locate(folder: Folder, inspection: Inspection, location: str) -> File | None:
    """The file at a location relative to the graph; one that leaves its folder is refused."""
    *directories, name = location.split("/")
    at: Folder | None = folder
    for directory in directories:
        if directory in ("", "."):
            continue
        at = inspection.child(at, directory) if at is not None else None
    return at.file(name) if at is not None else None


def _conventional(folder: Folder, graph: File) -> list[File]:
    """Files that exporters put beside a graph of this name."""
    stem = graph.name[: -len(".onnx")]
    names = [f"{graph.name}_data", f"{graph.name}.data", f"{stem}.data"]
    numbered = re.compile(re.escape(graph.name) + r"_data_\d+", re.S)
    names += [
        file.name
        for suffix in folder.suffixes()
        if suffix.startswith(".onnx_data_")
        for file in folder.named(suffix)
        if numbered.fullmatch(file.name)
    ]
    return [file for name in names if (file := folder.file(name)) is not None]
