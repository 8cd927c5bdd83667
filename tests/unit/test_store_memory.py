"""The memory store against a model: no extent is lost, given out twice, or taken while pinned."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from fusemount.identity import Version
from fusemount.store.content import Content, Extent, FileCounters
from fusemount.store.extents import EXTENT_BYTES
from fusemount.store.memory import MemoryStore, Need

_CAPACITY = 6
_KEYS = [b"a", b"b", b"c"]


def make_store(capacity: int = _CAPACITY) -> MemoryStore:
    return MemoryStore(capacity * EXTENT_BYTES)


def make_content(
    store: MemoryStore, key: bytes = b"key", extents: int = 2, version: int = 0
) -> Content:
    """A content with an open file: one user and a descriptor that nobody reads."""
    size = extents * EXTENT_BYTES - 100
    content = store.add(key, Version(size, version, version), FileCounters(), lambda _fd: None)
    content.fd = 0
    content.hold()
    return content


def fill(store: MemoryStore, content: Content, index: int, need: Need = Need.DEMAND) -> Extent:
    """A new extent with all of its bytes."""
    extent = store.make_extent(content, index, need)
    assert extent is not None
    start_job(extent)
    end_job(store, extent, succeeds=True)
    return extent


def start_job(extent: Extent) -> None:
    extent.jobs += 1
    extent.fetching = extent.all_units


def end_job(store: MemoryStore, extent: Extent, *, succeeds: bool) -> None:
    """What the reader does when a fetch of the whole extent has ended."""
    extent.fetching = 0
    if succeeds and extent.content.extents.get(extent.index) is extent:
        extent.present = extent.all_units
        store.on_arrived(extent)
    extent.wake()
    store.on_job_done(extent)


def test_extent_whose_fetch_failed_is_free_again() -> None:
    store = make_store()
    content = make_content(store)
    extent = store.make_extent(content, 0, Need.DEMAND)
    assert extent is not None
    start_job(extent)
    end_job(store, extent, succeeds=False)
    assert store.pool.in_use == 0
    assert content.extents == {}


def test_extent_with_other_bytes_outlives_a_failed_fetch() -> None:
    store = make_store()
    content = make_content(store)
    extent = store.make_extent(content, 0, Need.DEMAND)
    assert extent is not None
    start_job(extent)
    extent.present = 1
    store.on_arrived(extent)
    end_job(store, extent, succeeds=False)
    assert content.extents == {0: extent}


def test_dropped_extent_is_not_given_out_while_a_fetch_writes_to_it() -> None:
    store = make_store()
    content = make_content(store)
    extent = store.make_extent(content, 0, Need.DEMAND)
    assert extent is not None
    start_job(extent)
    store.supersede(content)
    other = make_content(store, b"other", extents=_CAPACITY)
    taken = [store.make_extent(other, index, Need.DEMAND) for index in range(_CAPACITY)]
    assert [extent is None for extent in taken] == [False] * (_CAPACITY - 1) + [True]
    end_job(store, extent, succeeds=True)
    assert store.make_extent(other, _CAPACITY - 1, Need.DEMAND) is not None


def test_unread_pinned_content_gives_its_room_back_when_it_is_closed() -> None:
    store = make_store()
    for version in range(10):
        content = make_content(store, extents=3, version=version)
        assert store.pin(content)
        content.release()
        store.forget_unused(content)
    assert store.pinned_bytes == 0


def test_late_drop_of_an_extent_leaves_its_successor_alone() -> None:
    store = make_store(capacity=4)
    content = make_content(store, extents=4)
    first = store.make_extent(content, 0, Need.DEMAND)
    assert first is not None
    start_job(first)
    store.drop(first)
    second = fill(store, content, 0)
    store.drop(first)
    end_job(store, first, succeeds=True)
    assert content.extents == {0: second}
    # It is still known as one that may go: all others can be had.
    other = make_content(store, b"other", extents=4)
    assert all(store.make_extent(other, index, Need.DEMAND) for index in range(4))


def test_streaming_recycles_what_was_read() -> None:
    store = make_store()
    content = make_content(store, extents=100)
    for index in range(100):
        extent = fill(store, content, index, Need.AHEAD)
        store.on_read(extent, extent.all_units)
    assert store.pool.mapped_bytes <= _CAPACITY * EXTENT_BYTES
    assert content.counters.wasted_bytes == 0


def test_prefetch_takes_nothing_from_a_file_that_is_open() -> None:
    store = make_store()
    content = make_content(store, extents=_CAPACITY + 1)
    for index in range(_CAPACITY):
        fill(store, content, index, Need.AHEAD)
    assert store.make_extent(content, _CAPACITY, Need.AHEAD) is None
    assert store.make_extent(content, _CAPACITY, Need.PRELOAD) is None
    assert store.make_extent(content, _CAPACITY, Need.DEMAND) is not None


class StoreMachine(RuleBasedStateMachine):
    """Random work on a store; the model is which extents hold which buffers."""

    contents: Bundle[Content] = Bundle("contents")
    jobs: Bundle[Extent] = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.store = make_store()
        self.open: list[Content] = []
        self.known: list[Content] = []
        self.running: list[Extent] = []
        self.version = 0

    @rule(target=contents, key=st.sampled_from(_KEYS), extents=st.integers(1, 5))
    def open_content(self, key: bytes, extents: int) -> Content:
        self.version += 1
        content = make_content(self.store, key, extents, self.version)
        self.open.append(content)
        self.known.append(content)
        return content

    @rule(content=contents)
    def open_again(self, content: Content) -> None:
        if content.is_current:
            content.fd = 0
            content.hold()
            self.open.append(content)

    @rule(content=contents)
    def close(self, content: Content) -> None:
        if content in self.open:
            self.open.remove(content)
            content.release()
            self.store.forget_unused(content)

    @rule(
        target=jobs,
        content=contents,
        index=st.integers(0, 4),
        need=st.sampled_from(Need),
        is_ahead=st.booleans(),
    )
    def fetch(
        self, content: Content, index: int, need: Need, is_ahead: bool
    ) -> Extent | MultipleResults[Extent]:
        # Only readers fetch, and they move on from a content that was superseded.
        if content not in self.open or not content.is_current:
            return multiple()
        if index * EXTENT_BYTES >= content.size_bytes or index in content.extents:
            return multiple()
        pinned = [(other, set(other.extents)) for other in self.known if other.is_pinned]
        extent = self.store.make_extent(content, index, need)
        assert all(indices <= set(other.extents) for other, indices in pinned)
        if extent is None:
            return multiple()
        extent.ahead = extent.all_units if is_ahead else 0
        content.hold()
        start_job(extent)
        self.running.append(extent)
        return extent

    @rule(extent=consumes(jobs), succeeds=st.booleans())
    def finish(self, extent: Extent, succeeds: bool) -> None:
        self.running.remove(extent)
        extent.content.release()
        end_job(self.store, extent, succeeds=succeeds)

    @rule(content=contents, index=st.integers(0, 4), is_whole=st.booleans())
    def read(self, content: Content, index: int, is_whole: bool) -> None:
        extent = content.extents.get(index)
        if extent is not None and extent.present == extent.all_units:
            self.store.on_read(extent, extent.all_units if is_whole else 1)

    @rule(content=contents, read=st.booleans(), ahead=st.booleans(), pinned=st.booleans())
    def apply_policy(self, content: Content, read: bool, ahead: bool, pinned: bool) -> None:
        content.keeps_read, content.keeps_prefetched = read, ahead
        if content in self.open and content.is_current and pinned:
            self.store.pin(content)
        else:
            self.store.unpin(content)

    @rule(content=contents)
    def change(self, content: Content) -> None:
        if content.is_current:
            self.store.supersede(content)

    def _extents(self) -> list[Extent]:
        held = [extent for content in self.known for extent in content.extents.values()]
        return held + [extent for extent in self.running if extent not in held]

    @invariant()
    def every_buffer_has_one_holder(self) -> None:
        extents = self._extents()
        assert self.store.pool.in_use == len(extents) <= _CAPACITY
        assert len({id(extent.buffer) for extent in extents}) == len(extents)

    @invariant()
    def superseded_contents_hold_nothing(self) -> None:
        for content in self.known:
            if not content.is_current:
                assert content.extents == {}

    @invariant()
    def pinned_bytes_are_those_of_pinned_contents(self) -> None:
        sizes = [
            -(-content.size_bytes // EXTENT_BYTES) * EXTENT_BYTES
            for content in self.known
            if content.is_pinned
        ]
        assert self.store.pinned_bytes == sum(sizes) <= _CAPACITY * EXTENT_BYTES

    @invariant()
    def unused_contents_without_bytes_are_forgotten(self) -> None:
        for content in self.known:
            if not content.users and not content.extents:
                assert self.store.current(content.key) is not content

    def teardown(self) -> None:
        """Once nobody reads and nothing is pinned, all memory can be had again."""
        for extent in self.running:
            extent.content.release()
            end_job(self.store, extent, succeeds=False)
        self.running = []
        for content in self.open:
            content.release()
            self.store.forget_unused(content)
        for content in self.known:
            self.store.unpin(content)
        last = make_content(self.store, b"last", _CAPACITY)
        for index in range(_CAPACITY):
            assert self.store.make_extent(last, index, Need.DEMAND) is not None


TestStore = StoreMachine.TestCase
TestStore.settings = settings(stateful_step_count=40)


def test_pinned_content_that_is_not_wanted_any_more_is_freed_once_closed() -> None:
    store = make_store()
    opened, closed = make_content(store, b"a"), make_content(store, b"b")
    for content in (opened, closed):
        assert store.pin(content)
        fill(store, content, 0)
    closed.release()
    assert set(store.pinned) == {opened, closed}
    for content in (opened, closed):
        store.free(content)
    assert (store.pinned, store.pinned_bytes) == ([], 0)
    assert list(opened.extents) == [0]
    assert (closed.extents, store.current(b"b")) == ({}, None)
    assert store.pool.in_use == 1


def test_pinned_file_makes_room_for_the_one_that_replaced_it() -> None:
    store = make_store()
    before, after = make_content(store, b"a", 3), make_content(store, b"b", 3)
    before.path = after.path = "model.bin"
    assert store.pin(before)
    fill(store, before, 0)
    assert not store.pin(after)
    before.release()
    assert store.pin(after)
    assert store.pinned == [after]
    assert store.pool.in_use == 0
