"""`python -m ipyelastic` in a folder of its own, as a shell would start it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.commands import COMMAND
from support.gpus import GpuMachine, pretended


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def lines_of(self, rank: int) -> list[str]:
        """What a rank wrote to stdout."""
        prefix = f"[rank {rank}] "
        return [line.removeprefix(prefix) for line in self.out.splitlines() if line.startswith(prefix)]


class Started:
    """A command that goes on; it is ended with the test."""

    def __init__(self, words: list[str], folder: Path, **how: Any) -> None:
        how.setdefault("stdout", subprocess.PIPE)
        how.setdefault("stderr", subprocess.PIPE)
        how.setdefault("stdin", subprocess.DEVNULL)
        how["env"] = {**os.environ, **how.get("env", {})}
        self.process = subprocess.Popen([*COMMAND, *words], cwd=folder, text=True, start_new_session=True, **how)

    def line(self) -> str:
        """The next line of its stdout."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read() if self.process.stderr is not None else "it ended"
        return line.rstrip("\n")

    def signal(self, number: int) -> None:
        """To the command alone, as `kill` does."""
        self.process.send_signal(number)

    def end(self, within_s: float = 90, typed: str | None = None) -> Ended:
        """Wait for its end; `typed` goes to a piped stdin, which is then at its end."""
        out, err = self.process.communicate(typed, timeout=within_s)
        return Ended(self.process.returncode, out or "", err or "")

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """`start("run", "-n", "2", ...)`: start a command."""
    started: list[Started] = []

    def begin(*words: str, **how: Any) -> Started:
        started.append(Started(list(words), tmp_path, **how))
        return started[-1]

    yield begin
    for one in started:
        one.close()


@pytest.fixture
def command(start: Callable[..., Started]) -> Callable[..., Ended]:
    """`command("run", "-n", "2", ...)`: a command to its end."""
    return lambda *words, **how: start(*words, **how).end()


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """`script(text)`: write a script; returns its name."""

    def write(text: str, name: str = "train.py") -> str:
        head = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + text, encoding="utf-8")
        return name

    return write


@pytest.fixture
def gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., GpuMachine]]:
    """`gpu_machine(4)`: this process finds so many GPUs from then on."""
    with pretended(tmp_path / "machine", monkeypatch) as put:
        yield put
