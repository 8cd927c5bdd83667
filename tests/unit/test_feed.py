"""The feed: bounded, never waits, wakes its consumer for what matters."""

import pytest

from fusemount.feed import Feed, RawEvent
from optimizer import AccessKind, Origin


def make_event(kind: AccessKind = AccessKind.READ, offset: int = 0) -> RawEvent:
    return RawEvent(kind, "m/x", offset, 1, 0.0, Origin.STORE, 1, 1, 0.0)


def test_events_come_out_in_order_and_once() -> None:
    feed = Feed()
    events = [make_event(offset=offset) for offset in range(100)]
    for event in events:
        feed.emit(event)
    assert feed.take() == events
    assert feed.take() == []


@pytest.mark.parametrize("emitted", [2, 3, 4, 10])
def test_what_does_not_fit_is_dropped_and_counted(emitted: int) -> None:
    feed = Feed(capacity=3)
    for offset in range(emitted):
        feed.emit(make_event(offset=offset))
    assert (feed.emitted, feed.dropped) == (min(emitted, 3), max(0, emitted - 3))
    assert [event.offset for event in feed.take()] == list(range(min(emitted, 3)))


def test_room_is_there_again_after_a_take() -> None:
    feed = Feed(capacity=1)
    feed.emit(make_event())
    feed.take()
    feed.emit(make_event())
    assert feed.dropped == 0


@pytest.mark.parametrize(
    ("kind", "wakes"),
    [(AccessKind.OPEN, True), (AccessKind.READ, False), (AccessKind.RELEASE, False)],
)
def test_only_an_open_wakes_at_once(kind: AccessKind, wakes: bool) -> None:
    feed = Feed()
    feed.emit(make_event(kind))
    assert feed.wake.is_set() is wakes


def test_many_reads_wake_before_the_feed_is_full() -> None:
    feed = Feed()
    emitted = 0
    while not feed.wake.is_set():
        feed.emit(make_event())
        emitted += 1
    assert feed.dropped == 0
    assert emitted > 1000
