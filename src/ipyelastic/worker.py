"""The only entry of a rank: from a bare process to the user's function and out again.

    fork server --fork--> run_forked --.
    fork server --fork--> run_spare ---+  (waits for its call)
    fork server --exec--> main --------+--> circumstances -> load the call -> run it -> value or failure -> exit
    keeper -------fork--> run_in_fork -'

Runs in: ranks; imported by the fork server before its first fork. Imports nothing that only an owner needs.
Other end: contexts/functions.py makes the circumstances and packs the call; forkserver/group.py waits for the exit.

A rank's exit is defined: the value goes out first, non-daemon threads get the grace, the rank's own exit handlers run,
C's buffers are flushed, and `os._exit` ends it. What the server had registered for *its* exit was dropped at the fork.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import inspect
import os
import pickle
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from os import _exit, getpid  # the user's code may replace those in `os`, and a rank that went on would be a server
from typing import Any, NoReturn

from .failures import handler
from .failures.record import exception_record, write_error_file
from .output.redirect import point_streams
from .payload.call import load_call, pack_call
from .payload.circumstances import Circumstances, make_ready, settle, take_over
from .payload.delivery import HANDOVER, CallFds, Load, await_call, read_head
from .payload.identity import known_ids
from .payload.import_costs import ImportCosts
from .payload.seeds import seed_all
from .payload.shared import write_sections
from .payload.sources import label_of
from .payload.values import channel_pair, send_failure, send_value
from .process.descriptors import receive_with
from .process.exits import drop_inherited_exits, flush_streams, hurry_when_asked, leave
from .process.isolation import carry_mark, isolate
from .process.orphans import die_with_parent, libc
from .process.signals import DUMP_SIGNAL
from .terms import env

__all__ = ["Circumstances", "RankFds", "isolate", "prepare_rehearsal", "run_forked", "run_spare", "run_in_fork", "main"]

WITH_VALUE, WITH_FAILURE = b"v", b"f"


class RankFds:
    """The descriptors a rank keeps: where it says its word, and where its end is judged by."""

    def __init__(self, values: int, status: int) -> None:
        self.values, self.status = values, status


def run_spare(channel_fd: int, parent_pid: int, mark_address: int) -> NoReturn:
    """Do what a rank can do before there is a call, wait for one, and become its rank. Never returns.

    `channel_fd`: this process's end of a socket pair (forkserver/spares.py). Until a call comes a signal just ends it.
    """
    try:
        isolate([channel_fd])
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        die_with_parent(parent_pid, signal.SIGKILL)
        drop_inherited_exits()
        _rehearse()
        settle(is_fresh_main=True)
        with socket.socket(fileno=channel_fd) as channel:
            data, fds = receive_with(channel, HANDOVER.size, 7)
        if not data:
            _exit(0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        head_fd, call_fd, gate_fd, values_fd, status_fd, *console = fds
        for fd, own in enumerate(console, start=1):
            os.dup2(own, fd)
            os.close(own)
        (local_rank,) = HANDOVER.unpack(data)
        call_fds = CallFds(head_fd, call_fd, gate_fd)
        _take_call(local_rank, call_fds, RankFds(values_fd, status_fd), mark_address, is_settled=True)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit(1)


_rehearsal: tuple[bytes, bytes] | None = None


def prepare_rehearsal() -> None:
    """In the fork server, before its memory is frozen: a call that does nothing, as it would come from an owner."""
    global _rehearsal
    environment = dict(os.environ)
    given = Circumstances(
        base_env=environment, envs={0: {f"{env.RANK}_{number}": "0" for number in range(30)}, 1: {}}, cwd="/",
        umask=None, rlimits={which: resource.getrlimit(which) for which in (resource.RLIMIT_CORE, resource.RLIMIT_CPU)},
        sys_path=list(sys.path), argv=list(sys.argv), stdouts={0: os.devnull}, stderrs={0: os.devnull}, stacks={},
        grace_s=0.0, seed=None, num_threads=None, run_mark=environment.get(env.RUN_MARK, ""),
        is_exit_0_fine=False,
    )  # fmt: skip
    names: dict[str, Any] = {"__name__": "__main__"}  # a function of a notebook travels by value
    exec("def nothing(what, *more):\n    return [what, more]", names)
    _rehearsal = pickle.dumps(given), pack_call(names["nothing"], {0: (["a list"], 1.0)}).stream


def _rehearse() -> None:
    """Go through the motions of a rank with that call, and leave everything as it was.

    A forked process shares its parent's memory until it writes to it: each page's first write costs a fault and a copy
    (7 us), and Python writes wherever it looks. What is touched here the call need not wait for.
    """
    if _rehearsal is None:
        return
    call_fd = write_sections(_rehearsal)
    head, load = load_call(call_fd)
    os.close(call_fd)
    given: Circumstances = pickle.loads(head)
    kept = os.dup(1), os.dup(2)
    point_streams(given["stdouts"][0], given["stderrs"][0])
    for local_rank in (0, 1):
        take_over(given, local_rank)
    seed_all(None, 0)
    entrypoint, args = load()
    known = known_ids()
    value = _called(entrypoint, args[0], False)
    flush_streams()
    here, there = channel_pair()
    with here, there:
        send_value(there.fileno(), 0, value, known=known, run_mark=given["run_mark"], may_stand_in=True)
    for fd, own in enumerate(kept, start=1):
        os.dup2(own, fd)
        os.close(own)


def run_forked(local_rank: int, call_fds: CallFds, fds: RankFds, parent_pid: int, mark_address: int) -> NoReturn:
    """Become a rank in a process that the fork server just forked. Never returns."""
    try:
        isolate([*call_fds, fds.values, fds.status])
        die_with_parent(parent_pid, signal.SIGKILL)
        drop_inherited_exits()
        _take_call(local_rank, call_fds, fds, mark_address)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit(1)


def _take_call(
    local_rank: int, call_fds: CallFds, fds: RankFds, mark_address: int, *, is_settled: bool = False
) -> NoReturn:
    circumstances: Circumstances = pickle.loads(read_head(call_fds.head))
    carry_mark(mark_address, circumstances["run_mark"])
    load = functools.partial(_awaited, call_fds)
    _live(circumstances, local_rank, fds, load, is_settled=is_settled, is_learning=True)


def _awaited(call_fds: CallFds) -> Any:
    try:
        load = await_call(call_fds)
    except EOFError:  # its owner could not pack it, and says so itself
        _exit(1)
    return load()


def run_in_fork(circumstances: Circumstances, local_rank: int, load: Load, fds: RankFds, parent_pid: int) -> NoReturn:
    """Become a rank in a process that has the owner's memory: everything is there already. Never returns."""
    try:
        isolate([fds.values, fds.status], has_owners_objects=True)
        die_with_parent(parent_pid, signal.SIGKILL)
        drop_inherited_exits()
        _live(circumstances, local_rank, fds, load, is_fresh_main=False)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit(1)


def main(arguments: Sequence[str]) -> NoReturn:
    """Become a rank in a process started with fork and exec: `local_rank`, `parent_pid`, then descriptors."""
    local_rank, parent_pid, *fds = map(int, arguments)
    head_fd, call_fd, gate_fd, values_fd, status_fd = fds
    try:
        for fd in fds:
            os.set_inheritable(fd, False)
        die_with_parent(parent_pid, signal.SIGKILL)
        call_fds = CallFds(head_fd, call_fd, gate_fd)
        given: Circumstances = pickle.loads(read_head(head_fd))
        _live(given, local_rank, RankFds(values_fd, status_fd), functools.partial(_awaited, call_fds))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit(1)


def _limit_threads(num_threads: int | None) -> None:
    """Libraries loaded before the fork read OMP_NUM_THREADS in the server; tell them this rank's number."""
    if num_threads is None or not ("numpy" in sys.modules or "torch" in sys.modules):
        return
    import threadpoolctl

    threadpoolctl.threadpool_limits(num_threads)


# ------------------------------------------------------------------------------------------------------- the middle


def _live(
    given: Circumstances,
    local_rank: int,
    fds: RankFds,
    load: Load,
    *,
    is_fresh_main: bool = True,
    is_settled: bool = False,
    is_learning: bool = False,
) -> NoReturn:
    """Run the call, say how it went, and end the process.

    Args:
        is_fresh_main: The user's code gets a `__main__` of its own.
        is_settled: circumstances.settle was called before there was a call.
        is_learning: Tell what imports cost, too.
    """
    try:
        reserve = [os.dup(0) for _ in range(_RESERVED)]
        point_streams(given["stdouts"].get(local_rank, ""), given["stderrs"].get(local_rank, ""))
        _open_stacks(given["stacks"].get(local_rank, ""))
        take_over(given, local_rank)
        if not is_settled:
            settle(is_fresh_main=is_fresh_main)
        make_ready()
        seed_all(given["seed"], local_rank)
        _limit_threads(given["num_threads"])
        costs = ImportCosts()
        if is_learning:
            costs.watch()
        entrypoint, args = load()
        known = known_ids()
        try:
            value = _called(entrypoint, args[local_rank], given["is_exit_0_fine"])
        finally:
            _give_up(reserve)
        flush_streams()
        send_value(
            fds.values,
            local_rank,
            value,
            known=known,
            run_mark=given["run_mark"],
            may_stand_in=getattr(entrypoint, "may_stand_in", False),
            imports=costs.milliseconds,
        )
        del value
        os.pwrite(fds.status, WITH_VALUE, local_rank)
        code = 0
    except SystemExit as error:
        code = _system_exit_code(error)
    except BaseException as error:
        code = -signal.SIGINT if issubclass(type(error), KeyboardInterrupt) else 1  # isinstance would ask the object
        _tell_failure(error, local_rank, fds)
    leave(given["grace_s"])
    _end(code)


_kept_open: list[Any] = []
_RESERVED = 3  # descriptors: what the last word of a rank takes that has used up all it may have


def _give_up(reserve: list[int]) -> None:
    for fd in reserve:
        with contextlib.suppress(OSError):  # a body that closed them all
            os.close(fd)


def _called(entrypoint: Callable[..., Any], args: tuple[Any, ...], is_exit_0_fine: bool) -> Any:
    """The function's value, in the rank's own process.

    A child that the function forked and that comes back here must not speak for its rank: it ends.
    """
    rank_pid = getpid()
    code = 1
    try:
        value = entrypoint(*args)
        if inspect.iscoroutine(value):
            import asyncio  # 40 ms of the first launch for those who await nothing

            value = asyncio.run(value)
        code = 0
        return value
    except SystemExit as error:
        code = _system_exit_code(error) if getpid() != rank_pid else 0
        if is_exit_0_fine and isinstance(error.code, int) and error.code == 0:
            return None
        raise
    except BaseException:
        if getpid() != rank_pid:
            sys.excepthook(*sys.exc_info())
        raise
    finally:
        if getpid() != rank_pid:
            flush_streams()
            libc().fflush(None)
            _exit(code)


def _open_stacks(path: str) -> None:
    """Where Python's stacks go at a fatal signal, or when the server asks for them."""
    if not path:
        return
    file = open(path, "wb", buffering=0)
    _kept_open.append(file)  # faulthandler holds its descriptor only
    faulthandler.enable(file, all_threads=True)
    handler.stacks_file = file  # where a user's own `@record` leaves it, too
    faulthandler.register(DUMP_SIGNAL, file, all_threads=True)


def _system_exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _tell_failure(error: BaseException, local_rank: int, fds: RankFds) -> None:
    """Record what happened in the error file and on the value channel; one of them failing leaves the other."""
    time_ns = time.monotonic_ns()
    record = exception_record(error, label_of)
    path = os.environ.get(env.ERROR_FILE, "")
    try:
        if path and not issubclass(type(error), KeyboardInterrupt):
            write_error_file(path, record)
    except OSError:
        sys.excepthook(*sys.exc_info())
    hurry_when_asked()
    try:
        send_failure(fds.values, local_rank, record, time_ns)
        os.pwrite(fds.status, WITH_FAILURE, local_rank)
    except OSError:
        sys.excepthook(*sys.exc_info())


# ---------------------------------------------------------------------------------------------------------- the end


def _end(code: int) -> NoReturn:
    """End this process with an exit code, or (negative) by that signal."""
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    _exit(code & 0xFF)
