"""A rank's word over the value channel: values, failures, large and small, from several senders."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ipyelastic.failures.record import exception_record
from ipyelastic.payload.values import RankWord, Unpicklable, ValueChannel, channel_pair, send_failure, send_value

NOTHING: frozenset[str] = frozenset()


@pytest.fixture
def ends() -> Iterator[tuple[ValueChannel, socket.socket]]:
    here, there = channel_pair()
    channel = ValueChannel(here)
    yield channel, there
    channel.close()
    there.close()


def send(there: socket.socket, value: Any, rank: int = 0, may_stand_in: bool = False, **more: Any) -> None:
    send_value(there.fileno(), rank, value, known=NOTHING, run_mark="m.1", may_stand_in=may_stand_in, **more)


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        "text",
        b"x" * 1000,
        {"a": [1, (2,)]},
        b"y" * (31 << 10),
        b"y" * (32 << 10),
        b"y" * (1 << 20),
        b"y" * (5 << 20),
    ],
    ids=lambda value: f"{type(value).__name__}-{len(value) if hasattr(value, '__len__') else value}",
)
def test_value_of_any_size_comes_home(ends: tuple[ValueChannel, socket.socket], value: Any) -> None:
    channel, there = ends
    send(there, value, 3, imports={"numpy": 81.5})
    (word,) = channel.receive()
    assert (word.rank, word.is_value, word.notes, word.imports) == (3, True, (), {"numpy": 81.5})
    assert word.load_value() == value


def test_large_values_hold_no_descriptors_however_many_are_kept(ends: tuple[ValueChannel, socket.socket]) -> None:
    numpy = pytest.importorskip("numpy")
    channel, there = ends
    before = len(os.listdir("/proc/self/fd"))
    kept = []
    for _ in range(5):
        send(there, numpy.ones(1 << 18))
        kept.append(channel.receive()[0].load_value())
    assert [array.sum() for array in kept] == [1 << 18] * 5
    now = len(os.listdir("/proc/self/fd"))
    kept.clear()
    assert now == before


def test_arrays_come_home_writable(ends: tuple[ValueChannel, socket.socket]) -> None:
    numpy = pytest.importorskip("numpy")
    channel, there = ends
    for count in (10, 1 << 18):
        send(there, numpy.arange(count))
        array = channel.receive()[0].load_value()
        array[0] = 5
        assert array.sum() == numpy.arange(count).sum() + 5


def test_nothing_said_is_no_word_and_never_waits(ends: tuple[ValueChannel, socket.socket]) -> None:
    channel, there = ends
    assert channel.receive() == []
    there.close()
    assert channel.receive() == []


def test_words_of_many_senders_are_never_mixed(ends: tuple[ValueChannel, socket.socket]) -> None:
    channel, there = ends
    sizes = {rank: (rank % 4) * 20_000 for rank in range(16)}
    threads = [threading.Thread(target=send, args=(there, bytes([rank]) * size, rank)) for rank, size in sizes.items()]
    words: list[RankWord] = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        words += channel.receive()
    for thread in threads:
        thread.join()
    words += channel.receive()
    assert {word.rank: word.load_value() for word in words} == {
        rank: bytes([rank]) * size for rank, size in sizes.items()
    }


def test_value_that_cannot_be_pickled_raises_where_no_stand_in_is_wanted(
    ends: tuple[ValueChannel, socket.socket],
) -> None:
    channel, there = ends
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock' object"):
        send(there, threading.Lock())
    assert channel.receive() == []


def test_value_that_cannot_be_pickled_has_a_stand_in_and_a_note(ends: tuple[ValueChannel, socket.socket]) -> None:
    channel, there = ends
    send(there, [threading.Lock()], 2, may_stand_in=True)
    (word,) = channel.receive()
    assert word.notes == (
        "the value of rank 2 (list) cannot be pickled and stayed there: cannot pickle '_thread.lock' object",
    )
    value = word.load_value()
    assert isinstance(value, Unpicklable)
    assert (value.type_name, value.reason) == ("list", "TypeError: cannot pickle '_thread.lock' object")
    assert repr(value) == f"<{value.text}: stayed in the rank, TypeError: cannot pickle '_thread.lock' object>"


def test_stand_in_survives_a_repr_that_raises_and_shortens_a_long_one(ends: tuple[ValueChannel, socket.socket]) -> None:
    class Rude:
        def __repr__(self) -> str:
            raise KeyError("no")

        def __reduce__(self) -> Any:
            raise ValueError("stays")

    channel, there = ends
    send(there, Rude(), may_stand_in=True)
    assert channel.receive()[0].load_value().text.endswith("Rude whose repr raised KeyError")
    send(there, ["x" * 1000, threading.Lock()], may_stand_in=True)
    assert len(channel.receive()[0].load_value().text) == 200


def test_failure_comes_home_as_plain_data(ends: tuple[ValueChannel, socket.socket]) -> None:
    channel, there = ends
    try:
        raise ValueError("x" * 100_000)
    except ValueError as error:
        record = exception_record(error, lambda name: "")
    send_failure(there.fileno(), 4, record, 12345)
    (word,) = channel.receive()
    assert (word.rank, word.is_value, word.time_ns, word.exception) == (4, False, 12345, record)


def test_failure_with_odd_text_comes_home(ends: tuple[ValueChannel, socket.socket]) -> None:
    channel, there = ends
    record = exception_record(ValueError("half a pair \udc80 and \0"), lambda name: "")
    send_failure(there.fileno(), 0, record, 1)
    (word,) = channel.receive()
    assert word.exception is not None
    assert word.exception.message == "half a pair \udc80 and \0"


def test_loading_raises_what_the_users_class_raises(ends: tuple[ValueChannel, socket.socket]) -> None:
    channel, there = ends
    send(there, ModuleNotFoundError("not here"))
    assert isinstance(channel.receive()[0].load_value(), ModuleNotFoundError)
    stream = pickle.dumps(pickle.PickleError).replace(b"PickleError", b"NoSuchError")
    word = RankWord(0, True, sections=[memoryview(bytearray(stream))])
    with pytest.raises(AttributeError):
        word.load_value()
