"""`launch()` and its `Run`, as a program uses them."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ipyelastic
from ipyelastic import ChildFailedError, OptionError, Results, Run, RunStopped, RunTimedOut, UnpicklableError, launch
from ipyelastic.engines.run import live_runs
from support.left import is_running
from support.waiting import wait_until


def rank() -> int:
    return int(os.environ["RANK"])


def hold() -> None:
    """Block until killed."""
    os.read(os.pipe()[0], 1)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    yield made
    made.close()


class Gate:
    """Ranks wait at it by reading a named pipe that the test holds: no time is involved."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(self.path)
        self._end = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def open(self) -> None:
        """Let everybody through, those that come later too."""
        os.write(self._end, b"x" * 64)

    def close(self) -> None:
        self.open()
        os.close(self._end)


def through(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        file.read(1)


# ------------------------------------------------------------------------------------------------------------- values


def test_result_is_a_list_by_rank() -> None:
    result = launch(lambda: rank() * 10, nproc=3).result()
    assert (result, type(result), repr(result)) == ([0, 10, 20], Results, "[0: 0, 1: 10, 2: 20]")


def test_arguments_and_keywords_are_given() -> None:
    def told(a: int, /, b: int, *, c: int = 0, **more: Any) -> Any:
        return (a, b, c, more)

    run = launch(told, args=(1, 2), kwargs={"c": 3, "d": 4}, nproc=1)
    assert run.result() == [(1, 2, 3, {"d": 4})]
    assert run.name == "told"


def test_coroutine_functions_are_awaited() -> None:
    async def soon(n: int) -> int:
        await asyncio.sleep(0)
        return n + rank()

    assert launch(soon, args=(5,), nproc=2).result() == [5, 6]


class Callable_:
    def __call__(self) -> str:
        return "called"


def test_any_callable_will_do() -> None:
    import functools

    assert launch(Callable_(), nproc=1).result() == ["called"]
    run = launch(functools.partial(max, 3), args=(2,), nproc=1)
    assert (run.result(), run.name) == ([3], "partial")
    assert launch(os.getpid, nproc=1).result() != [os.getpid()]


def test_environment_names_and_start_methods() -> None:
    for method in ("forkserver", "spawn", "fork"):
        run = launch(lambda: os.environ["PUT"], nproc=2, env={"PUT": method}, start_method=method)
        assert run.result() == [method, method]


def test_results_repr_is_short_and_survives_a_rude_value() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise KeyError

    assert repr(Results(["x" * 1000, Rude()])) == "[0: '" + "x" * 196 + "..., 1: <Rude whose repr raised KeyError>]"
    assert repr(Results()) == "[]"


# ------------------------------------------------------------------------------------------------------------ waiting


def test_launch_returns_at_once_and_result_waits(gate: Gate) -> None:
    run = launch(through, args=(gate.path,), nproc=2)
    assert not run.done()
    assert run.wait(0.01) is False
    assert run in live_runs()
    for asked in (run.result, run.exception):
        with pytest.raises(TimeoutError, match=rf"run {run.run_id} has not ended within 0\.01 s"):
            asked(timeout=0.01)
    gate.open()
    assert run.wait(20) is True
    assert (run.done(), run.status, run.result(), run.exception()) == (True, "succeeded", [None, None], None)
    assert run not in live_runs()
    assert ipyelastic.last_run() is run


def test_results_so_far_are_there_while_others_work(gate: Gate) -> None:
    def work(path: str) -> int:
        if rank() == 1:
            through(path)
        return rank() + 5

    run = launch(work, args=(gate.path,), nproc=2)
    wait_until(lambda: run.results == {0: 5}, 20)
    assert run.status == "running"
    gate.open()
    assert run.result(20) == [5, 6]
    assert run.results == {0: 5, 1: 6}


def test_callbacks_are_called_once_in_order_and_one_that_raises_harms_nobody(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[tuple[str, Any]] = []
    run = launch(through, args=(gate.path,), nproc=1)
    run.add_done_callback(lambda r: called.append(("first", r.done())))
    run.add_done_callback(lambda r: 1 / 0)
    run.add_done_callback(lambda r: called.append(("third", r)))
    gate.open()
    run.wait(20)
    wait_until(lambda: len(called) == 2)
    assert called == [("first", True), ("third", run)]
    assert f"a done callback of run {run.run_id} raised" in caplog.text
    run.add_done_callback(lambda r: called.append(("late", r)))
    assert called[-1] == ("late", run)


def test_run_can_be_awaited_while_the_loop_goes_on(gate: Gate) -> None:
    async def main() -> tuple[Any, list[str]]:
        run = launch(through, args=(gate.path,), nproc=1)
        seen = []

        async def meanwhile() -> None:
            seen.append("the loop goes on")
            gate.open()

        task = asyncio.create_task(meanwhile())
        value = await run
        await task
        return value, seen

    assert asyncio.run(main()) == ([None], ["the loop goes on"])


def test_awaiting_a_failed_or_ended_run_gives_what_result_gives() -> None:
    async def main() -> Any:
        run = launch(rank, nproc=1)
        run.wait()
        with pytest.raises(ChildFailedError):
            await launch(lambda: 1 / 0, nproc=1)
        return await run, await run

    assert asyncio.run(main()) == ([0], [0])


def test_await_that_is_cancelled_leaves_the_run(gate: Gate) -> None:
    async def main() -> Run[Any]:
        run = launch(through, args=(gate.path,), nproc=1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_awaited(run), 0.01)
        return run

    run = asyncio.run(main())
    assert not run.done()
    gate.open()
    assert run.result(20) == [None]


async def _awaited(run: Run[Any]) -> Any:
    return await run


# ----------------------------------------------------------------------------------------------------------- stopping


def held(nproc: int = 2, **options: Any) -> Run[Any]:
    run = launch(hold, nproc=nproc, **options)
    wait_until(lambda: all(view.state == "running" and view.pid for view in run.ranks), 20)
    return run


def test_stop_ends_every_rank_and_result_says_so() -> None:
    run = held()
    pids = [view.pid for view in run.ranks]
    run.stop()
    assert run.wait(20)
    with pytest.raises(RunStopped, match=r"^the run was stopped$"):
        run.result()
    assert (run.status, [view.state for view in run.ranks]) == ("stopped", ["stopped"] * 2)
    assert not [pid for pid in pids if pid and is_running(pid)]
    run.stop()
    run.kill()


def test_stop_right_after_launch_stops() -> None:
    run = launch(hold, nproc=2)
    run.stop()
    assert isinstance(run.exception(20), RunStopped)


def fails_first() -> None:
    if rank() == 0:
        raise ValueError("at once")
    hold()


def returns_never() -> None:
    hold()


@pytest.mark.parametrize("function", [fails_first, returns_never])
@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_rank_that_is_still_starting_hears_that_it_should_end(function: Callable[[], None], start_method: str) -> None:
    """Between the fork and the rank's own signal handlers lie a few milliseconds: many tries find them."""
    for _ in range(20 if start_method != "spawn" else 5):
        run = launch(function, nproc=4, grace=100, start_method=start_method)
        if function is returns_never:
            wait_until(lambda run=run: run.ranks[0].pid, 20)  # type: ignore[misc]
            run.stop()
        ended = run.wait(15)
        run.kill()
        run.wait(20)
        assert ended, "a rank did not hear that it should end"


def test_values_handed_over_before_the_stop_are_in_the_error() -> None:
    def work() -> int:
        if rank() == 1:
            signal.pause()
        return 7

    run = launch(work, nproc=2)
    wait_until(lambda: run.results == {0: 7}, 20)
    run.stop()
    error = run.exception(20)
    assert isinstance(error, RunStopped)
    assert (error.results, run.results) == ({0: 7}, {0: 7})


def test_kill_of_one_rank_is_that_ranks_failure() -> None:
    run = held()
    run.kill(1)
    error = run.exception(20)
    assert isinstance(error, ChildFailedError)
    first, failure = error.get_first_failure()
    assert (first, failure.exitcode, failure.is_stopped) == (1, -signal.SIGKILL, False)
    assert error.failures[0].is_stopped
    assert [view.state for view in run.ranks] == ["stopped", "failed"]


def test_kill_of_all_ends_ranks_that_refuse(tmp_path: Path) -> None:
    def stubborn(folder: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (Path(folder) / f"up-{rank()}").touch()
        while True:
            signal.pause()

    run = launch(stubborn, args=(str(tmp_path),), nproc=2, grace=100)
    wait_until(lambda: len(list(tmp_path.glob("up-*"))) == 2, 20)
    run.kill()
    assert run.wait(10)
    assert run.status == "stopped"


@pytest.mark.parametrize("number", [-1, 2, 99])
def test_kill_of_a_rank_that_is_not_there_is_refused(number: int) -> None:
    run = launch(rank, nproc=2)
    with pytest.raises(ValueError, match=f"rank={number}: expected 0 to 1"):
        run.kill(number)
    run.wait(20)


def test_restart_stops_and_launches_the_same_again() -> None:
    run = held(1, env={"A": "1"})
    again = run.restart()
    try:
        assert (run.status, again.run_id != run.run_id) == ("stopped", True)
        assert (again.name, again.options, again.nproc) == (run.name, run.options, 1)
    finally:
        again.stop()
        again.wait(20)
    assert again.log_dir != run.log_dir


@pytest.mark.slow
def test_time_limit_ends_the_run_with_stacks() -> None:
    run = launch(hold, nproc=1, timeout=3)  # enough for a rank to come as far as `hold`
    error = run.exception(20)
    assert isinstance(error, RunTimedOut)
    assert isinstance(error, TimeoutError)
    assert (error.timeout_s, str(error)) == (3, "the run was ended after its time limit of 3 s")
    assert " in hold" in error.stacks[0]
    words = str(error.__cause__)
    assert "rank 0 was here:\n" in words
    assert " in hold" in words
    assert "/ipyelastic/" not in words
    assert run.status == "failed"


# ------------------------------------------------------------------------------------------------------------ failing


def test_failure_is_raised_with_every_rank_and_the_others_values_are_kept(gate: Gate) -> None:
    def work(path: str) -> int:
        if rank() == 1:
            through(path)
            raise ValueError("bad")
        return 3

    run = launch(work, args=(gate.path,), nproc=2)
    wait_until(lambda: run.results == {0: 3}, 20)
    gate.open()
    with pytest.raises(ChildFailedError) as caught:
        run.result(20)
    assert list(caught.value.failures) == [1]
    failure = caught.value.failures[1]
    assert failure.exception is not None
    assert (failure.exception.type_name, failure.exception.message, failure.exitcode) == ("ValueError", "bad", 1)
    assert (run.results, run.status) == ({0: 3}, "failed")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    with pytest.raises(ChildFailedError):
        run.result()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nproc": 0}, "nproc=0: expected 1 to 1024 ranks"),
        ({"nproc": 1, "timeuot": 3}, "timeuot=: no such option, did you mean timeout?"),
        ({"nproc": 1, "start_method": "thread"}, "start_method='thread': expected forkserver, spawn or fork"),
    ],
)
def test_bad_option_is_refused_at_the_door(options: dict[str, Any], words: str) -> None:
    runs = live_runs()
    with pytest.raises(OptionError) as caught:
        launch(rank, **options)
    assert str(caught.value) == words
    assert live_runs() == runs


@pytest.mark.parametrize("what", [None, 3, "text"])
def test_what_cannot_be_called_is_refused_at_the_door(what: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"function=.*expected"):
        launch(what, nproc=1).result(20)


def test_what_cannot_travel_is_raised_by_result() -> None:
    run = launch(lambda lock: None, args=(threading.Lock(),), nproc=1)
    with pytest.raises(UnpicklableError, match=r"^argument 0 \(_thread.lock\) cannot be pickled"):
        run.result(20)
    assert (run.status, run.done()) == ("failed", True)


def test_log_dir_that_is_a_file_is_refused_at_the_door(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"^log_dir='.*file': .*is not a directory$"):
        launch(rank, nproc=1, log_dir=tmp_path / "file")


# ------------------------------------------------------------------------------------------------------------ looking


def test_ranks_tell_of_themselves(tmp_path: Path) -> None:
    def talk() -> int:
        for n in range(60):
            print("line", n)
        import sys

        print("careful", file=sys.stderr)
        return os.getpid()

    run = launch(talk, nproc=2, log_dir=tmp_path)
    values = run.result(20)
    assert [view.pid for view in run.ranks] == values
    for number, view in enumerate(run.ranks):
        assert (view.rank, view.exitcode, view.state) == (number, 0, "succeeded")
        assert repr(view) == f"<rank {number}: succeeded, pid {values[number]}, exit code 0>"
        assert Path(view.stdout_path).read_text().splitlines() == [f"line {n}" for n in range(60)]
        assert Path(view.stderr_path).read_text() == "careful\n"
        assert [line for line in view.tail(100) if line != "careful"][-3:] == ["line 57", "line 58", "line 59"]
        assert len(view.tail()) == 50
        assert view.stdout_path.startswith(run.log_dir)
    assert Path(run.log_dir).parent == tmp_path


def test_repr_is_one_line_that_tells_the_state() -> None:
    run = launch(rank, nproc=2)
    assert re.fullmatch(rf"<Run {run.run_id}: rank on 2 ranks, (starting|running)>|<Run .* succeeded, .*>", repr(run))
    run.result(20)
    assert re.fullmatch(rf"<Run {run.run_id}: rank on 2 ranks, succeeded, \d+\.\d s>", repr(run))
    one = launch(rank, nproc=1)
    one.result(20)
    assert " on 1 rank, " in repr(one)


def test_runs_from_three_threads_at_once_do_not_meet() -> None:
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        results[number] = launch(lambda: (number, rank()), nproc=2).result(60)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [(number, 0), (number, 1)] for number in range(3)}
