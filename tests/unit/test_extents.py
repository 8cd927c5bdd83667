"""The pool of extents: bounded, recycled."""

import errno

import pytest

from fusemount.store.extents import EXTENT_BYTES, ExtentPool

LEAST = 4


@pytest.mark.parametrize(
    ("budget_bytes", "capacity"),
    [
        (0, LEAST),
        (LEAST * EXTENT_BYTES, LEAST),
        ((LEAST + 1) * EXTENT_BYTES - 1, LEAST),
        ((LEAST + 1) * EXTENT_BYTES, LEAST + 1),
    ],
)
def test_capacity_is_what_fits_in_the_budget_but_four_at_least(
    budget_bytes: int, capacity: int
) -> None:
    assert ExtentPool(budget_bytes).capacity == capacity


def test_pool_gives_its_capacity_and_no_more() -> None:
    pool = ExtentPool(10 * EXTENT_BYTES)
    taken = [pool.take() for _ in range(10)]
    assert all(buffer is not None and len(buffer) == EXTENT_BYTES for buffer in taken)
    assert pool.take() is None
    assert (pool.in_use, pool.available, pool.mapped_bytes) == (10, 0, 10 * EXTENT_BYTES)


def test_small_load_maps_little() -> None:
    pool = ExtentPool(100 * EXTENT_BYTES)
    pool.take()
    assert pool.mapped_bytes <= 8 * EXTENT_BYTES


def test_buffers_share_no_memory() -> None:
    pool = ExtentPool(9 * EXTENT_BYTES)
    buffers = [buffer for _ in range(9) if (buffer := pool.take()) is not None]
    for number, buffer in enumerate(buffers):
        buffer[0] = buffer[-1] = number + 1
    assert [(buffer[0], buffer[-1]) for buffer in buffers] == [(n, n) for n in range(1, 10)]


def test_buffer_that_was_returned_last_is_taken_first() -> None:
    pool = ExtentPool(LEAST * EXTENT_BYTES)
    first, second = pool.take(), pool.take()
    assert first is not None
    assert second is not None
    pool.give_back(second)
    pool.give_back(first)
    assert pool.take() is first
    assert pool.take() is second


def test_system_without_memory_is_a_pool_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    pool = ExtentPool(LEAST * EXTENT_BYTES)
    with monkeypatch.context() as patch:
        patch.setattr("mmap.mmap", refuse)
        assert pool.take() is None
    assert (pool.in_use, pool.mapped_bytes) == (0, 0)
    assert pool.take() is not None
