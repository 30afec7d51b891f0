"""A program as something a rank can call: the rank's process becomes it, with its own pid, log files and environment.

    cli/run.py (`ipyelastic run --no-python prog args`) finds it  ->  payload/call  ->  [here] execs it

Runs in: ranks (call), owner (made, never called).
Other end: forkserver/group.py judges its exit code alone (`is_exit_0_fine`): a program hands over no value.
"""

from __future__ import annotations

import os
import signal

from ..terms import env

__all__ = ["Program"]

_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ", "SIGXFZ")  # what subprocess gives back before an exec, too


class Program:
    """One program with its arguments; its value is None.

    Args:
        path: The whole path of the file.
        args: Its command line, with the name it is called by first.
        ignored: Signals it is not to die of, though it does not know them: what asks a rank for its Python stacks.
    """

    is_exit_0_fine = True

    def __init__(self, path: str, args: tuple[str, ...], ignored: tuple[int, ...] = ()) -> None:
        self.path, self.args, self.ignored = path, args, ignored
        self.__name__ = os.path.basename(path)

    def __call__(self) -> None:
        """Become the program. Raises OSError when it cannot be executed."""
        for name in _IGNORED_BY_PYTHON:
            number = getattr(signal, name, None)
            if number is not None:
                signal.signal(number, signal.SIG_DFL)
        for number in self.ignored:
            signal.signal(number, signal.SIG_IGN)
        os.environ.setdefault(env.PYTHONFAULTHANDLER, "1")  # a Python program that crashes says where, on stderr
        os.execv(self.path, self.args)
