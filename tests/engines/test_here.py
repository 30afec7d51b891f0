"""`launch(f, engine="here")`: the function in this very process and thread, its run ended on return."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import ipyelastic
from ipyelastic import ChildFailedError, OptionError, Results, launch
from ipyelastic.engines.run import live_runs
from ipyelastic.output import retention
from support.left import Census


def state() -> tuple[object, ...]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return environment, os.getcwd(), list(sys.path), list(sys.meta_path), signal.getsignal(signal.SIGINT)


@pytest.fixture(autouse=True)
def process_is_as_before() -> Iterator[None]:
    before = state()
    yield
    assert state() == before


def test_function_is_called_here_and_the_run_is_done() -> None:
    lock = threading.Lock()  # nothing is pickled
    run = launch(lambda *args: (os.getpid(), threading.current_thread(), *args), args=(lock,), engine="here")
    assert (run.done(), run.status, run.exception()) == (True, "succeeded", None)
    result = run.result(timeout=0)
    assert (type(result), result) == (Results, [(os.getpid(), threading.current_thread(), lock)])
    assert run.results == {0: result[0]}
    (view,) = run.ranks
    assert (view.rank, view.pid, view.exitcode, view.state) == (0, os.getpid(), 0, "succeeded")
    assert (view.stdout_path, view.stderr_path, view.tail()) == ("", "", [])
    assert ipyelastic.last_run() is run
    assert live_runs() == []


def test_keywords_environment_and_seed() -> None:
    def told(a: int, *, b: int) -> Any:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "GIVEN")
        return a, b, [os.environ[name] for name in names], random.random()

    random.seed(9)
    state = random.getstate()
    run = launch(told, args=(1,), kwargs={"b": 2}, engine="here", env={"GIVEN": "x", "RANK": "7"}, seed=4)
    assert random.getstate() == state
    fresh = launch(told, args=(1,), kwargs={"b": 2}, nproc=1, env={"GIVEN": "x", "RANK": "7"}, seed=4)
    assert run.result() == fresh.result() == [(1, 2, ["0", "0", "1", "127.0.0.1", "x"], random.Random(4).random())]


def test_output_goes_straight_out(capsys: pytest.CaptureFixture[str]) -> None:
    launch(print, args=("straight",), engine="here")
    assert capsys.readouterr().out == "straight\n"


def fails(a: int) -> float:
    in_function = a + 1
    os.environ["LEFT"] = "behind"
    return in_function / 0


def test_failure_is_a_child_failed_error_with_the_functions_own_frames() -> None:
    run = launch(fails, args=(3,), engine="here")
    assert (run.done(), run.status, run.ranks[0].exitcode, run.ranks[0].state) == (True, "failed", 1, "failed")
    with pytest.raises(ChildFailedError) as caught:
        run.result()
    assert run.exception() is caught.value
    trace = caught.value.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None
    assert (trace.tb_frame.f_code.co_name, trace.tb_frame.f_locals["in_function"]) == ("fails", 4)
    shown = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.name for frame in shown] == [sys._getframe().f_code.co_name, "result", "fails"]
    rank, failure = caught.value.get_first_failure()
    assert (rank, failure.pid, failure.exitcode) == (0, os.getpid(), 1)
    assert failure.exception is not None
    assert (failure.exception.type_name, failure.exception.message) == ("ZeroDivisionError", "division by zero")
    assert "return in_function / 0" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "exitcode", "words"),
    [
        (None, 0, "it exited with code 0 without handing over a value"),
        (0, 0, "it exited with code 0 without handing over a value"),
        (3, 3, "it exited with code 3 and left no traceback"),
    ],
)
def test_sys_exit_is_a_failure_as_in_a_rank(code: int | None, exitcode: int, words: str) -> None:
    run = launch(sys.exit, args=(code,), engine="here")
    error = run.exception()
    assert isinstance(error, ChildFailedError)
    failure = error.failures[0]
    assert (failure.exitcode, failure.note) == (exitcode, words)


def test_words_of_sys_exit_are_kept() -> None:
    error = launch(sys.exit, args=("no data",), engine="here").exception()
    assert isinstance(error, ChildFailedError)
    assert error.failures[0].exitcode == 1
    assert "SystemExit: no data" in str(error)


def test_interrupt_passes_on() -> None:
    def interrupted() -> NoReturn:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not interrupted")

    with pytest.raises(KeyboardInterrupt):
        launch(interrupted, engine="here")
    assert live_runs() == []
    last = ipyelastic.last_run()
    assert last is not None
    assert (last.status, last.done()) == ("stopped", True)


def test_interrupt_shows_the_functions_own_frames() -> None:
    def interrupted() -> NoReturn:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not interrupted")

    with pytest.raises(KeyboardInterrupt) as caught:
        launch(interrupted, engine="here")
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names == [sys._getframe().f_code.co_name, "interrupted"]


def test_run_json_says_what_was_run_and_how_it_ended() -> None:
    good = launch(int, engine="here", env={"GIVEN": "1"})
    bad = launch(fails, args=(1,), engine="here")
    told = [json.loads((Path(run.log_dir) / "run.json").read_text(encoding="utf-8")) for run in (good, bad)]
    assert [(one["run_id"], one["name"], one["status"]) for one in told] == [
        (good.run_id, "int", "succeeded"),
        (bad.run_id, "fails", "failed"),
    ]
    assert (told[0]["options"]["engine"], told[0]["options"]["env"]) == ("here", {"GIVEN": "1"})
    assert [(rank["pid"], rank["stdout"]) for rank in told[1]["ranks"]] == [(os.getpid(), "")]
    assert told[1]["failure"]["type"] == "ZeroDivisionError"
    assert [sorted(os.listdir(run.log_dir)) for run in (good, bad)] == [["run.json"], ["failed", "run.json"]]


def test_without_a_folder_it_runs_and_says_that_there_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with monkeypatch.context() as patch:
        patch.setenv("IPYELASTIC_RUN_ROOT", str(tmp_path / "file"))
        patch.setattr(retention, "_mine", None)
        run = launch(lambda: 2, engine="here")
    assert (run.result(0), run.log_dir) == ([2], "")
    assert run.board.snapshot().notes == ("there is no run.json of this run: File exists",)


def test_a_variable_that_was_read_already_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    run = launch(lambda: os.environ["OMP_NUM_THREADS"], engine="here", env={"OMP_NUM_THREADS": "3"})
    words = "OMP_NUM_THREADS is read when a process starts or imports its libraries: too late for this one"
    assert run.result(0) == ["3"]
    assert capsys.readouterr().out == f"note: {words}\n"
    assert run.board.snapshot().notes == (words,)


def test_interrupt_while_things_are_given_back_waits_for_that() -> None:
    class Finder:
        """Interrupts whoever goes through `sys.meta_path`, which is the first thing to be put in order."""

        def find_spec(self, *_: object) -> None:
            return None

        def __eq__(self, other: object) -> bool:
            signal.raise_signal(signal.SIGINT)
            return False

        __hash__ = None  # type: ignore[assignment]

    finder, path = Finder(), sys.path

    def adds() -> None:
        sys.meta_path.append(finder)
        sys.path = ["elsewhere"]
        os.environ["LEFT"] = "behind"

    with pytest.raises(KeyboardInterrupt):
        launch(adds, engine="here", seed=1)
    assert sys.meta_path.pop() is finder
    assert sys.path is path


def test_coroutines_run_also_inside_a_running_loop() -> None:
    async def soon(n: int) -> int:
        await asyncio.sleep(0)
        return n

    def runs_its_own() -> int:
        return asyncio.run(soon(6))

    async def around() -> tuple[list[int], list[int], list[int], bool]:
        outer, task = asyncio.get_running_loop(), asyncio.current_task()
        first = launch(soon, args=(5,), engine="here")
        second = launch(runs_its_own, engine="here").result()
        same = asyncio.get_running_loop() is outer and asyncio.current_task() is task
        return await first, second, first.result(), same

    assert launch(soon, args=(5,), engine="here").result() == [5]
    assert asyncio.run(around()) == ([5], [6], [5], True)


def test_callbacks_waits_and_stops_of_a_run_that_is_done() -> None:
    run = launch(lambda: 1, engine="here")
    seen: list[object] = []
    run.add_done_callback(seen.append)
    run.stop()
    run.kill()
    assert (seen, run.wait(0), run.restart().result()) == ([run], True, [1])


def test_one_run_inside_another() -> None:
    def inner() -> str:
        return os.environ["TORCHELASTIC_RUN_ID"]

    def outer() -> Any:
        before = inner()
        return before, launch(inner, engine="here").result()[0], inner()

    ((before, within, after),) = launch(outer, engine="here").result()
    assert before == after != within


def test_it_may_run_in_another_thread() -> None:
    runs: list[Any] = []
    thread = threading.Thread(target=lambda: runs.append(launch(threading.get_ident, engine="here").result()))
    thread.start()
    thread.join()
    assert runs == [[thread.ident]]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"nproc": 2}, "nproc=2"),
        ({"nproc": "auto", "timeout": 5}, "nproc='auto', timeout=5.0"),
        ({"start_method": "spawn", "grace": 1, "log_dir": "/x"}, "start_method='spawn', log_dir='/x', grace=1.0"),
        ({"stop_signal": "SIGINT", "ranks": "0-1"}, "stop_signal=2, ranks=[0, 1]"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(OptionError) as caught:
        launch(os.getpid, engine="here", **options)
    assert str(caught.value) == f"engine='here' is one rank in this very process: leave out {wrong}"


def test_refusal_shows_the_callers_line_and_none_of_ours() -> None:
    for launched in (
        lambda: launch(None),  # type: ignore[call-overload]
        lambda: launch(int, args=5),  # type: ignore[arg-type]
        lambda: launch(int, nproc=2, engine="here"),
        lambda: launch(int, nproc=2, ranks="7"),
        lambda: launch("not_there_at_all.py"),
        lambda: launch(int, nproc=1, log_dir="/dev/null"),
    ):
        with pytest.raises(OptionError) as caught:
            launched()
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert names == [sys._getframe().f_code.co_name, "<lambda>"]
        assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)


def test_many_runs_leave_nothing_behind() -> None:
    launch(fails, args=(1,), engine="here")
    before = Census.take()
    for _ in range(20):
        launch(fails, args=(1,), engine="here")
        launch(asyncio.sleep, args=(0,), engine="here", seed=1)
    assert not Census.take().more_than(before)


# --------------------------------------------------------------------------------------------- scripts by launch()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text("import os, sys\nprint(os.environ['RANK'], sys.argv[1:])\nsys.exit(int(sys.argv[1]))\n")
    return path


def test_a_script_is_launched_by_its_path(script: Path) -> None:
    for given in (script, str(script)):
        run = launch(given, args=(0, "--lr", 1e-3, script), nproc=2)
        assert run.result() == [None, None]
        assert run.name == "train.py"
        words = f"['0', '--lr', '0.001', '{script}']"
        assert [view.tail() for view in run.ranks] == [[f"0 {words}"], [f"1 {words}"]]


def test_a_scripts_exit_code_is_the_ranks(script: Path) -> None:
    error = launch(script, args=("7",), nproc=1).exception()
    assert isinstance(error, ChildFailedError)
    assert error.failures[0].exitcode == 7


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ("not_there_at_all.py", {}, "not_there_at_all.py: no such file"),
        ("{script}", {"args": "--lr 1"}, "args='--lr 1': expected a list or tuple of words, such as ('--lr', '1e-3')"),
        ("{script}", {"args": (None,)}, "args: None: expected text, a number or a path; a script gets nothing else"),
        ("{script}", {"kwargs": {"lr": 1}}, "kwargs={'lr': 1}: a script takes args, as on a command line"),
        ("{script}", {"engine": "here"},
         "engine='here' runs cells and functions; for a script in the notebook itself there is %run"),
        ("train", {}, "function='train': expected something that can be called, or a script's path"),
    ],
)  # fmt: skip
def test_a_script_that_cannot_be_launched_is_refused(
    script: Path, given: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError) as caught:
        launch(given.format(script=script), **{"nproc": 1, **options})
    assert str(caught.value) == words
