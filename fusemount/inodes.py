"""The table of nodes: what the kernel's node ids mean. Pure: no I/O.

A node id is a counter of this mount's own and is never given to other content. A node is found by
parent and name and re-verified: by the source's identity where it has one, else by kind and, for
a regular file, by its version. Only identities join names (hard links, renames).

Invariants: a node stays while the kernel has looked it up, a child hangs on it or a handle is
open; `(parent, name)` leads to at most one node; node 1 is the root and never goes.
"""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fusemount.errors import StaleNodeError
from fusemount.identity import Found, Version

ROOT_INODE = 1


@dataclass(slots=True, eq=False)
class Node:
    """One node. `names` are the places where it was found, the latest first."""

    inode: int
    kind: int
    identity: bytes | None
    version: Version | None
    names: "list[tuple[Node, bytes]]" = field(default_factory=list)
    lookups: int = 0
    children: int = 0
    handles: int = 0
    # Whether the optimizer was told that names in this directory are looked up.
    is_searched: bool = False
    # The version whose pages the kernel may hold, if any since the node was opened first.
    cached_version: Version | None = None
    # The size that the kernel was last told, and when, on the monotonic clock.
    told_size_bytes: int = 0
    told_at: float = 0.0
    was_opened: bool = False

    @property
    def is_directory(self) -> bool:
        return self.kind == stat.S_IFDIR


class InodeTable:
    """Nodes by id, by (parent, name) and by identity. Used by the event loop only."""

    def __init__(self, root: Found) -> None:
        self._root = Node(ROOT_INODE, root.kind, root.identity, None, lookups=1)
        self._by_inode = {ROOT_INODE: self._root}
        self._by_name: dict[tuple[int, bytes], Node] = {}
        self._by_identity: dict[bytes, Node] = {}
        self._next = ROOT_INODE + 1
        # Told of each node that is dropped, for what others keep for it.
        self.on_drop: Callable[[Node], object] = lambda _node: None

    def __len__(self) -> int:
        return len(self._by_inode)

    @property
    def root(self) -> Node:
        return self._root

    def get(self, inode: int) -> Node:
        """The node with that id; raises StaleNodeError where there is none."""
        try:
            return self._by_inode[inode]
        except KeyError:
            raise StaleNodeError(f"node {inode}") from None

    def find(self, parent: Node, name: bytes) -> Node | None:
        """The node last found at that place, or None."""
        return self._by_name.get((parent.inode, name))

    def remember(self, parent: Node, name: bytes, found: Found) -> Node:
        """The node for what was found at a place: the known one if it is that, else a new one."""
        place = (parent.inode, name)
        known = self._by_name.get(place)
        if known is not None and is_same(known, found):
            if known.names[0] != (parent, name):
                known.names.remove((parent, name))
                known.names.insert(0, (parent, name))
            self._refresh(known, found)
            return known
        # Counted before older places go, which must not take the parent or the node along: where
        # names lead in a circle, each may be all that keeps the other.
        parent.children += 1
        self.detach(parent, name)
        node = self._by_identity.get(found.identity) if found.identity is not None else None
        if node is None or node.kind != found.kind:
            node = self._add(found)
        elif node.is_directory:
            # A directory has one place: the older ones are from before it was renamed.
            node.lookups += 1
            for old_parent, old_name in list(node.names):
                self.detach(old_parent, old_name)
            node.lookups -= 1
        self._refresh(node, found)
        self._by_name[place] = node
        node.names.insert(0, (parent, name))
        return node

    def detach(self, parent: Node, name: bytes) -> None:
        """Forget that a place leads to a node."""
        node = self._by_name.pop((parent.inode, name), None)
        if node is None:
            return
        node.names = [place for place in node.names if place != (parent, name)]
        parent.children -= 1
        self._drop_unused(node)
        self._drop_unused(parent)

    def forget(self, inode: int, lookups: int) -> None:
        """The kernel gives lookups back. Unknown nodes are passed over: FORGET must not fail."""
        node = self._by_inode.get(inode)
        if node is None or node is self._root:
            return
        node.lookups = max(0, node.lookups - lookups)
        self._drop_unused(node)

    def opened(self, node: Node) -> None:
        """A handle was opened on the node."""
        node.handles += 1
        node.was_opened = True

    def released(self, node: Node) -> None:
        """A handle of the node was closed."""
        node.handles -= 1
        self._drop_unused(node)

    def nodes(self) -> Iterator[Node]:
        """All nodes, the root first."""
        return iter(self._by_inode.values())

    def path_of(self, node: Node) -> bytes | None:
        """Its latest path relative to the root, without a leading slash; None where unknown."""
        parts: list[bytes] = []
        seen: set[int] = set()
        while node is not self._root:
            if not node.names or node.inode in seen:
                return None
            seen.add(node.inode)
            node, name = node.names[0]
            parts.append(name)
        return b"/".join(reversed(parts))

    def _add(self, found: Found) -> Node:
        node = Node(self._next, found.kind, found.identity, None)
        self._next += 1
        self._by_inode[node.inode] = node
        if found.identity is not None:
            self._by_identity[found.identity] = node
        return node

    def _refresh(self, node: Node, found: Found) -> None:
        node.version = found.version if node.kind != stat.S_IFDIR else None

    def _drop_unused(self, node: Node) -> None:
        """Drop the node, and ancestors that only it kept, unless something needs them."""
        while not (node.lookups or node.children or node.handles) and node is not self._root:
            if self._by_inode.pop(node.inode, None) is None:
                return
            if node.identity is not None and self._by_identity.get(node.identity) is node:
                del self._by_identity[node.identity]
            places, node.names = node.names, []
            self.on_drop(node)
            for parent, name in places:
                self._by_name.pop((parent.inode, name), None)
                parent.children -= 1
            # A file with several names keeps several parents; all but one are dropped here.
            for parent, _ in places[1:]:
                self._drop_unused(parent)
            if not places:
                return
            node = places[0][0]


def is_same(node: Node, found: Found) -> bool:
    """Whether what was found is the node, as far as the source can tell.

    Without an identity a regular file counts as the same while size and mtime are the same; its
    change time decides only while it is open, since some sources make change times up.
    """
    if node.kind != found.kind:
        return False
    if node.identity is not None or found.identity is not None:
        return node.identity == found.identity
    if node.is_directory or node.version is None:
        return True
    version = found.version
    if (node.version.size_bytes, node.version.mtime_ns) != (version.size_bytes, version.mtime_ns):
        return False
    return not node.handles or node.version.ctime_ns == version.ctime_ns
