"""How much each name adds: own bytes only, shared objects once, buffers beside the stream included."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest

from ipyelastic.payload.body import CellBody
from ipyelastic.payload.call import pack_call
from ipyelastic.payload.measured import Load, Measured, may_be_large, note_of
from ipyelastic.payload.pickling import Buffers, CallPickler


def loads_of(value: Any) -> tuple[dict[str, int], Any]:
    """`{name: bytes}` and what arrives."""
    buffers: Buffers = []
    pickler = CallPickler(file := io.BytesIO(), buffers)
    pickler.dump(value)
    found = {load.name: load.nbytes for load in pickler.measuring.loads}
    return found, pickle.loads(file.getvalue(), buffers=buffers)


def test_value_arrives_as_itself_and_its_bytes_are_counted() -> None:
    found, arrived = loads_of([Measured("text", "x" * 30_000_000), Measured("few", [1, 2])])
    assert (arrived[0][:2], len(arrived[0]), arrived[1]) == ("xx", 30_000_000, [1, 2])
    assert abs(found["text"] - 30_000_000) < 200_000
    assert abs(found["few"]) < 200_000


def test_buffers_beside_the_stream_are_counted() -> None:
    numpy = pytest.importorskip("numpy")
    found, arrived = loads_of(Measured("array", numpy.zeros(2_000_000)))
    assert arrived.nbytes == 16_000_000
    assert abs(found["array"] - 16_000_000) < 200_000


def test_name_inside_a_name_is_told_of_itself() -> None:
    inner = Measured("inner", b"y" * 20_000_000)
    found, _ = loads_of(Measured("outer", [b"x" * 12_000_000, inner]))
    assert abs(found["inner"] - 20_000_000) < 200_000
    assert abs(found["outer"] - 12_000_000) < 200_000


def test_shared_object_counts_for_its_first_name() -> None:
    shared = bytearray(15_000_000)
    found, arrived = loads_of([Measured("first", shared), Measured("second", shared)])
    assert found["first"] > 14_000_000
    assert found["second"] < 200_000
    assert arrived[0] is arrived[1]


def test_measured_value_can_be_pickled_by_anybody() -> None:
    assert pickle.loads(pickle.dumps([Measured("name", {"a": 1})])) == [{"a": 1}]


def test_body_keeps_what_it_captured_after_it_was_packed() -> None:
    value = [1, 2]
    body = CellBody(compile("x = 1", "cell", "exec"), None, {"value": value, "n": 1}, {"value": "Cell In[1], line 2"})
    packed = pack_call(body, {0: ()})
    assert body.captured == {"value": value, "n": 1}
    assert body.captured["value"] is value
    arrived, _ = pickle.loads(packed.stream)
    assert arrived.captured == {"value": [1, 2], "n": 1}


@pytest.mark.parametrize(
    ("value", "is_worth"),
    [
        (5, False),
        (None, False),
        ("x" * 100, False),
        (io, False),
        (len, False),
        (lambda: 1, False),
        ([], True),
        ({}, True),
    ],
)
def test_only_what_may_be_large_is_measured(value: object, is_worth: bool) -> None:
    assert may_be_large(value) is is_worth


def test_note_is_empty_below_ten_megabytes() -> None:
    assert note_of([Load("a", "list", "", 9_999_999)]) == ""
    assert note_of([Load("a", "list", "", 10_000_000)]) == (
        "these travel to the ranks by value: a 10.0 MB (list); load big data in the ranks themselves, from a file"
    )
