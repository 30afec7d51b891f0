"""Descriptors beside a message: as many as were sent, close-on-exec, and no waiting where none is wanted."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from ipyelastic.process.descriptors import receive_with, send_with

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Both ends of a socket."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        yield here, there


def test_they_arrive_in_order_and_no_program_inherits_them(ends: Ends) -> None:
    reader, writer = os.pipe()
    send_with(ends[0], b"two", [reader, writer])
    data, fds = receive_with(ends[1], 10, 5)
    try:
        assert (data, len(fds), [os.get_inheritable(fd) for fd in fds]) == (b"two", 2, [False, False])
        os.write(fds[1], b"through")
        assert os.read(reader, 10) == b"through"
    finally:
        for fd in (reader, writer, *fds):
            os.close(fd)


def test_a_message_without_any_and_the_end(ends: Ends) -> None:
    ends[0].send(b"none")
    assert receive_with(ends[1], 10, 5) == (b"none", [])
    ends[0].close()
    assert receive_with(ends[1], 10, 5) == (b"", [])


def test_who_does_not_want_to_wait_does_not(ends: Ends) -> None:
    with pytest.raises(BlockingIOError):
        receive_with(ends[1], 10, 1, socket.MSG_DONTWAIT)
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)  # the least there is
    send_with(ends[0], bytes(1000), [ends[0].fileno()], socket.MSG_DONTWAIT)

    def fill() -> None:
        for _ in range(1000):
            send_with(ends[0], bytes(1000), [ends[0].fileno()], socket.MSG_DONTWAIT)

    with pytest.raises(BlockingIOError):
        fill()
