"""ONNX graphs and their external data."""

import pytest

from fusemount.catalog import Catalog
from fusemount.formats.onnx import external_locations
from tests.unit.fake_tree import Content, FakeTree, Sized, found, paths


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def onnx_graph(*locations: str) -> bytes:
    """A model whose initializers lie at `locations`, encoded by hand."""
    tensors = b""
    for location in locations:
        offset = message(13, message(1, b"offset") + message(2, b"0"))
        where = message(13, message(1, b"location") + message(2, location.encode()))
        tensors += message(5, message(8, b"w") + offset + where)
    return b"\x08\x08" + message(7, message(1, b"node") + tensors)


def test_onnx_data_is_what_the_graph_names() -> None:
    files: dict[str, Content] = {
        "m/net.onnx": onnx_graph("second", "sub/first", "second", "absent"),
        "m/sub/first": Sized(20),
        "m/second": Sized(30),
        "m/third": Sized(40),
    }
    model = found(files, "m")["m/net.onnx"]
    assert paths(model) == ["m/net.onnx", "m/second", "m/sub/first"]


@pytest.mark.parametrize("name", ["net.onnx_data", "net.onnx_data_1", "net.onnx.data", "net.data"])
def test_onnx_data_by_convention(name: str) -> None:
    files: dict[str, Content] = {"net.onnx": b"no protobuf", name: Sized(9)}
    assert paths(found(files)["net.onnx"]) == ["net.onnx", name]


@pytest.mark.parametrize("location", ["../secret.bin", "/m/secret.bin", "a/../../secret.bin", ""])
def test_onnx_data_outside_of_its_folder_is_refused(location: str) -> None:
    files: dict[str, Content] = {
        "m/net/net.onnx": onnx_graph(location),
        "m/net/a/x": Sized(5),
        "m/secret.bin": Sized(6),
    }
    assert paths(found(files, "m/net")["m/net/net.onnx"]) == ["m/net/net.onnx"]


def test_onnx_alone_is_not_read() -> None:
    tree = FakeTree({"m/net.onnx": onnx_graph("x")})
    Catalog(tree).visit("m")
    assert tree.requests == {"scan": 1}


def test_onnx_head_may_be_cut_anywhere() -> None:
    whole = onnx_graph("first", "second")
    seen = [external_locations(whole[:end]) for end in range(len(whole) + 1)]
    assert [n for n, names in enumerate(seen) if names not in ([], ["first"], seen[-1])] == []
    assert seen[-1] == ["first", "second"]
