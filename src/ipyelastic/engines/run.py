"""The `Run` that `launch()` returns: one launch as its user sees it, a future of its values.

    launch -> Run -> its own thread -> engines/local -> agent -> ...
                  -> the caller's thread -> engines/here       (engine="here")
    result(), wait(), await, concurrent.futures, callbacks <- done

Runs in: owner. A Run may be used from any thread; callbacks run in its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import logging
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from ..agent.attempts import Attempt
from ..failures.read import take_stacks
from ..launcher.gpu_choice import GpuChoice
from ..launcher.options import RunOptions
from ..output import next_folder
from ..terms.errors import ChildFailedError, RunCancelled, RunStopped, RunTimedOut, ServerError
from ..terms.events import Event, RunEnded, RunNote, Sink
from ..terms.failure import ProcessFailure
from ..view.board import Board
from . import living
from .cause import rank_words, with_cause
from .ended import EndedEngine
from .here import HereEngine
from .local import LocalEngine, LocalPlan
from .rank_view import RankView
from .record import RunRecord
from .replay import replayed
from .results import Results
from .showing import Display, new_display, place
from .static_forms import static_forms

if TYPE_CHECKING:  # only there: jedi, which Tab asks, offers nothing for an object with a property that is a Literal
    from ..terms.events import RunStatus

__all__ = ["Run", "Results", "RankView", "Rendezvous", "live_runs", "last_run", "find_run"]

T = TypeVar("T")

_log = logging.getLogger("ipyelastic")
_AHEAD_S = 0.05  # what a launch gets before the launching thread goes on
_last: Run[Any] | None = None
_known: weakref.WeakValueDictionary[str, Run[Any]] = weakref.WeakValueDictionary()

Rendezvous = tuple[str, int]
"""MASTER_ADDR and MASTER_PORT; port 0: any that is free."""


class Run(concurrent.futures.Future[Results[T]], Generic[T]):
    """One launch: values, output, status, and the means to stop it. Made by `launch()`.

    It is a `concurrent.futures.Future`: `concurrent.futures.wait([run1, run2])`, `as_completed`,
    `asyncio.wrap_future(run)` and `await run` take it. Whoever only waits never ends it: `result(timeout)`,
    `asyncio.wait_for(run, 1)` and a cancelled `await run` leave it running. `run.cancel()` stops it, and so does
    cancelling `asyncio.wrap_future(run)`, which passes that on.

    A failure that nobody asks for (`result()`, `exception()`, `await`, a callback) and no notebook showed is told on
    stderr when the process ends.

        run.result()   run.wait(timeout)   run.exception()    the values, a list by rank, or what went wrong
        run.results    run.status          run.ranks[1]       as it is now
        run.stop()     run.kill(rank)      run.restart()      ask the ranks to end, end them, launch the same again
        run.log_dir    run.attempts        run.elapsed_s      files, restarts, seconds

    Args:
        entrypoint: Called in every rank as `entrypoint(*args)`.
        args: Its arguments.
        options: How it is run: a RunOptions.
        sinks: Called with each event, in the thread that has it.
        display: Shows the run; None: nobody does.
        notes: Sentences for the person, shown at the start.
        is_output_complete: Whether the sinks want every line, however far behind they fall.
        name: What is run, for people; empty: the entrypoint's name.
        rendezvous: MASTER_ADDR and MASTER_PORT of the ranks; port 0: any that is free.
        run_id: A name for the run; empty: a new one.
        role: ROLE_NAME of the ranks.

    Attributes:
        run_id: A short name, unique in this process; `%elastic_stop` takes it.
        nproc: How many ranks.
        name: What is run.
        options: The RunOptions it was launched with.
        board: The state of all ranks: `run.board.snapshot()` has `status`, `ranks`, `notes` and `tries`.

    Raises:
        OptionError: GPUs or ranks that this machine does not have.
        OSError: The log folder cannot be made.
    """

    def __init__(
        self,
        entrypoint: Callable[..., T],
        args: Sequence[Any],
        options: RunOptions,
        *,
        sinks: Sequence[Sink] = (),
        display: Display | None = None,
        notes: Sequence[str] = (),
        is_output_complete: bool = False,
        name: str = "",
        rendezvous: Rendezvous = ("127.0.0.1", 0),
        run_id: str = "",
        role: str = "default_role",
    ) -> None:
        super().__init__()
        is_here = options.engine == "here"
        gpus = GpuChoice(1) if is_here else options.choose_gpus()
        self.nproc = gpus.nproc
        self.options = options
        ready = None if is_here or run_id or options.log_dir is not None else next_folder.take(self.nproc)
        self.run_id = run_id or (secrets.token_hex(4) if ready is None else ready.run_id)
        self.name = name or getattr(entrypoint, "__name__", type(entrypoint).__name__)
        self.board = Board(self.nproc, options.max_restarts)
        self._record = RunRecord(self.run_id, self.name, self.nproc, options, self.board, lambda: self.attempts)
        self._display = display
        self._emitting = threading.RLock()  # `add_sink` must fall between two events
        self._sinks: list[Sink] = [self.board, *sinks, *([] if display is None else [display]), self._record]
        self._again: tuple[Callable[..., T], tuple[Any, ...], RunOptions, Rendezvous] | None
        self._again = (entrypoint, tuple(args), options, rendezvous)
        self._began = time.monotonic()
        self._status: RunStatus = "starting"
        self._values: dict[int, T] = {}
        self._error: BaseException | None = None
        self._error_traceback: TracebackType | None = None
        self._is_launched = threading.Event()  # or never will be
        self._is_cancelled = False
        self._is_asked = False
        self._stopped_because = ""
        for note in (*notes, gpus.why):
            if note:
                self._emit(RunNote(note))
        plan = LocalPlan(
            entrypoint=entrypoint,
            args=tuple(args),
            nproc=self.nproc,
            gpus=gpus,
            options=options,
            run_id=self.run_id,
            name=self.name,
            is_output_complete=is_output_complete or (display is not None and display.is_complete),
            ready=ready,
            master_addr=rendezvous[0],
            master_port=rendezvous[1],
            role=role,
        )
        engine: LocalEngine | HereEngine
        if is_here:
            engine = HereEngine(plan, self._emit, self._take_paths)
        else:
            steps = (self._take_paths, self._record.write_if_due, self._is_launched.set)
            engine = LocalEngine(plan, self._emit, *steps)
        self._engine: LocalEngine | HereEngine | EndedEngine = engine
        self.set_running_or_notify_cancel()
        global _last
        before, _last, is_shown = _last, self, False
        _known[self.run_id] = self
        is_late = display is not None and display.begins_late
        try:
            if display is not None and not is_late:
                display.begin(self)
                is_shown = True
            if not is_here:
                living.add(self)
                name = f"ipyelastic-run-{self.run_id}"
                threading.Thread(target=self._work, args=(engine,), name=name, daemon=True).start()
        except BaseException as error:
            # No run came of it: what was taken for it is there for the next one.
            self._error, self._status, _last = error, "failed", before
            _known.pop(self.run_id, None)
            engine.abandon()
            living.remove(self)
            if is_shown:
                self._end_display()
            raise
        if display is not None and is_late:
            try:
                self._is_launched.wait(_AHEAD_S)  # two threads that compute take turns, and ranks wait for one of them
                display.begin(self)
            except BaseException:
                self.kill()
                raise
        if is_here:
            self._work(engine)
            if isinstance(self._error, KeyboardInterrupt):
                self._ask()
                raise self._error

    # ------------------------------------------------------------------------------------------------------- its thread

    def _work(self, engine: LocalEngine | HereEngine) -> None:
        self._status = "running"
        error: BaseException | None
        try:
            outcome = engine.run()
        except BaseException as raised:
            is_stopped = isinstance(raised, (RunStopped, KeyboardInterrupt))
            error, self._status = raised, "stopped" if is_stopped else "failed"
        else:
            self._values = outcome.return_values
            error = self._judge(engine, outcome.failures)
        self._error = error
        self._is_launched.set()
        for step in (self._dress_error, self._close_record, self._tell_end, self._end_display, self._keep_failure):
            try:
                step()
            except Exception:  # whoever reads the log sees it; those who wait must hear of the end
                _log.exception("the end of run %s could not be told", self.run_id)
        living.remove(self)
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(Results(self._values[rank] for rank in range(self.nproc)))
        if isinstance(engine, LocalEngine):
            engine.tell_ahead()

    def _dress_error(self) -> None:
        error, here = self._error, place()
        if error is not None:
            self._error_traceback = error.__traceback__
            with_cause(error, self.nproc)
            # An interrupt of a rank in this very process has the function's own frames to show.
            if here is not None and not isinstance(error, KeyboardInterrupt):
                here.dress(error, self.nproc)

    def _close_record(self) -> None:
        self._record.end(self._status, self._error, self._values)
        trouble = self._record.take_trouble()
        if trouble is not None:
            self._emit(trouble)

    def _tell_end(self) -> None:
        attempts = self.attempts
        why = attempts[-1].why_not_restarted if attempts else ""
        self._emit(RunEnded(self._status, time.monotonic() - self._began, why_not_restarted=why))

    def _end_display(self) -> None:
        if self._display is not None:
            self._display.end(self)

    def _keep_failure(self) -> None:
        error = self._error
        is_shown = self._display is not None and self._display.shows_failure
        if error is None or self._status != "failed" or is_shown:
            return
        words = rank_words(error, self.nproc) or f"{type(error).__name__}: {error}"
        living.keep_failure(
            self.run_id, f"the failure of {self!r} was never asked for (run.result() raises it)\n{words}"
        )
        if self._is_asked:  # after keeping: whoever asks in between has it forgotten
            living.forget_failure(self.run_id)

    def _ask(self) -> None:
        self._is_asked = True
        living.forget_failure(self.run_id)

    def _judge(self, engine: LocalEngine | HereEngine, failures: Mapping[int, ProcessFailure]) -> BaseException | None:
        if not failures:
            self._status = "succeeded"
            return None
        self._status = "failed"
        for rank, failure in failures.items():
            failure.stderr_path = engine.paths[1].get(rank, "")
            take_stacks(failure, failure.stderr_path)
        if engine.lost_because:
            return ServerError(f"{engine.lost_because}\nall ranks of the run ended with it")
        if any(not failure.is_stopped for failure in failures.values()):
            error = ChildFailedError(self.name, failures).with_traceback(engine.traceback)
            why = engine.attempts[-1].why_not_restarted if engine.attempts else ""
            error.tries = dataclasses.replace(self.board.snapshot().tries, why_not_restarted=why)
            return error
        if engine.ended_because == "timed out":
            limit_s = self.options.timeout_s or 0.0
            stacks = {rank: failure.stacks for rank, failure in failures.items()}
            said = f"the run was ended after its time limit of {limit_s:g} s"
            return RunTimedOut(said, self._values, limit_s, stacks)
        self._status = "stopped"
        if self._is_cancelled:
            return RunCancelled("the run was cancelled", self._values)
        why = f": {self._stopped_because}" if self._stopped_because else ""
        return RunStopped(f"the run was stopped{why}", self._values)

    def _emit(self, event: Event) -> None:
        with self._emitting:
            for sink in self._sinks:
                sink(event)

    def add_sink(self, sink: Sink) -> None:
        """Hand all further events to one more `sink`, after what makes up for those it missed (engines/replay.py)."""
        with self._emitting:
            for event in replayed(self.board):
                sink(event)
            self._sinks = [*self._sinks, sink]

    def _take_paths(self, stdouts: dict[int, str], stderrs: dict[int, str]) -> None:
        self._record.begin(self.log_dir, stdouts, stderrs)

    # ---------------------------------------------------------------------------------------------------------- waiting

    def result(self, timeout: float | None = None) -> Results[T]:
        """Wait for the end and return the values: a list of length nproc, by rank.

        Args:
            timeout: Seconds to wait at most; None: as long as it takes.

        Raises:
            ChildFailedError: A rank failed. `run.results` has the values of the others.
            RunStopped: It was stopped (RunCancelled: by `cancel()`); RunTimedOut: its own time limit ended it.
            ServerError, UnpicklableError, OSError: It could not be started, or the fork server died.
            TimeoutError: It has not ended within `timeout` seconds; it goes on.
            KeyboardInterrupt: In a script or terminal the ranks are stopped first, by a second one killed. In a
                notebook the run goes on: `run.stop()` or `%elastic_stop` ends it.
        """
        error = self.exception(timeout)
        if error is None:
            return super().result()
        try:
            # As it was made: each raise would add its frames to those of the one before.
            raise error.with_traceback(self._error_traceback)
        finally:
            del error, self  # no cycle through this frame keeps the values alive

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end; what `result()` would raise, or None.

        Args:
            timeout: Seconds to wait at most; None: as long as it takes.

        Raises:
            TimeoutError: It has not ended within `timeout` seconds; it goes on.
            KeyboardInterrupt: As in `result()`.
        """
        try:
            error = self._wait_for_end(timeout)
            self._ask()
            return error
        except concurrent.futures.TimeoutError:
            assert timeout is not None
            raise TimeoutError(f"run {self.run_id} has not ended within {timeout:g} s") from None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds for the end; whether it has come. A KeyboardInterrupt is as in `result()`."""
        try:
            self._wait_for_end(timeout)
        except concurrent.futures.TimeoutError:
            return False
        return True

    def _wait_for_end(self, timeout: float | None) -> BaseException | None:
        here = place()
        try:
            if here is not None and here.is_kernel:
                timeout = here.answer_while(lambda s: not concurrent.futures.wait([self], s).done, timeout)
            return super().exception(timeout)
        except KeyboardInterrupt:
            if here is None or not here.is_kernel:
                self._end_after_interrupt()
                raise
            if self.done():
                raise
            said = f"run {self.run_id} goes on; %elastic_stop {self.run_id} ends it"
            raise here.dress(KeyboardInterrupt(said), self.nproc) from None

    def _end_after_interrupt(self) -> None:
        self.stop()
        try:
            super().exception()
        except KeyboardInterrupt:
            self.kill()
            super().exception()

    @property
    def results(self) -> dict[int, T]:
        """`{rank: value}` of the ranks that have handed over their value so far, those of a failed run included."""
        values = self._values or self._engine.values_so_far
        return dict(sorted(values.items()))

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn(run)` at the end, in the run's thread; at once when it has ended. One that raises is logged."""
        self._ask()
        super().add_done_callback(functools.partial(_call_back, fn))

    def __await__(self) -> Generator[Any, None, Results[T]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake(_: object) -> None:
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:
                pass  # the loop was closed: nobody waits any more

        super().add_done_callback(wake)  # that is not asking yet: an await that is given up knows of no failure
        yield from future
        return self.result()

    # --------------------------------------------------------------------------------------------------------- stopping

    def cancel(self) -> bool:
        """Stop the run, as `stop()` does; whether that was still possible. `cancelled()` tells when it is over."""
        with self._condition:
            if self.done():
                return self.cancelled()
            self._is_cancelled = True
        self.stop()
        return True

    def cancelled(self) -> bool:
        """Whether it has ended because of `cancel()`. A run that ended by itself first was not cancelled."""
        return self.done() and isinstance(self._error, RunCancelled)

    def stop(self, grace_s: float | None = None, *, signum: int | None = None) -> None:
        """Ask every rank to end, kill what is left after the grace. Returns at once; `wait()` waits.

        A run with a rank that had failed by itself before stays `failed`: that is how it ended, whoever asked later.

        Args:
            grace_s: Seconds between the two; None: the option `grace`.
            signum: How they are asked this once, a signal's number; None: the option `stop_signal`.
        """
        fields = {"grace_s": grace_s, "signal": None if signum is None else int(signum)}
        self._engine.ask("stop", **{name: value for name, value in fields.items() if value is not None})

    def stop_because(self, why: str, grace_s: float | None = None) -> None:
        """As `stop()`, with `grace_s` in seconds; a run that ends by it says `why`: `the run was stopped: why`."""
        self._stopped_because = why
        self.stop(grace_s)

    def kill(self, rank: int | None = None) -> None:
        """SIGKILL a `rank`, which then counts as failed, or all (None) and whatever they started. Returns at once.

        Raises ValueError for a rank that there is not.
        """
        if rank is not None and not 0 <= rank < self.nproc:
            raise ValueError(f"rank={rank}: expected 0 to {self.nproc - 1}")
        self._engine.ask("kill", rank=rank)

    def restart(self) -> Run[T]:
        """Stop this run, wait for its end, and launch the same again; returns the new run, which shows itself.

        Raises RuntimeError for the run of a cell that waited for it: nothing of that is kept.
        """
        if self._again is None:
            raise RuntimeError(f"run {self.run_id} of {self.name} keeps nothing of what was run: run its cell again")
        self.stop()
        self.wait()
        self._ask()
        return self._launch_again(display=new_display(self.options))

    def launch_beside(self, sinks: Sequence[Sink]) -> Run[T]:
        """Launch the same again for `sinks` that show it; this run is left alone. Raises as `restart()` does."""
        return self._launch_again(sinks=sinks)

    def _launch_again(self, **shown: Any) -> Run[T]:
        if self._again is None:
            raise RuntimeError(f"run {self.run_id} of {self.name} keeps nothing of what was run: run its cell again")
        entrypoint, args, options, rendezvous = self._again
        return Run(entrypoint, args, options, name=self.name, rendezvous=rendezvous, **shown)

    def forget_call(self) -> None:
        """Let go of what was run and of its arguments, which may be large; `restart()` is refused from then on.

        For a run that has ended. Its values, log files and failures stay.
        """
        assert self.done(), "a run that goes on needs its call"
        self._again = self._error_traceback = None
        self._engine = EndedEngine(self._engine)

    def __reduce__(self) -> NoReturn:
        """Refuse, by our own name: payload/remedies.py says what to do instead."""
        raise TypeError("cannot pickle 'ipyelastic.engines.run.Run' object")

    # ---------------------------------------------------------------------------------------------------------- looking

    @property
    def status(self) -> RunStatus:
        """`starting`, `running`, `succeeded`, `failed` or `stopped`."""
        return self._status

    @property
    def elapsed_s(self) -> float:
        """Seconds since its launch; of a run that has ended, how long it took."""
        duration_s = self.board.snapshot().duration_s
        return time.monotonic() - self._began if duration_s is None else duration_s

    @property
    def attempts(self) -> list[Attempt]:
        """Each start of all its ranks so far: a list of Attempt, with `.attempt` (from 0), `.failures`, `.stdouts` and
        `.stderrs` by rank, `.started` and `.ended` (seconds since 1970). Empty before the first; the last is the
        current or final one."""
        return list(self._engine.attempts)

    @property
    def ranks(self) -> list[RankView]:
        """A RankView of each, a list of length nproc: `.pid .exitcode .state .stdout_path .stderr_path .tail(50)`."""
        return [RankView(rank, self.board, lambda: self._engine.paths) for rank in range(self.nproc)]

    @property
    def busy_with(self) -> str:
        """What of the user's own code runs in this process for the run now (`loading the value of rank 1`); nothing
        can end it while it waits in C. Empty: nothing runs."""
        return self._engine.busy_with

    @property
    def log_dir(self) -> str:
        """The run's folder; empty before its start.

        `run.json` in it says what the run was and how it ended; `attempt_0/<rank>/` holds that rank's `stdout.log`
        and `stderr.log`, `attempt_1/` those of a first restart. Without `--log-dir` it goes when this process ends
        well; that of a failed run stays a week.
        """
        return self._engine.logs.run_log_dir

    @property
    def error_so_far(self) -> BaseException | None:
        """What `result()` will raise, as soon as that is known: a display is told before those who wait."""
        return self._error

    def _ipython_display_(self) -> None:
        if self._display is not None and self._display.has_just_shown():
            return
        here = place()
        if here is None or not here.show(self):
            raise NotImplementedError  # IPython then asks for the bundle

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        here = place()
        if here is None or not here.is_kernel or not self.done() or self.options.engine == "here":
            return {"text/plain": repr(self)}
        return {"text/plain": repr(self), "text/html": static_forms(self)[0]}

    def __repr__(self) -> str:
        duration = self.board.snapshot().duration_s
        took = f", {duration:.1f} s" if duration is not None else ""
        return (
            f"<Run {self.run_id}: {self.name} on {self.nproc} rank{'s' if self.nproc > 1 else ''}, {self.status}{took}>"
        )


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _call_back(callback: Callable[[Any], object], run: Any) -> None:
    try:
        callback(run)
    except Exception:
        _log.exception("a done callback of run %s raised", run.run_id)


def last_run() -> Run[Any] | None:
    """The Run of this process that was launched last, ended or not; None before the first.

    In a notebook also that of an `%%elastic_run` cell, which returns values and no run: its failures, files and output
    are `last_run().attempts[-1].failures`, `last_run().log_dir` and `last_run().ranks[0].tail(50)`.
    """
    return _last


def find_run(run_id: str) -> Run[Any] | None:
    """The run of this process with that `run_id`, ended or not, as long as somebody holds it; None: there is none."""
    return _known.get(run_id)


def live_runs() -> list[Run[Any]]:
    """Runs of this process that have not ended, oldest first."""
    return cast("list[Run[Any]]", living.oldest_first())
