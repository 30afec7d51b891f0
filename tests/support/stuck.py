"""Where the processes of a run that does not end are: what a failing test says, as nobody can look later."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psutil

from ipyelastic.process.signals import DUMP_SIGNAL

__all__ = ["stacks_of"]

_WRITING_S = 1.0


def stacks_of(run: Any) -> str:
    """Each rank's Python stacks, and what the kernel says of every process below the ranks and their keeper."""
    run._engine.ask("signal", signal=int(DUMP_SIGNAL))
    threading.Event().wait(_WRITING_S)  # nobody reports that a stack was written; this is a failure already
    words = [f"{run!r}\n" + "\n".join(map(repr, run.ranks))]
    for path in sorted(Path(run.log_dir).rglob("*")):
        if path.is_file() and path.stat().st_size < 100_000:
            words.append(f"{path}:\n{path.read_text(errors='replace')}")
    words += [_place(process) for process in psutil.Process().children(recursive=True)]
    return "\n".join(words)


def _place(process: psutil.Process) -> str:
    def read(name: str) -> str:
        try:
            return Path(f"/proc/{process.pid}/{name}").read_text().strip()
        except OSError as error:
            return str(error)

    command = read("cmdline").replace("\0", " ")[:80]
    return f"pid {process.pid}: {command!r} waits in {read('wchan')}, system call {read('syscall')}\n{read('status')}"
