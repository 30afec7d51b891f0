"""Programs and notebooks run to their end by nobody who watches: their text, whole, and their exit status."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Ended:
    """How a program ended. Texts are without colours."""

    returncode: int
    out: str
    err: str


Runs = Callable[..., Ended]


def plain(text: str) -> str:
    """Text without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """`runs(command, stdin="", interrupt_at="")`: run a command of this Python in an empty folder."""

    def run(command: Sequence[str], stdin: str = "", interrupt_at: str = "") -> Ended:
        environment = {
            name: value for name, value in os.environ.items() if name not in ("JPY_SESSION_NAME", "JPY_PARENT_PID")
        }
        environment.update(IPYTHONDIR=str(tmp_path / ".ipython"), NO_COLOR="1", PYTHONWARNINGS="")
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        before = ""
        while interrupt_at and interrupt_at not in before:
            line = process.stdout.readline()
            assert line, f"it ended before it printed {interrupt_at!r}"
            before += line
        if interrupt_at:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        try:
            out, err = process.communicate(stdin, timeout=90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return Ended(process.returncode, plain(before + out), plain(err))

    return run


@pytest.fixture
def script(tmp_path: Path, runs: Runs) -> Callable[..., Ended]:
    """`script(text)`: run a script, every warning an error."""

    def run(text: str, **how: str) -> Ended:
        (tmp_path / "script.py").write_text(text, encoding="utf-8")
        return runs(["-W", "error", "script.py"], **how)

    return run
