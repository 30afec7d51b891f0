"""The only entry of a rank: from a bare process to the user's function and out again.

    fork server --fork--> run_forked --.
    fork server --exec--> main ---------+--> circumstances -> load the call -> run it -> value or failure -> exit
    keeper -------fork--> run_in_fork -'

Runs in: ranks; imported by the fork server before its first fork. Imports nothing that only an owner needs.
Other end: contexts/functions.py makes the circumstances and packs the call; forkserver/group.py waits for the exit.

A rank's exit is defined: the value goes out first, non-daemon threads get the grace, the rank's own exit handlers run,
C's buffers are flushed, and `os._exit` ends it. What the server had registered for *its* exit was dropped at the fork.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import faulthandler
import inspect
import os
import pickle
import resource
import signal
import sys
import time
import types
from collections.abc import Callable, Sequence
from os import _exit, getpid  # the user's code may replace those in `os`, and a rank that went on would be a server
from typing import Any, NoReturn, TypedDict

from .failures import handler
from .failures.record import exception_record, write_error_file
from .output.redirect import point_streams
from .payload.at_import import when_imported
from .payload.call import load_call
from .payload.display import teach_libraries
from .payload.identity import known_ids
from .payload.inspection import teach_inspect
from .payload.pickling import newly_installed
from .payload.seeds import seed_all
from .payload.sources import Sources, install, label_of
from .payload.values import send_failure, send_value
from .process.exits import drop_inherited_exits, flush_streams, hurry_when_asked, leave
from .process.orphans import die_with_parent, libc
from .process.signals import DUMP_SIGNAL
from .terms import env

__all__ = ["Circumstances", "RankFds", "run_forked", "run_in_fork", "main"]

WITH_VALUE, WITH_FAILURE = b"v", b"f"


class Circumstances(TypedDict):
    """What a rank takes over from its owner before anything of the user's is loaded. Plain data, pickled."""

    base_env: dict[str, str]
    envs: dict[int, dict[str, str]]
    cwd: str | None
    umask: int | None
    rlimits: dict[int, tuple[int, int]]
    sys_path: list[str]
    argv: list[str]
    stdouts: dict[int, str]
    stderrs: dict[int, str]
    stacks: dict[int, str]
    grace_s: float
    seed: int | None
    num_threads: int | None
    sources: Sources
    run_mark: str
    is_exit_0_fine: bool
    """Whether `sys.exit(0)` counts as returning None (torch's rule) rather than as an end without a value."""


class RankFds:
    """The descriptors a rank keeps: where it says its word, and where its end is judged by."""

    def __init__(self, values: int, status: int) -> None:
        self.values, self.status = values, status


Load = Callable[[], "tuple[Callable[..., Any], dict[int, tuple[Any, ...]]]"]


_loaded: frozenset[str] = frozenset()


def note_loaded() -> None:
    """In the fork server, before its memory is frozen: what its ranks need not import."""
    global _loaded
    _loaded = frozenset(sys.modules)


def run_forked(local_rank: int, call_fd: int, fds: RankFds, parent_pid: int, mark_address: int) -> NoReturn:
    """Become a rank in a process that the fork server just forked. Never returns."""
    try:
        isolate([call_fd, fds.values, fds.status])
        die_with_parent(parent_pid, signal.SIGKILL)
        drop_inherited_exits()
        head, load = load_call(call_fd)
        os.close(call_fd)
        circumstances: Circumstances = pickle.loads(head)
        carry_mark(mark_address, circumstances["run_mark"])
        _live(circumstances, local_rank, fds, load, is_fresh_main=True)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit(1)


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
    """Become a rank in a process started with fork and exec: `local_rank call_fd values_fd status_fd parent_pid`."""
    local_rank, call_fd, values_fd, status_fd, parent_pid = map(int, arguments)
    try:
        for fd in (call_fd, values_fd, status_fd):
            os.set_inheritable(fd, False)
        die_with_parent(parent_pid, signal.SIGKILL)
        head, load = load_call(call_fd)
        os.close(call_fd)
        _live(pickle.loads(head), local_rank, RankFds(values_fd, status_fd), load, is_fresh_main=True)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit(1)


# ---------------------------------------------------------------------------------------------------- the beginning


def isolate(keep: Sequence[int], *, has_owners_objects: bool = False) -> None:
    """Leave the parent's session, signals and descriptors behind; stdin becomes the null device.

    `has_owners_objects`: this process was forked from the owner's memory.
    """
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.getsid(0) != os.getpid():
        os.setsid()
    if not (has_owners_objects and _block(keep)):
        last = 2
        for fd in sorted(keep):
            os.closerange(last + 1, fd)
            last = fd
        os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)


def _block(keep: Sequence[int]) -> bool:
    """Close every inherited descriptor but those of `keep`, and leave its number taken; False where that is refused.

    The owner's files, sockets and pipes are Python objects here too. When one of them is collected it closes its
    number once more: a number that had been given out again would be a pipe of the rank's own by then, and its pool,
    say, would wait for ever. What takes the number's place can be closed, and is refused (EBADF) for all else.
    """
    try:
        taken = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *keep}
        block = os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError:  # no /proc, or no descriptor left
        return False
    for fd in taken - {block}:  # the listing's own number is free again, and may be `block`'s
        os.dup2(block, fd, inheritable=False)
    return True


def carry_mark(address: int, run_mark: str) -> None:
    """Write the run's mark over the server's in the memory that /proc/<pid>/environ shows: a fork keeps that block."""
    if address:
        import ctypes  # loaded by process/orphans.py

        ctypes.memmove(address, run_mark.encode(), len(run_mark))


def _take_circumstances(given: Circumstances, local_rank: int, is_fresh_main: bool) -> None:
    environment = {**given["base_env"], **given["envs"][local_rank], env.RUN_MARK: given["run_mark"]}
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if hasattr(time, "tzset"):
        time.tzset()
    if given["umask"] is not None:
        os.umask(given["umask"])
    if given["rlimits"]:
        for which, limits in given["rlimits"].items():
            if resource.getrlimit(which) != limits:
                with contextlib.suppress(OSError, ValueError):  # a hard limit that only root may raise again
                    resource.setrlimit(which, limits)
    if given["cwd"] is not None:
        os.chdir(given["cwd"])
    sys.path[:] = given["sys_path"]
    sys.argv = list(given["argv"])
    if is_fresh_main:
        fresh = types.ModuleType("__main__")
        vars(fresh)["__builtins__"] = builtins
        sys.modules["__main__"] = fresh
    install(given["sources"])
    teach_libraries()
    teach_inspect(inspect)
    when_imported({"multiprocessing.process": _start_children_here, "multiprocessing.reduction": _carry_by_value})
    builtins.input = _no_input
    sys.breakpointhook = _no_breakpoint


def _start_children_here(process: types.ModuleType) -> None:
    """Python's own start methods take this folder for the empty entry of `sys.path`; the fork server's is `/`."""
    with contextlib.suppress(OSError):
        process.ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]


def _carry_by_value(reduction: types.ModuleType) -> None:
    from .payload.family import carry_by_value

    carry_by_value(reduction)


def _no_input(prompt: object = "", /) -> str:
    raise EOFError(
        "input() has nobody to ask inside a rank: pass the value in as a notebook variable, or use --engine here"
    )


def _no_breakpoint(*args: object, **kwargs: object) -> None:
    raise RuntimeError("breakpoint() has no terminal inside a rank: print, or use --engine here")


def _limit_threads(num_threads: int | None) -> None:
    """Libraries loaded before the fork read OMP_NUM_THREADS in the server; tell them this rank's number."""
    if num_threads is None or not ("numpy" in sys.modules or "torch" in sys.modules):
        return
    import threadpoolctl

    threadpoolctl.threadpool_limits(num_threads)


# ------------------------------------------------------------------------------------------------------- the middle


def _live(given: Circumstances, local_rank: int, fds: RankFds, load: Load, *, is_fresh_main: bool) -> NoReturn:
    """Run the call, say how it went, and end the process."""
    try:
        point_streams(given["stdouts"].get(local_rank, ""), given["stderrs"].get(local_rank, ""))
        _open_stacks(given["stacks"].get(local_rank, ""))
        _take_circumstances(given, local_rank, is_fresh_main)
        seed_all(given["seed"], local_rank)
        _limit_threads(given["num_threads"])
        entrypoint, args = load()
        known = known_ids()
        value = _called(entrypoint, args[local_rank], given["is_exit_0_fine"])
        flush_streams()
        send_value(
            fds.values,
            local_rank,
            value,
            known=known,
            run_mark=given["run_mark"],
            may_stand_in=getattr(entrypoint, "may_stand_in", False),
            modules=newly_installed(_loaded) if _loaded else (),
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


def _called(entrypoint: Callable[..., Any], args: tuple[Any, ...], is_exit_0_fine: bool) -> Any:
    """The function's value, in the rank's own process.

    A child that the function forked and that comes back here must not speak for its rank: it ends.
    """
    rank_pid = getpid()
    code = 1
    try:
        value = entrypoint(*args)
        if inspect.iscoroutine(value):
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
