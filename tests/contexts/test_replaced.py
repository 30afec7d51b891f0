"""A `_pc` put in place by a caller's own tests is asked as torch 2.13 asks it (each row was run against torch)."""

from __future__ import annotations

import signal
from pathlib import Path
from unittest import mock

import pytest

from ipyelastic.contexts.functions import MultiprocessContext
from ipyelastic.contexts.spawn import ProcessExitedException, ProcessRaisedException
from ipyelastic.output.logs import DefaultLogsSpecs


@pytest.fixture
def context(tmp_path: Path) -> MultiprocessContext:
    specs = DefaultLogsSpecs(log_dir=str(tmp_path))
    return MultiprocessContext("replaced", print, {0: ()}, {0: {}}, "spawn", specs)


@pytest.fixture
def processes(context: MultiprocessContext) -> mock.Mock:
    """What torch's ProcessContext looks like, with one dead process."""
    replaced = mock.Mock(processes=[mock.Mock(exitcode=-15, pid=77, **{"is_alive.return_value": False})])
    context._pc = replaced
    return replaced


def test_one_look_is_a_join_without_waiting(context: MultiprocessContext, processes: mock.Mock) -> None:
    processes.join.return_value = False
    assert context._poll() is None
    assert processes.mock_calls == [mock.call.join(-1)]


def test_all_values_are_there_and_the_processes_are_waited_for(
    context: MultiprocessContext, processes: mock.Mock
) -> None:
    processes.join.side_effect = [True, False, False, True]
    context._outcomes.values[0] = "here"
    with mock.patch.object(context, "_is_done", return_value=True):
        result = context.wait(0)
    assert result is not None
    assert (result.return_values, result.failures) == ({0: "here"}, {})
    assert processes.join.call_args_list == [mock.call(-1), mock.call(), mock.call(), mock.call()]


def test_a_value_that_is_missing_is_an_error(context: MultiprocessContext, processes: mock.Mock) -> None:
    processes.join.return_value = True
    with mock.patch.object(context, "_is_done", return_value=True), pytest.raises(RuntimeError, match="return_value"):
        context._poll()


@pytest.mark.parametrize("error", [ProcessExitedException("boom", 0, 123, -15), ProcessRaisedException("boom", 0, 123)])
def test_a_join_that_raises_is_that_ranks_failure(
    context: MultiprocessContext, processes: mock.Mock, error: Exception
) -> None:
    processes.join.side_effect = error
    result = context._poll()
    assert result is not None
    failure = result.failures[0]
    assert (failure.local_rank, failure.pid, failure.exitcode) == (0, 123, -15)
    assert failure.message == "Signal 15 (SIGTERM) received by PID 123"
    assert context._poll() is result


def test_another_error_of_join_is_the_callers(context: MultiprocessContext, processes: mock.Mock) -> None:
    processes.join.side_effect = KeyError("not a process's")
    with pytest.raises(KeyError):
        context._poll()


def test_wait_looks_again_until_time_is_up(context: MultiprocessContext, processes: mock.Mock) -> None:
    processes.join.return_value = False
    assert context.wait(0.2) is None
    assert 2 <= processes.join.call_count <= 10


def test_close_signals_the_live_and_kills_the_deaf(context: MultiprocessContext, processes: mock.Mock) -> None:
    processes.processes[0].is_alive.return_value = True
    processes.pids.return_value = [77]
    assert context.pids() == {0: 77}
    with mock.patch("os.kill") as kill:
        context.close(signal.SIGINT, 0)
    assert kill.call_args_list == [mock.call(77, signal.SIGINT), mock.call(77, signal.SIGKILL)]


def test_a_real_process_is_ended(context: MultiprocessContext) -> None:
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=signal.pause)
    process.start()
    context._pc = mock.Mock(processes=[process])
    context.close(signal.SIGTERM, 20)
    assert process.exitcode == -signal.SIGTERM
    process.close()
