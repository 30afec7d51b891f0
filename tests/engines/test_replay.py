"""What a sink that comes late is told: once, in order, and from then on everything."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipyelastic import launch
from ipyelastic.engines.replay import replayed
from ipyelastic.terms.events import Event, OutputChunk, RunEnded, RunRestarted, WorkerEnded, WorkerStarted
from ipyelastic.view.board import Board
from support.gates import Gate, wait_at
from support.waiting import wait_until


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as made:
        yield made


def out(rank: int, text: str) -> OutputChunk:
    return OutputChunk(rank, "stdout", text, "/logs/stdout.log")


def err(rank: int, text: str) -> OutputChunk:
    return OutputChunk(rank, "stderr", text, "/logs/stderr.log")


def made(*events: Event) -> list[Event]:
    board = Board(2)
    for event in events:
        board(event)
    return list(replayed(board))


def test_ranks_that_live_come_first_then_their_lines_by_stream() -> None:
    assert made(
        WorkerStarted(0, 0, 10),
        WorkerStarted(1, 1, 11),
        out(0, "a\nb\n"),
        err(0, "\x1b[31mcareful\x1b[0m\n"),
        out(0, "c\n"),
        WorkerEnded(1, 1, 11, 0),
    ) == [
        WorkerStarted(0, 0, 10),
        out(0, "a\nb\n"),
        err(0, "\x1b[31mcareful\x1b[0m\n"),
        out(0, "c\n"),
    ]


def test_a_bar_that_goes_on_is_left_to_be_written_over() -> None:
    assert made(out(1, "before\n"), out(1, "10%\r"), out(1, "20%\r")) == [out(1, "before\n20%\r")]


def test_a_board_that_drew_it_late_says_the_same() -> None:
    assert made(out(1, "".join(f"{n}\n" for n in range(9000))))[0] == out(
        1, "".join(f"{n}\n" for n in range(7000, 9000))
    )


def test_an_attempt_and_an_end_are_told() -> None:
    started = WorkerStarted(0, 0, 12, attempt=1)
    events = made(out(0, "one\n"), RunRestarted(1, "rank 1 failed"), started, RunEnded("stopped", 2.0))
    assert events[0] == started
    assert events[-1] == RunEnded("stopped", 2.0)
    assert isinstance(events[1], OutputChunk)
    assert events[1].text.startswith("one\n")
    assert "attempt 2" in events[1].text


def flood(path: str) -> None:
    for n in range(2000):
        print("line", n)
    print("half way", flush=True)
    wait_at(path)
    for n in range(2000, 20_000):
        print("line", n)
    sys.stdout.flush()


def test_sinks_that_join_a_run_hear_each_line_once(gate: Gate) -> None:
    run = launch(flood, args=(gate.path,), nproc=1)  # printed, so complete
    heard: list[list[str]] = []

    def join() -> None:
        texts: list[str] = []
        heard.append(texts)
        run.add_sink(lambda event: texts.append(event.text) if isinstance(event, OutputChunk) else None)

    wait_until(lambda: run.ranks[0].tail(1) == ["half way"], 20)
    gate.open()
    while not run.done():
        joining = threading.Thread(target=join)
        joining.start()
        joining.join()
        run.wait(0.01)
    run.result()
    assert heard
    for texts in heard:
        lines = "".join(texts).splitlines()
        numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
        assert numbers == list(range(numbers[0] if numbers else 0, 20_000))[: len(numbers)]
        assert not numbers or numbers[-1] == 19_999
