r"""One rank's output on its way to a terminal: bounded, cut at lines, each stream in its colour."""

from __future__ import annotations

import pytest

from ipyelastic.notebook.panel_feed import MOST_PER_TICK, RankFeed, tinted
from ipyelastic.terms.events import OutputChunk
from ipyelastic.view.screen import Screen

OUT = "\x18\x1b[0;39m"
ERR = "\x18\x1b[0;38;5;52m"


def chunk(text, stream="stdout", skipped=0):
    return OutputChunk(0, stream, text, f"/logs/0/{stream}.log", skipped)


def delta(feed, **limits):
    return feed.take_delta(**limits).decode()


def test_text_goes_on_as_it_came_with_its_escapes():
    feed = RankFeed()
    feed.take(chunk("10%\r20%\r"))
    feed.take(chunk("\x1b[1;31mred\x1b[0m\n"))
    assert delta(feed) == OUT + "10%\r20%\r\x1b[1;31mred\x1b[0m\n"
    assert not feed.has_more
    assert delta(feed) == ""


def test_each_change_of_stream_begins_a_line_and_leaves_no_colour_to_the_other():
    feed = RankFeed()
    feed.take(chunk("bar 10%\r", "stderr"))
    feed.take(chunk("printed\n"))
    feed.take(chunk("more\n", "stderr"))
    assert delta(feed) == f"{ERR}bar 10%\r\x18\n{OUT[1:]}printed\n{ERR}more\n"


def test_the_same_stream_goes_on_without_a_new_switch_in_the_next_tick():
    feed = RankFeed()
    feed.take(chunk("\x1b[32mgreen begins\n"))
    feed.take_delta()
    feed.take(chunk("and goes on\n"))
    assert delta(feed) == "and goes on\n"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[m", "\x1b[0;38;5;52m"),
        ("\x1b[0m", "\x1b[0;38;5;52m"),
        ("\x1b[00;1m", "\x1b[0;38;5;52;1m"),
        ("\x1b[1;39m", "\x1b[1;38;5;52m"),
        ("\x1b[38;5;0m", "\x1b[38;5;0m"),
        ("\x1b[48;2;0;0;0;1m", "\x1b[48;2;0;0;0;1m"),
        ("\x1b[38;5;39;0m", "\x1b[38;5;39;0;38;5;52m"),
        ("\x1b[31m", "\x1b[31m"),
        ("\x1b[2K\x1b[A", "\x1b[2K\x1b[A"),
    ],
)
def test_stderrs_colour_survives_the_ranks_own(written, shown):
    assert tinted(f"a{written}b") == f"a{shown}b"


def test_far_more_than_a_tick_carries_is_skipped_up_to_a_lines_start_and_said():
    feed = RankFeed()
    lines = [f"line {n:06}\n" for n in range(20_000)]
    for line in lines:
        feed.take(chunk(line))
    shown = delta(feed)
    assert len(shown) < MOST_PER_TICK + 200
    note, *kept = shown.removeprefix("\x18\x1b[0m").splitlines(keepends=True)
    kept[0] = kept[0].removeprefix(OUT)
    assert kept == lines[-len(kept) :]
    skipped = sum(map(len, lines)) - sum(map(len, kept))
    assert note == f"\x1b[2m... {skipped / 1024:.1f} KiB skipped, see /logs/0/stdout.log\x1b[0m\n"


def test_what_the_reader_left_out_counts_together_with_what_was_waiting():
    feed = RankFeed()
    feed.take(chunk("waiting\n"))
    feed.take(chunk("newest\n", skipped=1000))
    assert delta(feed) == (f"\x18\x1b[0m\x1b[2m... 1008 bytes skipped, see /logs/0/stdout.log\x1b[0m\n{OUT}newest\n")


def test_a_long_line_is_cut_between_characters():
    feed = RankFeed()
    feed.take(chunk("ü" * MOST_PER_TICK))
    shown = feed.take_delta(1001)
    assert shown.endswith("ü".encode() * 500)
    assert "\ufffd" not in shown.decode()


def test_a_sequence_that_was_cut_off_by_a_skip_swallows_nothing():
    feed = RankFeed()
    feed.take(chunk("\x1b]0;a title without end"))
    before = feed.take_delta()
    feed.take(chunk("x" * 5000 + "\nlast\n"))
    screen = Screen()
    screen.feed((before + feed.take_delta(100)).decode())
    assert screen.plain_lines()[-1] == "last"


def test_the_tail_is_what_was_shown_and_nothing_that_waits():
    feed = RankFeed()
    feed.take(chunk("shown\n"))
    feed.take_delta()
    feed.take(chunk("waits\n"))
    assert feed.tail().decode() == f"{OUT}shown\n"


def test_a_long_tail_begins_at_a_line_in_its_streams_colour():
    feed = RankFeed(tail_bytes=1000)
    for n in range(1000):
        feed.take(chunk(f"warning {n:04}\n", "stderr"))
        feed.take_delta()
    note, *lines = feed.tail().decode().splitlines()
    assert note == "\x1b[2m... earlier output: see /logs/0/stderr.log\x1b[0m"
    assert lines[0].startswith(f"{ERR[1:]}warning ")
    assert lines[-1] == "warning 0999"
    assert len(feed.tail()) < 2200


def test_memory_stays_bounded_whether_or_not_somebody_looks():
    feed = RankFeed(tail_bytes=10_000)
    for _ in range(2000):
        feed.take(chunk("x" * 999 + "\n"))
    assert feed._size <= 4 * MOST_PER_TICK + 1000
    for _ in range(2000):
        feed.take(chunk("x" * 999 + "\n"))
        feed.take_delta()
    assert len(feed._shown) <= 21_000


def test_attempts_are_told_apart():
    feed = RankFeed()
    feed.take(chunk("first\r", "stderr"))
    feed.divide("--- attempt 2 ---")
    feed.take(chunk("second\n", "stderr"))
    assert delta(feed) == f"{ERR}first\r\x18\n\x1b[0m\x1b[2m--- attempt 2 ---\x1b[0m\n{ERR}second\n"


def test_of_a_bar_that_is_drawn_very_often_the_last_state_is_shown():
    feed = RankFeed()
    feed.take(chunk("before\n" + "".join(f"\r{n:5}/9999" for n in range(10_000))))
    assert delta(feed) == OUT + "before\n\r 9999/9999"
