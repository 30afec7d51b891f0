"""This process as a rank, for as long as a block lasts; and at most one thread of it at a time.

    engines/here.HereEngine, notebook/here.HereCells > [here]

Runs in: owner, the caller's own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import FrameType
from typing import Any

from ..agent.ranks import identical_workers, worker_environment
from ..agent.spec import WorkerGroup, WorkerSpec
from ..contexts.circumstances import rank_argv
from ..launcher.options import RunOptions
from ..payload.at_import import when_imported
from ..payload.seeds import seed_all
from ..rendezvous.standalone import StandaloneRendezvous
from ..terms import env
from ..terms.errors import OptionError
from .folder import working_folder

__all__ = ["AsRank", "check_thread", "run_coroutine", "take_process"]

_lock = threading.Lock()
_taken: list[tuple[int, int]] = []
"""(process, thread) of each block that goes on, the outer ones first; all of one thread."""


def check_thread() -> None:
    """Raises OptionError while another thread of this process is a rank."""
    with _lock:
        _refuse_others()


def take_process() -> Callable[[], None]:
    """Have this thread be the one that is a rank; returns what gives that back. Blocks within blocks are fine.

    Raises OptionError while another thread is.
    """
    me = (os.getpid(), threading.get_ident())

    def give_back() -> None:
        with _lock:
            if me in _taken:
                _taken.remove(me)

    with _lock:
        _refuse_others()
        _taken.append(me)
    return give_back


def _refuse_others() -> None:
    _taken[:] = [entry for entry in _taken if entry[0] == os.getpid()]  # in a forked child they are the parent's
    if _taken and _taken[0][1] != threading.get_ident():
        raise OptionError(
            "engine='here': another here-run is going on in this process, in another thread;"
            " wait for its end, or give engine='local'"
        )


class AsRank(contextlib.AbstractContextManager["AsRank"]):
    """This process as rank 0 of 1 while the block lasts.

    The environment is a rank's, `random`, numpy and torch are seeded when asked, and no event loop counts as running,
    so that `asyncio.run` works as in a rank. At its end, however that comes, all of it is as before: whatever the block
    did to the environment, the working directory, `sys.path` and `sys.argv` too; a process group it made is gone.
    Raises OptionError while another thread is a rank: there is one environment, and it could not be given back.
    """

    def __init__(self, options: RunOptions, run_id: str) -> None:
        self._options, self._run_id = options, run_id
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> AsRank:
        with contextlib.ExitStack() as undo:
            undo.callback(take_process())
            meeting = StandaloneRendezvous(self._run_id)
            undo.callback(meeting.shutdown)
            _keep_environment(undo)
            undo.callback(_put_back_path, sys.path, list(sys.path))
            undo.callback(setattr, sys, "argv", sys.argv)
            sys.argv = rank_argv()
            undo.callback(_put_back_folder, working_folder())
            os.environ.update({**self._options.env, **_environment(meeting)})
            _tell_time_zone()
            if self._options.seed is not None:
                _keep_random_states(undo)
                seed_all(self._options.seed, 0)
            undo.enter_context(_without_running_loop())
            undo.callback(_end_process_group, _has_process_group())
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        with _interrupts_wait():
            self._undo.close()


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """An interrupt that comes in the block is answered after it: half an environment must not be given back."""
    former = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or former is None:  # None: set by C code
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda signum, frame: came.append((signum, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
        if came and callable(former):
            former(*came[-1])


def _environment(meeting: StandaloneRendezvous) -> dict[str, str]:
    met = meeting.next_rendezvous()
    group = WorkerGroup(WorkerSpec("default_role", 1, meeting, entrypoint="here", max_restarts=0))
    group.group_rank, group.group_world_size = met.rank, met.world_size
    group.master_addr, group.master_port = met.bootstrap_store_info.master_addr, met.bootstrap_store_info.master_port
    (worker,) = identical_workers(met.rank, met.world_size, 1)
    return {**worker_environment(group, worker), env.ERROR_FILE: ""}  # empty: nobody above would read it


def _keep_environment(undo: contextlib.ExitStack) -> None:
    def put_back(before: Mapping[str, str]) -> None:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        _tell_time_zone()

    undo.callback(put_back, dict(os.environ))


def _tell_time_zone() -> None:
    if hasattr(time, "tzset"):
        time.tzset()


def _put_back_path(path: list[str], entries: list[str]) -> None:
    sys.path = path
    if path != entries:
        path[:] = entries


def _put_back_folder(folder: str | None) -> None:
    if folder is not None and folder != working_folder():
        with contextlib.suppress(OSError):  # gone, or closed to us: where the block went is as good
            os.chdir(folder)


def _keep_random_states(undo: contextlib.ExitStack) -> None:
    undo.callback(random.setstate, random.getstate())
    numpy_random, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    if numpy_random is not None:
        undo.callback(numpy_random.set_state, numpy_random.get_state())
    if torch is not None:
        undo.callback(torch.set_rng_state, torch.get_rng_state())
    undo.callback(_drop_finders, list(sys.meta_path))


def _drop_finders(before: list[Any]) -> None:
    """Those that seed a library at its first import; others that the block installed stay."""
    sys.meta_path[:] = [
        one for one in sys.meta_path if one in before or type(one).__module__ != when_imported.__module__
    ]


def _has_process_group() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and bool(distributed.is_initialized())


def _end_process_group(had_one: bool) -> None:
    """A rank's end takes torch's process group along; here the next run could not make one."""
    if not had_one and _has_process_group():
        try:
            sys.modules["torch.distributed"].destroy_process_group()
        except Exception as error:  # the block's own outcome matters more
            print(f"torch's process group could not be ended: {error}", file=sys.stderr)


@contextlib.contextmanager
def _without_running_loop() -> Iterator[None]:
    """A kernel runs its cells inside its own loop; a rank has none, and asyncio refuses a second beside a running one.

    These four names are asyncio's own for loops and tasks made elsewhere ("Extending", Python's documentation).
    """
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    if loop is not None and task is not None:
        asyncio.tasks._leave_task(loop, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        if loop is not None and task is not None:
            asyncio.tasks._enter_task(loop, task)


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run to its end in a new loop, the thread's current loop left as it is."""
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            return runner.run(coroutine)
    return asyncio.run(coroutine)
