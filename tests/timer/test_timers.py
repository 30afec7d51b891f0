"""The table of timers, and who they belong to."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from ipyelastic.timer.countdown import TimerRequest
from ipyelastic.timer.timers import Timers, Workers, is_running
from support.waiting import wait_until

A, B, C = TimerRequest(1, "a", 5.0), TimerRequest(1, "b", 50.0), TimerRequest(2, "a", 7.0)


@pytest.mark.parametrize(
    ("requests", "kept"),
    [
        ([A, B, C], [A, B, C]),
        ([A, TimerRequest(1, "a", 6.0)], [TimerRequest(1, "a", 6.0)]),
        ([A, B, TimerRequest(1, "a", -1)], [B]),
        ([TimerRequest(3, "x", -1)], []),
        ([TimerRequest(1, "a", -1), A], [A]),
        ([TimerRequest(1, "a", 0)], [TimerRequest(1, "a", 0)]),
    ],
)
def test_requests_start_replace_and_release(requests: list[TimerRequest], kept: list[TimerRequest]) -> None:
    timers: Timers[TimerRequest] = Timers()
    timers.take(requests)
    assert list(timers.values()) == kept


@pytest.mark.parametrize(
    ("deadline", "expired"), [(4.9, {}), (5.0, {1: [A]}), (7.5, {1: [A], 2: [C]}), (50, {1: [A, B], 2: [C]})]
)
def test_what_has_run_out_at_a_time(deadline: float, expired: dict[int, list[TimerRequest]]) -> None:
    timers: Timers[TimerRequest] = Timers()
    timers.take([A, B, C])
    assert timers.expired(deadline) == expired


@pytest.mark.parametrize(
    ("now", "at_most", "seconds"),
    [(0, 60, 5), (0, 3, 3), (5.5, 60, 1.5), (49.5, 60, 0.5), (50, 60, 60), (90, 10, 10)],
)
def test_the_next_look_is_when_the_next_one_runs_out(now: float, at_most: float, seconds: float) -> None:
    timers: Timers[TimerRequest] = Timers()
    timers.take([A, B, C])
    assert timers.seconds_to_next(now, at_most) == seconds


def test_all_timers_of_a_worker_are_dropped() -> None:
    timers: Timers[TimerRequest] = Timers()
    timers.take([A, B, C])
    timers.drop({1, 9})
    assert list(timers) == [(2, "a")]


def test_a_worker_is_gone_when_it_ended_even_unreaped_and_when_another_has_its_pid() -> None:
    workers = Workers()
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    workers.note(process.pid)
    assert not workers.is_gone(process.pid)
    process.kill()
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert is_running(process.pid)
    assert workers.is_gone(process.pid)
    process.communicate()
    assert not is_running(process.pid)
    assert workers.is_gone(process.pid)
    # As if this very process had come to that pid.
    workers._seen[os.getpid()] = workers._seen.pop(process.pid)
    assert workers.is_gone(os.getpid())
    workers.note(os.getpid())
    assert not workers.is_gone(os.getpid())


@pytest.mark.parametrize("pid", [2**22 + 5, 2**40])
def test_a_pid_of_nobody_is_gone(pid: int) -> None:
    workers = Workers()
    assert workers.is_gone(pid)
    workers.note(pid)
    assert workers.is_gone(pid)
    assert not is_running(pid)
