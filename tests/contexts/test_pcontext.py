"""What every context has: handlers for a while, tails and duplicate filters, refusals, results."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.compat.multiprocessing.api import _wrap
from ipyelastic.contexts.base import PContext, RunProcsResult
from ipyelastic.contexts.commands import SubprocessContext
from ipyelastic.contexts.functions import MultiprocessContext
from ipyelastic.contexts.settings import RankSettings
from ipyelastic.contexts.start import start_processes
from ipyelastic.output.logs import DefaultLogsSpecs
from ipyelastic.process.signals import SignalException, _terminate_process_handler
from ipyelastic.terms.policy import Policy
from ipyelastic.terms.std import Std
from support import context_bodies as bodies
from support import families
from support.gates import Gate
from support.gone import pids_in
from support.left import is_running
from support.programs import PROGRAM
from support.waiting import wait_until

FOUR = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
KINDS = ("function", "program")


@pytest.fixture(scope="module", autouse=True)
def tracker() -> None:
    """The standard library's tracker is made once and stays with the process: not a test's."""
    resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of this test and its workers."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as gate:
        yield gate


@pytest.fixture
def own_handlers() -> Iterator[dict[int, Any]]:
    """Handlers of the test's own for the four signals."""

    def handler_for(signum: int) -> Any:
        return lambda number, frame: pytest.fail(f"signal {signum} was passed on")

    former = {signum: signal.getsignal(signum) for signum in FOUR}
    own = {signum: handler_for(signum) for signum in FOUR}
    for signum, handler in own.items():
        signal.signal(signum, handler)
    yield own
    for signum, handler in former.items():
        signal.signal(signum, handler)


def _handlers() -> dict[int, Any]:
    return {signum: signal.getsignal(signum) for signum in FOUR}


def _context(kind: str, what: str, *ranks: tuple[Any, ...], **options: Any) -> PContext:
    """Workers of either kind; `what` names a body of context_bodies and programs alike."""
    settings: dict[str, Any] = {
        "envs": {rank: {} for rank in range(len(ranks))},
        "logs_specs": DefaultLogsSpecs(log_dir=os.path.abspath("logs"), redirects=Std.ALL),
        **options,
    }
    args: dict[int, tuple[Any, ...]]
    if kind == "program":
        args = {rank: ("-S", PROGRAM, what, *words) for rank, words in enumerate(ranks)}
        return SubprocessContext("both", sys.executable, args, **settings)
    function = {"block": families.block, "say": bodies.say, "tell-signal": bodies.tell_signal}[what]
    return MultiprocessContext("both", function, dict(enumerate(ranks)), start_method="forkserver", **settings)


def _started(kind: str, what: str, *ranks: tuple[Any, ...], **options: Any) -> PContext:
    context = _context(kind, what, *ranks, **options)
    context.start()
    return context


def _functions(function: Any, *ranks: tuple[Any, ...], **options: Any) -> PContext:
    settings: dict[str, Any] = {
        "envs": {rank: {} for rank in range(len(ranks))},
        "logs_specs": DefaultLogsSpecs(log_dir=os.path.abspath("logs"), redirects=Std.ALL),
        "start_method": "forkserver",
        **options,
    }
    return start_processes("functions", function, dict(enumerate(ranks)), **settings)


def _ended(context: PContext) -> RunProcsResult:
    result = context.wait(timeout=30)
    assert result is not None, "it did not end"
    return result


def _announced(folder: Path, count: int, prefix: str = "pid-") -> list[int]:
    wait_until(lambda: len(pids_in(folder, prefix)) == count, 20, f"{count} of {prefix}")
    return pids_in(folder, prefix)


# ---- starting


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_start_is_refused_and_the_workers_go_on(folder: Path, kind: str) -> None:
    context = _started(kind, "block", ())
    try:
        with pytest.raises(ValueError) as caught:
            context.start()
        assert str(caught.value) == (
            "The process context already started. Make sure you close it before starting again"
        )
        (pid,) = _announced(folder, 1)
        assert is_running(pid)
    finally:
        context.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["args", "envs"])
@pytest.mark.parametrize("ranks", [{0, 2}, {1, 2}])
def test_ranks_with_a_gap_are_refused_with_both_sets(kind: str, what: str, ranks: set[int]) -> None:
    both: dict[str, Any] = {"args": {0: (), 1: ()}, "envs": {0: {}, 1: {}}}
    both[what] = dict.fromkeys(ranks, both[what][0])
    entrypoint: Any = "/bin/true" if kind == "program" else bodies.say
    with pytest.raises(RuntimeError) as caught:
        start_processes("gap", entrypoint, logs_specs=DefaultLogsSpecs(log_dir=os.devnull), **both)
    assert str(caught.value) == f"{what}, local rank mapping mismatch, expected: {{0, 1}}, actual: {ranks}"


def test_more_envs_than_args_are_refused() -> None:
    with pytest.raises(RuntimeError) as caught:
        start_processes("gap", bodies.say, {0: ()}, {0: {}, 1: {}}, DefaultLogsSpecs(log_dir=os.devnull))
    assert str(caught.value) == "envs, local rank mapping mismatch, expected: {0}, actual: {0, 1}"


@pytest.mark.parametrize("entrypoint", ["/bin/true", bodies.say])
def test_zero_workers_succeed_at_once(entrypoint: Any) -> None:
    context = start_processes(
        "none", entrypoint, {}, {}, DefaultLogsSpecs(log_dir=os.path.abspath("logs")), start_method="forkserver"
    )
    result = _ended(context)
    assert (result.return_values, result.failures, result.is_failed()) == ({}, {}, False)
    context.close()
    assert context.wait() is result


def test_an_unknown_start_method_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        _functions(bodies.say, (), start_method="thread")
    assert str(caught.value) == "start_method='thread': expected one of forkserver, spawn, fork"


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_an_entrypoint_that_cannot_travel_raises_and_gives_all_back(own_handlers: dict[int, Any], method: str) -> None:
    lock = threading.Lock()
    with pytest.raises(Exception, match="lock"):
        _functions(lambda: lock, (), start_method=method)
    assert _handlers() == own_handlers


# ---- signals


@pytest.mark.parametrize("kind", KINDS)
def test_four_handlers_are_installed_and_the_same_ones_are_back_after_wait(
    own_handlers: dict[int, Any], kind: str
) -> None:
    context = _context(kind, "say", (), ())
    assert _handlers() == own_handlers
    context.start()
    assert _handlers() == dict.fromkeys(FOUR, _terminate_process_handler)
    assert not _ended(context).is_failed()
    assert _handlers() == own_handlers


@pytest.mark.parametrize("kind", KINDS)
def test_handlers_are_back_after_close(folder: Path, own_handlers: dict[int, Any], kind: str) -> None:
    context = _started(kind, "block", ())
    assert _handlers() == dict.fromkeys(FOUR, _terminate_process_handler)
    _announced(folder, 1)
    context.close()
    assert _handlers() == own_handlers
    context.close()
    assert _handlers() == own_handlers


def test_handlers_are_back_after_a_start_that_failed(own_handlers: dict[int, Any]) -> None:
    with pytest.raises(FileNotFoundError):
        start_processes("none", "/no/such/program", {0: ()}, {0: {}}, DefaultLogsSpecs(log_dir=os.path.abspath("logs")))
    assert _handlers() == own_handlers


def test_the_variable_names_the_signals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGUSR1, SIGNONE,SIGKILL")
    before = _handlers()
    context = _started("program", "block", ())
    try:
        assert _handlers() == before
        assert signal.getsignal(signal.SIGUSR1) is _terminate_process_handler
        with pytest.raises(SignalException) as caught:
            signal.raise_signal(signal.SIGUSR1)
        assert caught.value.sigval == signal.SIGUSR1
    finally:
        context.close()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_during_wait_raises_and_reaches_the_workers_by_close(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, signum: signal.Signals
) -> None:
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGUSR1")
    context = _started(kind, "tell-signal", (), ())
    pids = _announced(folder, 2)
    striker = threading.Thread(target=os.kill, args=(os.getpid(), signum))
    try:
        with pytest.raises(SignalException) as caught:  # noqa: PT012  # it may come before the wait
            striker.start()
            context.wait(timeout=30)
        assert caught.value.sigval == signum
        assert str(caught.value) == f"Process {os.getpid()} got signal: {signum}"
    finally:
        striker.join()
        context.close(death_sig=caught.value.sigval)
    assert sorted(pids_in(folder, f"pid-got-{signum.name}-")) == sorted(pids)
    assert not [pid for pid in pids if is_running(pid)]


@pytest.mark.parametrize("kind", KINDS)
def test_off_the_main_thread_it_works_without_handlers(
    own_handlers: dict[int, Any], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    results: list[RunProcsResult] = []

    def run() -> None:
        context = _started(kind, "say", (), ())
        assert _handlers() == own_handlers
        results.append(_ended(context))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [result.return_values for result in results] == [{0: None, 1: None}]
    assert caplog.messages == [
        "Failed to register signal handlers since torchelastic is running on a child thread. "
        "This could lead to orphaned worker processes if the torchrun is terminated."
    ]


def test_an_ignored_hangup_stays_ignored(folder: Path) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        context = _started("program", "block", ())
        try:
            _announced(folder, 1)
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is _terminate_process_handler
            assert context.wait(0) is None
        finally:
            context.close()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


# ---- tails and duplicate filters


@pytest.mark.parametrize("kind", KINDS)
def test_duplicate_filters_put_lines_of_all_ranks_into_one_prefixed_file(
    capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    context = _started(
        kind,
        "say",
        ("loss 1", "noise", "lr 2"),
        ("loss 3", "noise"),
        logs_specs=DefaultLogsSpecs(log_dir=os.path.abspath("logs"), redirects=Std.ALL, tee=Std.ALL),
        log_line_prefixes={0: "[a] ", 1: "[b] "},
        duplicate_stdout_filters=["loss", "lr"],
        duplicate_stderr_filters=["lr"],
    )
    dest = context.logs_dest
    assert not _ended(context).is_failed()
    lines = Path(dest.filtered_stdout).read_text().splitlines()
    assert [line for line in lines if line.startswith("[a]")] == ["[a] out loss 1", "[a] out lr 2"]
    assert [line for line in lines if line.startswith("[b]")] == ["[b] out loss 3"]
    assert len(lines) == 3
    assert Path(dest.filtered_stderr).read_text() == "[a] err lr 2\n"
    assert context.filtered_stdout is not None
    assert context.filtered_stdout.closed
    assert len(capfd.readouterr().out.splitlines()) == 5  # the console has them all


@pytest.mark.parametrize("kind", KINDS)
def test_duplicate_filters_see_teed_streams_only(kind: str) -> None:
    context = _started(
        kind,
        "say",
        ("loss 1",),
        ("loss 2",),
        logs_specs=DefaultLogsSpecs(log_dir=os.path.abspath("logs"), redirects=Std.ALL, tee={1: Std.OUT}),
        duplicate_stdout_filters=["loss"],
        duplicate_stderr_filters=["loss"],
    )
    dest = context.logs_dest
    assert not _ended(context).is_failed()
    assert Path(dest.filtered_stdout).read_text() == "[both1]:out loss 2\n"
    assert Path(dest.filtered_stderr).read_text() == ""


@pytest.mark.parametrize("kind", KINDS)
def test_without_filters_there_is_no_file(kind: str) -> None:
    specs = DefaultLogsSpecs(log_dir=os.path.abspath("logs"), redirects=Std.ALL, tee=Std.ALL)
    context = _started(kind, "say", ("x",), logs_specs=specs)
    _ended(context)
    assert not Path(context.logs_dest.filtered_stdout).exists()
    assert (context.filtered_stdout, context.filtered_stderr) == (None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_outside_the_filter_are_not_on_the_console(capfd: pytest.CaptureFixture[str], kind: str) -> None:
    specs = DefaultLogsSpecs(log_dir=os.path.abspath("logs"), tee=Std.OUT, local_ranks_filter={1})
    result = _ended(_started(kind, "say", ("a",), ("b",), logs_specs=specs))
    assert Path(result.stdouts[0]).read_text() == "out a\n"
    said = capfd.readouterr()
    assert said.out == "[both1]:out b\n"
    assert said.err == "err b\n"


# ---- results


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_a_log_folder_may_be_relative(folder: Path, method: str) -> None:
    specs = DefaultLogsSpecs(log_dir="relative", redirects=Std.ALL)
    result = _ended(_functions(bodies.say, ("a",), logs_specs=specs, start_method=method))
    assert result.return_values == {0: None}
    assert Path(result.stdouts[0]).read_text() == "out a\n"


def test_large_values_of_several_ranks_come_home() -> None:
    result = _ended(_functions(bodies.big, (0,), (1,), (2,)))
    assert {rank: (len(value), value[0]) for rank, value in result.return_values.items()} == {
        rank: (10_000_000, rank) for rank in range(3)
    }


def test_values_none_included_are_by_rank_and_waits_give_the_same_object() -> None:
    context = _functions(bodies.give_back, (None,), ({"a": [1]},), (0,))
    result = _ended(context)
    assert result.return_values == {0: None, 1: {"a": [1]}, 2: 0}
    assert context.wait() is result
    context.close()
    assert context.wait(0) is result


def test_wait_times_out_with_none_and_then_ends(folder: Path, gate: Gate) -> None:
    context = _functions(bodies.wait_then_give_back, (gate.path, 5))
    _announced(folder, 1)
    assert context.wait(0) is None
    assert context.wait(timeout=0.05) is None
    gate.open()
    assert _ended(context).return_values == {0: 5}


def test_failures_of_the_same_second_are_all_listed_and_ordered(folder: Path, gate: Gate) -> None:
    # Left alone after the first failure, so that each fails by itself; else the fastest ends the others.
    settings = RankSettings(policy=Policy(fail_fast=False))
    context = _functions(bodies.fail_at, *((gate.path, rank) for rank in range(3)), settings=settings)
    _announced(folder, 3)
    gate.open()
    failures = _ended(context).failures
    assert {rank: failure.exitcode for rank, failure in failures.items()} == {0: 1, 1: 1, 2: 1}
    assert [failures[rank].message["message"] for rank in range(3)] == [f"ValueError: rank {rank}" for rank in range(3)]
    assert len({failure.timestamp_ns for failure in failures.values()}) == 3
    assert not [failure for failure in failures.values() if failure.is_stopped]


# ---- torch's worker body


@contextlib.contextmanager
def _queue(context: Any) -> Iterator[Any]:
    queue = context.SimpleQueue()
    yield queue
    queue.close()


def test_wrap_works_with_queue_and_event_of_multiprocessing(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with _queue(context) as queue:
        is_read = context.Event()
        process = context.Process(
            target=_wrap,
            args=(
                1,
                bodies.say_and_tell,
                {1: (1,)},
                {1: {"OWN": "set"}},
                {1: "out.log"},
                {1: "err.log"},
                {1: queue},
                is_read,
            ),
        )
        process.start()
        assert queue.get() == (1, "set")
        assert process.exitcode is None  # it waits for us to have read
        is_read.set()
        process.join(20)
        assert process.exitcode == 0
        process.close()
    assert (Path("out.log").read_text(), Path("err.log").read_text()) == ("out 1\n", "err 1\n")


def test_wrap_without_its_rank_raises_before_it_touches_anything() -> None:
    with pytest.raises(KeyError):
        _wrap(3, bodies.say, {0: ()}, {0: {"OWN": "x"}}, {0: ""}, {0: ""}, {0: None}, None)
    assert "OWN" not in os.environ
