"""Arguments as a person types them: literals and names, checked against the function, and nothing is run."""

from __future__ import annotations

import pytest

from ipyelastic.notebook.call_text import read_call
from ipyelastic.terms.errors import OptionError

NAMES = {"cfg": {"lr": 0.1}, "data": [1, 2], "_hidden": 1}


def train(cfg, epochs=1, *, lr=0.1):
    """What the arguments are for."""


@pytest.mark.parametrize(
    ("text", "args", "kwargs"),
    [
        ("cfg", (NAMES["cfg"],), {}),
        ("cfg, 3, lr=-1e-3", (NAMES["cfg"], 3), {"lr": -1e-3}),
        ("  [data, {'a': cfg}, (1,), {2}], ", ([[1, 2], {"a": NAMES["cfg"]}, (1,), {2}],), {}),
        ("cfg='text, with (commas)'", (), {"cfg": "text, with (commas)"}),
        ("None  # nothing yet", (None,), {}),
    ],
)
def test_literals_and_names_are_taken(text, args, kwargs):
    assert read_call(text, NAMES, train) == (args, kwargs)


def test_a_name_is_the_notebooks_own_object():
    (found,), _ = read_call("data", NAMES, train)
    assert found is NAMES["data"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cgf", "arguments: cgf: no such name in the notebook, did you mean cfg?"),
        ("", "arguments: train(cfg, epochs=1, *, lr=0.1): missing a required argument: 'cfg'"),
        ("1, 2, 3", "arguments: train(cfg, epochs=1, *, lr=0.1): too many positional arguments"),
        ("1, depth=2", "arguments: train(cfg, epochs=1, *, lr=0.1): got an unexpected keyword argument 'depth'"),
        ("open('x')", "arguments: \"open('x')\": expected literals and names of the notebook, such as cfg, 3, lr=1e-3"),
        ("cfg.lr", "arguments: 'cfg.lr': expected literals and names of the notebook, such as cfg, 3, lr=1e-3"),
        ("1) + f(2", "arguments: '1) + f(2': expected literals and names of the notebook, such as cfg, 3, lr=1e-3"),
        ("*data", "arguments: '*data': expected literals and names of the notebook, such as cfg, 3, lr=1e-3"),
        ("**cfg", "arguments: '**cfg': write the arguments out"),
    ],
)
def test_what_cannot_be_taken_is_named(text, words):
    with pytest.raises(OptionError) as raised:
        read_call(text, NAMES, train)
    assert str(raised.value) == words


def test_half_a_sentence_is_refused_with_its_reason():
    with pytest.raises(OptionError, match=r"^arguments: '\[1, 2': .*; expected literals and names"):
        read_call("[1, 2", NAMES, train)
