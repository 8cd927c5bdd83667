"""The link between supervisor and worker."""

import os
import socket
from collections.abc import Iterator

import pytest

from fusemount.link import make_link, receive_message, send_message

Link = tuple[socket.socket, socket.socket]


@pytest.fixture
def link() -> Iterator[Link]:
    ours, theirs = make_link()
    with ours, theirs:
        yield ours, theirs


def test_messages_keep_their_boundaries_and_order(link: Link) -> None:
    ours, theirs = link
    sent = [{"n": 1}, {"text": "ä" * 20_000}, {}]
    for message in sent:
        assert send_message(ours, message)
    assert [receive_message(theirs) for _ in sent] == [(message, []) for message in sent]


def test_names_that_are_no_text_pass(link: Link) -> None:
    message = {"mountpoint": os.fsdecode(b"/m\xff\n")}
    send_message(link[0], message)
    assert receive_message(link[1])[0] == message


@pytest.mark.parametrize("count", [1, 8])
def test_descriptors_arrive_as_duplicates_in_order(link: Link, count: int) -> None:
    pipes = [os.pipe() for _ in range(count)]
    send_message(link[0], {}, [write for _, write in pipes])
    _, received = receive_message(link[1])
    for number, fd in enumerate(received):
        os.write(fd, b"%d" % number)
    for _, write in pipes:
        os.close(write)
    assert [os.read(read, 9) for read, _ in pipes] == [b"%d" % n for n in range(count)]
    for fd in [*received, *(read for read, _ in pipes)]:
        os.close(fd)


def test_descriptors_do_not_leak_into_children(link: Link) -> None:
    send_message(link[0], {}, [link[0].fileno()])
    _, (fd,) = receive_message(link[1])
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_end_of_the_other_side_is_none(link: Link) -> None:
    link[0].close()
    assert receive_message(link[1]) == (None, [])


def test_message_sent_before_the_end_still_arrives(link: Link) -> None:
    send_message(link[0], {"state": "failed"})
    link[0].close()
    assert receive_message(link[1])[0] == {"state": "failed"}
    assert receive_message(link[1])[0] is None


def test_sending_to_nobody_says_so(link: Link) -> None:
    link[1].close()
    assert not send_message(link[0], {"command": "stop"})


def test_end_with_messages_unread_is_an_end_too(link: Link) -> None:
    send_message(link[1], {})
    link[0].close()
    assert receive_message(link[1]) == (None, [])
