"""What a screen shows of text with control characters in it."""

from __future__ import annotations

import pytest

from ipyelastic.view.screen import Screen


def shown(*texts: str) -> list[str]:
    screen = Screen()
    for text in texts:
        screen.feed(text)
    return screen.lines()


def test_newlines_end_lines_and_the_last_half_line_shows() -> None:
    assert shown("one\ntwo\n", "\nth", "ree") == ["one", "two", "", "three"]


def test_carriage_return_overwrites_the_line_from_its_start() -> None:
    assert shown("10%\r20%\r", "100%") == ["100%"]
    assert shown("hello\rJ") == ["Jello"]


def test_carriage_return_with_newline_is_a_newline() -> None:
    assert shown("one\r\ntwo\r", "\nthree") == ["one", "two", "three"]


def test_backspace_goes_back_one_column_and_not_further_than_the_first() -> None:
    assert shown("ab\b\b\b\bX", "\bYZ") == ["YZ"]


def test_colours_stay_in_lines_and_leave_plain_lines() -> None:
    screen = Screen()
    screen.feed("a \x1b[1;31mred\x1b[0m b\n")
    assert screen.lines() == ["a \x1b[1;31mred\x1b[0m b"]
    assert screen.plain_lines() == ["a red b"]


def test_open_colour_is_closed_at_the_line_end_and_goes_on_in_the_next_line() -> None:
    assert shown("\x1b[32mone\ntwo\x1b[m three") == ["\x1b[32mone\x1b[0m", "\x1b[32mtwo\x1b[0m three"]


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("\x1b[1m\x1b[31mx", "\x1b[1;31mx\x1b[0m"),
        ("\x1b[31m\x1b[32mx", "\x1b[32mx\x1b[0m"),
        ("\x1b[31;1;22mx", "\x1b[31mx\x1b[0m"),
        ("\x1b[38;5;196;4mx", "\x1b[38;5;196;4mx\x1b[0m"),
        ("\x1b[38;2;1;2;3m\x1b[39mx", "x"),
        ("\x1b[1;;32mx", "\x1b[32mx\x1b[0m"),
        ("\x1b[999mx", "x"),
        ("\x1b[38:2::1:2:3mx", "\x1b[38:2::1:2:3mx\x1b[0m"),
    ],
)
def test_colour_codes_are_folded_to_those_in_effect(written: str, line: str) -> None:
    assert shown(written) == [line]


def test_overwriting_part_of_a_coloured_line_keeps_the_rest_of_its_colours() -> None:
    assert shown("\x1b[31mabcdef\x1b[0m\r\x1b[32mXY\x1b[0mZ") == ["\x1b[32mXY\x1b[0mZ\x1b[31mdef\x1b[0m"]
    assert shown("ab\x1b[31mcd\x1b[0mef\rAB\x1b[31mCD\x1b[0mEF") == ["AB\x1b[31mCD\x1b[0mEF"]


@pytest.mark.parametrize(
    "sequence",
    [
        "\x00",
        "\x07",
        "\x1b[2;3H",
        "\x1b[?25l",
        "\x1b[6n",
        "\x1b[2J",
        "\x1b]0;a title\x07",
        "\x1b]52;c;Zm9v\x1b\\",
        "\x1b]8;;http://example.org\x1b\\",
        "\x1bP1$r0m\x1b\\",
        "\x1b(B",
        "\x1b7",
        "\x1bc",
        "\x85",
        "\x9b2J",
        "\x9d0;title\x9c",
    ],
)
def test_other_control_sequences_are_removed_whole_or_cut_anywhere(sequence: str) -> None:
    text = f"left{sequence}right"
    assert shown(text) == ["leftright"]
    for cut in range(len(text)):
        assert shown(text[:cut], text[cut:]) == ["leftright"]
    assert shown(*text) == ["leftright"]


def test_colour_cut_between_two_feeds_is_understood() -> None:
    text = "a\x1b[1;31mb\x1b[0mc"
    for cut in range(len(text)):
        assert shown(text[:cut], text[cut:]) == [text]


def test_title_without_an_end_takes_no_more_than_its_line() -> None:
    assert shown("before\x1b]0;never en", "ded\nafter\n") == ["before", "after"]


def test_title_without_an_end_is_not_kept_in_memory() -> None:
    screen = Screen()
    for _ in range(100):
        screen.feed("\x1b]0;" + "x" * 10_000)
    assert len(screen._cut) < 10


def test_erase_to_the_end_start_and_whole_line() -> None:
    assert shown("abcdef\rab\x1b[K") == ["ab"]
    assert shown("abcdef\rab\x1b[1K") == ["   def"]
    assert shown("abcdef\r\x1b[2Knew") == ["new"]
    assert shown("\x1b[31mabcdef\x1b[0m\rab\x1b[0K") == ["ab"]


def test_nested_progress_bars_each_keep_their_line() -> None:
    screen = Screen()
    screen.feed("start\n\router 0/2")
    for outer in range(2):
        for inner in range(3):
            screen.feed(f"\n\rinner {inner + 1}/3\x1b[A")
        screen.feed(f"\router {outer + 1}/2")
    assert screen.lines() == ["start", "outer 2/2", "inner 3/3"]
    screen.feed("\n\ndone\n")
    assert screen.lines() == ["start", "outer 2/2", "inner 3/3", "done"]


def test_cursor_up_stops_at_the_first_line_and_down_at_the_last() -> None:
    assert shown("one\ntwo\x1b[99A\rONE\x1b[99B\rTWO") == ["ONE", "TWO"]


def test_only_the_last_lines_are_kept() -> None:
    screen = Screen(max_lines=3)
    for number in range(10):
        screen.feed(f"{number}\n")
    assert screen.lines() == ["7", "8", "9"]
    screen.feed("half")
    assert screen.lines() == ["8", "9", "half"]
    screen.feed("".join(f"\n{number}" for number in range(10)))
    assert screen.lines() == ["7", "8", "9"]


def test_line_that_is_too_wide_goes_on_in_the_next() -> None:
    screen = Screen(max_width=4)
    screen.feed("abcdefghij\nxy\nabcde")
    assert screen.lines() == ["abcd", "efgh", "ij", "xy", "abcd", "e"]


def test_tail_gives_the_last_plain_lines() -> None:
    screen = Screen()
    screen.feed("one\n\x1b[31mtwo\x1b[0m\nthree\n")
    assert screen.tail(2) == ["two", "three"]
    assert screen.tail(0) == []
    assert screen.tail(99) == ["one", "two", "three"]
    assert screen.lines(2) == ["\x1b[31mtwo\x1b[0m", "three"]


def test_finished_lines_can_be_taken_out() -> None:
    screen = Screen(None)
    screen.feed("one\ntwo\nbar\n\rinner\x1b[A")
    assert screen.take_finished() == ["one", "two"]
    assert screen.lines() == ["bar", "inner"]
    screen.end_line()
    assert screen.take_finished() == ["bar", "inner"]
    assert screen.lines() == []


def test_any_cut_of_a_text_shows_the_same() -> None:
    text = "a\tb\r\n\x1b[1mbold\x1b[0m\rB\n\n50%\r\x1b[K60%\n\x1b[A\rx\x1b[B\x1b]2;t\x07π😀\n"
    whole = shown(text)
    assert whole == ["a\tb", "B\x1b[1mold\x1b[0m", "", "x0%", " π😀"]
    for cut in range(len(text)):
        assert shown(text[:cut], text[cut:]) == whole


@pytest.mark.parametrize("arguments", [{"max_lines": 0}, {"max_width": 0}])
def test_bounds_must_be_positive(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1 each"):
        Screen(**arguments)
