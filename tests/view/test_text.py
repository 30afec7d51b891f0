"""Prefixed text, whole, as a cell prints it."""

from __future__ import annotations

import threading

import pytest

from ipyelastic.terms.events import Event, OutputChunk, RunEnded, RunNote, RunRestarted, Stream
from ipyelastic.view.text import PrefixedText, skipped_words


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def chunk(text: str, rank: int = 0, stream: Stream = "stdout", skipped_bytes: int = 0) -> Event:
    return OutputChunk(rank, stream, text, f"/log/{rank}/{stream}.log", skipped_bytes)


def complete(*events: Event) -> str:
    text = PrefixedText(is_live=False)
    for event in events:
        text(event)
    return text.take() + text.close()


def test_each_line_says_its_rank_and_stream() -> None:
    assert complete(chunk("one\ntwo\n"), chunk("careful\n", 1, "stderr"), chunk("\n")) == (
        "[rank 0] one\n[rank 0] two\n[rank 1 stderr] careful\n[rank 0] \n"
    )


def test_half_line_is_held_until_its_end() -> None:
    text = PrefixedText(is_live=False)
    text(chunk("hal"))
    text(chunk("other\n", 1))
    assert text.take() == "[rank 1] other\n"
    text(chunk("f\nlast"))
    assert text.take() == "[rank 0] half\n"
    assert text.take() == ""
    assert text.close() == "[rank 0] last\n"
    assert text.close() == ""


def test_only_the_chosen_ranks_are_shown() -> None:
    text = PrefixedText(ranks=[1], is_live=False)
    text(chunk("zero\n", 0))
    text(chunk("one\n", 1))
    assert text.close() == "[rank 1] one\n"


def test_notes_and_restarts_are_lines_and_other_events_are_not() -> None:
    assert complete(
        chunk("half"), RunNote("2 ranks: no GPU was found"), RunRestarted(1, "rank 0 failed"), RunEnded("failed", 1.0)
    ) == (
        "note: 2 ranks: no GPU was found\n[rank 0] half\n"
        "note: rank 0 failed; all ranks start again\n--- attempt 2 ---\n"
    )


@pytest.mark.parametrize("is_live", [True, False])
def test_progress_updates_are_shown_once_in_two_seconds_and_at_their_end(is_live: bool) -> None:
    clock, shown = Clock(), []
    text = PrefixedText(is_live=is_live, clock=clock)
    for percent in range(51):
        text(chunk(f"\r{percent}% done", stream="stderr"))
        shown.append(text.take())
        clock.now += 0.125
    text(chunk("\r100% done\n", stream="stderr"))
    shown.append(text.take())
    assert "".join(shown) == (
        "[rank 0 stderr] 0% done\n[rank 0 stderr] 16% done\n"
        "[rank 0 stderr] 32% done\n[rank 0 stderr] 48% done\n[rank 0 stderr] 100% done\n"
    )


def test_unfinished_progress_is_shown_at_close() -> None:
    text = PrefixedText(is_live=True, clock=Clock())
    text(chunk("1%\r2%\r"))
    assert text.take() == "[rank 0] 2%\n"
    text(chunk("3%\r"))
    assert text.take() == ""
    assert text.close() == "[rank 0] 3%\n"


def test_update_that_was_shown_is_not_repeated_by_its_newline() -> None:
    text = PrefixedText(is_live=True, clock=Clock())
    text(chunk("windows line\r"))
    first = text.take()
    text(chunk("\nwindows line\n"))
    assert first + text.take() == "[rank 0] windows line\n[rank 0] windows line\n"


def test_nested_bars_do_not_flood() -> None:
    text = PrefixedText(is_live=True, clock=Clock())
    shown = ""
    text(chunk("\router 0/9"))
    for number in range(9):
        text(chunk(f"\n\rinner {number}\x1b[A"))
        shown += text.take()
    text(chunk("\router 9/9\n\ndone\n"))
    assert shown + text.take() + text.close() == (
        "[rank 0] outer 0/9\n[rank 0] inner 0\n[rank 0] outer 9/9\n[rank 0] inner 8\n[rank 0] done\n"
    )


def test_colours_are_kept_and_closed_and_other_sequences_removed() -> None:
    assert complete(chunk("\x1b[31mred\nstill\x1b[0m\n\x1b]0;title\x07a\x00b\x1b[2Jc\n")) == (
        "[rank 0] \x1b[31mred\x1b[0m\n[rank 0] \x1b[31mstill\x1b[0m\n[rank 0] abc\n"
    )


def test_skipped_bytes_are_announced_after_the_line_they_cut() -> None:
    assert complete(chunk("half a li"), chunk("later\n", skipped_bytes=3 << 19)) == (
        "[rank 0] half a li\n[rank 0] ... 1.5 MiB skipped, see /log/0/stdout.log\n[rank 0] later\n"
    )


@pytest.mark.parametrize(
    ("size", "words"),
    [(17, "17 bytes"), (1024, "1.0 KiB"), ((1 << 20) - 1, "1.0 MiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes_are_told_in_fitting_units(size: int, words: str) -> None:
    assert skipped_words(OutputChunk(0, "stdout", "", "/p", size)) == f"... {words} skipped, see /p"


def test_headless_text_is_complete() -> None:
    lines = [f"line {number}" for number in range(20_000)]
    text = complete(chunk("".join(f"{line}\n" for line in lines)))
    assert text == "".join(f"[rank 0] {line}\n" for line in lines)


def numbered(first: int, end: int) -> str:
    return "".join(f"{number}\n" for number in range(first, end))


def prefixed(first: int, end: int) -> str:
    return "".join(f"[rank 0] {number}\n" for number in range(first, end))


def test_live_flood_is_cut_counted_and_caught_up_with() -> None:
    clock = Clock()
    text = PrefixedText(is_live=True, lines_per_s=100, clock=clock)
    text(chunk(numbered(0, 12_465)))
    assert text.take() == prefixed(0, 100)
    clock.now += 0.9
    assert text.take() == ""
    clock.now += 0.1
    assert text.take() == (
        "[rank 0] ... 12,345 lines not shown here, see /log/0/stdout.log\n" + prefixed(12_445, 12_465)
    )
    assert text.close() == ""


def test_lasting_flood_shows_a_passage_each_second() -> None:
    clock, shown = Clock(), ""
    text = PrefixedText(is_live=True, lines_per_s=50, clock=clock)
    for tick in range(30):
        text(chunk(numbered(tick * 100, tick * 100 + 100)))
        shown += text.take()
        clock.now += 0.1
    assert shown.count("not shown here") == 2
    assert shown.count("\n") < 50 * 3 + 30 * 5


def test_last_lines_of_a_flood_come_at_close() -> None:
    text = PrefixedText(is_live=True, lines_per_s=10, clock=Clock())
    text(chunk(numbered(0, 31)))
    assert text.take() + text.close() == (
        prefixed(0, 10) + "[rank 0] ... 1 line not shown here, see /log/0/stdout.log\n" + prefixed(11, 31)
    )


def test_few_lines_over_the_rate_are_late_and_not_lost() -> None:
    text = PrefixedText(is_live=True, lines_per_s=10, clock=Clock())
    text(chunk(numbered(0, 25)))
    assert text.take() == prefixed(0, 10)
    assert text.close() == prefixed(10, 25)


def test_after_max_lines_only_the_last_of_each_rank_come_at_close() -> None:
    clock = Clock()
    text = PrefixedText(is_live=True, lines_per_s=1000, max_lines=30, clock=clock)
    text(chunk(numbered(0, 100)))
    text(RunNote("still told"))
    text(chunk("bye\n", 1))
    assert text.take() == (
        prefixed(0, 30) + "note: 30 lines were shown; further ones are in the log files, "
        "and the last 20 of each rank come at the end\nnote: still told\n"
    )
    clock.now += 1000
    assert text.take() == ""
    assert text.close() == (
        "[rank 0] ... 50 lines not shown here, see /log/0/stdout.log\n" + prefixed(80, 100) + "[rank 1] bye\n"
    )


def test_lines_from_many_threads_are_never_mixed() -> None:
    text = PrefixedText(is_live=False)

    def write(rank: int) -> None:
        for number in range(300):
            text(chunk(f"begin {number} ", rank))
            text(chunk(f"end {number}\n", rank))

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(8)]
    for thread in threads:
        thread.start()
    taken = text.take()
    for thread in threads:
        thread.join()
    lines = (taken + text.close()).splitlines()
    assert sorted(lines) == sorted(
        f"[rank {rank}] begin {number} end {number}" for rank in range(8) for number in range(300)
    )
