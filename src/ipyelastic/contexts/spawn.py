"""Run one function in several processes and wait for them: torch.multiprocessing's start helpers.

    start_processes -> multiprocessing.Process -> spawned.wrap(fn, i, args) in a child
    ProcessContext.join <- exit codes, and error files, which children make only after an exception

Runs in: owner, one thread at a time.
Other end: contexts/spawned.py in the children. contexts/functions.py, which runs functions under the fork server, does
not use this.
Source: torch 2.13 (SEEDS section 10) for names, fields, texts and the order of events.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from ..payload import sources
from ..payload.family import by_value_meanwhile
from ..terms import env
from . import spawned

__all__ = [
    "start_processes",
    "spawn",
    "ProcessContext",
    "SpawnContext",
    "ProcessException",
    "ProcessRaisedException",
    "ProcessExitedException",
    "ENV_VAR_PARALLEL_START",
]

ENV_VAR_PARALLEL_START = env.PARALLEL_START

log = logging.getLogger("ipyelastic")

DEFAULT_GRACE_S = 30.0
"""How long children have between SIGTERM and SIGKILL when `join` is given no grace period."""

KILLED_WITHIN_S = 5.0
"""How long we wait for a process after SIGKILL; one that is stuck in the kernel is left, with a line in the log."""


class ProcessException(Exception):
    """A child ended badly. Pickles with all its fields.

    Attributes:
        msg: The text.
        error_index: Which child, from 0.
        error_pid: Its process id.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/multiprocessing.html.
    """

    def __init__(self, msg: str, error_index: int, error_pid: int) -> None:
        super().__init__(msg)
        self.msg, self.error_index, self.error_pid = msg, error_index, error_pid

    def __reduce__(self) -> tuple[type[ProcessException], tuple[Any, ...]]:
        return type(self), (self.msg, self.error_index, self.error_pid)


class ProcessRaisedException(ProcessException):
    """A child's function raised; the text has its traceback.

    Attributes:
        msg, error_index, error_pid: See ProcessException.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/multiprocessing.html.
    """


class ProcessExitedException(ProcessException):
    """A child ended with a code other than 0, or by a signal, and left no traceback.

    Attributes:
        msg, error_index, error_pid: See ProcessException.
        exit_code: The code; negative: minus the signal's number.
        signal_name: `"SIGKILL"`, `"<Unknown signal 37>"`; None when it was no signal.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/multiprocessing.html.
    """

    def __init__(
        self, msg: str, error_index: int, error_pid: int, exit_code: int, signal_name: str | None = None
    ) -> None:
        super().__init__(msg, error_index, error_pid)
        self.exit_code, self.signal_name = exit_code, signal_name

    def __reduce__(self) -> tuple[type[ProcessException], tuple[Any, ...]]:
        return type(self), (self.msg, self.error_index, self.error_pid, self.exit_code, self.signal_name)


class ProcessContext:
    """Children that were started together.

    Args:
        processes: Started processes of the standard library's multiprocessing, by index.
        error_files: Where each leaves the pickled text of its traceback; they are removed once all have ended, or
            with this object.

    Attributes:
        processes, error_files: As given.
        sentinels: `{descriptor: index}` of the processes that `join` has not seen end.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/multiprocessing.html.
    """

    def __init__(self, processes: Sequence[BaseProcess], error_files: Sequence[str]) -> None:
        self.processes, self.error_files = processes, error_files
        self.sentinels = {process.sentinel: index for index, process in enumerate(processes)}
        self._ends: dict[int, int] = {}  # what tells that a process ended -> index
        self._pidfds: list[int] = []
        self._failure: Callable[[], ProcessException] | None = None
        self._give_back = weakref.finalize(self, _give_back, self._pidfds, error_files)
        for index, process in enumerate(processes):
            fd = _pidfd_of(process)
            if fd is not None:
                self._pidfds.append(fd)
            self._ends[process.sentinel if fd is None else fd] = index

    def pids(self) -> list[int]:
        """Process ids by index."""
        return [int(process.pid or 0) for process in self.processes]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait until a child ends; call it in a loop until it returns True.

        A child that ends badly ends the others: they have `grace_period` seconds to end by themselves (None: none),
        then get SIGTERM, and SIGKILL after another `grace_period` seconds (None: 30). So a failure takes at most twice
        the grace period, whatever the children do about SIGTERM; 0 means at once.

        Args:
            timeout: Seconds to wait for news, 0 or less: one look; None: for ever. Ending the others is not counted.
            grace_period: Seconds, see above.

        Returns:
            Whether all children have ended, well. False: time is up, or some ended well and others still run.

        Raises:
            ProcessRaisedException: A child's function raised. The text is "-- Process i terminated with the following
                error:" and the traceback.
            ProcessExitedException: A child ended by `sys.exit`, `os._exit` or a signal.
                Of children that failed between two looks, the lowest index is reported. Called again, it raises the
                same again.

        Runs in: owner. The wait ends with the event, it does not poll.
        Source: torch 2.13. Checked by tests/contexts/test_spawn.py, also against torch itself.
        """
        if self._failure is not None:
            raise self._failure()
        failed = [index for index in self._await_any(timeout) if self._exit_code(index) != 0]
        if failed:
            if grace_period:
                self._await_all(grace_period)
            self._stop(DEFAULT_GRACE_S if grace_period is None else grace_period)
            self._failure = self._describe(min(failed))
            self._give_back()
            raise self._failure()
        if not self._ends:
            self._give_back()
        return not self._ends

    def _await_any(self, timeout_s: float | None) -> list[int]:
        """Indices of the children that ended since the last look, waiting for one at most so long."""
        from multiprocessing.connection import wait

        if not self._ends:
            return []
        ended = [self._ends.pop(end) for end in wait(list(self._ends), timeout_s) if isinstance(end, int)]
        for index in ended:
            self.processes[index].join()  # reaps it; never waits: it is dead
        self.sentinels = {sentinel: index for sentinel, index in self.sentinels.items() if index not in ended}
        return ended

    def _await_all(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while self._ends:
            if not self._await_any(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                return

    def _stop(self, grace_s: float) -> None:
        """SIGTERM for all that still run, SIGKILL for those that run `grace_s` seconds later."""
        try:
            for index in self._ends.values():
                log.warning("Terminating process %s via signal %s", self.processes[index].pid, "SIGTERM")
                _send(self.processes[index].terminate)
            self._await_all(grace_s)
        finally:  # a second Ctrl-C shortens the wait
            for index in self._ends.values():
                pid = self.processes[index].pid
                log.warning(
                    "Unable to shutdown process %s via %s, forcefully exiting via %s", pid, "SIGTERM", "SIGKILL"
                )
                _send(self.processes[index].kill)
            self._await_all(KILLED_WITHIN_S)
            if self._ends:
                stuck = [self.processes[index].pid for index in self._ends.values()]
                log.error("Processes %s are still there %g s after SIGKILL", stuck, KILLED_WITHIN_S)

    def _exit_code(self, index: int) -> int:
        """Minus a signal's number for a signal; 255, as multiprocessing has it, when somebody else reaped the child."""
        code = self.processes[index].exitcode
        return 255 if code is None else code

    def _describe(self, index: int) -> Callable[[], ProcessException]:
        """The exception for a child's end; made anew each time, so that tracebacks do not pile up."""
        pid, code = int(self.processes[index].pid or 0), self._exit_code(index)
        text = spawned.read_error(self.error_files[index])
        if text is not None:
            raised = f"\n\n-- Process {index} terminated with the following error:\n{text}"
            return lambda: ProcessRaisedException(raised, index, pid)
        if code < 0:
            name = _signal_name(-code)
            by_signal = f"process {index} terminated with signal {name}"
            return lambda: ProcessExitedException(by_signal, index, pid, code, name)
        exited = f"process {index} terminated with exit code {code}"
        return lambda: ProcessExitedException(exited, index, pid, code)


SpawnContext = ProcessContext


def start_processes(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str | None = "spawn",
) -> ProcessContext | None:
    """Run `fn(i, *args)` for `i` in `0 .. nprocs-1`, each in a process of its own.

    Args:
        fn: Importable by name for "spawn" and "forkserver", anything for "fork". A function of a notebook, which no
            child could import, goes by value.
        args: What it gets after its index.
        nprocs: How many; 0 starts none.
        join: Wait for all; without it the caller does, by `ProcessContext.join`.
        daemon: The children end with us and may have no multiprocessing children.
        start_method: "spawn", "fork" or "forkserver"; None: multiprocessing's default. With "forkserver" and
            TORCH_MP_PARALLEL_START=1 in the environment the starts do not wait for each other.

    Returns:
        The context, or None after joining.

    Raises:
        ProcessRaisedException, ProcessExitedException: With `join`; see `ProcessContext.join`.
        ValueError: `nprocs` below 0, or no such start method here.
        TypeError: `nprocs` is no whole number.
        Whatever starting raises (`PicklingError`, `OSError`): children started so far are ended first. So they are
        when waiting is interrupted (Ctrl-C).

    Note:
        When the owner dies, in whatever way, children get SIGINT (Linux), which ends them quietly. The end of the
        thread that started them is no such thing.

    Runs in: owner.
    Source: torch 2.13, https://docs.pytorch.org/docs/stable/multiprocessing.html. Checked by
    tests/contexts/test_spawn.py, also against torch itself.
    """
    if not hasattr(nprocs, "__index__"):
        raise TypeError(f"nprocs={nprocs!r}: expected a whole number, not {type(nprocs).__name__}")
    if nprocs < 0:
        raise ValueError(f"nprocs={nprocs}: expected 0 or more")
    context = multiprocessing.get_context(start_method)
    method = context.get_start_method()
    error_files = [spawned.error_file(index) for index in range(nprocs)]
    parent_pid = spawned.parent_to_find(method)
    processes: list[BaseProcess] = [
        context.Process(target=spawned.wrap, args=(fn, index, args, error_files[index], parent_pid), daemon=daemon)  # type: ignore[attr-defined]
        for index in range(nprocs)
    ]
    try:
        with contextlib.nullcontext() if method == "fork" else by_value_meanwhile(_texts_of(fn)):
            if method == "forkserver" and os.environ.get(env.PARALLEL_START) == "1":
                _start_at_once(processes)
            else:
                for process in processes:
                    process.start()
    except BaseException:
        started = [index for index, process in enumerate(processes) if process.pid is not None]
        ProcessContext([processes[index] for index in started], [error_files[index] for index in started])._stop(0)
        raise
    started_all = ProcessContext(processes, error_files)
    if not join:
        return started_all
    try:
        while not started_all.join():
            pass
    except ProcessException:
        raise
    except BaseException:  # Ctrl-C: nobody else knows these children
        started_all._stop(DEFAULT_GRACE_S)
        started_all._give_back()
        raise
    return None


def spawn(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """`start_processes` with start method "spawn".

    Args:
        fn, args, nprocs, join, daemon: See `start_processes`.
        start_method: "spawn"; another one gets a FutureWarning and is not used.

    Returns:
        The context, or None after joining.

    Raises what `start_processes` raises.
    Source: torch 2.13, https://docs.pytorch.org/docs/stable/multiprocessing.html.
    """
    if start_method != "spawn":
        warnings.warn(
            f"This method only supports start_method=spawn (got: {start_method}).\n"
            "To use a different start_method use:\n\t\t start_processes(...)",
            FutureWarning,
            stacklevel=2,
        )
    return start_processes(fn, args, nprocs, join, daemon, start_method="spawn")


def _texts_of(fn: Callable[..., Any]) -> sources.Sources:
    """The text of the cell that a function was defined in, for a child's traceback."""
    code = getattr(fn, "__code__", None)
    return {} if code is None else sources.collect([code.co_filename])


def _start_at_once(processes: Sequence[BaseProcess]) -> None:
    """Start all from threads. All have been tried when this returns or raises the first error by index."""
    from concurrent.futures import ThreadPoolExecutor

    if not processes:
        return
    with ThreadPoolExecutor(max_workers=len(processes)) as pool:
        starts = [pool.submit(process.start) for process in processes]
    for start in starts:
        start.result()


def _pidfd_of(process: BaseProcess) -> int | None:
    """A descriptor that tells of the end of a child of ours.

    A sentinel is the end of a pipe whose other end the child's own children inherit, and which a child that closes all
    its descriptors closes: it may tell too late or too early. The fork server's children are not ours; there the server
    holds the other end and writes the exit code, so the sentinel is right.
    """
    if not hasattr(os, "pidfd_open") or process.exitcode is not None:
        return None
    if getattr(process, "_start_method", None) == "forkserver":
        return None
    try:
        fd = os.pidfd_open(process.pid or 0)
    except OSError:
        return None
    if process.exitcode is not None:  # reaped meanwhile, by another thread's look: the pid may be another's by now
        os.close(fd)
        return None
    return fd


def _send(signal_it: Callable[[], None]) -> None:
    try:
        signal_it()
    except PermissionError as error:  # it changed its user
        log.warning("A process cannot be signalled: %s", error)


def _give_back(pidfds: list[int], error_files: Sequence[str]) -> None:
    while pidfds:
        os.close(pidfds.pop())
    for path in error_files:
        for name in (path, path + ".part"):
            try:
                os.unlink(name)
            except OSError:  # the usual case: it was never made
                continue


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"<Unknown signal {number}>"
