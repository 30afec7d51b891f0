"""Merged lines are told apart by what each stream has."""

from __future__ import annotations

from ipyelastic.terms.events import OutputChunk, Stream
from ipyelastic.view.board import Board
from ipyelastic.view.streams import told_apart


def told(*chunks: tuple[Stream, str]) -> list[tuple[str, Stream | None]]:
    board = Board(1)
    for stream, text in chunks:
        board(OutputChunk(0, stream, text, "/log"))
    merged = board.lines(0, 50)
    return list(
        zip(merged, told_apart(merged, board.lines(0, 50, "stdout"), board.lines(0, 50, "stderr")), strict=True)
    )


def test_each_line_has_its_stream() -> None:
    assert told(("stdout", "a\nb\n"), ("stderr", "oops\n"), ("stdout", "c\n"), ("stderr", "\x1b[31mend\x1b[0m\n")) == [
        ("a", "stdout"),
        ("b", "stdout"),
        ("oops", "stderr"),
        ("c", "stdout"),
        ("\x1b[31mend\x1b[0m", "stderr"),
    ]


def test_early_state_of_a_bar_between_prints_is_nobodys_and_does_not_disturb_the_rest() -> None:
    assert told(
        ("stdout", "a\n"), ("stderr", "\r10%"), ("stdout", "b\n"), ("stderr", "\r50%"), ("stdout", "c\n"),
        ("stderr", "\r100%\n"), ("stdout", "d\n"),
    ) == [
        ("a", "stdout"), ("10%", None), ("b", "stdout"), ("50%", None), ("c", "stdout"), ("100%", "stderr"),
        ("d", "stdout"),
    ]  # fmt: skip


def test_line_that_is_missing_in_the_merged_ones_is_passed_over() -> None:
    assert told_apart(["x", "z"], ["x", "y", "z"], []) == ["stdout", "stdout"]
    assert told_apart(["x", "x"], ["x"], ["x"]) in (["stdout", "stderr"], ["stderr", "stdout"])
    assert told_apart(["lost"], [], []) == [None]
