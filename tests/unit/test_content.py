"""Masks of units: what of an extent a range touches, and back."""

import itertools

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from fusemount.identity import Version
from fusemount.store.content import (
    UNIT_BYTES,
    UNITS_PER_EXTENT,
    Content,
    Extent,
    FileCounters,
    runs,
    units_mask,
)
from fusemount.store.extents import EXTENT_BYTES

ALL_UNITS = (1 << UNITS_PER_EXTENT) - 1


def make_content(size_bytes: int, closed: list[int] | None = None) -> Content:
    close = (closed if closed is not None else []).append
    return Content(b"key", Version(size_bytes, 0, 0), FileCounters(), close)


@pytest.mark.parametrize(
    ("start", "end", "units"),
    [
        (0, 1, {0}),
        (0, UNIT_BYTES, {0}),
        (0, UNIT_BYTES + 1, {0, 1}),
        (UNIT_BYTES - 1, UNIT_BYTES + 1, {0, 1}),
        (UNIT_BYTES, UNIT_BYTES + 1, {1}),
        (EXTENT_BYTES - 1, EXTENT_BYTES, {UNITS_PER_EXTENT - 1}),
        (0, 0, set()),
        (UNIT_BYTES, UNIT_BYTES, set()),
    ],
)
def test_range_touches_these_units(start: int, end: int, units: set[int]) -> None:
    assert units_mask(start, end) == sum(1 << unit for unit in units)


def test_whole_extent_is_all_units() -> None:
    assert units_mask(0, EXTENT_BYTES) == ALL_UNITS


@given(st.integers(0, EXTENT_BYTES - 1), st.integers(1, EXTENT_BYTES))
def test_mask_is_the_set_of_touched_units(start: int, length: int) -> None:
    end = min(start + length, EXTENT_BYTES)
    mask = units_mask(start, end)
    for unit in range(UNITS_PER_EXTENT):
        low, high = unit * UNIT_BYTES, (unit + 1) * UNIT_BYTES
        assert bool(mask >> unit & 1) is (low < end and start < high)
    assert mask >> UNITS_PER_EXTENT == 0


@given(st.sets(st.integers(0, UNITS_PER_EXTENT - 1)))
def test_runs_are_the_same_units_in_order_and_never_touch(units: set[int]) -> None:
    found = runs(sum(1 << unit for unit in units))
    assert [unit for first, last in found for unit in range(first, last)] == sorted(units)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(found))


def test_no_units_have_no_runs() -> None:
    assert runs(0) == []


@pytest.mark.parametrize(
    ("size_bytes", "index", "units"),
    [
        (0, 0, 0),
        (1, 0, 1),
        (UNIT_BYTES, 0, 1),
        (UNIT_BYTES + 1, 0, 2),
        (EXTENT_BYTES - 1, 0, UNITS_PER_EXTENT),
        (EXTENT_BYTES, 0, UNITS_PER_EXTENT),
        (EXTENT_BYTES + 1, 0, UNITS_PER_EXTENT),
        (EXTENT_BYTES + 1, 1, 1),
        (2 * EXTENT_BYTES, 1, UNITS_PER_EXTENT),
    ],
)
def test_last_extent_has_the_units_up_to_the_end_of_the_file(
    size_bytes: int, index: int, units: int
) -> None:
    assert make_content(size_bytes).units_of(index) == (1 << units) - 1


def test_descriptor_is_closed_by_its_last_user_and_once() -> None:
    closed: list[int] = []
    content = make_content(1, closed)
    content.fd = 77
    content.hold()
    content.hold()
    content.release()
    assert closed == []
    content.release()
    assert closed == [77]
    assert content.fd == -1


def test_all_waiters_wake_and_later_ones_wait_for_the_next_arrival() -> None:
    extent = Extent(make_content(1), 0, memoryview(bytearray(1)), 1)
    woken: list[str] = []

    async def wait(name: str) -> None:
        await extent.wait()
        woken.append(name)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "a")
            nursery.start_soon(wait, "b")
            await trio.testing.wait_all_tasks_blocked()
            extent.wake()
            nursery.start_soon(wait, "c")
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(woken) == ["a", "b"]
            extent.wake()

    trio.run(main)
    assert sorted(woken) == ["a", "b", "c"]
