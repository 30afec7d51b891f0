"""A timer server's loop over any queue of requests: take what workers ask for, reap those whose time is up.

    worker: TimerClient -> RequestQueue -> [here, one thread] -> _reap_worker

Runs in: the process that starts the workers. `local.py` has the queue and the reaping for one machine.
Source: torch 2.13 for names and texts.
"""

from __future__ import annotations

import abc
import logging
import threading
import time
from typing import Any

from .countdown import TimerRequest

__all__ = ["RequestQueue", "TimerServer"]

logger = logging.getLogger("ipyelastic")

_AFTER_ERROR_S = 1.0  # a queue that only raises is asked again, but does not keep a core busy


class RequestQueue(abc.ABC):
    """Where requests of workers wait for the server.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """

    @abc.abstractmethod
    def size(self) -> int:
        """How many wait at least; `get(size(), 0)` returns that many."""

    @abc.abstractmethod
    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Up to `size` requests, waiting for them for at most `timeout` seconds."""

    def interrupt(self) -> None:
        """End the `get` that waits now, or the next one, early; called by another thread."""
        return  # one that cannot be interrupted waits for its timeout


class TimerServer(abc.ABC):
    """Watches timers in one thread.

    Args:
        request_queue: Where the workers' requests arrive.
        max_interval: The longest the loop waits for a request, in seconds.
        daemon: Whether the process may end while the thread runs.

    A subclass keeps the timers and knows how to reap; the four methods are called from the server's thread.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """

    def __init__(self, request_queue: RequestQueue, max_interval: float, daemon: bool = True) -> None:
        self._request_queue = request_queue
        self._max_interval = max_interval
        self._daemon = daemon
        self._watchdog_thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @abc.abstractmethod
    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        """Start and release what `timer_requests` ask for."""

    @abc.abstractmethod
    def clear_timers(self, worker_ids: set[Any]) -> None:
        """Forget all timers of these workers, `worker_ids`."""

    @abc.abstractmethod
    def get_expired_timers(self, deadline: float) -> dict[Any, list[TimerRequest]]:
        """`{worker id: timers}` that have run out at `deadline`, that instant included."""

    @abc.abstractmethod
    def _reap_worker(self, worker_id: Any) -> bool:
        """End a worker. False: it could not be done, and is tried again after an interval."""

    def _reap_worker_no_throw(self, worker_id: Any) -> bool:
        """As `_reap_worker`; when that raises, the worker counts as reaped."""
        try:
            return self._reap_worker(worker_id)
        except Exception:
            logger.exception(
                "Uncaught exception thrown from _reap_worker(), check that the implementation correctly catches "
                "exceptions"
            )
            return True

    def _wait_s(self) -> float:
        """How long the next wait for a request may last; shorter when a timer runs out before."""
        return self._max_interval

    def _watchdog_loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self._run_watchdog()
            except Exception:
                logger.exception("Error running watchdog")
                self._stopping.wait(min(_AFTER_ERROR_S, self._max_interval))

    def _run_watchdog(self) -> None:
        """One round."""
        batch = max(1, self._request_queue.size())
        self.register_timers(self._request_queue.get(batch, self._wait_s()))
        reaped = set()
        for worker_id, expired in self.get_expired_timers(time.time()).items():
            logger.warning("Reaping worker_id=[%s]. Expired timers: %s", worker_id, self._get_scopes(expired))
            if self._reap_worker_no_throw(worker_id):
                logger.info("Successfully reaped worker=[%s]", worker_id)
                reaped.add(worker_id)
            else:
                logger.error("Error reaping worker=[%s]. Will retry on next watchdog.", worker_id)
        self.clear_timers(reaped)

    def _get_scopes(self, timer_requests: list[TimerRequest]) -> list[str]:
        return [request.scope_id for request in timer_requests]

    def start(self) -> None:
        """Begin to watch. Nothing when it watches already."""
        if self._watchdog_thread is not None:
            return
        logger.info("Starting %s... max_interval=%s, daemon=%s", type(self).__name__, self._max_interval, self._daemon)
        self._stopping.clear()
        self._watchdog_thread = threading.Thread(target=self._watchdog_loop, daemon=self._daemon)
        self._watchdog_thread.start()

    def stop(self) -> None:
        """Stop watching; timers that run stay registered. Idempotent; it can be started again."""
        thread = self._watchdog_thread
        if thread is None:
            return
        logger.info("Stopping %s", type(self).__name__)
        self._stopping.set()
        self._request_queue.interrupt()
        self._watchdog_thread = None
        if thread is not threading.current_thread():
            # A queue of the user's that cannot be interrupted waits for its interval.
            thread.join(self._max_interval + 10)
