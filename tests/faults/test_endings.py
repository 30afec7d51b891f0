"""The crash table: every way a rank can end, on every start method. Right rank, right code, right words."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import launch
from ipyelastic.engines.run import Run
from ipyelastic.terms.errors import ChildFailedError, RunStopped, RunTimedOut
from ipyelastic.terms.failure import ProcessFailure
from support import endings
from support.gates import Gate
from support.gone import pids_in
from support.left import is_running
from support.waiting import wait_until

METHODS = ("forkserver", "spawn", "fork")
pytestmark = pytest.mark.slow

# how it ends: exit code, a piece of what is said about it
CODES = {
    "raises": (1, "ValueError: raised on purpose"),
    "raises from": (1, "RuntimeError: and again"),
    "raises without text": (1, "Rude"),
    "sys.exit(0)": (0, "it exited with code 0 without handing over a value"),
    "sys.exit()": (0, "it exited with code 0 without handing over a value"),
    "sys.exit(3)": (3, "it exited with code 3 and left no traceback"),
    "sys.exit(text)": (1, "it exited with code 1 and left no traceback"),
    "os._exit(0)": (0, "it exited with code 0 without handing over a value"),
    "os._exit(7)": (7, "it exited with code 7 and left no traceback"),
    "os._exit(7) in a thread": (7, "it exited with code 7 and left no traceback"),
    "SIGTERM": (-15, "SIGTERM"),
    "SIGKILL": (-9, "SIGKILL"),
    "SIGSEGV": (-11, "SIGSEGV"),
    "SIGABRT": (-6, "SIGABRT"),
    "SIGINT": (-2, "KeyboardInterrupt"),
    "KeyboardInterrupt": (-2, "KeyboardInterrupt"),
    "real segfault": (-11, "SIGSEGV"),
    "real abort": (-6, "SIGABRT"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of this test and its ranks."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate in the working directory."""
    with Gate(tmp_path / "gate") as gate:
        yield gate


def _failure(run: Run[Any], within_s: float = 30.0) -> tuple[int, ProcessFailure]:
    """The root cause of a run that must have failed by a rank's fault."""
    error = run.exception(within_s)
    assert isinstance(error, ChildFailedError), error
    assert run.status == "failed"
    for view in run.ranks:
        assert view.pid is not None
        assert not is_running(view.pid)
    return error.get_first_failure()


def _words(failure: ProcessFailure) -> str:
    said = "" if failure.exception is None else f"{failure.exception.type_name}: {failure.exception.message}"
    return "\n".join([said, failure.note, failure.signal_name()])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", CODES)
def test_the_rank_that_ended_so_is_named_and_its_peers_are_stopped(
    folder: Path, gate: Gate, how: str, method: str
) -> None:
    run = launch(endings.end_beside_waiters, args=(how, gate.path), nproc=3, start_method=method, grace=20)
    wait_until(lambda: run.done() or (run.results == {0: 0} and pids_in(folder)), 30, "a value and a waiter")
    gate.open()
    rank, failure = _failure(run)
    code, words = CODES[how]
    assert (rank, failure.exitcode) == (1, code)
    assert words in _words(failure)
    assert not failure.is_stopped
    assert run.results == {0: 0}
    error = run.exception()
    assert isinstance(error, ChildFailedError)
    assert {other: entry.is_stopped for other, entry in error.failures.items()} == {1: False, 2: True}
    assert error.failures[2].exitcode == -15
    if how == "sys.exit(text)":
        assert "the words of sys.exit" in run.ranks[1].tail()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("how", ["raises", "sys.exit(3)", "os._exit(0)", "os._exit(7)", "SIGKILL", "KeyboardInterrupt"])
def test_a_rank_that_ends_while_its_call_is_unpickled(how: str, method: str) -> None:
    run = launch(endings.take, args=(endings.RaisesWhenUnpickled(how),), nproc=2, start_method=method)
    rank, failure = _failure(run)
    assert (rank, failure.exitcode) == (1, CODES[how][0])
    assert CODES[how][1] in _words(failure)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["raises", "sys.exit(3)", "os._exit(0)", "os._exit(7)", "SIGKILL", "KeyboardInterrupt"])
def test_a_rank_that_ends_while_its_value_is_pickled(how: str, method: str) -> None:
    run = launch(endings.return_what_pickling_ends, args=(how,), nproc=2, start_method=method)
    rank, failure = _failure(run)
    assert (rank, failure.exitcode) == (1, CODES[how][0])
    assert CODES[how][1] in _words(failure)
    assert 1 not in run.results


@pytest.mark.parametrize("method", METHODS)
def test_a_value_that_does_not_load_at_home_is_its_ranks_failure(method: str) -> None:
    run = launch(endings.return_what_does_not_load, nproc=2, start_method=method)
    rank, failure = _failure(run)
    assert rank == 1
    note = "it returned a value that could not be loaded here: LookupError: it does not load at home"
    assert failure.note == note
    assert run.results in ({0: 0}, {})  # a rank that had not returned yet is stopped, as after any failure


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_death_by_a_signal_after_the_value_is_a_note(method: str, signum: signal.Signals) -> None:
    run = launch(endings.return_then, args=(int(signum),), nproc=2, start_method=method)
    assert run.result(30) == [0, 1]
    if signum == signal.SIGTERM:  # whoever asks a rank on its way out to go is obeyed, with the code it has
        assert (run.board.snapshot().notes, run.ranks[1].exitcode) == ((), 0)
        return
    assert run.ranks[1].exitcode == -signum
    said = f"rank 1 had handed over its value and then ended with {signum.name}"
    assert run.board.snapshot().notes == (said,)


@pytest.mark.parametrize("method", METHODS)
def test_an_exit_code_after_the_value_is_a_note(method: str) -> None:
    run = launch(endings.return_then_exit, args=(5,), nproc=2, start_method=method)
    assert run.result(30) == [0, 1]
    assert run.ranks[1].exitcode == 5
    said = "rank 1 had handed over its value and then ended with exit code 5"
    assert run.board.snapshot().notes == (said,)


@pytest.mark.parametrize("method", METHODS)
def test_a_thread_left_behind_is_waited_for_within_the_grace(gate: Gate, method: str) -> None:
    run = launch(endings.leave_a_thread, args=(gate.path,), nproc=2, start_method=method, grace=0.3)
    assert run.result(30) == [0, 1]
    assert [view.exitcode for view in run.ranks] == [0, 0]


def test_a_thread_left_behind_may_finish(gate: Gate) -> None:
    run = launch(endings.leave_a_thread, args=(gate.path,), nproc=2, grace=60)
    wait_until(lambda: run.results == {0: 0, 1: 1}, what="both values")
    assert not run.done()
    gate.open()
    assert run.result(10) == [0, 1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (endings.leave_a_pool_open, ["first job", "second job"]),
        (endings.print_at_exit, ["said at exit"]),
        (endings.print_in_c, ["said in C"]),
    ],
)
def test_what_an_orderly_exit_owes_is_done(method: str, body: Any, lines: list[str]) -> None:
    run = launch(body, nproc=2, start_method=method, grace=60)
    assert run.result(6) == [0, 1], "it waited for the grace with nothing to wait for"
    for view in run.ranks:
        assert Path(view.stdout_path).read_text().splitlines() == lines


@pytest.mark.parametrize("method", METHODS)
def test_c_text_is_in_the_log_of_a_rank_that_failed(method: str) -> None:
    run = launch(endings.fail_having_printed_in_c, nproc=1, start_method=method)
    _failure(run)
    assert Path(run.ranks[0].stdout_path).read_text() == "said in C\n"


@pytest.mark.parametrize("method", METHODS)
def test_a_deaf_rank_is_killed_after_the_grace(folder: Path, method: str) -> None:
    run = launch(endings.deaf_for_ever, nproc=2, start_method=method)
    wait_until(lambda: len(pids_in(folder)) == 2, 30, "both ranks")
    run.stop(grace_s=0.1)
    assert isinstance(run.exception(20), RunStopped)
    assert [view.exitcode for view in run.ranks] == [-9, -9]


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_that_is_asked_to_end_may_tidy_up(folder: Path, method: str) -> None:
    run = launch(endings.tidy_when_asked, nproc=2, start_method=method, grace=20)
    wait_until(lambda: len(pids_in(folder)) == 2, 30, "both ranks")
    run.stop()
    assert isinstance(run.exception(20), RunStopped)
    assert run.status == "stopped"
    assert [view.exitcode for view in run.ranks] == [0, 0]
    assert [view.tail() for view in run.ranks] == [["tidied up"], ["tidied up"]]


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_rank_is_a_failure_of_that_rank(folder: Path, method: str) -> None:
    run = launch(endings.wait_for_ever, nproc=3, start_method=method)
    wait_until(lambda: len(pids_in(folder)) == 3, 30, "all ranks")
    run.kill(1)
    rank, failure = _failure(run)
    assert (rank, failure.exitcode, failure.is_stopped) == (1, -9, False)
    assert [view.exitcode for view in run.ranks] == [-15, -9, -15]


@pytest.mark.parametrize("method", METHODS)
def test_killing_all_ranks_is_a_stop(folder: Path, method: str) -> None:
    run = launch(endings.deaf_for_ever, nproc=2, start_method=method)
    wait_until(lambda: len(pids_in(folder)) == 2, 30, "both ranks")
    run.kill()
    assert isinstance(run.exception(20), RunStopped)
    assert [view.exitcode for view in run.ranks] == [-9, -9]


@pytest.mark.parametrize("method", METHODS)
def test_a_time_limit_ends_the_run_and_shows_where_it_was(method: str) -> None:
    run = launch(endings.wait_for_ever, nproc=2, start_method=method, timeout=1.5)
    error = run.exception(30)
    assert isinstance(error, RunTimedOut)
    assert error.timeout_s == 1.5
    assert sorted(error.stacks) == [0, 1]
    for stacks in error.stacks.values():
        assert "in wait_for_ever" in stacks


@pytest.mark.parametrize("method", METHODS)
def test_a_run_stopped_before_it_has_begun_ends(method: str) -> None:
    run = launch(endings.wait_for_ever, nproc=2, start_method=method)
    run.stop(grace_s=0.2)
    assert isinstance(run.exception(30), RunStopped)
