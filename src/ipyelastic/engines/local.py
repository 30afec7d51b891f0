"""The local engine: one run on this machine, through the agent.

    engines/run > [here] > agent/local

Runs in: the run's own thread.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..agent.attempts import Attempt
from ..agent.local import LocalElasticAgent
from ..agent.spec import RunResult, WorkerSpec
from ..contexts.functions import MultiprocessContext
from ..contexts.settings import RankSettings
from ..devices import gpu_claims
from ..devices.gpus import has_accelerator, visible_gpu_count, visible_gpus
from ..devices.numa import AffinityMode, NumaOptions, check_numa_binding
from ..forkserver.cost import spares_for
from ..launcher.gpu_choice import GpuChoice, lock_folder
from ..launcher.options import RunOptions
from ..output import next_folder, retention
from ..output.logs import DefaultLogsSpecs
from ..output.next_folder import NextFolder
from ..rendezvous.standalone import StandaloneRendezvous
from ..terms import env
from ..terms.errors import OptionError
from ..terms.events import RunNote, Sink
from ..terms.policy import Policy
from ..terms.std import Std

__all__ = ["LocalEngine", "LocalPlan"]

OnPaths = Callable[[dict[int, str], dict[int, str]], None]
_LEAST_ROOM = 1 << 16  # bytes; a disk with less is as good as full
_TRIAL_HOLDS_S = 5.0


@dataclass(frozen=True)
class LocalPlan:
    """One run, decided: what, on how many ranks, with which options."""

    entrypoint: Callable[..., Any]
    args: tuple[Any, ...]
    nproc: int
    gpus: GpuChoice
    options: RunOptions
    run_id: str
    name: str
    is_output_complete: bool
    ready: NextFolder | None = None
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    role: str = "default_role"


class LocalEngine:
    """Runs one plan. Raises OptionError from the constructor when no log file can be written.

    `on_paths(stdouts, stderrs)` is called once the run's folder is there, before any rank is; `each_tick()` some ten
    times a second or more while ranks run, from another thread; `on_started()` when the first ranks have their call.
    """

    traceback: TracebackType | None = None
    """A rank's frames are in another process."""

    def __init__(
        self,
        plan: LocalPlan,
        sink: Sink,
        on_paths: OnPaths,
        each_tick: Callable[[], None],
        on_started: Callable[[], None],
    ) -> None:
        self._plan, self._sink, self._on_paths = plan, sink, on_paths
        spares_for(plan.nproc)  # a value that is none is refused here, before anything runs
        self.is_log_dir_ours = plan.options.log_dir is None
        self.logs = _logs_below(plan.options.log_dir, plan.ready)
        self.paths: tuple[dict[int, str], dict[int, str]] = ({}, {})
        start_method, note = _start_method(plan.options)
        if note:
            sink(RunNote(note))
        base_env, num_threads = rank_environment(env.of_this_process(), plan.options.env, plan.nproc)
        used = self._choose_gpus(base_env)
        self._rendezvous = StandaloneRendezvous(plan.run_id, master_addr=plan.master_addr, master_port=plan.master_port)
        spec = WorkerSpec(
            role=plan.role,
            local_world_size=plan.nproc,
            rdzv_handler=self._rendezvous,
            entrypoint=plan.entrypoint,
            args=plan.args,
            max_restarts=plan.options.max_restarts,
            numa_options=_numa_options(plan, base_env),
            virtual_local_rank=plan.options.virtual_local_rank,
        )
        settings = RankSettings(
            base_env=base_env,
            policy=Policy(
                grace_s=plan.options.grace_s,
                timeout_s=plan.options.timeout_s,
                stop_signal=plan.options.stop_signal,
                is_exit_0_fine=getattr(plan.entrypoint, "is_exit_0_fine", False),
            ),
            seed=plan.options.seed,
            num_threads=num_threads,
            gpus_of_all=base_env.get(env.CUDA_VISIBLE_DEVICES) if plan.options.virtual_local_rank else None,
        )
        self.agent = LocalElasticAgent(
            spec,
            self.logs,
            start_method,
            settings=settings,
            sink=sink,
            is_output_complete=plan.is_output_complete,
            on_paths=self._take_paths,
            each_tick=each_tick,
            on_started=on_started,
        )
        self._give_gpus_back = self._hold(used)  # last: nothing after it fails, and `run` calls it

    def _choose_gpus(self, base_env: dict[str, str]) -> tuple[str, ...]:
        """Say in the ranks' environment which GPUs they see; returns those that are to be held for the run."""
        plan, choice = self._plan, self._plan.gpus
        if choice.note:
            self._sink(RunNote(choice.note))
        names = choice.names
        if names is None and plan.options.virtual_local_rank and env.CUDA_VISIBLE_DEVICES not in base_env:
            names = tuple(gpu.name for gpu in visible_gpus()) if visible_gpu_count() else None
        if names is not None:
            base_env[env.CUDA_VISIBLE_DEVICES] = ",".join(names)
        listed = base_env.get(env.CUDA_VISIBLE_DEVICES)
        if plan.options.virtual_local_rank and listed is not None and len(listed.split(",")) < plan.nproc:
            raise OptionError(
                f"--virtual-local-rank with {plan.nproc} ranks: each needs a GPU of its own, and"
                f" {env.CUDA_VISIBLE_DEVICES}={listed} names {len(listed.split(','))}"
            )
        return choice.used

    def _hold(self, used: tuple[str, ...]) -> Callable[[], None]:
        """Take GPUs for the run; returns what gives them back."""
        options = self._plan.options
        if not used:
            return lambda: None
        try:
            folder = lock_folder()
            held = gpu_claims.hold(used, folder, self._plan.run_id)
        except OSError:  # as in gpu_choice: without a temp folder nobody holds anything
            return lambda: None
        is_ours_to_choose = options.gpus == "free" or (options.gpus is None and not isinstance(options.nproc, int))
        if is_ours_to_choose and len(held) < len(used):
            gpu_claims.release(held, folder)
            raise OptionError("another run took one of this run's GPUs just now; launch again")
        return lambda: gpu_claims.release(held, folder)

    def _take_paths(self, stdouts: dict[int, str], stderrs: dict[int, str]) -> None:
        self.paths = (stdouts, stderrs)
        self._on_paths(stdouts, stderrs)

    def run(self) -> RunResult:
        """Run to the end. Raises what starting raises (see LocalElasticAgent.run)."""
        has_succeeded = False
        try:
            result = self.agent.run()
            has_succeeded = not result.is_failed()
            return result
        finally:
            self._rendezvous.shutdown()
            self._give_gpus_back()
            if _is_full(self.logs.root_log_dir):
                words = f"the disk of {self.logs.root_log_dir} is full: output may be missing there and here"
                self._sink(RunNote(words))
            if not has_succeeded and self.is_log_dir_ours and self.logs.run_log_dir:
                retention.mark_failed(self.logs.run_log_dir)

    def tell_ahead(self) -> None:
        """Get ready for a launch like this one. Call it after the end, when nobody waits any more."""
        if not self.is_log_dir_ours:
            return
        folder = next_folder.prepare(self._plan.nproc)
        context = self.agent.context
        if folder is not None and isinstance(context, MultiprocessContext):
            context.tell_ahead(folder)

    def abandon(self) -> None:
        """Call it instead of `run`: give back what the constructor took."""
        self._give_gpus_back()

    def ask(self, op: str, **fields: Any) -> None:
        """`stop`, `kill` or `signal`, from any thread."""
        self.agent.ask(op, **fields)

    @property
    def attempts(self) -> list[Attempt]:
        """See LocalElasticAgent.attempts."""
        return list(self.agent.attempts)

    @property
    def ended_because(self) -> str:
        """Why ranks were asked to end (see MultiprocessContext.ended_because)."""
        context = self.agent.context
        return "" if context is None else context.ended_because

    @property
    def busy_with(self) -> str:
        """See MultiprocessContext.busy_with."""
        context = self.agent.context
        return "" if context is None else context.busy_with

    @property
    def lost_because(self) -> str:
        """The fork server's death as a sentence, or empty."""
        context = self.agent.context
        return "" if context is None else context.lost_because

    @property
    def values_so_far(self) -> dict[int, Any]:
        """Values that have come home."""
        context = self.agent.context
        return {} if context is None else context.values_so_far


def _logs_below(log_dir: str | None, ready: NextFolder | None) -> DefaultLogsSpecs:
    """Log specifications, with a trial: a folder that cannot be written to is refused here, before anything runs."""
    root = ""
    try:
        root = retention.owner_folder() if log_dir is None else log_dir
        logs = DefaultLogsSpecs(log_dir=root, redirects=Std.ALL, ready=ready)
        _try_to_write(root)
    except OSError as error:
        why = "it is not a directory" if isinstance(error, NotADirectoryError) else error.strerror or str(error)
        if log_dir is None:
            where = root or error.filename or "the temp folder"
            raise OptionError(f"no log files in {where}: {why}; name another folder with --log-dir") from error
        raise OptionError(f"log_dir={log_dir!r}: {why}") from error
    return logs


_tried: tuple[str, float, tuple[int, ...]] = ("", 0.0, ())
"""The folder of the latest trial that went well, when, and what the folder was."""


def _try_to_write(folder: str) -> None:
    """Write as much as a run needs at least; raises OSError. A folder as good as moments ago is only looked at."""
    global _tried
    found = os.stat(folder)
    what = (found.st_dev, found.st_ino, found.st_mode, found.st_uid, os.geteuid())
    path, when, before = _tried
    is_known = (path, before) == (folder, what) and time.monotonic() - when < _TRIAL_HOLDS_S
    if is_known and os.access(folder, os.W_OK | os.X_OK) and not _is_full(folder):
        return
    with tempfile.TemporaryFile(dir=folder, buffering=0) as trial:
        trial.write(bytes(_LEAST_ROOM))
        # A disk of which less is free takes what it can, and says nothing.
        if trial.tell() < _LEAST_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _tried = (folder, time.monotonic(), what)


def _numa_options(plan: LocalPlan, base_env: Mapping[str, str]) -> NumaOptions | None:
    """The binding, with a trial: what every rank would fail of is refused here."""
    if plan.options.numa is None:
        return None
    options = NumaOptions(AffinityMode(plan.options.numa))
    try:
        check_numa_binding(plan.nproc, base_env.get(env.CUDA_VISIBLE_DEVICES))
    except RuntimeError as error:
        raise OptionError(f"numa={plan.options.numa!r}: {error}") from error
    return options


def _is_full(folder: str) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _LEAST_ROOM


def _start_method(options: RunOptions) -> tuple[str, str]:
    """The start method, and why it is another than asked for."""
    names = env.names_read_at_import(options.env)
    # The thread number is the one such name that can be changed after import (worker.py, threadpoolctl).
    names = [name for name in names if name != env.OMP_NUM_THREADS]
    if names and options.start_method == "forkserver":
        why = f"{', '.join(names)} is read when a process starts or imports its libraries"
        return "spawn", f"start method spawn for this run: {why}"
    return options.start_method, ""


def rank_environment(
    owner: Mapping[str, str], overlay: Mapping[str, str], nproc: int
) -> tuple[dict[str, str], int | None]:
    """The environment every rank starts from, and its number of BLAS/OpenMP threads (None: leave it).

    The owner's, less what belongs to a kernel only, plus what a process without terminal and screen needs; `overlay`
    has the last word. With several ranks OMP_NUM_THREADS is 1 unless given, as torchrun has it.
    """
    base = {name: value for name, value in owner.items() if not name.startswith("JPY_")}
    base.pop("PYDEVD_USE_FRAME_EVAL", None)
    base[env.MPLBACKEND] = "agg"
    base.setdefault("COLUMNS", "100")
    if base.get("TERM", "") in ("", "xterm-color"):  # what ipykernel sets for `!` commands
        base["TERM"] = "xterm-256color"
    if nproc > 1:
        base.setdefault(env.OMP_NUM_THREADS, "1")
        if sys.platform == "linux" and not has_accelerator():
            # Accelerate's own launcher sets it with --cpu; without it `Accelerator()` makes no group of ranks on CPUs.
            base.setdefault(env.ACCELERATE_USE_CPU, "true")
    base.update(overlay)
    asked = base.get(env.OMP_NUM_THREADS, "")
    if asked.isdigit() and int(asked) > 0:
        threads: int | None = int(asked)
    else:
        threads = os.cpu_count()
    # The fork server loaded its libraries with one thread each: one needs no telling.
    return base, None if threads == 1 else threads
