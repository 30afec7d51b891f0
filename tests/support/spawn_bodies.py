"""What the children of tests/contexts/test_spawn.py do. Each takes its index first, as torch.multiprocessing has it."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from .gates import wait_at

__all__ = ["BODIES"]


def end_well(i: int) -> None:
    pass


def leave_index(i: int, folder: str) -> None:
    open(f"{folder}/{i}-{os.getpid()}", "x").close()


def raise_error(i: int) -> None:
    raise ValueError(f"boom {i}")


def raise_with_stderr(i: int, path: str) -> None:
    """`raise_error`, with a file as stderr."""
    sys.stderr = open(path, "x", buffering=1)
    raise_error(i)


def raise_from(i: int) -> None:
    try:
        raise_error(i)
    except ValueError as error:
        raise KeyError("again") from error


def raise_unprintable(i: int) -> None:
    raise _Unprintable


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def be_cancelled(i: int) -> None:
    raise asyncio.CancelledError


def take_nothing() -> None:
    pass


def interrupt(i: int) -> None:
    raise KeyboardInterrupt


def exit_with(i: int, code: Any) -> None:
    sys.exit(code)


def os_exit_with(i: int, code: int) -> None:
    os._exit(code)


def kill_self(i: int, signum: int) -> None:
    faulthandler.disable()  # a forked child has the tests' own; its words would be noise
    os.kill(os.getpid(), signum)
    signal.pause()


def fail_first(i: int, gate: str, rest: Callable[..., None], *args: Any) -> None:
    """Index 0 raises once the gate is open, the others do `rest`."""
    if i == 0:
        wait_at(gate)
        raise ValueError("the first")
    rest(i, *args)


def all_fail(i: int, gate: str) -> None:
    wait_at(gate)
    sys.exit(10 + i)


def wait_and_end(i: int, gate: str) -> None:
    """End well once the gate is open; SIGTERM ends it too."""
    wait_at(gate)


def wait_for_own_gate(i: int, folder: str) -> None:
    wait_at(f"{folder}/{i}")


def be_deaf(i: int, ready: str) -> None:
    """Never end of SIGTERM: a handler that returns into the wait, for ever."""
    signal.signal(signal.SIGTERM, lambda signum, frame: threading.Event().wait())
    open(f"{ready}-{i}", "x").close()
    while True:
        signal.pause()


def have_orphan(i: int, ready: str) -> None:
    """Be killed, with a forked child that holds what we had open and stays."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    with open(f"{ready}.part", "x") as file:
        file.write(str(pid))
    os.rename(f"{ready}.part", ready)
    os.kill(os.getpid(), signal.SIGKILL)


def close_everything(i: int, ready: str, gate: str) -> None:
    """As daemons do, then go on working."""
    os.closerange(3, 256)
    open(ready, "x").close()
    wait_at(gate)


def tell_signal(i: int, path: str) -> None:
    """Write which signal the death of our parent brings."""
    value = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(value), 0, 0, 0)
    with open(f"{path}.part", "x") as file:
        file.write(str(value.value))
    os.rename(f"{path}.part", path)


def stay(i: int, folder: str) -> None:
    """Leave our pid, then block."""
    open(f"{folder}/pid-{os.getpid()}", "x").close()
    while True:
        signal.pause()


class StubbornArgument:
    """Can be pickled a number of times, then no more: a start that fails half-way."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __reduce__(self) -> tuple[Any, ...]:
        self.times -= 1
        if self.times < 0:
            raise OSError("no more of it")
        return (int, ())


BODIES: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "end well": (end_well, ()),
    "raise": (raise_error, ()),
    "raise from": (raise_from, ()),
    "unprintable": (raise_unprintable, ()),
    "wrong arguments": (take_nothing, ()),
    "KeyboardInterrupt": (interrupt, ()),
    "sys.exit()": (exit_with, (None,)),
    "sys.exit(0)": (exit_with, (0,)),
    "sys.exit(3)": (exit_with, (3,)),
    "sys.exit(words)": (exit_with, ("words",)),
    "os._exit(0)": (os_exit_with, (0,)),
    "os._exit(1)": (os_exit_with, (1,)),
    "os._exit(7)": (os_exit_with, (7,)),
    "SIGKILL": (kill_self, (signal.SIGKILL,)),
    "SIGTERM": (kill_self, (signal.SIGTERM,)),
    "SIGSEGV": (kill_self, (signal.SIGSEGV,)),
    "SIGINT": (kill_self, (signal.SIGINT,)),
    "no name": (kill_self, (37,)),
}
"""Every way to end that torch and we describe in the same words."""
