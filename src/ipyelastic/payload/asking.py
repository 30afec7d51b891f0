"""Whom the code of a rank can ask: whoever this process's stdin comes from, or nobody where it is the null device.

    cli/run.py > forkserver/handle.hand_on_stdin -> descriptor 0 of the server and of its ranks -> [here] input(), ...

Runs in: ranks. A notebook hands nothing on: two ranks at one keyboard are no dialogue, and a kernel's is on its page.
"""

from __future__ import annotations

import builtins
import os
import stat
import sys
import types
from typing import Any

__all__ = ["teach_asking", "teach_getpass", "in_a_script"]

_input = builtins.input
_remedy = "pass the value in as a notebook variable, or use --engine here"


def teach_asking() -> None:
    """Have `input()` and `breakpoint()` say so where there is nobody to ask, and else do what they do."""
    builtins.input = _ask
    if _has_nobody():  # else Python's own: a debugger stops in the frame that called its hook
        sys.breakpointhook = _no_breakpoint


def in_a_script() -> None:
    """What runs in this rank is a script: it has arguments, and no notebook need be near."""
    global _remedy
    _remedy = "pass the value as an argument of the script"


def teach_getpass(module: types.ModuleType) -> None:
    """The same for `getpass.getpass()`."""
    ask = module.getpass

    def getpass(prompt: str = "Password: ", stream: Any = None, **more: Any) -> str:
        if _has_nobody():
            raise EOFError(f"getpass() has nobody to ask inside a rank: {_remedy}")
        return str(ask(_whole_line(prompt), stream, **more))

    vars(module)["getpass"] = getpass


def _has_nobody() -> bool:
    try:
        found = os.fstat(0)
    except OSError:  # closed by the rank's own code
        return True
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.stat(os.devnull).st_rdev


def _ask(prompt: object = "", /) -> str:
    if _has_nobody():
        raise EOFError(f"input() has nobody to ask inside a rank: {_remedy}")
    return _input(_whole_line(str(prompt)))


def _no_breakpoint(*args: object, **kwargs: object) -> None:
    raise RuntimeError("breakpoint() has no terminal inside a rank: print, or use --engine here")


def _whole_line(prompt: str) -> str:
    """A person sees whole lines of a rank; who types ends the prompt's line for Python, not for the log file."""
    return f"{prompt}\n" if prompt and os.isatty(0) else prompt
