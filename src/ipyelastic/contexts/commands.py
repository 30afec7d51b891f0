"""Program workers: torch's `SubprocessContext`.

    agent > [here] > program.SubprocessHandler, one per rank;   a fork server stands by to end them if we are killed

Runs in: agent.
Source: torch 2.13 (SEEDS section 4). Different: ranks started before one that could not be started are ended too, the
wait ends with the event, and what a program leaves behind is ended with the context (by its environment's mark: a
process that wipes both its environment and its session escapes).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import Any

from ..devices.numa import NumaOptions
from ..failures.read import exit_note, memory_state, read_failure, take_traceback
from ..forkserver.client import servers
from ..output.logs import LogsSpecs
from ..process.stop import kill_marked
from ..terms import env
from ..terms.errors import ServerError
from ..terms.events import Event, WorkerEnded, WorkerStarted
from ..terms.failure import ProcessFailure
from ..terms.policy import Policy
from . import program
from .base import PContext, RunProcsResult, kill_signal
from .settings import RankSettings

__all__ = ["SubprocessContext"]

logger = logging.getLogger("ipyelastic")

_FAULTHANDLER = {env.PYTHONFAULTHANDLER: "1"}  # a Python program that crashes says where, on stderr
_GRACE_S = 30.0  # torch's, for callers without settings
_LAST_WAIT_S = 5.0  # for processes that SIGKILL did not end (uninterruptible sleep); then they are named and left


class SubprocessContext(PContext):
    """One program per local rank.

    Args:
        numa_options: Bind each to the CPUs near its GPU.
        settings: Of these, `policy.grace_s`, `policy.stop_signal`, `signals`, `sink`, `global_ranks`, `attempt` and
            `logs_failure` mean something to programs.
        name, entrypoint, args, envs, logs_specs, log_line_prefixes, duplicate_stdout_filters, duplicate_stderr_filters:
            See PContext.

    Attributes:
        subprocess_handlers: `{local_rank: SubprocessHandler}` of those started.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """

    def __init__(
        self,
        name: str,
        entrypoint: str,
        args: Mapping[int, tuple[Any, ...]],
        envs: dict[int, dict[str, str]],
        logs_specs: LogsSpecs,
        log_line_prefixes: dict[int, str] | None = None,
        numa_options: NumaOptions | None = None,
        duplicate_stdout_filters: list[str] | None = None,
        duplicate_stderr_filters: list[str] | None = None,
        *,
        settings: RankSettings | None = None,
    ) -> None:
        super().__init__(
            name,
            entrypoint,
            args,
            envs,
            logs_specs,
            log_line_prefixes,
            duplicate_stdout_filters=duplicate_stdout_filters,
            duplicate_stderr_filters=duplicate_stderr_filters,
            signals=None if settings is None else settings.signals,
        )
        self._settings = settings or RankSettings(policy=Policy(grace_s=_GRACE_S), is_torchs=True)
        self._numa_options = numa_options
        self.subprocess_handlers: dict[int, program.SubprocessHandler] = {}
        self._running_local_ranks: set[int] = set(range(self.nprocs))
        self._failures: dict[int, ProcessFailure] = {}
        self._pidfds: dict[int, int] = {}
        self._run_mark = ""
        self._closing = threading.RLock()
        self._asked: set[int] = set()
        self._wishes: list[tuple[str, dict[str, Any]]] = []
        self._ask_lock = threading.Lock()
        self._is_up = False
        self._ended_because = ""
        self._kill_at: float | None = None
        self._started_at = 0.0
        self._result: RunProcsResult | None = None

    def _start(self) -> None:
        assert isinstance(self.entrypoint, str)
        if self.subprocess_handlers:
            raise ValueError(
                "The subprocess handlers already initialized. Most likely the start method got called twice."
            )
        self._started_at = time.monotonic()
        self._guard()
        for local_rank in range(self.nprocs):
            handler = program.get_subprocess_handler(
                entrypoint=self.entrypoint,
                args=self.args[local_rank],
                env={**_FAULTHANDLER, **self.envs[local_rank], env.RUN_MARK: self._run_mark},
                stdout=self.stdouts[local_rank],
                stderr=self.stderrs[local_rank],
                local_rank_id=local_rank,
                numa_options=self._numa_options,
            )
            # One by one: what `close` must end if a later one cannot be started (SEEDS section 18, 25).
            self.subprocess_handlers[local_rank] = handler
            with contextlib.suppress(AttributeError, OSError, TypeError):
                self._pidfds[local_rank] = os.pidfd_open(handler.proc.pid)
            self._emit(WorkerStarted(self._global(local_rank), local_rank, handler.proc.pid, self._settings.attempt))
        with self._ask_lock:
            self._is_up = True
            for op, fields in self._wishes:
                self._answer(op, **fields)

    def _guard(self) -> None:
        client = servers()
        self._run_mark = client.new_mark()
        try:
            client.guard(self._run_mark)
        except ServerError as error:  # they run all the same; only a kill -9 of this process would leave them
            logger.warning("no fork server to end the programs should this process be killed: %s", error)

    def pids(self) -> dict[int, int]:
        """`{local_rank: pid}`."""
        return {rank: handler.proc.pid for rank, handler in self.subprocess_handlers.items()}

    # ---------------------------------------------------------------------------------------------------------- waiting

    def _await_event(self, timeout_s: float | None) -> None:
        if self._result is not None or not self._running_local_ranks:
            return
        waiting = [self._pidfds[rank] for rank in self._running_local_ranks if rank in self._pidfds]
        if len(waiting) < len(self._running_local_ranks):  # no pidfd here: look again soon
            timeout_s = 0.05 if timeout_s is None else min(timeout_s, 0.05)
        if self._kill_at is not None:
            left_s = max(0.0, self._kill_at - time.monotonic())
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        poller = select.poll()
        for fd in waiting:
            poller.register(fd, select.POLLIN)
        poller.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000 + 1)

    def _poll(self) -> RunProcsResult | None:
        if self._result is not None:
            return self._result
        self._capture_ended()
        is_due = self._kill_at is not None and time.monotonic() >= self._kill_at
        if self._running_local_ranks and not self._failures and not is_due:
            return None
        self.close(timeout=0 if is_due else self._settings.policy.grace_s)
        # Looked at again: those that we ended are failures with their signal, as torch has it.
        self._capture_ended()
        result = RunProcsResult(failures=dict(self._failures), stdouts=self.stdouts, stderrs=self.stderrs)
        if result.is_failed() and self._settings.logs_failure:
            first = min(result.failures.values(), key=lambda failure: (failure.is_stopped, failure.timestamp_ns))
            logger.error(
                "failed (exitcode: %s) local_rank: %s (pid: %s) of binary: %s",
                first.exitcode,
                first.local_rank,
                first.pid,
                self.entrypoint,
            )
        if not result.is_failed():
            result.return_values = dict.fromkeys(range(self.nprocs))
        self._result = result
        return result

    def _capture_ended(self) -> None:
        for local_rank in sorted(self._running_local_ranks & self.subprocess_handlers.keys()):
            process = self.subprocess_handlers[local_rank].proc
            exitcode = process.poll()
            if exitcode is None:
                continue
            self._running_local_ranks.discard(local_rank)
            if exitcode == 0:
                self._tell_end(local_rank, exitcode, None)
            else:
                is_stopped = local_rank in self._asked
                failure = self._failures[local_rank] = read_failure(
                    local_rank=local_rank,
                    pid=process.pid,
                    exitcode=exitcode,
                    error_file=self.error_files[local_rank],
                    time_ns=time.monotonic_ns(),
                    duration_s=time.monotonic() - self._started_at,
                    is_stopped=is_stopped,
                    note=exit_note(exitcode, is_program=True),
                    memory=memory_state() if exitcode == -signal.SIGKILL and not is_stopped else None,
                )
                take_traceback(failure, self.stderrs[local_rank])
                self._tell_end(local_rank, exitcode, failure)

    def _tell_end(self, local_rank: int, exitcode: int, failure: ProcessFailure | None) -> None:
        pid = self.subprocess_handlers[local_rank].proc.pid
        ended = WorkerEnded(self._global(local_rank), local_rank, pid, exitcode, failure, self._settings.attempt)
        self._emit(ended)

    def _global(self, local_rank: int) -> int:
        ranks = self._settings.global_ranks
        return local_rank if ranks is None else ranks[local_rank]

    def _emit(self, event: Event) -> None:
        if self._settings.sink is not None:
            self._settings.sink(event)

    # ----------------------------------------------------------------------------------------------------------- ending

    def ask(self, op: str, **fields: Any) -> None:
        """Have the programs `stop`, be `kill`ed or get a `signal`, from any thread; before the start it is kept.

        Args:
            op: One of these three.
            fields: `grace_s` in seconds, `signal` a number, `rank` a local rank; those that the `op` has use for.

        Whoever waits kills what is left after the grace: at that moment, or when it looks next.
        """
        with self._ask_lock:
            if self._is_up:
                self._answer(op, **fields)
            else:
                self._wishes.append((op, fields))

    def _answer(self, op: str, **fields: Any) -> None:
        rank = fields.get("rank")
        is_of_all = op == "stop" or (op == "kill" and rank is None)
        policy = self._settings.policy
        if is_of_all:
            grace_s = 0.0 if op == "kill" else fields.get("grace_s", policy.grace_s)
            kill_at = time.monotonic() + grace_s
            self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
            self._ended_because = self._ended_because or "stopped"
        wanted = {"stop": policy.stop_signal, "kill": signal.SIGKILL}.get(op, fields.get("signal", 0))
        for local_rank, handler in self.subprocess_handlers.items():
            if rank in (None, local_rank) and handler.proc.returncode is None:
                if is_of_all:
                    self._asked.add(local_rank)
                handler.send_signal(signal.Signals(wanted))

    @property
    def all_failures(self) -> dict[int, ProcessFailure]:
        """Every program that failed, those that were stopped because of another included; by local rank."""
        return dict(self._failures)

    @property
    def ended_because(self) -> str:
        """Why the programs were asked to end: empty, `peer failed`, `stopped`."""
        return self._ended_because

    def _close(self, death_sig: signal.Signals, timeout: float = 30) -> None:
        with self._closing:
            handlers = list(self.subprocess_handlers.values())
            try:
                self._end_all(handlers, death_sig, timeout)
            except BaseException:  # a second signal, in the middle of this: no time for asking any more
                for handler in handlers:
                    if handler.proc.poll() is None:
                        handler.close(death_sig=kill_signal())
                raise
            finally:
                self._tidy(handlers)

    def _end_all(self, handlers: list[program.SubprocessHandler], death_sig: signal.Signals, timeout: float) -> None:
        for handler in handlers:
            if handler.proc.poll() is None:
                self._asked.add(handler.local_rank_id)
                handler.close(death_sig=death_sig)
        if not _all_end(handlers, timeout):
            for handler in handlers:
                if handler.proc.poll() is None:
                    logger.warning(
                        "Unable to shutdown process %s via %s, forcefully exiting via %s",
                        handler.proc.pid,
                        death_sig,
                        kill_signal(),
                    )
                    handler.close(death_sig=kill_signal())
            if not _all_end(handlers, _LAST_WAIT_S):
                stuck = [handler.proc.pid for handler in handlers if handler.proc.poll() is None]
                logger.error("processes %s did not end after SIGKILL and are left", stuck)

    def _tidy(self, handlers: list[program.SubprocessHandler]) -> None:
        for handler in handlers:
            handler.close_files()
        for fd in self._pidfds.values():
            os.close(fd)
        self._pidfds = {}
        if self._run_mark:
            kill_marked(f"{env.RUN_MARK}={self._run_mark}".encode())
            servers().unguard(self._run_mark)
            self._run_mark = ""


def _all_end(handlers: list[program.SubprocessHandler], within_s: float) -> bool:
    """Wait until every program has ended, all within one time."""
    deadline = time.monotonic() + within_s
    for handler in handlers:
        try:
            handler.proc.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
    return True
