"""Ranks that do what a library would not expect of them."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from typing import Any

from .endings import return_what_does_not_load
from .families import announce, block, rank_number
from .gates import wait_at

__all__ = ["does_not_load_beside_a_waiter", "interrupted_with_a_slow_exit", "fork_and_return_twice"]


def does_not_load_beside_a_waiter() -> Any:
    """Rank 1's value cannot be loaded at home; rank 0 waits for ever."""
    if rank_number() == 0:
        block()
    return return_what_does_not_load()


def interrupted_with_a_slow_exit(gate: str) -> None:
    """Rank 1 is interrupted and has an exit handler that says so and waits."""
    if rank_number() == 1:
        atexit.register(wait_at, gate)
        atexit.register(announce, "rank")
        raise KeyboardInterrupt


def fork_and_return_twice(gate: str) -> int:
    """os.fork(), and both processes return: the child something else, and later."""
    if os.fork() == 0:
        wait_at(gate)
        return -1
    atexit.register(_open_and_wait_for_children, gate)
    return rank_number()


def _open_and_wait_for_children(gate: str) -> None:
    held = os.open(gate, os.O_RDWR)
    os.wait()
    os.close(held)


def fork_and_fail_in_the_child() -> int:
    """os.fork(), and the child raises."""
    pid = os.fork()
    if pid == 0:
        raise ValueError("in the child")
    os.waitpid(pid, 0)
    return rank_number()


def close_everything() -> int:
    """Close all descriptors but the standard ones, as old daemon recipes do."""
    os.closerange(3, 256)
    return rank_number()


def close_the_streams() -> int:
    """Close Python's own streams."""
    print("last words")
    sys.stdout.close()
    sys.stderr.close()
    return rank_number()


def become_another_program() -> None:
    """exec: no value can come home."""
    os.execv(sys.executable, [sys.executable, "-S", "-c", "print('another program')"])


def stop_yourself() -> None:
    """SIGSTOP, as a debugger does."""
    announce("rank")
    os.kill(os.getpid(), signal.SIGSTOP)
    block()


def leave_one_without_a_name() -> int:
    """A daemon without environment or session of its rank: only its parent's parent can know it."""
    code = "import os, signal; open(f'pid-hidden-{os.getpid()}', 'w').close(); signal.pause()"
    middle = os.fork()
    if middle == 0:
        subprocess.Popen([sys.executable, "-S", "-c", code], env={}, start_new_session=True)
        os._exit(0)
    os.waitpid(middle, 0)
    while not [name for name in os.listdir() if name.startswith("pid-hidden")]:
        os.sched_yield()
    return rank_number()


def _square(number: int) -> int:
    return number * number


def leave_a_process_pool() -> list[int]:
    """multiprocessing's fork pool, never closed."""
    pool = multiprocessing.get_context("fork").Pool(2)
    _kept.append(pool)
    return pool.map(_square, [1, 2, 3])


def collect_beside_a_process_pool() -> list[int]:
    """The owner's garbage goes while a pool of the rank's own stands."""
    pool = multiprocessing.get_context("fork").Pool(2)
    _kept.append(pool)
    gc.collect()
    return pool.map(_square, [1, 2, 3])


_kept: list[Any] = []


def delete_the_working_directory() -> str:
    """A rank whose working directory goes away."""
    os.mkdir(f"own-{os.getpid()}")
    os.chdir(f"own-{os.getpid()}")
    os.rmdir(os.getcwd())
    return "fine"


def ignore_everything() -> None:
    """Every signal that can be ignored is."""
    for signum in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_IGN)
    block()


def write_much() -> int:
    """Some megabytes on both streams, no newline at the end."""
    for _ in range(200):
        sys.stdout.write("x" * 9_999 + "\n")
        sys.stderr.write("y" * 9_999 + "\n")
    sys.stdout.write("end")
    return rank_number()
