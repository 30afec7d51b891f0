"""A call that comes after its ranks: waited for, read by each, and missed when it does not come."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipyelastic.payload.call import pack_call
from ipyelastic.payload.delivery import CallFds, Delivery, await_call, read_head


@pytest.fixture
def delivery() -> Iterator[Delivery]:
    """For two ranks."""
    made = Delivery(b"circumstances", 2, None)
    yield made
    made.close()


def _in_a_child(work: Callable[[], int]) -> int:
    """The pid of a fork that exits with what `work` returns."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return pid


def _code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _rank(fds: CallFds, number: int) -> int:
    assert bytes(read_head(fds.head)) == b"circumstances"
    try:
        load, _ = await_call(fds)
    except EOFError:
        return 1
    function, args = load()
    found: Any = function(*args[number])
    return int(found)


def test_ranks_that_wait_get_it_each_with_its_own_arguments(delivery: Delivery) -> None:
    pids = [_in_a_child(lambda number=number: _rank(delivery.fds, number)) for number in range(2)]  # type: ignore[misc]
    assert os.waitpid(pids[0], os.WNOHANG) == (0, 0)
    delivery.deliver(pack_call(lambda n: n * 10, {0: (3,), 1: (4,)}), {})
    assert [_code(pid) for pid in pids] == [30, 40]


def test_a_rank_that_comes_late_finds_it(delivery: Delivery) -> None:
    delivery.deliver(pack_call(lambda n: n, {0: (5,), 1: (6,)}), {})
    assert [_code(_in_a_child(lambda number=number: _rank(delivery.fds, number))) for number in range(2)] == [5, 6]  # type: ignore[misc]


def test_a_child_of_the_owners_that_holds_everything_open_does_not_matter(delivery: Delivery) -> None:
    reader, writer = os.pipe()

    def hold() -> int:
        os.close(writer)
        return len(os.read(reader, 1))  # until the test closes its end

    holder = _in_a_child(hold)
    pids = [_in_a_child(lambda number=number: _rank(delivery.fds, number)) for number in range(2)]  # type: ignore[misc]
    delivery.deliver(pack_call(lambda n: n, {0: (7,), 1: (8,)}), {})
    assert [_code(pid) for pid in pids] == [7, 8]
    os.close(writer)
    assert _code(holder) == 0
    os.close(reader)


def test_ranks_end_when_it_will_not_come() -> None:
    made = Delivery(b"circumstances", 2, None)
    reader, writer = os.pipe()

    def wait() -> int:
        os.close(made._opener)  # as in a process that was handed the descriptors and not forked with them
        os.write(writer, b".")
        return _rank(made.fds, 0)

    pid = _in_a_child(wait)
    os.read(reader, 1)
    made.close()
    assert _code(pid) == 1
    os.close(reader)
    os.close(writer)


def test_many_ranks_are_let_through(delivery: Delivery) -> None:
    many = Delivery(b"", 10_000, None)
    try:
        many.deliver(pack_call(len, {0: ((),)}), {})
        assert len(os.read(many.fds.gate, 20_000)) == 10_000
    finally:
        many.close()
