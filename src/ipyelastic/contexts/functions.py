"""Function workers: torch's `MultiprocessContext`, on our fork server.

    agent > [here] pack, seal, launch -> fork server -> ranks
            [here] <- reports (ends), words (values, exceptions) > outcomes -> RunProcsResult, events

Runs in: agent.
Other end: worker.py is what its ranks run; forkserver/group.py reports on them; outcomes.py judges.
Source: torch 2.13 (SEEDS section 3) for names, signature and outcomes; its "never ends" rows are failures here.
"""

from __future__ import annotations

import functools
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from ..devices.numa import NumaOptions
from ..forkserver.client import ForkServers, Launched, servers
from ..output.logs import LogsSpecs
from ..output.next_folder import NextFolder
from ..payload import identity, sources
from ..payload.call import PackedCall, pack_call
from ..payload.changes import changes
from ..payload.delivery import Delivery
from ..payload.values import ValueChannel, channel_pair
from ..terms.errors import OptionError, RunStopped
from ..terms.events import RunNote
from ..terms.failure import ProcessFailure
from . import wrap
from .base import PContext, RunProcsResult, logger
from .bound import BoundCall
from .circumstances import check_log_files, circumstances
from .outcomes import Outcomes, stacks_file
from .replaced import close_replaced, poll_replaced
from .settings import START_METHODS, RankSettings
from .users_code import Interrupted, UsersCode
from .wrap import _wrap

if TYPE_CHECKING:
    from ..forkserver.ahead import Ahead
    from ..payload.circumstances import Circumstances

__all__ = ["MultiprocessContext"]

_LOOK_S = 0.05  # between two looks at processes that are not ours: they announce nothing
_FILES = {"stdouts": "stdout.log", "stderrs": "stderr.log", "stacks": "stacks.txt"}  # in a rank's folder
_CLOSE_S = 5.0  # beyond its grace, what a close waits for processes the kernel does not let go (D state)


class _Ranks(Protocol):
    is_ended: bool

    def filenos(self) -> list[int]: ...
    def receive(self) -> list[dict[str, Any]]: ...
    def ask(self, op: str, **fields: Any) -> None: ...
    def close(self) -> None: ...


class _Processes:
    """What torch's callers look for under `_pc`: the worker processes, as multiprocessing would show them."""

    def __init__(self, context: MultiprocessContext) -> None:
        self._context = context

    def pids(self) -> list[int]:
        """Process ids, by rank."""
        return [pid for _, pid in sorted(self._context.pids().items())]

    @property
    def processes(self) -> list[SimpleNamespace]:
        """One object per rank with `pid` and `exitcode` (None while it runs)."""
        exits = self._context._outcomes.exits
        return [
            SimpleNamespace(pid=pid, exitcode=exits[rank]["code"] if rank in exits else None)
            for rank, pid in sorted(self._context.pids().items())
        ]


class MultiprocessContext(PContext):
    """One function call per local rank, each in a fresh process.

    Args:
        start_method: `"forkserver"` (a fork of the warm server), `"spawn"` (a new Python, started by the server) or
            `"fork"` (a fork of this process).
        numa_options: Bind each rank to the CPUs near its GPU.
        settings: Ours, see RankSettings.
        name, entrypoint, args, envs, logs_specs, log_line_prefixes, duplicate_stdout_filters, duplicate_stderr_filters:
            See PContext.

    Raises:
        OptionError: Unknown start method (a ValueError, as torch's).
        UnpicklableError: At `start`: the function or an argument cannot travel (not with `"fork"`).
        ServerError: At `start`: no fork server could be started.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """

    def __init__(
        self,
        name: str,
        entrypoint: Callable[..., Any],
        args: Mapping[int, tuple[Any, ...]],
        envs: dict[int, dict[str, str]],
        start_method: str,
        logs_specs: LogsSpecs,
        log_line_prefixes: dict[int, str] | None = None,
        numa_options: NumaOptions | None = None,
        duplicate_stdout_filters: list[str] | None = None,
        duplicate_stderr_filters: list[str] | None = None,
        *,
        settings: RankSettings | None = None,
    ) -> None:
        if start_method not in START_METHODS:
            raise OptionError(f"start_method={start_method!r}: expected one of {', '.join(START_METHODS)}")
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
        self.start_method = start_method
        self.settings = settings or RankSettings(is_torchs=True)
        self._numa_options = numa_options
        self._ranks: _Ranks | None = None
        self._pc: Any = None
        self._channel: ValueChannel | None = None
        self._call: PackedCall | None = None
        self._given: Circumstances | None = None
        self._lock = threading.RLock()
        self._users_code = UsersCode()
        self._outcomes = Outcomes(
            self.nprocs,
            self.settings,
            self.error_files,
            self._users_code,
            self._stop_peers,
            is_learning=start_method == "forkserver",  # what a spawned rank imports, it imports every time
        )
        self._result: RunProcsResult | None = None
        self._asked: list[tuple[str, dict[str, Any]]] = []
        self._ask_lock = threading.Lock()  # never held while anything of the user's runs

    # --------------------------------------------------------------------------------------------------------- starting

    def _start(self) -> None:
        assert callable(self.entrypoint)
        self._outcomes.started_at = time.monotonic()
        self._pc = _Processes(self)
        client = servers()
        run_mark = client.new_mark()
        can_be_told = self.start_method == "forkserver" and not self._console() and client.is_settled()
        policy = self.settings.policy
        told = client.launch_ahead(run_mark=run_mark, nprocs=self.nprocs, policy=policy) if can_be_told else None
        ranks: _Ranks
        if told is not None:
            ranks = self._call_told(*told, run_mark)
        else:
            check_log_files([*self.stdouts.values(), *self.stderrs.values()])
            here, there = channel_pair()
            self._channel = ValueChannel(here)
            with there:
                if self.start_method == "fork":
                    ranks = self._fork(run_mark, there.fileno())
                else:
                    ranks = self._launch(client, run_mark, there.fileno())
        with self._ask_lock:
            self._ranks = ranks
            for op, fields in self._asked:
                ranks.ask(op, **fields)

    def _launch(self, client: ForkServers, run_mark: str, values_fd: int) -> _Ranks:
        """Have the server start the ranks, and send the call after them; or, where a server is about to have what the
        call imports, the call first."""
        is_early = client.is_settled()
        call = None if is_early else self._packed()
        given = self._circumstances(run_mark)
        folder = os.path.dirname(self.error_files.get(0, "")) or None
        delivery = Delivery(pickle.dumps(given), self.nprocs, folder)
        try:
            launched: Launched = client.launch(
                run_mark=run_mark,
                nprocs=self.nprocs,
                call_fds=delivery.fds,
                values_fd=values_fd,
                policy=self.settings.policy,
                modules=() if call is None else call.modules,
                console=self._console(),
                is_exec=self.start_method == "spawn",
            )
            try:
                call = call or self._packed()
                delivery.deliver(call, sources.collect(call.filenames))
            except BaseException:
                launched.close()
                raise
        finally:
            delivery.close()
        if self.settings.policy.timeout_s is not None:
            launched.ask("called")
        return launched

    def _call_told(self, ahead: Ahead, launched: Launched, run_mark: str) -> _Ranks:
        """Send ranks that wait for their call already just that, and what has changed since they were told."""
        try:
            self._channel = ValueChannel(ahead.take_values())
            given = self._circumstances(run_mark)
            logs = [*self.stdouts.values(), *self.stderrs.values()]
            is_as_told = (ahead.given["stdouts"], ahead.given["stderrs"]) == (given["stdouts"], given["stderrs"])
            if not (is_as_told and all(os.access(path, os.R_OK | os.W_OK) for path in logs)):
                check_log_files(logs)  # those that were named are open already
            call = self._packed()
            ahead.delivery.deliver(call, sources.collect(call.filenames), changes(ahead.given, given))
        except BaseException:
            launched.close()
            raise
        finally:
            ahead.close()
        if self.settings.policy.timeout_s is not None:
            launched.ask("called")
        return launched

    def tell_ahead(self, folder: NextFolder) -> None:
        """Have spares take over what the next launch brings, should it be like this one. Call it after the end.

        Args:
            folder: What its first attempt will write to.
        """
        given = self._given
        if given is not None:
            paths: Any = {name: folder.files(file) for name, file in _FILES.items()}
            servers().tell_ahead(given["run_mark"], {**given, **paths}, self.nprocs)

    def _packed(self) -> PackedCall:
        try:
            call = self._users_code.run("packing the call", lambda: pack_call(*self._bound_call()))
        except Interrupted:
            raise RunStopped("the run was stopped while its call was packed") from None
        for note in call.notes:
            self._emit_note(note)
        self._call = call  # its classes live as long as the run
        return call

    def _bound_call(self) -> tuple[Callable[..., Any], Mapping[int, tuple[Any, ...]]]:
        """The function and each rank's arguments; with NUMA options, a function that binds itself first."""
        assert callable(self.entrypoint)
        bound: Callable[..., Any]
        if _wrap is not wrap.torchs_wrap:  # replaced through compat: the replacement decides what a worker runs
            bound = functools.partial(wrap.call_through, _wrap, self.entrypoint, self.envs, self._numa_options)
            return bound, {rank: (rank, *values) for rank, values in self.args.items()}
        if self._numa_options is None:
            return self.entrypoint, self.args
        bound = BoundCall(self.entrypoint, self._numa_options, self.settings.gpus_of_all)
        return bound, {rank: (rank, *values) for rank, values in self.args.items()}

    def _console(self) -> list[int]:
        """This process's stdout and stderr, for ranks whose streams go to no file."""
        if all((*self.stdouts.values(), *self.stderrs.values())):
            return []
        return [1, 2]

    def _fork(self, run_mark: str, values_fd: int) -> _Ranks:
        identity.track_classes(vars(sys.modules["__main__"]))
        call = self._bound_call()
        from .owner_fork import OwnerFork  # with the server's own modules, which no other start method needs here

        texts = sources.collect(getattr(self.entrypoint, "source_filenames", ()))

        def load() -> Any:
            sources.install(texts)
            return call

        return OwnerFork(self._circumstances(run_mark), self.nprocs, load, values_fd, self.settings.policy)

    def _circumstances(self, run_mark: str) -> Circumstances:
        settings = self.settings
        given = circumstances(
            base_env=os.environ if settings.base_env is None else settings.base_env,
            envs=self.envs,
            stdouts=self.stdouts,
            stderrs=self.stderrs,
            stacks={rank: stacks_file(self.error_files, rank) for rank in range(self.nprocs)},
            grace_s=settings.policy.grace_s,
            seed=settings.seed,
            num_threads=settings.num_threads,
            run_mark=run_mark,
            is_exit_0_fine=settings.is_torchs,
        )
        if given["cwd"] is None:
            self._emit_note("the working directory is gone: ranks work in /")
        self._given = given if self.start_method == "forkserver" and not self._console() else None
        return given

    # ---------------------------------------------------------------------------------------------------------- waiting

    def pids(self) -> dict[int, int]:
        """`{local_rank: pid}`; waits for the server's word right after the start. Raises AssertionError before it."""
        if self._is_replaced():
            return dict(enumerate(self._pc.pids()))
        assert self._is_started, "pids are known once the context was started"
        while not self._outcomes.pids and self._result is None and self.nprocs:
            self._await_event(None)
            self._poll()
        return dict(self._outcomes.pids)

    def _is_replaced(self) -> bool:
        """Whether somebody put processes of their own in place (contexts/replaced.py)."""
        return self._pc is not None and not isinstance(self._pc, _Processes)

    def _is_done(self) -> bool:
        """Whether every rank has handed over its value."""
        return len(self._outcomes.values) == self.nprocs

    @property
    def values_so_far(self) -> dict[int, Any]:
        """Values of the ranks that have handed theirs over."""
        return dict(self._outcomes.values)

    def _await_event(self, timeout_s: float | None) -> None:
        ranks, channel = self._ranks, self._channel
        if self._is_replaced() and self._result is None:
            time.sleep(_LOOK_S if timeout_s is None else min(_LOOK_S, timeout_s))
            return
        if self._result is not None or ranks is None or channel is None:
            return
        poller = select.poll()
        for fd in (*ranks.filenos(), channel.fileno()):
            if fd >= 0:
                poller.register(fd, select.POLLIN)
        poller.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000 + 1)

    def _poll(self) -> RunProcsResult | None:
        with self._lock:
            if self._result is not None:
                return self._result
            if self._is_replaced():
                files = (self.stdouts, self.stderrs, self.error_files)
                self._result = poll_replaced(self._pc, self._is_done, self._outcomes.values, files, self.nprocs)
                if self._result is not None and self._result.failures:
                    self.close()
                return self._result
            if self._ranks is None or self._channel is None:
                if self.nprocs == 0:
                    return RunProcsResult()
                raise RuntimeError("the process context was closed before it ended, or never started")
            # Reports first: a rank says its word before it ends, so what an end is judged by is there by then.
            reports = self._ranks.receive()
            for word in self._channel.receive():
                self._outcomes.take_word(word)
            for report in reports:
                self._outcomes.take_report(report)
            if self._ranks.is_ended:
                self._finish()
            return self._result

    def _finish(self) -> None:
        """All is over."""
        outcomes = self._outcomes
        outcomes.finish()
        real = outcomes.real_failures
        failures = real or dict(outcomes.failures)
        values = {} if failures else dict(outcomes.values)
        if real and self.settings.sink is None:
            first = min(real.values(), key=lambda failure: failure.timestamp_ns)
            logger.error(
                "failed (exitcode: %s) local_rank: %s (pid: %s) of fn: %s (start_method: %s)",
                first.exitcode,
                first.local_rank,
                first.pid,
                getattr(self.entrypoint, "__qualname__", self.entrypoint),
                self.start_method,
            )
        self._result = RunProcsResult(values, failures, self.stdouts, self.stderrs)
        self._release()
        self._give_back()

    def _stop_peers(self) -> None:
        """The server learns of a failure from the exit; threads or exit handlers may hold that up for the grace."""
        if self.settings.policy.fail_fast and self._ranks is not None:
            self._ranks.ask("stop", why="peer failed")

    # ----------------------------------------------------------------------------------------------------------- ending

    @property
    def all_failures(self) -> dict[int, ProcessFailure]:
        """Every rank without a value, those that were stopped because of another included; by local rank."""
        return dict(self._outcomes.failures)

    @property
    def ended_because(self) -> str:
        """Why the server asked the ranks to end: empty, `peer failed`, `timed out`, `stopped`."""
        return self._outcomes.why

    @property
    def lost_because(self) -> str:
        """The server's own death or failure to start ranks, as a sentence; empty otherwise."""
        return self._outcomes.lost

    def ask(self, op: str, **fields: Any) -> None:
        """Ask the server for `stop`, `kill` or `signal`, from any thread; before the start it is kept until then.

        Args:
            op: One of these three.
            fields: `grace_s` in seconds, `signal` a number, `rank` a local rank; those that the `op` has use for.
        """
        with self._ask_lock:
            if self._ranks is None:
                self._asked.append((op, fields))
            else:
                self._ranks.ask(op, **fields)
        if op == "stop" or (op == "kill" and fields.get("rank") is None):
            self._users_code.interrupt()

    @property
    def busy_with(self) -> str:
        """What of the user's runs in this process now (`packing the call`); empty: nothing."""
        return self._users_code.where

    def _close(self, death_sig: signal.Signals, timeout: float) -> None:
        if self._is_replaced():
            close_replaced(self._pc, death_sig, timeout)
        ranks = self._ranks
        if ranks is not None and self._result is None:
            ranks.ask("stop", signal=int(death_sig), grace_s=timeout)
            deadline = time.monotonic() + timeout + _CLOSE_S
            while self._poll() is None and time.monotonic() < deadline:
                self._await_event(deadline - time.monotonic())
        self._release()

    def _release(self) -> None:
        with self._lock:
            with self._ask_lock:
                ranks, self._ranks = self._ranks, None
            if ranks is not None:
                ranks.close()
            if self._channel is not None:
                self._channel.close()
            self._channel = self._call = None

    # ---------------------------------------------------------------------------------------------------------- telling

    def _emit(self, event: Any) -> None:
        if self.settings.sink is not None:
            self.settings.sink(event)

    def _emit_note(self, text: str) -> None:
        self._emit(RunNote(text))
