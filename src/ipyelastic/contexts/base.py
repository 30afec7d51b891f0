"""What every context has: torch's `PContext` and `RunProcsResult`.

    start: handlers taken > workers started > tails started;   close: workers ended > tails stopped > handlers back

Runs in: agent, one thread at a time (`close` may come from any).
Source: torch 2.13 (SEEDS sections 2, 6 and 7). Different: waits react to events, not to a period; signal handlers are
given back at the end; the clock is monotonic.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from ..output.logs import LogsDest, LogsSpecs
from ..output.tail_log import TailLog
from ..process.signals import TakenSignals, taken_from_env
from ..terms.failure import ProcessFailure

__all__ = ["PContext", "RunProcsResult", "validate_full_rank", "default_signal", "kill_signal"]

logger = logging.getLogger("ipyelastic")

_LOOK_AGAIN_S = 1.0
"""A signal that comes in the moment before a wait begins ends no wait: its handler runs when that has ended."""

IS_WINDOWS = sys.platform == "win32"


@dataclass
class RunProcsResult:
    """How a set of workers ended, all four by local rank.

    Attributes:
        return_values: What each returned, None for programs; empty when any failed.
        failures: A ProcessFailure of each that failed.
        stdouts, stderrs: Log files; empty text: the console.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """

    return_values: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, ProcessFailure] = field(default_factory=dict)
    stdouts: dict[int, str] = field(default_factory=dict)
    stderrs: dict[int, str] = field(default_factory=dict)

    def is_failed(self) -> bool:
        """Whether any worker failed."""
        return len(self.failures) > 0


def default_signal() -> signal.Signals:
    """How workers are asked to end: SIGTERM (Windows: CTRL_C_EVENT)."""
    return signal.CTRL_C_EVENT if IS_WINDOWS else signal.SIGTERM  # type: ignore[attr-defined]


def kill_signal() -> signal.Signals:
    """How they are made to: SIGKILL (Windows: CTRL_C_EVENT)."""
    return signal.CTRL_C_EVENT if IS_WINDOWS else signal.SIGKILL  # type: ignore[attr-defined]


def validate_full_rank(mapping: Mapping[int, Any], nprocs: int, what: str) -> None:
    """Raise RuntimeError unless the keys of `mapping` are exactly `0..nprocs-1`; the text names `what`, shows both."""
    actual, expected = set(mapping), set(range(nprocs))
    if actual != expected:
        raise RuntimeError(f"{what}, local rank mapping mismatch, expected: {expected}, actual: {actual}")


class PContext(ABC):
    """A set of local workers.

    Args:
        name: What is run, for people.
        entrypoint: A function, or a program's path.
        args: `{local_rank: arguments}`.
        envs: `{local_rank: {name: value}}`, laid over the owner's environment.
        logs_specs: Where output goes.
        log_line_prefixes: `{local_rank: text}` for teed lines; default `[<name><rank>]:`.
        duplicate_stdout_filters: Texts; teed stdout lines that hold one of them are also written to one file for all
            ranks, prefixed.
        duplicate_stderr_filters: Likewise for stderr.
        signals: Names, joined by commas, of signals that raise SignalException in the main thread from `start` until
            the end; None: those that TORCHELASTIC_SIGNALS_TO_HANDLE names.

    Raises:
        RuntimeError: A plug-in's paths do not cover all ranks.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """

    def __init__(
        self,
        name: str,
        entrypoint: Callable[..., Any] | str,
        args: Mapping[int, tuple[Any, ...]],
        envs: dict[int, dict[str, str]],
        logs_specs: LogsSpecs,
        log_line_prefixes: dict[int, str] | None = None,
        duplicate_stdout_filters: list[str] | None = None,
        duplicate_stderr_filters: list[str] | None = None,
        *,
        signals: str | None = None,
    ) -> None:
        self.name, self.entrypoint, self.args, self.envs = name, entrypoint, dict(args), envs
        self.nprocs = len(self.args)
        self.log_line_prefixes = log_line_prefixes
        dest: LogsDest = logs_specs.reify(envs)
        validate_full_rank(dest.stdouts, self.nprocs, "stdouts")
        validate_full_rank(dest.stderrs, self.nprocs, "stderrs")
        self.logs_dest = dest
        self.stdouts, self.stderrs, self.error_files = dest.stdouts, dest.stderrs, dest.error_files
        self._tail_logs: list[TailLog] = []
        self.filtered_stdout: IO[str] | None = None
        self.filtered_stderr: IO[str] | None = None
        self._add_tail(dest.tee_stdouts, sys.stdout, None)
        self._add_tail(dest.tee_stderrs, sys.stderr, None)
        if duplicate_stdout_filters and dest.filtered_stdout:
            self.filtered_stdout = open(dest.filtered_stdout, "w", errors="replace", buffering=1)
            self._add_tail(dest.tee_stdouts, self.filtered_stdout, duplicate_stdout_filters)
        if duplicate_stderr_filters and dest.filtered_stderr:
            self.filtered_stderr = open(dest.filtered_stderr, "w", errors="replace", buffering=1)
            self._add_tail(dest.tee_stderrs, self.filtered_stderr, duplicate_stderr_filters)
        self._signal_names = signals
        self._signals: TakenSignals | None = None
        self._is_started = False

    def _add_tail(self, files: dict[int, str], dst: Any, needles: list[str] | None) -> None:
        kwargs: dict[str, Any] = {}
        if needles is not None:
            kept = list(needles)
            kwargs["log_line_filter"] = lambda line: any(needle in line for needle in kept)
        self._tail_logs.append(TailLog(self.name, files, dst, self.log_line_prefixes, **kwargs))

    def start(self) -> None:
        """Start all workers. Raises ValueError when they were started before; whatever starting raises closes all."""
        if self._is_started:
            raise ValueError("The process context already started. Make sure you close it before starting again")
        self._is_started = True
        try:
            if self._signal_names != "":
                self._signals = taken_from_env(self._signal_names)
                self._signals.take()
            self._start()
            for tail in self._tail_logs:
                tail.start()
        except BaseException:
            self.close()
            raise

    def wait(self, timeout: float = -1, period: float = 1) -> RunProcsResult | None:
        """Wait until all workers succeeded, or one failed and all are gone.

        Args:
            timeout: Seconds; 0: one look; negative: for ever. Monotonic.
            period: Torch's polling period in seconds; not used: the wait ends with the event.

        Returns:
            The result, the same again when called again; None when time was up first.
        """
        deadline = None if timeout < 0 else time.monotonic() + timeout
        while True:
            result = self._poll()
            if result is not None:
                return result
            remaining_s = None if deadline is None else deadline - time.monotonic()
            if remaining_s is not None and remaining_s <= 0:
                return None
            self._await_event(_LOOK_AGAIN_S if remaining_s is None else min(remaining_s, _LOOK_AGAIN_S))

    # What an agent of ours asks besides torch's methods; a context of somebody else's has nothing to say.

    def ask(self, op: str, **fields: Any) -> None:
        """Have the workers `stop`, be `kill`ed or get a `signal`, from any thread; before the start it is kept.

        Args:
            op: One of these three.
            fields: `grace_s` in seconds, `signal` a number, `rank` a local rank; those that the `op` has use for.

        Raises NotImplementedError for a context of somebody else's.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot {op} its workers: use close()")

    @property
    def all_failures(self) -> dict[int, ProcessFailure]:
        """Every worker that failed, those that were stopped because of another included; by local rank."""
        return {}

    @property
    def values_so_far(self) -> dict[int, Any]:
        """Values of the workers that have handed theirs over."""
        return {}

    @property
    def ended_because(self) -> str:
        """Why the workers were asked to end: empty, `peer failed`, `timed out`, `stopped`."""
        return ""

    @property
    def lost_because(self) -> str:
        """What kept the workers from running or being watched, as a sentence; empty otherwise."""
        return ""

    @property
    def busy_with(self) -> str:
        """What of the user's runs in this process now (`packing the call`); empty: nothing."""
        return ""

    @abstractmethod
    def pids(self) -> dict[int, int]:
        """`{local_rank: pid}` of the workers that were started."""

    def close(self, death_sig: signal.Signals | None = None, timeout: float = 30) -> None:
        """End every worker, and give everything back: tails, files, signal handlers. Idempotent.

        Args:
            death_sig: How live workers are asked to end; None: SIGTERM.
            timeout: Seconds after which those that are left are killed.
        """
        try:
            self._close(death_sig=death_sig or default_signal(), timeout=timeout)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        for tail in self._tail_logs:
            tail.stop()
        for file in (self.filtered_stdout, self.filtered_stderr):
            if file is not None:
                file.close()
        if self._signals is not None:
            self._signals.give_back()

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _poll(self) -> RunProcsResult | None: ...

    @abstractmethod
    def _await_event(self, timeout_s: float | None) -> None:
        """Block until `_poll` may have something new to say."""

    @abstractmethod
    def _close(self, death_sig: signal.Signals, timeout: float) -> None: ...
