"""How a run stands, in the page's words."""

from __future__ import annotations

from ipyelastic.notebook.panel_state import RunFacts, first_failure, run_state
from ipyelastic.terms.events import RunEnded, RunNote, RunRestarted, WorkerEnded, WorkerStarted
from ipyelastic.terms.failure import ProcessFailure
from ipyelastic.view.board import Board


def facts(**more):
    return RunFacts(**{"epoch": 1, "run_id": "ab12", "name": "train", "is_live": True, "elapsed_s": 2.5, **more})


def failure(rank, at_ns, exitcode=1, *, is_stopped=False):
    made = ProcessFailure(local_rank=rank, pid=100 + rank, exitcode=exitcode, error_file="")
    made.timestamp_ns, made.is_stopped = at_ns, is_stopped
    return made


def board_of(count, *events):
    board = Board(count)
    for event in events:
        board(event)
    return board


def test_before_the_first_run_there_is_nothing_but_perhaps_a_reason():
    state = run_state(None, None, {})
    assert (state["status"], state["detail"], state["failure"]) == ("idle", "not started", None)
    state = run_state(None, None, {}, trouble="not started: cgf: no such name")
    assert state["failure"] == {"rank": None, "words": "not started: cgf: no such name", "traceback": "", "last": ""}


def test_ranks_are_counted_by_state():
    board = board_of(3, *(WorkerStarted(rank, rank, 10 + rank) for rank in range(3)), WorkerEnded(2, 2, 12, 0))
    state = run_state(facts(), board.snapshot(), {})
    assert state["detail"] == "3 ranks: 2 running, 1 done"
    assert [rank["state"] for rank in state["ranks"]] == ["running", "running", "succeeded"]
    assert state["announcement"] == "Run running, 3 ranks: 2 running, 1 done"
    assert (state["is_live"], state["elapsed_s"], state["grace_left_s"]) == (True, 2.5, None)


def test_attempts_are_counted_from_one():
    board = board_of(1, RunRestarted(1, "rank 0 failed"))
    assert run_state(facts(max_restarts=3), board.snapshot(), {})["detail"] == "1 rank · attempt 2 of 4"
    assert run_state(facts(), board.snapshot(), {})["detail"] == "1 rank · attempt 2"


def test_earlier_attempts_and_why_there_is_no_other_stand_below_the_failure():
    board = Board(1, 3)
    board(RunRestarted(1, "rank 0 failed: ValueError: bad"))
    board(WorkerStarted(0, 0, 10, 1))
    board(WorkerEnded(0, 0, 10, 1, failure(0, 5), 1))
    board(RunEnded("failed", 1.0, why_not_restarted="not started again: the code itself is wrong"))
    words = run_state(facts(max_restarts=3), board.snapshot(), {})["failure"]["words"]
    assert "(local_rank 0, attempt 2 of 4)" in words
    assert "ValueError: bad" in words
    assert "not started again: the code itself is wrong" in words


def test_a_stop_that_was_asked_for_counts_down_until_the_end():
    board = board_of(1, WorkerStarted(0, 0, 10))
    assert run_state(facts(grace_left_s=4.0), board.snapshot(), {})["status"] == "stopping"
    board(RunEnded("stopped", 3.0))
    state = run_state(facts(grace_left_s=3.0, is_live=False), board.snapshot(), {})
    assert (state["status"], state["grace_left_s"], state["elapsed_s"]) == ("stopped", None, 3.0)


def test_the_earliest_failure_is_the_root_cause_and_those_we_stopped_are_none():
    board = board_of(
        3,
        WorkerEnded(0, 0, 100, -15, failure(0, 1, -15, is_stopped=True)),
        WorkerEnded(1, 1, 101, 1, failure(1, 9)),
        WorkerEnded(2, 2, 102, 3, failure(2, 5, 3)),
        RunEnded("failed", 1.0),
    )
    assert first_failure(board.snapshot()) == 2
    words = run_state(facts(is_live=False), board.snapshot(), {2: [f"line {n}" for n in range(30)]})["failure"]
    assert words["rank"] == 2
    assert words["words"].splitlines()[0] == "rank 2 of 3 failed (local_rank 2)"
    assert words["words"].splitlines()[-1] == "rank 0 was stopped because of it"
    assert words["last"].splitlines() == [f"line {n}" for n in range(10, 30)]


def test_what_ended_the_run_without_a_ranks_doing_is_said():
    board = board_of(1, RunNote("nproc=1: one rank per CPU"), RunEnded("failed", 1.0))
    state = run_state(facts(is_live=False, error="the fork server died"), board.snapshot(), {})
    assert state["failure"] == {"rank": None, "words": "the fork server died", "traceback": "", "last": ""}
    assert state["notes"] == ["nproc=1: one rank per CPU"]
