"""Timers over a multiprocessing queue, with real workers."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.timer.countdown import TimerRequest
from ipyelastic.timer.local import LocalTimerClient, LocalTimerServer, MultiprocessingRequestQueue
from ipyelastic.timer.watchdog import RequestQueue, TimerServer
from support.gates import Gate
from support.timer_bodies import finish_a_block, hang_in_a_block
from support.waiting import wait_until

CONTEXT = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module", autouse=True)
def tracker() -> None:
    """It and its descriptor stay for the process's life; before a test counts its own."""
    resource_tracker.ensure_running()


@pytest.fixture
def queue() -> Iterator[Any]:
    one = CONTEXT.Queue()
    yield one
    one.close()
    one.join_thread()
    one._reader.close()  # what was never written to keeps its pipe
    one._writer.close()


@pytest.fixture
def server(queue: Any) -> Iterator[LocalTimerServer]:
    one = LocalTimerServer(queue, max_interval=60)
    one.start()
    yield one
    one.stop()


@pytest.fixture
def worker(queue: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a body; all wait at one gate, which is opened in the end."""
    started = []
    with Gate(tmp_path / "gate") as gate:

        def start(body: Callable[..., None], after: float) -> Any:
            process = CONTEXT.Process(target=body, args=(queue, gate.path, after))
            process.start()
            started.append(process)
            return process

        yield start
        gate.open()
        for process in started:
            process.join(30)
            process.kill()
            process.join()
            process.close()


@pytest.mark.slow
def test_a_worker_whose_time_is_up_is_killed_and_nobody_else(queue: Any, worker: Callable[..., Any]) -> None:
    # Before the server looks, all have asked: the time of both is up, and one has left its block.
    other, in_time, late = worker(hang_in_a_block, 1000), worker(finish_a_block, 0), worker(hang_in_a_block, 0)
    wait_until(lambda: queue.qsize() == 4, within_s=60)
    server = LocalTimerServer(queue, max_interval=60)
    server.start()
    late.join(60)
    assert late.exitcode == -signal.SIGKILL
    wait_until(lambda: set(server._timers) == {(other.pid, "hangs")}, within_s=30)
    assert [other.is_alive(), in_time.is_alive()] == [True, True]
    server.stop()


@pytest.mark.slow
def test_a_worker_that_dies_leaves_no_timer(queue: Any, worker: Callable[..., Any]) -> None:
    server = LocalTimerServer(queue, max_interval=0.05)
    server.start()
    try:
        dying = worker(hang_in_a_block, 1000)
        wait_until(lambda: server._timers, within_s=60)
        dying.kill()
        wait_until(lambda: not server._timers)
    finally:
        server.stop()


def test_a_client_asks_as_its_process(queue: Any) -> None:
    client = LocalTimerClient(queue)
    client.acquire("a", 5.0)
    client.release("a")
    first, second = MultiprocessingRequestQueue(queue).get(2, 30)
    pid = multiprocessing.current_process().pid
    assert (first, second) == (TimerRequest(pid, "a", 5.0), TimerRequest(pid, "a", -1))


def test_a_queue_hands_out_what_there_is_in_order(queue: Any) -> None:
    requests = MultiprocessingRequestQueue(queue)
    assert (requests.size(), requests.get(3, 0)) == (0, [])
    for number in range(3):
        queue.put(number)
    wait_until(lambda: requests.size() == 3)
    assert requests.get(2, 30) == [0, 1]
    assert requests.get(5, 0.01) == [2]


def test_a_waiting_queue_is_interrupted(queue: Any) -> None:
    requests = MultiprocessingRequestQueue(queue)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(requests.get(1, 1000)))
    thread.start()
    requests.interrupt()
    thread.join(30)
    assert not thread.is_alive()
    assert got == [[]]


def test_what_is_no_request_is_logged_and_costs_no_other(
    server: LocalTimerServer, queue: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pid = multiprocessing.current_process().pid
    for thing in ("text", TimerRequest("rank 0", "a", 5.0), TimerRequest(pid, "a", time.time() + 1e6)):
        queue.put(thing)
    wait_until(lambda: server._timers)
    assert list(server._timers) == [(pid, "a")]
    assert "no timer request with a pid: 'text'" in caplog.text
    assert "no timer request with a pid: TimerRequest('rank 0', 'a', 5.0)" in caplog.text


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 5])
def test_a_pid_that_is_no_process_counts_as_reaped(queue: Any, pid: int) -> None:
    assert LocalTimerServer(queue)._reap_worker(pid)


def test_a_server_starts_and_stops_any_number_of_times(queue: Any) -> None:
    server = LocalTimerServer(queue, max_interval=1000)
    pid = multiprocessing.current_process().pid
    for round_ in range(3):
        server.start()
        thread = server._watchdog_thread
        server.start()
        assert server._watchdog_thread is thread
        queue.put(TimerRequest(pid, str(round_), time.time() + 1e6))
        wait_until(lambda: len(server._timers) == round_ + 1)  # noqa: B023
        server.stop()
        server.stop()
        assert thread is not None
        assert not thread.is_alive()


class Table(TimerServer):
    """A user's own server: whom it reaps is whom it is told."""

    def __init__(self, requests: RequestQueue, answers: dict[str, Any]) -> None:
        super().__init__(requests, max_interval=0.01)
        self.timers: dict[str, TimerRequest] = {}
        self.answers, self.asked = answers, []  # type: ignore[var-annotated]

    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        self.timers.update({request.worker_id: request for request in timer_requests})

    def clear_timers(self, worker_ids: set[Any]) -> None:
        for worker_id in worker_ids:
            self.timers.pop(worker_id)

    def get_expired_timers(self, deadline: float) -> dict[Any, list[TimerRequest]]:
        return {key: [request] for key, request in self.timers.items() if request.expiration_time <= deadline}

    def _reap_worker(self, worker_id: str) -> bool:
        self.asked.append(worker_id)
        answer = self.answers[worker_id]
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)


class OneByOne(RequestQueue):
    """Has one request after another, with an error first."""

    def __init__(self, requests: list[TimerRequest]) -> None:
        self.requests: list[Any] = [ConnectionError("once"), *requests]

    def size(self) -> int:
        return len(self.requests)

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        if not self.requests:
            threading.Event().wait(timeout)
            return []
        first = self.requests.pop(0)
        if isinstance(first, Exception):
            raise first
        return [first]


def test_a_users_server_is_asked_again_for_whom_it_could_not_reap(caplog: pytest.LogCaptureFixture) -> None:
    answers = {"reaped": True, "not yet": False, "raises": ValueError("on purpose")}
    requests = [TimerRequest(name, "a", 5.0) for name in answers] + [TimerRequest("later", "a", 1e12)]
    server = Table(OneByOne(requests), answers)
    server.start()
    wait_until(lambda: server.asked.count("not yet") >= 3 and "later" in server.timers)
    server.stop()
    assert set(server.timers) == {"not yet", "later"}
    assert [server.asked.count("reaped"), server.asked.count("raises"), server.asked.count("later")] == [1, 1, 0]
    assert "Error running watchdog" in caplog.text
    assert "Uncaught exception thrown from _reap_worker()" in caplog.text
