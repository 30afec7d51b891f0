"""Durations, sizes and cut texts as people read them; the examples in the docstrings are run."""

from __future__ import annotations

import doctest

import pytest

from ipyelastic.view import amounts, inert, rank_page, streams
from ipyelastic.view.amounts import duration_words, size_words
from ipyelastic.view.rank_page import bounded, byte_size, shortened


@pytest.mark.parametrize("module", [amounts, inert, rank_page, streams], ids=lambda module: module.__name__)
def test_examples_are_true(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.attempted
    assert not outcome.failed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59.94, "59.9 s"), (59.96, "1 min 00 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 00 min"), (-1e-9, "0.0 s")],
)
def test_duration_rolls_over_where_it_would_round_up(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


def test_size_rolls_over_where_it_would_round_up() -> None:
    assert [size_words(size) for size in (0, 1023, 1024, 5 << 40)] == ["0 bytes", "1023 bytes", "1.0 KiB", "5.0 TiB"]


def test_long_traceback_keeps_its_beginning_and_more_of_its_end() -> None:
    lines = [f"line {n}" for n in range(1000)]
    short = shortened("\n".join(lines), 1000).split("\n")
    at = next(at for at, line in enumerate(short) if line.startswith("..."))
    assert short[:at] == lines[:at]
    assert short[at + 1 :] == lines[-len(short) + at + 1 :]
    assert short[at] == f"... {1000 - len(short) + 1} lines left out"
    assert 0 < at < len(short) - at


@pytest.mark.parametrize("text", ["'" * 100_000, "é\n" * 50_000, "\n" * 100_000, "a" * 100_000, "\x00\ud800" * 50_000])
def test_bounded_html_is_within_its_bytes_whatever_escaping_makes_of_it(text: str) -> None:
    assert 0 < byte_size(bounded(text, 4000)) <= 4000
