"""Timers over a multiprocessing queue, for workers that inherit it; SIGKILL for a worker whose time is up.

    worker: LocalTimerClient -> multiprocessing.Queue -> LocalTimerServer -> SIGKILL

Runs in: LocalTimerClient in ranks, the rest in the process that started them.
A worker that dies while it writes to the queue can leave a half request, and the lock held: the others' timers are not
heard of from then on. The named pipe (`pipe_client.py`) has no such state.
Source: torch 2.13 for names and texts.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from queue import Empty
from typing import Any

from .countdown import TimerClient, TimerRequest
from .timers import Timers, Workers
from .watchdog import RequestQueue, TimerServer

__all__ = ["LocalTimerClient", "MultiprocessingRequestQueue", "LocalTimerServer"]

logger = logging.getLogger("ipyelastic")

_SLICE_S = 0.1  # within this a stop is noticed; a request is noticed at once


class LocalTimerClient(TimerClient):
    """A worker's end; its pid is its id.

    Args:
        mp_queue: The server's queue, inherited.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """

    def __init__(self, mp_queue: Any) -> None:
        self._mp_queue = mp_queue

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Ask for a timer.

        Args:
            scope_id: Its name; one by the same name is replaced.
            expiration_time: When it runs out, a time of `time.time()`.
        """
        self._mp_queue.put(TimerRequest(os.getpid(), scope_id, expiration_time))

    def release(self, scope_id: str) -> None:
        """Release the timer of the name `scope_id`."""
        self._mp_queue.put(TimerRequest(os.getpid(), scope_id, -1))


class MultiprocessingRequestQueue(RequestQueue):
    """A `multiprocessing.Queue` (or a manager's) as the server reads it.

    Args:
        mp_queue: The queue.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """

    def __init__(self, mp_queue: Any) -> None:
        self._mp_queue = mp_queue
        self._interrupted = threading.Event()

    def size(self) -> int:
        """How many wait; 0 where the system cannot tell (macOS)."""
        try:
            return int(self._mp_queue.qsize())
        except NotImplementedError:
            return 0

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Up to `size` requests within `timeout` seconds."""
        requests: list[TimerRequest] = []
        deadline = time.monotonic() + timeout
        while len(requests) < size and not self._interrupted.is_set():
            left = deadline - time.monotonic()
            try:
                requests.append(self._mp_queue.get(timeout=max(0.0, min(left, _SLICE_S))))
            except Empty:
                if left <= 0:
                    break
            except Exception:  # something on the queue that cannot be unpickled; it is off the queue now
                if not requests:
                    raise
                logger.exception("not a timer request")
                break
        self._interrupted.clear()
        return requests

    def interrupt(self) -> None:
        """End the wait."""
        self._interrupted.set()


class LocalTimerServer(TimerServer):
    """Watches workers of this machine that were given the queue.

    Args:
        mp_queue: Filled by the workers' `LocalTimerClient`s. It stays the caller's.
        max_interval: Seconds after which workers that ended are looked for, at the latest.
        daemon: Whether the process may end while the thread runs.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """

    def __init__(self, mp_queue: Any, max_interval: float = 60, daemon: bool = True) -> None:
        super().__init__(MultiprocessingRequestQueue(mp_queue), max_interval, daemon)
        self._timers: Timers[TimerRequest] = Timers()
        self._workers = Workers()

    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        """Start and release what `timer_requests` ask for."""
        for request in timer_requests:
            if not isinstance(request, TimerRequest) or not isinstance(request.worker_id, int):
                logger.error("no timer request with a pid: %r", request)
                continue
            if request.expiration_time >= 0:
                self._workers.note(request.worker_id)
            self._timers.take([request])

    def clear_timers(self, worker_ids: set[int]) -> None:
        """Forget all timers of these pids, `worker_ids`."""
        self._timers.drop(worker_ids)
        for pid in worker_ids:
            self._workers.forget(pid)

    def get_expired_timers(self, deadline: float) -> dict[Any, list[TimerRequest]]:
        """`{pid: timers}` that have run out at `deadline`."""
        return self._timers.expired(deadline)

    def _wait_s(self) -> float:
        return self._timers.seconds_to_next(time.time(), self._max_interval)

    def _run_watchdog(self) -> None:
        self.clear_timers({pid for pid, _ in list(self._timers) if self._workers.is_gone(pid)})
        super()._run_watchdog()

    def _reap_worker(self, worker_id: int) -> bool:
        if worker_id <= 0 or self._workers.is_gone(worker_id):  # 0 and below are whole groups of processes
            logger.info("Process with pid=%s does not exist. Skipping", worker_id)
            return True
        try:
            os.kill(worker_id, signal.SIGKILL)
        except ProcessLookupError:
            logger.info("Process with pid=%s does not exist. Skipping", worker_id)
        except Exception:
            logger.exception("Error terminating pid=%s", worker_id)
            return False
        return True
