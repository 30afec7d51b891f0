"""The only entry of a rank: from a bare process to the user's function and out again.

    fork server --fork--> run_forked --.
    fork server --fork--> run_spare ---+  (waits for its call, and does what it is told ahead)
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
import gc
import inspect
import os
import pickle
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import _exit, getpid  # the user's code may replace those in `os`, and a rank that went on would be a server
from typing import Any, Literal, NoReturn

from .failures import handler
from .failures.record import exception_record, write_error_file
from .output.redirect import point_streams
from .payload.body import CellBody
from .payload.call import PackedCall, pack_call
from .payload.changes import changed, changes
from .payload.circumstances import Circumstances, make_ready, settle, take_over
from .payload.delivery import HANDOVER, CallFds, Delivery, Load, await_call, read_head
from .payload.identity import known_ids
from .payload.import_costs import ImportCosts
from .payload.seeds import seed_all
from .payload.sources import forget, label_of
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
        _rehearse(mark_address)
        settle(is_fresh_main=True)
        with socket.socket(fileno=channel_fd) as channel:
            handed = _await_call(channel)
        if handed is None:
            _exit(0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if handed.guess is None:
            _take_call(handed.local_rank, handed.call_fds, handed.fds, mark_address, is_settled=True)
        load, found = _awaited(handed.call_fds)
        given = changed(handed.guess, found or {})
        carry_mark(mark_address, given["run_mark"])
        _live(given, handed.local_rank, handed.fds, load, taken=handed.taken, is_settled=True, is_learning=True)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit(1)


@dataclass
class _Handed:
    """What a spare was handed; with a guess, ahead of the call: `taken` is the same once all of it was taken over."""

    local_rank: int
    call_fds: CallFds
    fds: RankFds
    guess: Circumstances | None = None
    taken: Circumstances | None = None

    def close(self) -> None:
        for fd in (*self.call_fds, self.fds.values, self.fds.status):
            os.close(fd)


def _await_call(channel: socket.socket) -> _Handed | None:
    """Wait for a call, and do ahead what can be; None: nobody will send one any more."""
    ahead: _Handed | None = None
    while True:
        if ahead is not None:
            is_open = _is_called(channel, ahead.call_fds.gate)
            if is_open:
                return ahead
            ahead.close()  # another message follows, or nothing
            ahead = None
        data, fds = receive_with(channel, HANDOVER.size, 7)
        if not data:
            return None
        local_rank, is_ahead = HANDOVER.unpack(data)
        head_fd, call_fd, gate_fd, values_fd, status_fd, *console = fds
        for fd, own in enumerate(console, start=1):
            os.dup2(own, fd)
            os.close(own)
        handed = _Handed(local_rank, CallFds(head_fd, call_fd, gate_fd), RankFds(values_fd, status_fd))
        if not is_ahead:
            return handed
        handed.guess = pickle.loads(read_head(head_fd))
        try:
            _point(handed.guess, local_rank)
            take_over(handed.guess, local_rank)
            handed.taken = handed.guess
        except Exception:  # a folder is gone already: should its call name it too, the rank will say so
            handed.taken = None
        os.chdir("/")  # the notebook may leave that folder, and have it unmounted
        ahead = handed


def _is_called(channel: socket.socket, gate_fd: int) -> bool:
    """Wait until the gate opens (True), or was given up, or the channel has something to say (False)."""
    poller, gate = select.poll(), select.poll()
    for fd in (channel.fileno(), gate_fd):
        poller.register(fd, select.POLLIN)
    gate.register(gate_fd, select.POLLIN)
    poller.poll()
    # Looked at once more: the owner opens the gate and closes its end of the channel, perhaps while we were looking.
    return any(events & select.POLLIN for _, events in gate.poll(0))


@dataclass(frozen=True)
class _Rehearsal:
    """Calls that do nothing, as they would come from an owner."""

    given: Circumstances
    calls: tuple[PackedCall, ...]


_rehearsal: _Rehearsal | None = None
_NOTHING = """
import time

class Thing:
    "Of a notebook, as the function is: both travel by value."

    def __init__(self, value):
        self.value = value

def nothing(what, *more):
    return [what, Thing, time.monotonic(), more]
"""


def prepare_rehearsal() -> None:
    """In the fork server, before its memory is frozen."""
    global _rehearsal
    environment = dict(os.environ)
    ranks = {env.RANK: "0", env.LOCAL_RANK: "0", env.WORLD_SIZE: "2"}
    given = Circumstances(
        base_env=environment, envs={0: {**ranks, **{f"{env.RANK}_{number}": "0" for number in range(30)}}, 1: {}},
        cwd="/", umask=None, rlimits={},
        sys_path=list(sys.path), argv=list(sys.argv), stdouts={0: os.devnull}, stderrs={0: os.devnull},
        stacks={0: os.devnull}, grace_s=0.0, seed=None, num_threads=None, run_mark=environment.get(env.RUN_MARK, ""),
        is_exit_0_fine=False,
    )  # fmt: skip
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(_NOTHING, names)
    captured = {name: names[name] for name in ("nothing", "Thing", "time")}
    code, last = compile("what = [Thing(1), rank]", "<cell>", "exec"), compile("nothing(what)", "<cell>", "eval")
    bodies: list[Any] = [names["nothing"], CellBody(code, last, captured, {}, ("<cell>",))]
    arguments: list[tuple[Any, ...]] = [(["a list"], 1.0), ()]
    calls = (pack_call(body, {0: args}) for body, args in zip(bodies, arguments, strict=True))
    _rehearsal = _Rehearsal(given, tuple(calls))


def _rehearse(mark_address: int) -> None:
    """Go through the motions of a rank with these calls, and leave everything as it was.

    A forked process shares its parent's memory until it writes to it: each page's first write costs a fault and a copy
    (3 to 7 us), and Python writes wherever it looks. What is touched here the call need not wait for.
    """
    if _rehearsal is None:
        return
    before, kept = _rehearsal.given, (os.dup(1), os.dup(2))
    _point(before, 0)
    for call in _rehearsal.calls:
        take_over({**before, "envs": {0: {}}}, 0)
        take_over(before, 0)
        now: Circumstances = {**before, "envs": {**before["envs"], 0: {**before["envs"][0], env.RUN_ID: "none"}}}
        delivery = Delivery(pickle.dumps(before), 1, None)
        pickle.loads(read_head(delivery.fds.head))
        delivery.deliver(call, {"<cell>": ("nothing(what)", "")}, changes(before, now))
        load, found = await_call(CallFds(*map(os.dup, delivery.fds)))
        delivery.close()
        given = changed(before, found or {})
        carry_mark(mark_address, given["run_mark"])
        take_over(given, 0, before)
        make_ready()
        seed_all(None, 0)
        costs = ImportCosts()
        costs.watch()
        entrypoint, args = load()
        known = known_ids()
        value = _called(entrypoint, args[0], False)
        sys.meta_path.remove(costs)
        flush_streams()
        here, there = channel_pair()
        with here, there:
            mark, imports = given["run_mark"], costs.milliseconds
            send_value(there.fileno(), 0, value, known=known, run_mark=mark, may_stand_in=True, imports=imports)
        del entrypoint, args, load, value
    _close_stacks()
    forget("<cell>")
    take_over(before, 1)
    gc.collect()  # the class
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
    load = functools.partial(_awaited_and_loaded, call_fds)
    _live(circumstances, local_rank, fds, load, is_settled=is_settled, is_learning=True)


def _awaited(call_fds: CallFds) -> tuple[Load, Mapping[str, Any] | None]:
    try:
        return await_call(call_fds)
    except EOFError:  # its owner could not pack it, and says so itself
        _exit(1)


def _awaited_and_loaded(call_fds: CallFds) -> Any:
    load, _ = _awaited(call_fds)
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
        _live(given, local_rank, RankFds(values_fd, status_fd), functools.partial(_awaited_and_loaded, call_fds))
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
    taken: Circumstances | None = None,
    is_fresh_main: bool = True,
    is_settled: bool = False,
    is_learning: bool = False,
) -> NoReturn:
    """Run the call, say how it went, and end the process.

    Args:
        taken: What this process was told ahead and has done.
        is_fresh_main: The user's code gets a `__main__` of its own.
        is_settled: circumstances.settle was called before there was a call.
        is_learning: Tell what imports cost, too.
    """
    try:
        reserve = [os.dup(0) for _ in range(_RESERVED)]
        if taken is None or not _is_pointed(taken, given, local_rank):
            _point(given, local_rank)
        take_over(given, local_rank, taken)
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


_FILES: tuple[Literal["stdouts", "stderrs", "stacks"], ...] = ("stdouts", "stderrs", "stacks")
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


def _point(given: Circumstances, local_rank: int) -> None:
    point_streams(given["stdouts"].get(local_rank, ""), given["stderrs"].get(local_rank, ""))
    _open_stacks(given["stacks"].get(local_rank, ""))


def _is_pointed(taken: Circumstances, given: Circumstances, local_rank: int) -> bool:
    """Whether its files are those that were named ahead, and nobody has removed them since."""
    if any(taken[name].get(local_rank) != given[name].get(local_rank) for name in _FILES):
        return False
    return all(os.fstat(file.fileno()).st_nlink for file in (*_kept_open, sys.stdout, sys.stderr))


def _open_stacks(path: str) -> None:
    """Where Python's stacks go at a fatal signal, or when the server asks for them."""
    if not path:
        return
    file = open(path, "wb", buffering=0)
    faulthandler.enable(file, all_threads=True)
    handler.stacks_file = file  # where a user's own `@record` leaves it, too
    faulthandler.register(DUMP_SIGNAL, file, all_threads=True)
    former, _kept_open[:] = [*_kept_open], [file]  # faulthandler holds its descriptor only
    for one in former:
        one.close()


def _close_stacks() -> None:
    faulthandler.unregister(DUMP_SIGNAL)
    faulthandler.disable()
    handler.stacks_file = 2
    while _kept_open:
        _kept_open.pop().close()


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
