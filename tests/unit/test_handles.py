"""Tables of open files and directories."""

import pytest

from fusemount.errors import StaleNodeError
from fusemount.handles import FileHandle, Handles
from fusemount.identity import Version
from fusemount.inodes import InodeTable, Node
from fusemount.readahead import Readahead
from fusemount.store.content import Content, FileCounters
from tests.unit.fakes import make_directory, make_found


@pytest.fixture
def table() -> InodeTable:
    return InodeTable(make_directory())


def open_file(handles: Handles, node: Node) -> FileHandle:
    content = Content(b"k", Version(0, 0, 0), FileCounters(), print)
    fh = handles.next_fh()
    handle = FileHandle(fh, node, "x", content, 1, Readahead(0), 0, True, True)
    handles.add_file(handle)
    return handle


def test_files_and_directories_share_no_number(table: InodeTable) -> None:
    handles = Handles()
    numbers = [
        open_file(handles, table.root).fh,
        handles.add_directory(table.root).fh,
        open_file(handles, table.root).fh,
        handles.add_directory(table.root).fh,
    ]
    assert len(set(numbers)) == 4


def test_numbers_are_not_given_again(table: InodeTable) -> None:
    handles = Handles()
    first = open_file(handles, table.root)
    handles.remove_file(first.fh)
    assert open_file(handles, table.root).fh != first.fh


def test_number_of_a_directory_is_no_file_and_the_other_way_round(table: InodeTable) -> None:
    handles = Handles()
    file, directory = open_file(handles, table.root), handles.add_directory(table.root)
    assert handles.file(file.fh) is file
    assert handles.directory(directory.fh) is directory
    with pytest.raises(StaleNodeError):
        handles.file(directory.fh)
    with pytest.raises(StaleNodeError):
        handles.directory(file.fh)


def test_open_files_of_a_node_are_found_until_the_last_is_removed(table: InodeTable) -> None:
    handles = Handles()
    node = table.remember(table.root, b"x", make_found())
    other = table.remember(table.root, b"y", make_found())
    first, second = open_file(handles, node), open_file(handles, node)
    third = open_file(handles, other)
    assert handles.of_node(node) == [first, second]
    handles.remove_file(first.fh)
    assert handles.of_node(node) == [second]
    handles.remove_file(second.fh)
    assert handles.of_node(node) == []
    assert handles.files() == [third]
    assert len(handles) == 1


def test_removing_twice_is_nothing(table: InodeTable) -> None:
    handles = Handles()
    handle, directory = open_file(handles, table.root), handles.add_directory(table.root)
    assert handles.remove_file(handle.fh) is handle
    assert handles.remove_file(handle.fh) is None
    assert handles.remove_directory(directory.fh) is directory
    assert handles.remove_directory(directory.fh) is None
    with pytest.raises(StaleNodeError):
        handles.file(handle.fh)
