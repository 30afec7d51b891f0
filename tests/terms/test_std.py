"""Std and its spelling: torch's, less its two defects."""

from __future__ import annotations

import pickle

import pytest

from ipyelastic.terms.std import Std, to_map


def test_values_are_torchs() -> None:
    assert [(one.name, int(one)) for one in (Std.NONE, Std.OUT, Std.ERR, Std.ALL)] == [
        ("NONE", 0),
        ("OUT", 1),
        ("ERR", 2),
        ("ALL", 3),
    ]
    assert Std.OUT | Std.ERR == Std.ALL
    assert Std.ALL & Std.OUT == Std.OUT
    assert pickle.loads(pickle.dumps(Std.ERR)) is Std.ERR


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", Std.NONE),
        ("1", Std.OUT),
        ("2", Std.ERR),
        ("3", Std.ALL),
        ("0:1", {0: Std.OUT}),
        ("0:1,1:2", {0: Std.OUT, 1: Std.ERR}),
        ("0:0,1:1,2:2,3:3", {0: Std.NONE, 1: Std.OUT, 2: Std.ERR, 3: Std.ALL}),
        ("1:2,0:1", {0: Std.OUT, 1: Std.ERR}),
        ("0:1,0:3", {0: Std.ALL}),
        ("10:1", {10: Std.OUT}),
        ("9:1,11:3,128:2", {9: Std.OUT, 11: Std.ALL, 128: Std.ERR}),
        ("007:1", {7: Std.OUT}),
    ],
)
def test_text_is_read(text: str, expected: Std | dict[int, Std]) -> None:
    assert Std.from_str(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n", "1\n", "0:1\n", " 1", "1 ", "4", "11", "-1", "+1", "0:4", "0:", ":1", "0:1,", ",0:1", "0:1,,1:1",
     "0:1, 1:1", "0:-1", "-1:1", "a", "0:a", "a:1", "0;1", "0:1;1:1", "1,2", "0:12", "OUT", "1.0",
     "\u0661", "\u0661:1"],
)  # fmt: skip
def test_any_other_text_is_refused_with_both_patterns(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Std.from_str(text)
    assert str(caught.value) == (
        f"{text!r} does not match: <[0-3]> (one flag for all ranks) or "
        r"<\d+:[0-3](?:,\d+:[0-3])*> (rank:flag pairs)"
    )


@pytest.mark.parametrize("value", [None, 1, b"1", Std.OUT, ["1"]])
def test_what_is_no_text_is_refused_likewise(value: object) -> None:
    with pytest.raises(ValueError):
        Std.from_str(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "size", "expected"),
    [
        (Std.OUT, 2, {0: Std.OUT, 1: Std.OUT}),
        (Std.NONE, 1, {0: Std.NONE}),
        (Std.ALL, 0, {}),
        ({}, 2, {0: Std.NONE, 1: Std.NONE}),
        ({1: Std.ALL}, 3, {0: Std.NONE, 1: Std.ALL, 2: Std.NONE}),
        ({0: Std.OUT, 7: Std.ERR}, 1, {0: Std.OUT}),
        ({-1: Std.OUT}, 1, {0: Std.NONE}),
        ({0: Std.OUT}, 0, {}),
    ],
)
def test_flag_or_mapping_is_spread_over_the_ranks(
    given: Std | dict[int, Std], size: int, expected: dict[int, Std]
) -> None:
    assert to_map(given, size) == expected


def test_mapping_given_is_left_alone() -> None:
    given = {0: Std.OUT, 5: Std.ERR}
    to_map(given, 2)
    assert given == {0: Std.OUT, 5: Std.ERR}


@pytest.mark.parametrize("value", [None, 1, "1", [Std.OUT]])
def test_what_is_neither_flag_nor_mapping_is_refused(value: object) -> None:
    with pytest.raises(AttributeError, match="expected Std or a mapping of rank to Std"):
        to_map(value, 1)  # type: ignore[arg-type]


@pytest.mark.torch
def test_torch_agrees_but_for_the_two_fixed_defects() -> None:
    from torch.distributed.elastic.multiprocessing.api import Std as Torchs

    for text in ("0", "1", "2", "3", "0:1", "0:1,1:2", "0:1,0:3", "", "4", "11", "0:4", "-1", "0:1,", " ", "0:1, 1:1"):
        ours: object
        theirs: object
        try:
            theirs = Torchs.from_str(text)
        except ValueError:
            theirs = ValueError
        try:
            ours = Std.from_str(text)
        except ValueError:
            ours = ValueError
        assert ours == theirs, text
