"""Which lookups are foreseen, and how long what was found for them is good."""

import pytest

from fusemount.stat_ahead import FIRST_NAMES, MOST_NAMES, StatAhead
from tests.unit.fakes import make_found

DIRECTORY = 7
NAMES = [f"f{number:04}".encode() for number in (3, 1, 2, 0, *range(4, 3000))]


def _followed(ahead: StatAhead, names: list[bytes]) -> list[bytes]:
    for name in names:
        ahead.take(DIRECTORY, name, 0.0)
    return ahead.plan(DIRECTORY, names[-1])


@pytest.mark.parametrize("names", [NAMES, sorted(NAMES)], ids=["listed", "sorted"])
def test_lookups_in_order_foresee_the_names_behind(names: list[bytes]) -> None:
    ahead = StatAhead(1.0)
    ahead.remember(DIRECTORY, NAMES)
    assert _followed(ahead, names[10:14]) == names[13 : 13 + FIRST_NAMES]


def test_two_steps_in_order_foresee_nothing() -> None:
    ahead = StatAhead(1.0)
    ahead.remember(DIRECTORY, NAMES)
    assert _followed(ahead, NAMES[10:13]) == [NAMES[12]]


def test_lookups_here_and_there_foresee_nothing() -> None:
    ahead = StatAhead(1.0)
    ahead.remember(DIRECTORY, NAMES)
    assert _followed(ahead, NAMES[2000:100:-50]) == [NAMES[150]]


def test_plans_double_up_to_their_bound_and_end_with_the_names() -> None:
    ahead = StatAhead(1.0)
    ahead.remember(DIRECTORY, NAMES)
    _followed(ahead, NAMES[:4])
    sizes = [len(ahead.plan(DIRECTORY, NAMES[3])) for _ in range(6)]
    assert sizes == [2 * FIRST_NAMES, 4 * FIRST_NAMES, 8 * FIRST_NAMES, *[MOST_NAMES] * 3]
    assert _followed(ahead, NAMES[-5:]) == NAMES[-1:]


def test_what_was_found_is_handed_out_once_with_its_age() -> None:
    ahead = StatAhead(1.0)
    ahead.remember(DIRECTORY, NAMES)
    found = make_found()
    ahead.keep(DIRECTORY, NAMES[:2], [found, None], 10.0)
    assert ahead.take(DIRECTORY, NAMES[0], 10.25) == (found, 0.25)
    assert ahead.take(DIRECTORY, NAMES[0], 10.25) is None
    assert ahead.take(DIRECTORY, NAMES[1], 10.25) is None


@pytest.mark.parametrize(("age_s", "is_good"), [(1.0, True), (1.001, False)])
def test_what_is_too_old_is_not_handed_out(age_s: float, is_good: bool) -> None:
    ahead = StatAhead(1.0)
    ahead.remember(DIRECTORY, NAMES)
    ahead.keep(DIRECTORY, NAMES[:1], [make_found()], 0.0)
    assert (ahead.take(DIRECTORY, NAMES[0], age_s) is not None) is is_good


def test_without_a_timeout_nothing_is_foreseen() -> None:
    ahead = StatAhead(0.0)
    ahead.remember(DIRECTORY, NAMES)
    assert _followed(ahead, NAMES[:8]) == [NAMES[7]]


def test_listings_remembered_are_bounded() -> None:
    ahead = StatAhead(1.0)
    for directory in range(100):
        ahead.remember(directory, NAMES)
    ahead.remember(DIRECTORY, NAMES)
    ahead.keep(0, NAMES[:1], [make_found()], 0.0)
    assert ahead.take(0, NAMES[0], 0.0) is None


def test_a_directory_that_was_not_listed_foresees_nothing() -> None:
    ahead = StatAhead(1.0)
    ahead.keep(DIRECTORY, NAMES[:1], [make_found()], 0.0)
    assert ahead.take(DIRECTORY, NAMES[0], 0.0) is None
    assert ahead.plan(DIRECTORY, NAMES[0]) == [NAMES[0]]
