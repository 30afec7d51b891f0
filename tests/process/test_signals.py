"""Signals become exceptions for a while, and their former handlers come back, here or in processes of their own."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from ipyelastic.process import signals as signals_module
from ipyelastic.process.signals import (
    SignalException,
    TakenSignals,
    _terminate_process_handler,
    raise_signal_exception,
    taken_from_env,
)
from ipyelastic.terms import env

WARNING = (
    "Failed to register signal handlers since torchelastic is running on a child thread."
    " This could lead to orphaned worker processes if the torchrun is terminated."
)
FOUR = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every handler is the former one again after a test, whatever the test did."""
    signums = (*FOUR, signal.SIGUSR1, signal.SIGUSR2)
    before = {signum: signal.getsignal(signum) for signum in signums}
    yield
    after = {signum: signal.getsignal(signum) for signum in signums}
    for signum, handler in before.items():
        signal.signal(signum, handler)
    assert after == before
    assert signals_module._taken == {}


def run(body: str, **options: Any) -> subprocess.CompletedProcess[str]:
    head = """
        import os, signal, sys, threading
        from ipyelastic.process.signals import SignalException, TakenSignals, taken_from_env
    """
    code = textwrap.dedent(head) + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **options)


def in_thread(function: Any) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_exception_has_torchs_text_and_carries_its_signal() -> None:
    with pytest.raises(SignalException) as caught:
        _terminate_process_handler(signal.SIGTERM, None)
    assert str(caught.value) == f"Process {os.getpid()} got signal: 15"
    assert caught.value.sigval is signal.SIGTERM
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.sigval) == (str(caught.value), signal.SIGTERM)
    with pytest.raises(SignalException) as caught:
        raise_signal_exception(40, None)  # a real-time signal without a name
    assert caught.value.sigval == 40


def test_torchs_four_are_taken_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(env.SIGNALS_TO_HANDLE, raising=False)
    before = [signal.getsignal(signum) for signum in FOUR]
    signals = taken_from_env()
    assert [signal.getsignal(signum) for signum in FOUR] == before
    signals.take()
    assert signals.names == ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
    assert [signal.getsignal(signum) for signum in FOUR] == [_terminate_process_handler] * 4
    for signum in FOUR:
        with pytest.raises(SignalException) as caught:
            signal.raise_signal(signum)
        assert caught.value.sigval == signum
    signals.give_back()
    signals.give_back()
    assert not signals.names
    assert [signal.getsignal(signum) for signum in FOUR] == before


def test_the_variable_names_others(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(env.SIGNALS_TO_HANDLE, " SIGUSR1 , usr2,,SIGUSR1")
    with caplog.at_level(logging.INFO, "ipyelastic"), taken_from_env() as signals:
        assert signals.names == ("SIGUSR1", "SIGUSR2")
    assert caplog.messages == ["Registered signal handler for SIGUSR1", "Registered signal handler for usr2"]
    monkeypatch.setenv(env.SIGNALS_TO_HANDLE, "")
    with taken_from_env() as signals:
        assert signals.names == ()
    with taken_from_env("SIGUSR2") as signals:
        assert signals.names == ("SIGUSR2",)


@pytest.mark.parametrize("name", ["SIGFOO", "SIGKILL", "SIGSTOP", "SIG_IGN", "ITIMER_REAL", "Signals", "99", "-1"])
def test_a_name_that_cannot_be_taken_is_logged_and_the_others_are_taken(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ipyelastic"), TakenSignals(f"SIGUSR1,{name},SIGUSR2") as signals:
        assert signals.names == ("SIGUSR1", "SIGUSR2")
    assert caplog.messages == [f"Failed to register signal handler for {name}"]
    assert caplog.records[0].levelname == "WARNING"
    assert caplog.records[0].exc_info is not None


def test_an_ignored_signal_stays_ignored(caplog: pytest.LogCaptureFixture) -> None:
    ended = run(
        """
        with taken_from_env() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            print(signals.names, signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
        print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
        """,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # as nohup does
    )
    assert ended.stdout == "('SIGTERM', 'SIGINT', 'SIGQUIT') True\nTrue\n"
    assert ended.stderr == ""


def test_handlers_are_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(KeyError), TakenSignals("SIGUSR1"):
        raise KeyError
    assert signal.getsignal(signal.SIGUSR1) is before


def test_off_the_main_thread_nothing_is_taken_and_one_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def take() -> None:
        with taken_from_env("SIGUSR1,SIGUSR2") as signals:
            assert signals.names == ()
            names.append(signal.getsignal(signal.SIGUSR1))

    names: list[Any] = []
    in_thread(take)
    assert names == [signal.SIG_DFL]
    assert caplog.messages == [WARNING]


def test_taken_twice_is_a_mistake() -> None:
    signals = TakenSignals("SIGUSR1")
    with signals, pytest.raises(RuntimeError):
        signals.take()
    with pytest.raises(RuntimeError):
        signals.take()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_the_last_of_several_holders_gives_back_whatever_the_order(order: tuple[int, ...]) -> None:
    def former(signum: int, frame: FrameType | None) -> None:
        pass

    before = signal.signal(signal.SIGUSR1, former)
    try:
        holders = [TakenSignals("SIGUSR1").take() for _ in range(3)]
        for index in order:
            assert signal.getsignal(signal.SIGUSR1) is _terminate_process_handler
            with pytest.raises(SignalException):
                signal.raise_signal(signal.SIGUSR1)
            holders[index].give_back()
        assert signal.getsignal(signal.SIGUSR1) is former
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_somebody_put_there_meanwhile_stays() -> None:
    def theirs(signum: int, frame: FrameType | None) -> None:
        pass

    before = signal.getsignal(signal.SIGUSR1)
    with TakenSignals("SIGUSR1"):
        signal.signal(signal.SIGUSR1, theirs)
    assert signal.getsignal(signal.SIGUSR1) is theirs
    signal.signal(signal.SIGUSR1, before)


def test_given_back_in_another_thread_signals_pass_through_to_the_former_handler() -> None:
    seen: list[int] = []

    def former(signum: int, frame: FrameType | None) -> None:
        seen.append(signum)

    before = signal.signal(signal.SIGUSR1, former)
    try:
        signals = TakenSignals("SIGUSR1").take()
        in_thread(signals.give_back)
        assert signal.getsignal(signal.SIGUSR1) is _terminate_process_handler
        signal.raise_signal(signal.SIGUSR1)
        assert seen == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGUSR1) is former
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_given_back_in_another_thread_the_default_end_is_the_default_end() -> None:
    ended = run(
        """
        signals = taken_from_env().take()
        thread = threading.Thread(target=signals.give_back)
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
        """
    )
    assert ended.returncode == -signal.SIGTERM


def test_the_next_to_take_tidies_what_another_thread_left() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    in_thread(TakenSignals("SIGUSR1").take().give_back)
    with TakenSignals("SIGUSR2"):
        assert signal.getsignal(signal.SIGUSR1) is before


def test_a_forked_child_dies_of_the_signal_as_its_parent_would_have() -> None:
    with TakenSignals("SIGUSR1"):
        pid = os.fork()
        if pid == 0:
            try:
                signal.raise_signal(signal.SIGUSR1)
            finally:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGUSR1


def test_a_signal_that_comes_while_they_are_taken_leaves_no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    real, before = signal.signal, signal.getsignal(signal.SIGUSR1)

    def interrupted(signum: int, handler: Any) -> Any:
        former = real(signum, handler)
        if signum == signal.SIGUSR2 and handler is _terminate_process_handler:
            signal.raise_signal(signal.SIGUSR1)
        return former

    monkeypatch.setattr(signal, "signal", interrupted)
    with pytest.raises(SignalException):
        TakenSignals("SIGUSR1,SIGUSR2").take()
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_signal_that_comes_while_they_are_given_back_goes_to_its_former_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def former(signum: int, frame: FrameType | None) -> None:
        seen.append(signum)

    before = signal.signal(signal.SIGUSR1, former)
    real = signal.signal
    try:
        signals = TakenSignals("SIGUSR1,SIGUSR2").take()

        def interrupted(signum: int, handler: Any) -> Any:
            if signum == signal.SIGUSR2:
                signal.raise_signal(signal.SIGUSR1)
            return real(signum, handler)

        monkeypatch.setattr(signal, "signal", interrupted)
        signals.give_back()
        monkeypatch.undo()
        assert seen == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGUSR1) is former
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_handler_and_the_logger_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from unittest.mock import Mock

    logger = Mock()
    monkeypatch.setattr(signals_module, "_terminate_process_handler", other := lambda signum, frame: None)
    monkeypatch.setattr(signals_module, "logger", logger)
    with TakenSignals("SIGUSR1"):
        assert signal.getsignal(signal.SIGUSR1) is other
    logger.info.assert_called_once_with("Registered signal handler for %s", "SIGUSR1")
    in_thread(TakenSignals("SIGUSR1").take)
    logger.warning.assert_called_once_with(WARNING)


TORCH = """
    import json, logging, os, signal, threading
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, api, start_processes

    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append((record.levelname, record.getMessage(), record.exc_info is not None))
    api.logger.addHandler(handler)
    api.logger.propagate = False
    api.logger.setLevel(logging.INFO)

    def start(names):
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = names
        context = start_processes("n", "/bin/true", {0: ()}, {0: {}}, DefaultLogsSpecs(log_dir=os.devnull))
        context.wait()
        context.close()
"""
OURS = """
    import json, logging, os, signal, threading
    from ipyelastic.process import signals as api

    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append((record.levelname, record.getMessage(), record.exc_info is not None))
    api.logger.addHandler(handler)
    api.logger.propagate = False
    api.logger.setLevel(logging.INFO)

    def start(names):
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = names
        with api.taken_from_env():
            pass
"""
BOTH = """
    start("SIGTERM,SIGINT,SIGHUP,SIGQUIT")
    start("SIGFOO,SIGUSR1")
    thread = threading.Thread(target=start, args=("SIGTERM",))
    thread.start()
    thread.join()
    errors = []
    try:
        api._terminate_process_handler(15, None)
    except api.SignalException as error:
        errors.append((str(error).replace(str(os.getpid()), "PID"), int(error.sigval), error.args == (str(error),)))
    print(json.dumps([records, errors]))
"""


@pytest.mark.torch
@pytest.mark.slow
def test_the_same_program_has_the_same_log_with_torch() -> None:
    outcomes = []
    for head in (TORCH, OURS):
        code = textwrap.dedent(head) + textwrap.dedent(BOTH)
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        outcomes.append(json.loads(ended.stdout.splitlines()[-1]))
    assert outcomes[1] == outcomes[0]
    assert ["WARNING", WARNING, False] in outcomes[1][0]
