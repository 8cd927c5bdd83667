"""Windows: what is fetched ahead of one reader, by its reads."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemount.readahead import MAX_WINDOW_BYTES, Plan, Readahead

KIB, MIB = 1024, 1024 * 1024
FILE_BYTES = 1024 * MIB
SLACK_BYTES = 2 * MIB


def read_whole(readahead: Readahead, size: int, file_bytes: int) -> list[Plan]:
    plans = [
        readahead.on_read(offset, min(size, file_bytes - offset), file_bytes)
        for offset in range(0, file_bytes, size)
    ]
    return [plan for plan in plans if plan is not None]


def test_first_read_plans_one_window_behind_it() -> None:
    assert Readahead(4 * MIB).on_read(0, MIB, FILE_BYTES) == Plan(MIB, 5 * MIB)


def test_first_read_anywhere_counts_as_the_start() -> None:
    readahead = Readahead(4 * MIB)
    assert readahead.on_read(100 * MIB, MIB, FILE_BYTES) == Plan(101 * MIB, 105 * MIB)
    assert not readahead.is_random


def test_plan_ends_with_the_file() -> None:
    assert Readahead(4 * MIB).on_read(0, MIB, 3 * MIB + 1) == Plan(MIB, 3 * MIB + 1)


def test_read_of_the_end_plans_nothing() -> None:
    assert Readahead(4 * MIB).on_read(2 * MIB, MIB, 3 * MIB) is None


def test_zero_switches_prefetch_off() -> None:
    readahead = Readahead(0)
    assert all(readahead.on_read(n * MIB, MIB, FILE_BYTES) is None for n in range(10))
    assert not readahead.is_random


def test_window_doubles_after_half_of_it_was_read_and_not_before() -> None:
    readahead = Readahead(4 * MIB)
    readahead.on_read(0, KIB, FILE_BYTES)
    readahead.on_read(KIB, 2 * MIB - 1, FILE_BYTES)
    assert readahead.window_bytes == 4 * MIB
    readahead.on_read(KIB + 2 * MIB - 1, 1, FILE_BYTES)
    assert readahead.window_bytes == 8 * MIB


def test_window_grows_to_the_maximum_and_no_further() -> None:
    readahead = Readahead(MIB)
    read_whole(readahead, MIB, 512 * MIB)
    assert readahead.window_bytes == MAX_WINDOW_BYTES == 64 * MIB


def test_first_window_is_capped() -> None:
    assert Readahead(MAX_WINDOW_BYTES + 1).window_bytes == MAX_WINDOW_BYTES


@given(
    first=st.integers(1, 80 * MIB),
    size=st.integers(4 * KIB, MIB),
    file_bytes=st.integers(1, 100 * MIB),
)
def test_whole_file_in_order_is_planned_once_and_completely(
    first: int, size: int, file_bytes: int
) -> None:
    plans = read_whole(Readahead(first), size, file_bytes)
    # The reader itself fetches its first read; a window smaller than a read plans within it.
    edges = [(0, min(size, file_bytes)), *((plan.start, plan.end) for plan in plans)]
    assert all(start < end <= file_bytes for start, end in edges)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(edges))
    if first >= 2 * size:
        assert all(before[1] == after[0] for before, after in itertools.pairwise(edges))
        assert edges[-1][1] == file_bytes


@given(
    st.integers(1, 80 * MIB),
    st.lists(st.tuples(st.integers(0, 50 * MIB), st.integers(1, MIB)), max_size=60),
)
def test_no_plan_lies_behind_its_read_or_beyond_a_window(
    first: int, reads: list[tuple[int, int]]
) -> None:
    readahead, file_bytes = Readahead(first), 51 * MIB
    furthest = 0
    for offset, size in reads:
        plan = readahead.on_read(offset, size, file_bytes)
        furthest = max(furthest, offset + size)
        assert readahead.window_bytes <= MAX_WINDOW_BYTES
        if plan is not None:
            assert offset + size <= plan.start < plan.end <= file_bytes
            assert plan.end <= furthest + readahead.window_bytes


@given(
    st.integers(256 * KIB, 8 * MIB),
    st.lists(st.integers(0, 7), min_size=1, max_size=40),
)
def test_requests_a_little_out_of_order_stay_sequential(first: int, swaps: list[int]) -> None:
    # The kernel sends requests of one read-ahead in any order: here groups of eight, shuffled.
    readahead = Readahead(first)
    plans = []
    for group, swap in enumerate(swaps):
        order = [swap, *(n for n in range(8) if n != swap)]
        for number in order if group else range(8):
            plan = readahead.on_read((8 * group + number) * 128 * KIB, 128 * KIB, FILE_BYTES)
            plans += [plan] if plan is not None else []
    assert not readahead.is_random
    assert all(before.end <= after.start for before, after in itertools.pairwise(plans))


def test_step_within_the_slack_is_no_jump_and_one_beyond_it_is() -> None:
    inside, beyond = Readahead(8 * MIB), Readahead(8 * MIB)
    for readahead, step in ((inside, SLACK_BYTES), (beyond, SLACK_BYTES + 1)):
        offset = 0
        for _ in range(4):
            readahead.on_read(offset, KIB, FILE_BYTES)
            offset += KIB + step
    assert not inside.is_random
    assert beyond.is_random


def test_step_back_within_the_slack_is_no_jump_and_one_beyond_it_is() -> None:
    for back, random in ((SLACK_BYTES, False), (SLACK_BYTES + 1, True)):
        readahead = Readahead(8 * MIB)
        readahead.on_read(100 * MIB, MIB, FILE_BYTES)
        readahead.on_read(101 * MIB - back, 1, FILE_BYTES)
        readahead.on_read(500 * MIB, 1, FILE_BYTES)
        assert readahead.is_random is random


def test_first_jump_starts_a_small_window_there() -> None:
    readahead = Readahead(4 * MIB)
    read_whole(readahead, MIB, 100 * MIB)
    assert readahead.window_bytes > 4 * MIB
    assert readahead.on_read(500 * MIB, MIB, FILE_BYTES) == Plan(501 * MIB, 505 * MIB)
    assert readahead.window_bytes == 4 * MIB


def test_second_jump_stops_plans() -> None:
    readahead = Readahead(4 * MIB)
    readahead.on_read(0, KIB, FILE_BYTES)
    assert readahead.on_read(300 * MIB, KIB, FILE_BYTES) is not None
    assert readahead.on_read(100 * MIB, KIB, FILE_BYTES) is None
    assert readahead.is_random


def test_reading_on_in_sequence_resumes() -> None:
    readahead = Readahead(4 * MIB)
    for offset in (0, 300 * MIB, 100 * MIB):
        readahead.on_read(offset, MIB, FILE_BYTES)
    assert readahead.on_read(101 * MIB, MIB, FILE_BYTES) == Plan(102 * MIB, 106 * MIB)
    assert not readahead.is_random


@given(st.permutations(range(64)))
def test_random_reads_far_apart_are_planned_twice_at_most_between_sequences(
    order: list[int],
) -> None:
    readahead = Readahead(64 * KIB)
    plans = [readahead.on_read(number * 8 * MIB, 4 * KIB, 512 * MIB) for number in order]
    assert sum(plan is not None for plan in plans) <= 2


def test_new_first_window_takes_effect_where_nothing_has_grown() -> None:
    readahead = Readahead(MIB)
    readahead.set_first_window(8 * MIB)
    assert readahead.on_read(0, MIB, FILE_BYTES) == Plan(MIB, 9 * MIB)


def test_smaller_first_window_takes_effect_where_nothing_has_grown() -> None:
    readahead = Readahead(8 * MIB)
    readahead.set_first_window(MIB)
    assert readahead.window_bytes == MIB


def test_grown_window_stays_when_the_advice_is_smaller() -> None:
    readahead = Readahead(2 * MIB)
    read_whole(readahead, MIB, 64 * MIB)
    grown = readahead.window_bytes
    readahead.set_first_window(MIB)
    assert readahead.window_bytes == grown > 2 * MIB


def test_grown_window_is_lifted_to_larger_advice() -> None:
    readahead = Readahead(MIB)
    readahead.on_read(0, MIB, FILE_BYTES)
    readahead.on_read(MIB, MIB, FILE_BYTES)
    readahead.set_first_window(32 * MIB)
    assert readahead.window_bytes == 32 * MIB


def test_advice_of_zero_stops_a_running_reader() -> None:
    readahead = Readahead(4 * MIB)
    readahead.on_read(0, MIB, FILE_BYTES)
    readahead.set_first_window(0)
    assert all(readahead.on_read(n * MIB, MIB, FILE_BYTES) is None for n in range(1, 20))


@pytest.mark.parametrize(
    ("offset", "continues"),
    [
        (10 * MIB - SLACK_BYTES - 1, False),
        (10 * MIB - SLACK_BYTES, True),
        (10 * MIB, True),
        (10 * MIB + SLACK_BYTES, True),
        (10 * MIB + SLACK_BYTES + 1, False),
    ],
)
def test_read_about_the_position_continues_the_stream(offset: int, continues: bool) -> None:
    readahead = Readahead(MIB)
    readahead.on_read(9 * MIB, MIB, FILE_BYTES)
    assert readahead.continues(offset) is continues


def test_nothing_continues_a_stream_that_has_not_begun() -> None:
    assert not Readahead(MIB).continues(0)


def test_what_could_not_be_fetched_is_planned_again() -> None:
    readahead = Readahead(8 * MIB)
    assert readahead.on_read(0, MIB, FILE_BYTES) == Plan(MIB, 9 * MIB)
    readahead.plan_again_from(4 * MIB)
    assert readahead.on_read(MIB, MIB, FILE_BYTES) == Plan(4 * MIB, 10 * MIB)


def test_plan_that_was_covered_is_not_planned_again() -> None:
    readahead = Readahead(8 * MIB)
    readahead.on_read(0, MIB, FILE_BYTES)
    readahead.plan_again_from(20 * MIB)
    assert readahead.on_read(MIB, 2 * MIB, FILE_BYTES) == Plan(9 * MIB, 11 * MIB)


def test_lost_plan_is_planned_again_from_the_reader_on() -> None:
    readahead = Readahead(8 * MIB)
    readahead.on_read(0, MIB, FILE_BYTES)
    readahead.forget_plan()
    assert readahead.on_read(MIB, MIB, FILE_BYTES) == Plan(2 * MIB, 10 * MIB)
