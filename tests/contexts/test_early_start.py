"""Ranks are started while their call is packed: what that must not change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import launch
from ipyelastic.forkserver.client import servers
from ipyelastic.terms.errors import ChildFailedError, RunStopped, RunTimedOut, UnpicklableError
from support.gates import Gate, wait_at
from support.gone import children_of
from support.hard_to_pack import Refuses, Waits, WaitsInPython
from support.launch_bodies import log_folder
from support.left import is_running
from support.waiting import wait_until


def _said(word: Any) -> str:
    print("here")
    return str(word)


def _ranks_of(number: int) -> list[int]:
    """The children of the server that carry another mark than its own."""
    (row,) = [row for row in servers().describe() if row["role"] == "current"]
    running = [pid for pid in children_of(row["pid"]) if is_running(pid)]
    return running if len(running) - row["spares"] == number else []


def _warm(folder: Path) -> None:
    """Have spares that were told nothing ahead (test_ahead.py has those that were): this launch keeps its own files."""
    assert launch(log_folder, nproc=2, ui="none", log_dir=str(folder)).result(20)
    wait_until(lambda: servers().describe()[0]["spares"] == 2, what="spares")


def test_they_are_there_before_their_call_and_run_nothing_of_it(tmp_path: Path) -> None:
    _warm(tmp_path)
    with Gate(tmp_path / "gate") as gate:
        run = launch(_said, args=(Waits(gate.path),), nproc=2, ui="none")
        wait_until(lambda: _ranks_of(2), what="two ranks beside the spares")
        assert [view.tail(5) for view in run.ranks] == [[], []]
        gate.open()
        assert run.result(20) == ["packed", "packed"]


def test_a_call_that_cannot_be_packed_leaves_none_behind_and_says_why(tmp_path: Path) -> None:
    _warm(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(UnpicklableError, match="not this one"):
            launch(_said, args=(Refuses(),), nproc=2, ui="none").result(20)
        wait_until(lambda: not _ranks_of(2), what="the ranks to be gone")
    assert launch(_said, args=("fine",), nproc=2, ui="none").result(20) == ["fine", "fine"]
    _warm(tmp_path)
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 4  # spares that were announced


def test_one_that_is_stopped_while_its_call_is_packed_says_so(tmp_path: Path) -> None:
    _warm(tmp_path)
    run = launch(_said, args=(WaitsInPython(),), nproc=2, ui="none")
    wait_until(lambda: _ranks_of(2), what="two ranks beside the spares")
    run.stop()
    with pytest.raises(RunStopped):
        run.result(20)
    wait_until(lambda: not _ranks_of(2), what="the ranks to be gone")


def test_a_rank_that_is_killed_while_it_waits_fails_its_run(tmp_path: Path) -> None:
    _warm(tmp_path)
    with Gate(tmp_path / "gate") as gate:
        run = launch(_said, args=(Waits(gate.path),), nproc=2, ui="none")
        wait_until(lambda: _ranks_of(2), what="two ranks beside the spares")
        marked = [pid for pid in _ranks_of(2) if _mark_of(pid) != _mark_of(_server())]
        os.kill(marked[0], 9)
        gate.open()
        error = run.exception(20)
    assert "SIGKILL" in str(error)


def _server() -> int:
    (row,) = [row for row in servers().describe() if row["role"] == "current"]
    return int(row["pid"])


def _mark_of(pid: int) -> bytes:
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(word for word in words if word.startswith(b"IPYELASTIC_RUN_MARK="))


def test_the_time_limit_counts_from_the_call(tmp_path: Path) -> None:
    _warm(tmp_path)
    with Gate(tmp_path / "gate") as gate:
        run = launch(_said, args=(Waits(gate.path),), nproc=2, ui="none", timeout=4.0)
        assert not run.wait(4.5)
        gate.open()
        assert run.result(20) == ["packed", "packed"]
    with Gate(tmp_path / "closed") as gate, pytest.raises(RunTimedOut):
        launch(wait_at, args=(gate.path,), nproc=1, ui="none", timeout=0.2).result(20)


@pytest.mark.parametrize("turn", range(30))
def test_a_rank_that_ends_at_once_is_told_by_its_exit_code(turn: int) -> None:
    error = launch(os._exit, args=(7,), nproc=2, ui="none").exception(20)
    assert isinstance(error, ChildFailedError)
    assert 7 in {failure.exitcode for failure in error.failures.values()}
