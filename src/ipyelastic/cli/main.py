"""The command `ipyelastic`: which of its commands is meant.

    the shell > [here] main > run.run_command, doctor.doctor_command

Runs in: owner (a shell's process). Each command is imported when it is asked for: `--version` costs nothing.
Other end: pyproject.toml's `[project.scripts]` and `__main__.py` call `main`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..terms.errors import nearest

__all__ = ["main"]

_HELP = """usage: ipyelastic run [OPTION ...] SCRIPT [ARG ...]       run a script on several ranks, as torchrun does
       ipyelastic run [OPTION ...] -m MODULE [ARG ...]
       ipyelastic run [OPTION ...] --no-python PROGRAM [ARG ...]
       ipyelastic doctor [--json]                         say what works here, what is missing, what to do
       ipyelastic --version
       ipyelastic COMMAND -h                              all options of a command

for example: ipyelastic run -n 2 train.py --lr 1e-3
in a notebook: %load_ext ipyelastic, then %%elastic_run -n 2 in a cell's first line
"""
_COMMANDS = ("run", "doctor")


def main(words: Sequence[str] | None = None) -> int:
    """Obey a command line; returns the exit code: 0, 2 for one that cannot be obeyed, else the command's own.

    Args:
        words: After the program's name; None: this process's own.
    """
    words = sys.argv[1:] if words is None else list(words)
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command == "run":
        from .run import run_command

        _forget_own_folder()
        return run_command(rest)
    if command == "doctor":
        from .doctor import doctor_command

        return doctor_command(rest)
    if command in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if command in ("-V", "--version"):
        print(f"ipyelastic {sys.modules['ipyelastic'].__version__}")
        return 0
    if not command:
        print(_HELP, end="", file=sys.stderr)
    elif command.startswith("-") or not (command.endswith(".py") or os.path.exists(command)):
        known = (*_COMMANDS, "--help", "--version")
        print(f"ipyelastic {command}: expected run or doctor{nearest(command, known)}", file=sys.stderr)
    else:
        print(f"ipyelastic {command}: expected run or doctor; to run it: ipyelastic run {command}", file=sys.stderr)
    return 2


def _forget_own_folder() -> None:
    """Take what Python put first in `sys.path` for this command out of it: ranks get the rest, as from torchrun."""
    own = (os.path.dirname(os.path.abspath(sys.argv[0])), os.getcwd() if _has_cwd() else "", "")
    if not getattr(sys.flags, "safe_path", False) and sys.path and sys.path[0] in own:
        del sys.path[0]


def _has_cwd() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True
