"""Torch's timer and pause."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from datetime import timedelta
from unittest import mock

import pytest

from ipyelastic.rendezvous import periodic
from ipyelastic.rendezvous.periodic import _delay, _PeriodicTimer
from support.waiting import wait_until

OFTEN = timedelta(milliseconds=1)


@pytest.fixture
def new_threads():
    """The threads that began since."""
    before = set(threading.enumerate())
    return lambda: set(threading.enumerate()) - before


class Calls:
    """Counts, and holds the arguments of the last call."""

    def __init__(self) -> None:
        self.count, self.last = 0, ((), {})

    def __call__(self, *args, **kwargs):
        self.count, self.last = self.count + 1, (args, kwargs)


def test_function_is_called_again_and_again_until_the_timer_is_cancelled(new_threads) -> None:
    calls = Calls()
    timer = _PeriodicTimer(OFTEN, calls, 1, two=2)
    timer.cancel()  # not started: nothing to end
    timer.set_name("of the test")
    timer.start()
    assert timer.name == "of the test"
    assert [(thread.name, thread.daemon) for thread in new_threads()] == [("of the test", True)]
    wait_until(lambda: calls.count >= 3)
    timer.cancel()
    assert not new_threads()  # cancel waits for it
    timer.cancel()
    assert calls.last == ((1,), {"two": 2})


def test_timer_starts_once_and_keeps_its_name() -> None:
    timer = _PeriodicTimer(timedelta(hours=1), print)
    assert timer.name is None
    timer.start()
    for again in (timer.start, lambda: timer.set_name("other")):
        with pytest.raises(RuntimeError, match="has already started"):
            again()
    timer.cancel()
    with pytest.raises(RuntimeError, match="has already started"):
        timer.start()


def test_forgotten_timer_ends_its_thread(new_threads) -> None:
    timer = _PeriodicTimer(OFTEN, Calls())
    timer.start()
    gone = weakref.ref(timer)
    del timer
    gc.collect()
    assert gone() is None
    assert not new_threads()


def test_timer_can_be_cancelled_by_its_own_function(new_threads) -> None:
    ended = threading.Event()
    timers = []
    timer = _PeriodicTimer(OFTEN, lambda: (timers[0].cancel(), ended.set()))
    timers.append(timer)
    timer.start()
    assert ended.wait(20)
    wait_until(lambda: not new_threads())


@pytest.mark.parametrize(
    ("seconds", "slept"),
    [(0, []), (-1, []), (0.009, []), (0.01, [0.01]), (2, [2]), ((3.0, 3.0), [3.0]), ((0, 0.0), [])],
)
def test_pause_is_as_long_as_said_and_none_below_ten_milliseconds(seconds, slept) -> None:
    with mock.patch.object(periodic, "time", wraps=time) as clock:
        clock.sleep.return_value = None
        _delay(seconds)
    assert [call.args[0] for call in clock.sleep.call_args_list] == slept


def test_pause_between_two_lengths_is_one_of_them() -> None:
    with mock.patch.object(periodic, "time") as clock:
        for _ in range(50):
            _delay((0.02, 0.5))
    lengths = [call.args[0] for call in clock.sleep.call_args_list]
    assert len(set(lengths)) > 1
    assert all(0.02 <= length <= 0.5 for length in lengths)
