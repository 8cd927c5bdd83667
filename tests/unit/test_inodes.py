"""The table of nodes: what stays, what goes, which names lead to which node."""

import stat

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fusemount.errors import StaleNodeError
from fusemount.inodes import ROOT_INODE, InodeTable, Node, is_same
from tests.unit.fakes import make_directory, make_found

FILE_A, FILE_B = b"file-a", b"file-b"


@pytest.fixture
def table() -> InodeTable:
    return InodeTable(make_directory(b"root"))


def look_up(table: InodeTable, parent: Node, name: bytes, found: object) -> Node:
    node = table.remember(parent, name, found)  # type: ignore[arg-type]
    node.lookups += 1
    return node


def test_root_is_node_one_and_cannot_be_forgotten(table: InodeTable) -> None:
    table.forget(ROOT_INODE, 1000)
    assert table.get(1) is table.root


def test_unknown_node_is_stale(table: InodeTable) -> None:
    with pytest.raises(StaleNodeError):
        table.get(2)


def test_forgetting_an_unknown_node_is_passed_over(table: InodeTable) -> None:
    table.forget(99, 1)
    assert len(table) == 1


def test_node_stays_until_its_last_lookup_is_forgotten(table: InodeTable) -> None:
    node = look_up(table, table.root, b"x", make_found(identity=FILE_A))
    look_up(table, table.root, b"x", make_found(identity=FILE_A))
    table.forget(node.inode, 1)
    assert table.get(node.inode) is node
    table.forget(node.inode, 1)
    with pytest.raises(StaleNodeError):
        table.get(node.inode)


def test_node_with_a_handle_outlives_its_lookups(table: InodeTable) -> None:
    node = look_up(table, table.root, b"x", make_found(identity=FILE_A))
    table.opened(node)
    table.forget(node.inode, 1)
    assert table.get(node.inode) is node
    table.released(node)
    assert len(table) == 1


def test_directory_stays_while_a_child_hangs_on_it(table: InodeTable) -> None:
    directory = look_up(table, table.root, b"d", make_directory(b"d"))
    child = look_up(table, directory, b"x", make_found(identity=FILE_A))
    table.forget(directory.inode, 1)
    assert table.get(directory.inode) is directory
    table.forget(child.inode, 1)
    assert len(table) == 1


def test_file_with_two_names_lets_both_its_directories_go(table: InodeTable) -> None:
    parents = [look_up(table, table.root, name, make_directory(name)) for name in (b"a", b"b")]
    for parent in parents:
        node = look_up(table, parent, b"x", make_found(identity=FILE_A))
        table.forget(parent.inode, 1)
    assert len(table) == 4
    table.forget(node.inode, 2)
    assert len(table) == 1


def test_whole_chain_goes_with_its_last_node(table: InodeTable) -> None:
    node = table.root
    for depth in range(5000):  # deeper than the interpreter's stack
        node = table.remember(node, b"d", make_directory(b"%d" % depth))
        node.lookups += 1
        if node.names[0][0] is not table.root:
            table.forget(node.names[0][0].inode, 1)
    assert len(table) == 5001
    table.forget(node.inode, 1)
    assert len(table) == 1


def test_same_identity_under_two_names_is_one_node(table: InodeTable) -> None:
    first = look_up(table, table.root, b"x", make_found(identity=FILE_A))
    second = look_up(table, table.root, b"y", make_found(identity=FILE_A))
    assert first is second
    assert table.path_of(first) == b"y"


def test_path_is_where_the_node_was_found_last(table: InodeTable) -> None:
    node = look_up(table, table.root, b"x", make_found(identity=FILE_A))
    look_up(table, table.root, b"y", make_found(identity=FILE_A))
    look_up(table, table.root, b"x", make_found(identity=FILE_A))
    assert table.path_of(node) == b"x"
    assert len(node.names) == 2


def test_equal_files_without_identity_are_two_nodes(table: InodeTable) -> None:
    first = look_up(table, table.root, b"x", make_found(size_bytes=5, number=7))
    second = look_up(table, table.root, b"y", make_found(size_bytes=5, number=7))
    assert first is not second


def test_identity_given_to_another_kind_is_another_node(table: InodeTable) -> None:
    first = look_up(table, table.root, b"x", make_found(identity=FILE_A))
    second = look_up(table, table.root, b"y", make_found(stat.S_IFLNK, identity=FILE_A))
    assert first is not second


def test_replaced_file_gets_a_new_number_and_the_old_one_has_no_name(table: InodeTable) -> None:
    old = look_up(table, table.root, b"x", make_found(identity=FILE_A))
    new = look_up(table, table.root, b"x", make_found(identity=FILE_B))
    assert new.inode != old.inode
    assert table.find(table.root, b"x") is new
    assert table.get(old.inode) is old
    assert table.path_of(old) is None


def test_renamed_directory_has_one_place(table: InodeTable) -> None:
    above = look_up(table, table.root, b"a", make_directory(b"a"))
    moved = look_up(table, above, b"d", make_directory(b"d"))
    look_up(table, table.root, b"e", make_directory(b"d"))
    assert moved.names == [(table.root, b"e")]
    assert table.find(above, b"d") is None
    assert table.path_of(moved) == b"e"


def test_directory_moved_out_of_an_unused_parent_lets_it_go(table: InodeTable) -> None:
    above = look_up(table, table.root, b"a", make_directory(b"a"))
    look_up(table, above, b"d", make_directory(b"d"))
    table.forget(above.inode, 1)
    look_up(table, table.root, b"d", make_directory(b"d"))
    with pytest.raises(StaleNodeError):
        table.get(above.inode)


def test_paths_that_lead_in_a_circle_are_unknown(table: InodeTable) -> None:
    outer = look_up(table, table.root, b"a", make_directory(b"a"))
    inner = look_up(table, outer, b"b", make_directory(b"b"))
    # The source: a/b moved to the top, then a moved into b; only the second was seen.
    look_up(table, inner, b"a", make_directory(b"a"))
    assert table.path_of(outer) is None
    assert table.path_of(inner) is None


def test_directory_that_only_a_circle_kept_is_found_again(table: InodeTable) -> None:
    outer = look_up(table, table.root, b"a", make_directory(b"a"))
    inner = look_up(table, outer, b"b", make_directory(b"b"))
    look_up(table, inner, b"a", make_directory(b"a"))
    table.forget(outer.inode, 2)
    table.forget(inner.inode, 1)
    found = look_up(table, table.root, b"b", make_directory(b"b"))
    assert table.get(found.inode) is found
    table.forget(found.inode, 1)
    assert len(table) == 1


@pytest.mark.parametrize(
    ("known", "handles", "found", "same"),
    [
        (make_found(identity=FILE_A, size_bytes=1), 0, make_found(identity=FILE_A), True),
        (make_found(identity=FILE_A), 0, make_found(identity=FILE_B), False),
        (make_found(identity=FILE_A), 0, make_found(), False),
        (make_found(), 0, make_found(identity=FILE_A), False),
        (make_found(identity=FILE_A), 0, make_found(stat.S_IFIFO, identity=FILE_A), False),
        (make_found(size_bytes=5, mtime_ns=7), 0, make_found(size_bytes=5, mtime_ns=7), True),
        (make_found(size_bytes=5), 0, make_found(size_bytes=6), False),
        (make_found(mtime_ns=7), 0, make_found(mtime_ns=8), False),
        (make_found(ctime_ns=7), 0, make_found(ctime_ns=8), True),
        (make_found(ctime_ns=7), 1, make_found(ctime_ns=8), False),
        (make_found(ctime_ns=7), 1, make_found(ctime_ns=7), True),
        (make_directory(), 0, make_directory(number=9), True),
        (make_directory(), 0, make_found(), False),
    ],
)
def test_what_counts_as_the_same(
    table: InodeTable, known: object, handles: int, found: object, same: bool
) -> None:
    node = look_up(table, table.root, b"x", known)
    node.handles = handles
    assert is_same(node, found) is same  # type: ignore[arg-type]


class Table(RuleBasedStateMachine):
    """Lookups, renames, opens and forgets in any order, held against plain counters.

    The source's files have identities 0 to 5 or none; what has none is told apart by its size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = InodeTable(make_directory(b"root"))
        self.known: dict[int, Node] = {ROOT_INODE: self.table.root}
        self.lookups: dict[int, int] = {}
        self.handles: dict[int, int] = {}
        self.given: set[int] = {ROOT_INODE}

    def _held(self) -> list[Node]:
        """Nodes that the kernel could name: it has looked them up, or has them open."""
        held = [n for n in self.known if self.lookups.get(n) or self.handles.get(n)]
        return [self.table.root, *(self.known[n] for n in sorted(held))]

    def _directories(self) -> list[Node]:
        # A kernel looks up in a directory only while it holds a lookup of it.
        return [n for n in self._held() if n.is_directory and n.lookups]

    def _choose(self, data: st.DataObject, nodes: list[Node]) -> Node:
        return nodes[data.draw(st.integers(0, len(nodes) - 1))]

    @rule(
        data=st.data(),
        name=st.sampled_from([b"a", b"b", b"c"]),
        identity=st.integers(0, 5) | st.none(),
        is_directory=st.booleans(),
        size_bytes=st.integers(0, 1),
    )
    def look_up(
        self,
        data: st.DataObject,
        name: bytes,
        identity: int | None,
        is_directory: bool,
        size_bytes: int,
    ) -> None:
        parent = self._choose(data, self._directories())
        kind = stat.S_IFDIR if is_directory else stat.S_IFREG
        found = make_found(
            kind,
            identity=None if identity is None else b"%d-%d" % (kind, identity),
            size_bytes=size_bytes,
        )
        before = self.table.find(parent, name)
        node = self.table.remember(parent, name, found)
        node.lookups += 1
        if node is not before and node.inode not in self.known:
            assert node.inode not in self.given
            self.given.add(node.inode)
        assert self.table.find(parent, name) is node
        assert (parent, name) == node.names[0]
        assert node.kind == kind
        if is_directory and identity is not None:
            assert len(node.names) == 1
        if identity is None:
            assert len(node.names) == 1
        self.known[node.inode] = node
        self.lookups[node.inode] = self.lookups.get(node.inode, 0) + 1

    @rule(data=st.data(), name=st.sampled_from([b"a", b"b", b"c"]))
    def vanish(self, data: st.DataObject, name: bytes) -> None:
        parent = self._choose(data, self._directories())
        self.table.detach(parent, name)
        assert self.table.find(parent, name) is None

    @precondition(lambda self: len(self._held()) > 1)
    @rule(data=st.data(), whole=st.booleans())
    def forget(self, data: st.DataObject, whole: bool) -> None:
        node = self._choose(data, self._held()[1:])
        count = self.lookups.get(node.inode, 0) if whole else min(1, self.lookups[node.inode])
        self.table.forget(node.inode, count)
        self.lookups[node.inode] -= count

    @precondition(lambda self: len(self._held()) > 1)
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        node = self._choose(data, self._held()[1:])
        self.table.opened(node)
        self.handles[node.inode] = self.handles.get(node.inode, 0) + 1

    @precondition(lambda self: any(self.handles.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        opened = [self.known[n] for n in sorted(self.handles) if self.handles[n]]
        node = self._choose(data, opened)
        self.table.released(node)
        self.handles[node.inode] -= 1

    @invariant()
    def table_is_what_is_needed(self) -> None:
        nodes = list(self.table.nodes())
        children: dict[int, int] = {}
        places = set()
        for node in nodes:
            for parent, name in node.names:
                places.add((parent.inode, name))
                children[parent.inode] = children.get(parent.inode, 0) + 1
                assert self.table.find(parent, name) is node
                assert self.table.get(parent.inode) is parent
        assert len(places) == sum(len(node.names) for node in nodes)
        for node in nodes[1:]:
            assert node.lookups == self.lookups.get(node.inode, 0)
            assert node.handles == self.handles.get(node.inode, 0)
            assert node.children == children.get(node.inode, 0)
            assert node.lookups or node.handles or node.children
        alive = {node.inode for node in nodes}
        assert {node.inode for node in self._held()} <= alive
        self.known = {number: node for number, node in self.known.items() if number in alive}

    def teardown(self) -> None:
        for number, count in self.handles.items():
            for _ in range(count):
                self.table.released(self.known[number])
        for number, count in self.lookups.items():
            self.table.forget(number, count)
        left = [node for node in self.table.nodes() if node is not self.table.root]
        # Only directories that were moved into one another can keep each other.
        assert all(self.table.path_of(node) is None for node in left)


TestTable = Table.TestCase
