"""Countdown timers as a worker uses them: `with expires(after=60): ...`, or the worker may be killed.

    worker: expires -> TimerClient.acquire, release  ->  queue or pipe  ->  a timer server beside the worker

Runs in: ranks, any thread. Other end: `watchdog.py` (queues) and `pipe_server.py` (named pipe).
Source: torch 2.13 for names and texts. Times are of `time.time()`, as torch's clients and servers send them.
"""

from __future__ import annotations

import abc
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

__all__ = ["TimerRequest", "TimerClient", "configure", "expires"]

logger = logging.getLogger("ipyelastic")


class TimerRequest:
    """What a worker asks for.

    Args:
        worker_id: Who asks; a pid for the servers of this room.
        scope_id: Which of its timers; one by the same name is replaced.
        expiration_time: Seconds since 1970; negative: the timer is released.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """

    __slots__ = ["expiration_time", "scope_id", "worker_id"]

    def __init__(self, worker_id: Any, scope_id: str, expiration_time: float) -> None:
        self.worker_id = worker_id
        self.scope_id = scope_id
        self.expiration_time = expiration_time

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and all(
            getattr(self, name) == getattr(other, name)
            for kind in type(self).__mro__
            for name in getattr(kind, "__slots__", ())
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.worker_id!r}, {self.scope_id!r}, {self.expiration_time!r})"


class TimerClient(abc.ABC):
    """A worker's end: asks for timers. Derive one and `configure` it, or take LocalTimerClient or FileTimerClient.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """

    @abc.abstractmethod
    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Start the timer of this name, or start it again.

        Args:
            scope_id: The name.
            expiration_time: When it runs out, a time of `time.time()`.
        """

    @abc.abstractmethod
    def release(self, scope_id: str) -> None:
        """Stop the timer of the name `scope_id`; one that does not run is no error."""


_timer_client: TimerClient | None = None


def configure(timer_client: TimerClient) -> None:
    """Have `expires` use this client from here on, in this process.

    Args:
        timer_client: The client.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """
    global _timer_client
    _timer_client = timer_client
    logger.info("Timer client configured to: %s", type(timer_client).__name__)


def expires(after: float, scope: str | None = None, client: TimerClient | None = None) -> AbstractContextManager[None]:
    """A block that must end in time, or its worker may be killed.

    Args:
        after: Seconds from the block's beginning.
        scope: The timer's name; by default `file#line` of the call. Timers of one name replace each other.
        client: By default the configured one.

    Raises:
        ValueError: `after` is negative or no number.
        RuntimeError: At the block's beginning: no client was given and none configured.

    Example:
        >>> class Told(TimerClient):
        ...     def acquire(self, scope_id, expiration_time):
        ...         print("acquire", scope_id)
        ...
        ...     def release(self, scope_id):
        ...         print("release", scope_id)
        >>> with expires(after=60, scope="step", client=Told()):
        ...     print("working")
        acquire step
        working
        release step

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """
    if not after >= 0:  # NaN too
        raise ValueError(f"after={after!r}: expected seconds, 0 or more")
    return _counted_down(after, _place(sys._getframe(1)) if scope is None else scope, client)


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}#{frame.f_lineno}"


@contextmanager
def _counted_down(after: float, scope: str, client: TimerClient | None) -> Iterator[None]:
    client = client or _timer_client
    if client is None:
        raise RuntimeError("Configure timer client before using countdown timers.")
    client.acquire(scope, time.time() + after)
    try:
        yield
    except BaseException:
        try:
            client.release(scope)
        except Exception:  # what the block raised says more than a server that is gone
            logger.warning("timer %s could not be released", scope, exc_info=True)
        raise
    client.release(scope)
