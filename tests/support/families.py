"""Ranks with children of every kind, for tests that look at who is left. Each announces itself by a file `pid-...`."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

__all__ = ["announce", "rank_number", "parent_pid", "block", "hold_the_gil", "have_exec_child", "have_forked_child"]

_SLEEPER = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(f'pid-exec-{os.getpid()}', 'w').close()
signal.pause()
"""


def announce(kind: str) -> None:
    """Leave this process's pid in the working directory."""
    with open(f"pid-{kind}-{os.getpid()}", "w"):
        pass


def rank_number() -> int:
    """What rank this is."""
    return int(os.environ["RANK"])


def parent_pid() -> int:
    """The fork server's pid, in a rank."""
    return os.getppid()


def value_or_block() -> int:
    """Rank 0 returns 41, the others block."""
    if rank_number():
        block()
    return 41


def block() -> None:
    """Announce, then wait for ever."""
    announce("rank")
    while True:
        signal.pause()


def block_tidily() -> None:
    """As `block`; SIGTERM makes it leave a file `tidied-<pid>`, 20 ms of work later."""

    def tidy(signum: int, frame: object) -> None:
        done = time.monotonic() + 0.02
        while time.monotonic() < done:
            pass
        with open(f"tidied-{os.getpid()}", "w"):
            os._exit(0)

    signal.signal(signal.SIGTERM, tidy)
    block()


def block_deaf() -> None:
    """As `block`, with SIGTERM ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    block()


def hold_the_gil() -> None:
    """Announce, then be busy in C code that never lets go of the interpreter."""
    announce("rank")
    re.match("(a+)+$", "a" * 45 + "b")


def hold_the_gil_deaf() -> None:
    """As `hold_the_gil`, with a Python handler for SIGTERM that can never run."""
    signal.signal(signal.SIGTERM, lambda signum, frame: None)
    hold_the_gil()


def have_exec_child() -> None:
    """Start a program in a session of its own that ignores SIGTERM."""
    subprocess.Popen([sys.executable, "-S", "-c", _SLEEPER], start_new_session=True)


def have_forked_child(is_own_session: bool = False) -> None:
    """Fork without exec, as a DataLoader does; the child ignores SIGTERM."""
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if is_own_session:
            os.setsid()
        announce("forked")
        while True:
            signal.pause()


def have_daemon() -> None:
    """Fork twice, with a session between: a daemon whose parent is gone, and no exec."""
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        announce("daemon")
        while True:
            signal.pause()
    os.waitpid(middle, 0)


def have_all() -> None:
    """One child of every kind (four processes)."""
    have_exec_child()
    have_forked_child()
    have_forked_child(is_own_session=True)
    have_daemon()


def have_all_and_block() -> None:
    """`have_all`, then `block`: five files."""
    have_all()
    block()


_KINDS = {"exec": have_exec_child, "forked": have_forked_child, "daemon": have_daemon}


def have_then_return(kind: str) -> int:
    """Start one child, return the rank when the children of both ranks have announced themselves."""
    _KINDS[kind]()
    while len([name for name in os.listdir() if name.startswith(f"pid-{kind}-")]) < int(os.environ["WORLD_SIZE"]):
        os.sched_yield()
    return rank_number()


def have_then_block(kind: str) -> None:
    """Start one child, then block."""
    _KINDS[kind]()
    block()


def end(pid: int) -> None:
    """SIGKILL, for what a failing test found left."""
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def have_semaphores_then_block() -> None:
    """Make a named semaphore here and one in a spawned child, write their names down, and block."""
    context = multiprocessing.get_context("spawn")
    kept = context.Lock()
    here, there = context.Pipe()
    child = context.Process(target=_make_one, args=(there,), daemon=True)
    child.start()
    names = [kept._semlock.name, here.recv()]
    path = f"semaphores-{os.environ['RANK']}"
    with open(f".{path}", "w") as file:
        file.write(" ".join(name.lstrip("/") for name in names))
    os.replace(f".{path}", path)
    signal.pause()


def _make_one(end: Any) -> None:
    kept = multiprocessing.get_context("spawn").Lock()
    end.send(kept._semlock.name)
    signal.pause()
