"""The engine of one rank in this very process, for debugging: real frames, `%debug`, `breakpoint()`, `input()`.

    launch(f, engine="here")         > engines/run > [here] HereEngine
    %%elastic_run --engine here      > notebook/here > [here] check_here

Runs in: owner, the caller's own thread. Nothing is packed, started or redirected.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..agent.attempts import Attempt
from ..agent.spec import RunResult, WorkerState
from ..failures.read import exit_note, read_failure
from ..failures.record import error_data, exception_record
from ..launcher import defaults
from ..launcher.options import RunOptions
from ..output import retention
from ..payload.sources import collect
from ..terms import env
from ..terms.errors import OptionError
from ..terms.events import RunNote, Sink, WorkerEnded, WorkerStarted
from ..terms.failure import ProcessFailure
from .as_rank import AsRank, check_thread, run_coroutine, take_process
from .local import LocalPlan, OnPaths

__all__ = ["HereEngine", "below_call", "check_here", "late_names"]


def check_here(options: RunOptions, is_background: bool = False) -> None:
    """Raises OptionError, one line, for options that make no sense for a rank in this process: it names all of them.

    Likewise while another thread is a rank already.
    """
    spelt = {"timeout_s": "timeout", "grace_s": "grace", "shown": "ranks"}
    fine: dict[str, tuple[Any, ...]] = {"nproc": (1,), "shown": (frozenset([0]),), "ui": ("text",)}
    wrong = ["bg"] if is_background else []
    for entry in dataclasses.fields(RunOptions):
        value = getattr(options, entry.name)
        if entry.name in ("engine", "env", "seed") or value in (entry.default, *fine.get(entry.name, ())):
            continue
        shown = sorted(value) if isinstance(value, frozenset) else value
        wrong.append(f"{spelt.get(entry.name, entry.name)}={shown!r}")
    if wrong:
        # Whoever saved the engine does not see it in what is typed now.
        other = ", or give engine='local'" if defaults.current().get("engine") == "here" else ""
        raise OptionError(f"engine='here' is one rank in this very process: leave out {', '.join(wrong)}{other}")
    check_thread()


def late_names(options: RunOptions) -> str:
    """A sentence on variables that this process has read already; empty when there are none."""
    names = env.names_read_at_import(options.env)
    if not names:
        return ""
    return f"{', '.join(names)} is read when a process starts or imports its libraries: too late for this one"


class _Folder:
    """Where the run's `run.json` is. Output goes straight to where this process's goes."""

    run_log_dir = ""

    def make(self, run_id: str) -> str:
        """Make it; returns why it could not be, or an empty text: a run goes on without."""
        try:
            self.run_log_dir = tempfile.mkdtemp(prefix=f"{run_id}_", dir=retention.owner_folder())
        except OSError as error:
            return f"there is no run.json of this run: {error.strerror or error}"
        return ""


class HereEngine:
    """Runs one plan in this process and thread, with the face of LocalEngine.

    Raises OptionError from the constructor for options that make no sense here, and while another thread is at it.
    After the constructor `run` or `abandon` must be called, in the same thread.
    """

    ended_because = lost_because = busy_with = ""

    def __init__(self, plan: LocalPlan, sink: Sink, on_paths: OnPaths) -> None:
        check_here(plan.options)
        self._plan, self._sink, self._on_paths = plan, sink, on_paths
        self.logs = _Folder()
        self.paths: tuple[dict[int, str], dict[int, str]] = ({}, {})
        self.values_so_far: dict[int, Any] = {}
        self.attempts: list[Attempt] = []
        self.traceback: TracebackType | None = None
        """Of the function's exception, from the function itself on: `%debug` after `run.result()` lands there."""
        self.abandon = take_process()
        """Call it instead of `run`: another thread may then be a rank."""

    def run(self) -> RunResult:
        """Call the function; what it raises becomes the rank's failure. Raises KeyboardInterrupt alone."""
        try:
            result = self._run()
        except BaseException:
            self._mark_failed()
            raise
        finally:
            self.abandon()
        if result.is_failed():
            self._mark_failed()
        return result

    def _run(self) -> RunResult:
        note = late_names(self._plan.options)
        if note:
            self._sink(RunNote(note))
            print(f"note: {note}")  # the run has no display: all that it writes is written here
        trouble = self.logs.make(self._plan.run_id)
        if trouble:
            self._sink(RunNote(trouble))
        self._on_paths(*self.paths)
        began, failure = time.monotonic(), None
        self.attempts = [Attempt(0, started=time.time())]
        self._sink(WorkerStarted(0, 0, os.getpid()))
        try:
            with AsRank(self._plan.options, self._plan.run_id):
                self.values_so_far = {0: _called(self._plan.entrypoint, self._plan.args)}
        except BaseException as error:
            self.traceback = below_call(error.__traceback__)
            failure = _failure(error, time.monotonic() - began)
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            code = failure.exitcode if failure is not None else 0
            failures = {} if failure is None else {0: failure}
            self.attempts = [dataclasses.replace(self.attempts[0], failures=failures, ended=time.time())]
            self._sink(WorkerEnded(0, 0, os.getpid(), code, failure))
        if failure is not None:
            return RunResult(WorkerState.FAILED, {}, {0: failure})
        return RunResult(WorkerState.SUCCEEDED, dict(self.values_so_far))

    def _mark_failed(self) -> None:
        if self.logs.run_log_dir:
            retention.mark_failed(self.logs.run_log_dir)

    def ask(self, op: str, **fields: Any) -> None:
        """There is never anything to stop: whoever could ask waits for the end."""


def _called(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    value = function(*args)
    return run_coroutine(value) if inspect.iscoroutine(value) else value


def below_call(trace: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that is the called function's; the whole when there is none."""
    entry = trace
    while entry is not None:
        if entry.tb_frame.f_code is _called.__code__ and entry.tb_next is not None:
            return entry.tb_next
        entry = entry.tb_next
    return trace


def _failure(error: BaseException, duration_s: float) -> ProcessFailure:
    def label_of(filename: str) -> str:
        return collect([filename]).get(filename, ("", ""))[1]

    exitcode, exception = 1, None
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        exitcode = (error.code or 0) & 0xFF
    else:
        exception = exception_record(error, label_of)
    failure = read_failure(
        local_rank=0,
        pid=os.getpid(),
        exitcode=exitcode,
        time_ns=time.monotonic_ns(),
        duration_s=duration_s,
        exception=exception,
        note="" if exception is not None else exit_note(exitcode),
    )
    if exception is not None:  # what torch's text is made of; a rank leaves it in its error file
        failure.error_file_data = error_data(f"{exception.type_name}: {exception.message}", exception.text)
        failure.message = failure.error_file_data["message"]
    return failure
