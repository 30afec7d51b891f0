"""Ranks that fork and return twice, close our descriptors, stop themselves, hide: the run still ends, and says how."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import launch
from ipyelastic.terms.errors import ChildFailedError, RunStopped
from support import oddities
from support.gates import Gate
from support.gone import pids_in
from support.left import is_running
from support.stuck import stacks_of
from support.waiting import wait_until

METHODS = ("forkserver", "spawn", "fork")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of this test and its ranks."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_value_that_does_not_load_stops_the_other_ranks() -> None:
    run = launch(oddities.does_not_load_beside_a_waiter, nproc=2)
    error = run.exception(5)
    assert isinstance(error, ChildFailedError)
    assert error.get_first_failure()[0] == 1
    assert error.failures[0].is_stopped


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_rank_has_died_by_sigint_even_when_it_was_hurried(folder: Path, method: str) -> None:
    with Gate(folder / "gate") as gate:
        run = launch(oddities.interrupted_with_a_slow_exit, args=(gate.path,), nproc=2, start_method=method, grace=60)
        wait_until(lambda: run.done() or pids_in(folder), 20, "the exit handler")
        run.stop()
        gate.open()
        error = run.exception(10)
    assert isinstance(error, ChildFailedError)
    rank, failure = error.get_first_failure()
    assert (rank, failure.exitcode, failure.is_stopped) == (1, -2, False)


@pytest.mark.parametrize("method", METHODS)
def test_a_forked_child_that_returns_too_says_nothing(folder: Path, method: str) -> None:
    """It comes later than its rank's own value, and must not replace it."""
    os.mkfifo(folder / "gate")
    run = launch(oddities.fork_and_return_twice, args=(str(folder / "gate"),), nproc=2, start_method=method)
    assert run.result(20) == [0, 1]


@pytest.mark.parametrize("method", METHODS)
def test_a_forked_child_that_raises_is_not_its_rank(method: str) -> None:
    assert launch(oddities.fork_and_fail_in_the_child, nproc=2, start_method=method).result(20) == [0, 1]


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_that_closes_all_descriptors_is_a_failure_that_says_so(method: str) -> None:
    error = launch(oddities.close_everything, nproc=1, start_method=method).exception(20)
    assert isinstance(error, ChildFailedError)
    failure = error.get_first_failure()[1]
    assert failure.exitcode == 1
    assert "OSError" in str(failure.message) or "OSError" in failure.note


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_that_closes_its_streams_succeeds(method: str) -> None:
    run = launch(oddities.close_the_streams, nproc=2, start_method=method)
    assert run.result(20) == [0, 1]
    assert run.ranks[0].tail() == ["last words"]


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_that_becomes_another_program_has_no_value(method: str) -> None:
    run = launch(oddities.become_another_program, nproc=1, start_method=method)
    error = run.exception(20)
    assert isinstance(error, ChildFailedError)
    assert error.get_first_failure()[1].note == "it exited with code 0 without handing over a value"
    assert run.ranks[0].tail() == ["another program"]


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_that_stopped_itself_can_be_stopped(folder: Path, method: str) -> None:
    run = launch(oddities.stop_yourself, nproc=2, start_method=method, grace=20)
    wait_until(lambda: len(pids_in(folder)) == 2, 20, "both ranks")
    run.stop()
    assert isinstance(run.exception(10), RunStopped)


def test_a_rank_that_ignores_every_signal_is_killed(folder: Path) -> None:
    run = launch(oddities.ignore_everything, nproc=2, timeout=1.0, grace=0.2)
    assert isinstance(run.exception(20), RunStopped)
    assert [view.exitcode for view in run.ranks] == [-9, -9]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_daemon_without_name_goes_when_no_run_is_left(folder: Path, method: str) -> None:
    run = launch(oddities.leave_one_without_a_name, nproc=1, start_method=method)
    assert run.result(20) == [0]
    hidden = pids_in(folder, "pid-hidden-")
    assert len(hidden) == 1
    try:
        wait_until(lambda: not is_running(hidden[0]), 2, "it to go")
    finally:
        if is_running(hidden[0]):
            os.kill(hidden[0], 9)


@pytest.mark.parametrize("method", METHODS)
def test_a_process_pool_left_open_ends_with_its_rank(method: str) -> None:
    run = launch(oddities.leave_a_process_pool, nproc=2, start_method=method)
    if not run.wait(20):
        pytest.fail(f"it hangs; where each process is:\n{stacks_of(run)}")
    assert run.result() == [[1, 4, 9], [1, 4, 9]]


@pytest.mark.parametrize("method", METHODS)
def test_the_owners_garbage_closes_nothing_in_a_rank(method: str) -> None:
    """A forked rank has the owner's pipes as objects; collected there, they close their numbers again."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(40):
            ends: list[Any] = list(multiprocessing.Pipe())
            ends.append(ends)
        del ends
        run = launch(oddities.collect_beside_a_process_pool, nproc=2, start_method=method)
        if not run.wait(20):
            pytest.fail(f"it hangs; where each process is:\n{stacks_of(run)}")
    finally:
        gc.enable()
    assert run.result() == [[1, 4, 9], [1, 4, 9]]
    assert [view.tail() for view in run.ranks] == [[], []]


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_leaves_the_owners_own_children_alone(method: str) -> None:
    ours = multiprocessing.get_context("fork").Process(target=signal.pause, daemon=True)
    ours.start()
    try:
        assert launch(oddities.leave_a_process_pool, nproc=2, start_method=method).result(20) == [[1, 4, 9], [1, 4, 9]]
        assert ours.is_alive()
    finally:
        ours.kill()
        ours.join()
        ours.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_may_lose_its_working_directory(method: str) -> None:
    assert launch(oddities.delete_the_working_directory, nproc=2, start_method=method).result(20) == ["fine", "fine"]


def test_much_output_with_a_last_line_without_newline_is_in_the_files_whole() -> None:
    run = launch(oddities.write_much, nproc=2)
    assert run.result(20) == [0, 1]
    for view in run.ranks:
        assert Path(view.stdout_path).stat().st_size == 200 * 10_000 + 3
        assert Path(view.stderr_path).stat().st_size == 200 * 10_000
        assert Path(view.stdout_path).read_text().endswith("\nend")
