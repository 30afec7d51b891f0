"""A board knows from events alone what each rank does."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from ipyelastic.terms.events import (
    OutputChunk,
    RunEnded,
    RunNote,
    RunRestarted,
    StackDump,
    UsageSample,
    WorkerEnded,
    WorkerStarted,
)
from ipyelastic.terms.failure import ProcessFailure
from ipyelastic.view.board import Board, BoardSnapshot, RankSnapshot


def failed(local_rank: int, *, is_stopped: bool = False) -> ProcessFailure:
    failure = ProcessFailure(local_rank, pid=100 + local_rank, exitcode=-15 if is_stopped else 1, error_file="")
    failure.is_stopped = is_stopped
    return failure


def test_new_board_waits_for_all_ranks() -> None:
    assert Board(2).snapshot() == BoardSnapshot(
        world_size=2, status="starting", attempt=0, ranks=(RankSnapshot(0), RankSnapshot(1)), notes=(), duration_s=None
    )


def test_states_follow_the_ranks() -> None:
    board = Board(4)
    for rank in range(3):
        board(WorkerStarted(rank, rank, 100 + rank, host="node-b"))
    assert board.snapshot().status == "running"
    stopped, broken = failed(1, is_stopped=True), failed(2)
    board(WorkerEnded(0, 0, 100, 0))
    board(WorkerEnded(1, 1, 101, -15, stopped))
    board(WorkerEnded(2, 2, 102, 1, broken))
    board(RunNote("GPUs: none were found"))
    board(RunEnded("failed", 4.5))
    snapshot = board.snapshot()
    assert [rank.state for rank in snapshot.ranks] == ["succeeded", "stopped", "failed", "waiting"]
    assert [rank.exitcode for rank in snapshot.ranks] == [0, -15, 1, None]
    assert [rank.pid for rank in snapshot.ranks] == [100, 101, 102, None]
    assert snapshot.ranks[2].failure is broken
    assert snapshot.notes == ("GPUs: none were found",)
    assert (snapshot.status, snapshot.duration_s) == ("failed", 4.5)


def test_snapshot_does_not_change_later() -> None:
    board = Board(1)
    before = board.snapshot()
    board(WorkerStarted(0, 0, 7))
    assert before.ranks[0].state == "waiting"
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.ranks[0].state = "running"  # type: ignore[misc]


def test_output_is_kept_by_stream_and_merged() -> None:
    board = Board(2)
    board(OutputChunk(1, "stdout", "out 1\n", "/log/stdout.log"))
    board(OutputChunk(1, "stderr", "\x1b[31merr 1\x1b[0m\n", "/log/stderr.log"))
    board(OutputChunk(1, "stdout", "out 2\n", "/log/stdout.log"))
    assert board.tail(1, 10) == ["out 1", "err 1", "out 2"]
    assert board.tail(1, 1, "stdout") == ["out 2"]
    assert board.tail(1, 10, "stderr") == ["err 1"]
    assert board.lines(1, 2) == ["\x1b[31merr 1\x1b[0m", "out 2"]
    assert board.tail(0, 10) == []
    rank = board.snapshot().ranks[1]
    assert (rank.stdout_path, rank.stderr_path) == ("/log/stdout.log", "/log/stderr.log")
    with pytest.raises(KeyError):
        board.tail(2, 1)


def test_print_does_not_overwrite_the_other_streams_progress_bar() -> None:
    board = Board(1)
    board(OutputChunk(0, "stderr", "\rloading 50%\r", "/e"))
    board(OutputChunk(0, "stdout", "hi\n", "/o"))
    assert board.tail(0, 10) == ["loading 50%", "hi"]


def test_skipped_bytes_leave_a_line_that_names_the_file() -> None:
    board = Board(1)
    board(OutputChunk(0, "stdout", "half", "/log/stdout.log"))
    board(OutputChunk(0, "stdout", "later\n", "/log/stdout.log", skipped_bytes=3 << 19))
    assert board.tail(0, 10) == ["half", "... 1.5 MiB skipped, see /log/stdout.log", "later"]


def test_restart_resets_the_ranks_and_keeps_their_output() -> None:
    board = Board(2)
    for rank in range(2):
        board(WorkerStarted(rank, rank, 100 + rank))
    board(OutputChunk(0, "stdout", "first\n", "/o"))
    board(WorkerEnded(0, 0, 100, 1, failed(0)))
    board(RunRestarted(1, "rank 0 failed"))
    snapshot = board.snapshot()
    assert snapshot.attempt == 1
    assert [(rank.state, rank.pid, rank.failure) for rank in snapshot.ranks] == [("waiting", None, None)] * 2
    board(OutputChunk(0, "stdout", "second\n", "/o"))
    assert board.tail(0, 10) == ["first", "--- attempt 2 ---", "second"]
    assert board.tail(1, 10, "stderr") == ["--- attempt 2 ---"]


def test_late_word_of_an_earlier_attempt_changes_nothing() -> None:
    board = Board(1)
    board(RunRestarted(1, "again"))
    board(WorkerStarted(0, 0, 200, attempt=1))
    board(WorkerEnded(0, 0, 100, -15, failed(0, is_stopped=True), attempt=0))
    rank = board.snapshot().ranks[0]
    assert (rank.state, rank.pid, rank.exitcode) == ("running", 200, None)


def test_latest_usage_and_stacks_are_kept() -> None:
    board = Board(1)
    board(UsageSample(0, 10.0, 1000))
    board(UsageSample(0, 90.0, 2000))
    board(StackDump(0, "Current thread\n"))
    rank = board.snapshot().ranks[0]
    assert rank.usage == UsageSample(0, 90.0, 2000)
    assert rank.stacks == "Current thread\n"


def test_rank_beyond_the_world_size_is_added() -> None:
    board = Board(1)
    board(WorkerStarted(2, 0, 5))
    assert [rank.rank for rank in board.snapshot().ranks] == [0, 2]


def test_events_from_many_threads_lose_nothing() -> None:
    board = Board(8)

    def write(rank: int) -> None:
        for number in range(200):
            board(OutputChunk(rank, "stdout", f"{number}\n", "/o"))
            board.snapshot()

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(8):
        assert board.tail(rank, 1000) == [str(number) for number in range(200)]
