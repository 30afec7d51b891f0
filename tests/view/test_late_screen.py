"""What is read late shows what was shown when it was read at once, and is bounded while it waits."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from ipyelastic.view.late_screen import LateScreen, thinned
from ipyelastic.view.screen import Screen

PIECES = (
    *("plain", "A", "ABC", " ", "\t", "\b", "wide " * 9),
    *("\n",) * 6,
    *("\r", "\r\n", "\x1b[K", "\x1b[1K", "\x1b[2K"),
    *("\x1b[0m", "\x1b[m", "\x1b[31m", "\x1b[1;4m", "\x1b[39m", "\x1b[38;5;9m", "\x9b32m", "\x1b[;7m"),
    *("\x1b]0;title\x07", "\x1b]8;;link\x1b\\", "\x1b]open", "\x1bP", "\x1b", "\x9b", "\x1b[", "\x1b(B", "3", "m"),
)
MOVES = ("\x1b[A", "\x1b[3A", "\x1b[120A", "\x9b2A", "\x1b[2B", "\n\n\n\n\x1b[4A")


class Both:
    """One text for a Screen and a LateScreen."""

    def __init__(self, max_lines: int, most_waiting: int = 2 << 20) -> None:
        self.at_once, self.late = Screen(max_lines), LateScreen(max_lines, most_waiting=most_waiting)

    def feed(self, text: str) -> None:
        self.at_once.feed(text)
        self.late.feed(text)

    def end_line(self) -> None:
        self.at_once.end_line()
        self.late.end_line()

    def check(self) -> None:
        assert self.late.lines() == self.at_once.lines()
        assert self.late.tail(3) == self.at_once.tail(3)


@pytest.mark.parametrize("max_lines", [1, 4, 30, 150])
@pytest.mark.parametrize("moves", [0, 0.002, 0.1])
def test_any_text_in_any_pieces_shows_what_a_screen_shows(max_lines: int, moves: float) -> None:
    for seed in range(60):
        chance = random.Random(seed)
        both = Both(max_lines, chance.choice([300, 5000, 2 << 20]))
        for _ in range(chance.choice([5, 60, 600])):
            words = [
                chance.choice(MOVES) if chance.random() < moves else chance.choice(PIECES)
                for _ in range(chance.choice([1, 3, 30]))
            ]
            both.feed("".join(words))
            if chance.random() < 0.05:
                both.end_line()
            if chance.random() < 0.01:
                both.check()
        both.check()


@pytest.mark.parametrize("cut", range(1, 5))
def test_cursor_up_cut_between_two_texts_is_obeyed(cut: int) -> None:
    both = Both(5)
    for number in range(8):
        both.feed(f"line {number}\n")
    both.feed("\x1b[20A"[:cut])
    both.feed("\x1b[20A"[cut:] + "over")
    both.feed("\n\n\n")
    both.check()


def test_lines_written_over_longer_ones_keep_their_ends() -> None:
    both = Both(30, most_waiting=1000)
    both.feed("a much longer line\n" * 40 + "\x1b[30A")
    both.feed("a\n" * 10)
    both.feed("b" * 1000 + "\n" + "b\n" * 34)
    both.check()
    assert both.late.tail(30)[0] == "b much longer line"


def test_colour_cut_by_a_look_is_still_open_in_lines_much_later() -> None:
    both = Both(5)
    both.feed("x\x1b[3")
    both.check()
    for text in ("1mred\n", *["more\n"] * 30):
        both.feed(text)
    both.check()
    assert both.late.lines(1) == ["\x1b[31mmore\x1b[0m"]


def test_colour_before_an_ended_line_is_over_in_lines_much_later() -> None:
    both = Both(5)
    both.feed("\x1b[31mred\n")
    both.end_line()
    for _ in range(30):
        both.feed("more\n")
    both.check()
    assert both.late.lines(1) == ["more"]


def test_bar_that_is_gone_back_to_stays_right_when_all_above_it_is_dropped() -> None:
    both = Both(150)
    both.feed("head\n" * 200 + "bar 1\nbar 2\n\x1b[2Abar 1 again")
    for number in range(700):
        both.feed(f"\x1b[3{number % 8}m{number}\n")
        if number in (90, 699):
            both.check()


def test_colour_left_open_in_lines_that_are_gone_is_still_open() -> None:
    both = Both(10)
    both.feed("\x1b[0;31mred\n")
    for number in range(200):
        both.feed(f"\x1b[1m{number}\x1b[22m\n")
    assert both.late.lines(1) == ["\x1b[31;1m199\x1b[0m"]
    both.check()


@pytest.mark.parametrize(
    "text",
    ["\x1b[32mline\x1b[0m of a flood\n", "\r 50%|####      | 5/10", "x" * 1000, "\x1b]open", "\x1b[31m", "é\n" * 100],
    ids=["lines", "bar", "one line", "titles", "colours", "short lines"],
)
def test_what_waits_is_bounded(text: str) -> None:
    late = LateScreen(100, most_waiting=50_000)
    tracemalloc.start()
    try:
        for _ in range(20_000):
            late.feed(text)
            if text == "\x1b[31m":
                late.end_line()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4 * (100 * 8192 + 50_000)
    late.end_line()
    late.feed("end\n")
    assert late.tail(1) == ["end"]


def test_nothing_of_a_flood_is_read_before_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    feed = Screen.feed

    def noted(screen: Screen, text: str) -> None:
        read.append(text.count("\n"))
        feed(screen, text)

    monkeypatch.setattr(Screen, "feed", noted)
    late = LateScreen()
    for number in range(1000):
        late.feed(f"\x1b[1mA {number}\x1b[0m\n" * 100)
    assert not read
    assert late.tail(1) == ["A 999"]
    assert 2000 <= sum(read) <= 4100


@pytest.mark.parametrize("seed", range(20))
def test_thinned_text_shows_what_the_whole_text_shows(seed: int) -> None:
    chosen = random.Random(seed)
    pieces = ("\r",) * 9 + (
        "1%|#",
        "20%|##",
        " ",
        "x" * 60,
        "\t",
        "\u00e9\u4e2d",
        "\n",
        "w" * 5000,
        "\x1b[31m",
        "\x1b[K",
    )
    whole, thin = Screen(50), Screen(50)
    for _ in range(60):
        text = "".join(chosen.choices(pieces[: chosen.choice((12, 15, 16, 19))], k=chosen.randrange(80)))
        whole.feed(text)
        thin.feed(thinned(text))
        assert thin.lines() == whole.lines()
        assert thin.is_updating == whole.is_updating


def test_of_a_bar_that_is_drawn_very_often_little_is_left() -> None:
    bar = "".join(f"\r{n:5}/10000 {'#' * (n // 100)}" for n in range(10_000))
    assert len(thinned(bar)) < 200
