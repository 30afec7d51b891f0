"""One small program, unchanged but for its import: run against torch and against us, outcomes written as JSON.

python same_program.py torch|ours OUT.json METHOD [METHOD ...]      METHOD: spawn fork forkserver program
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__" or os.environ.get("SAME_PROGRAM"):
    os.environ["SAME_PROGRAM"] = sys.argv[1] if __name__ == "__main__" else os.environ["SAME_PROGRAM"]
    if os.environ["SAME_PROGRAM"] == "torch":
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes
    else:
        from ipyelastic.compat.multiprocessing import DefaultLogsSpecs, Std, start_processes

PROGRAM = "import sys; print('out', sys.argv[1]); print('err', sys.argv[1], file=sys.stderr)"


def echo(rank: int) -> tuple[int, str]:
    print("out", rank)
    print("err", rank, file=sys.stderr)
    sys.stdout.flush()
    return rank, os.environ["A"]


def returns_none(rank: int) -> None:
    return None


def returns_10_mb(rank: int) -> bytes:
    return bytes(10_000_000)


def raises(rank: int) -> None:
    raise ValueError("bad")


def exits_0(rank: int) -> None:
    sys.exit(0)


def exits_3(rank: int) -> None:
    sys.exit(3)


def exits_with_text(rank: int) -> None:
    sys.exit("text")


def exits_hard_7(rank: int) -> None:
    os._exit(7)


def is_killed(rank: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashes(rank: int) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def misses_an_argument() -> None:
    return None


ENDINGS = (returns_none, returns_10_mb, raises, exits_0, exits_3, exits_with_text, exits_hard_7, is_killed, crashes)


@contextlib.contextmanager
def _console(path: Path) -> Iterator[None]:
    """Have descriptors 1 and 2 written to a file."""
    kept = os.dup(1), os.dup(2)
    with open(path, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, former in enumerate(kept, start=1):
            os.dup2(former, fd)
            os.close(former)


def _outcome(result: Any) -> dict[str, Any]:
    failures = {}
    for rank, failure in result.failures.items():
        message = failure.message if isinstance(failure.message, str) else failure.message["message"]
        failures[rank] = (failure.exitcode, Path(failure.error_file).name, message.replace(str(failure.pid), "PID"))
    values = {rank: len(value) if isinstance(value, bytes) else value for rank, value in result.return_values.items()}
    return {"values": values, "failures": failures, "is_failed": result.is_failed()}


def _files(paths: dict[int, str]) -> dict[int, Any]:
    return {rank: (Path(path).name, Path(path).read_text()) if path else "" for rank, path in paths.items()}


def run_echo(method: str, redirects: Any, tee: Any) -> dict[str, Any]:
    """Two workers, once: what came back, what is in the files, what went to the console."""
    with tempfile.TemporaryDirectory() as folder:
        specs = DefaultLogsSpecs(log_dir=folder, redirects=redirects, tee=tee)
        envs = {0: {"A": "1"}, 1: {"A": "2"}}
        with _console(Path(folder, "console")):
            if method == "program":
                args: dict[int, tuple[Any, ...]] = {rank: ("-c", PROGRAM, rank) for rank in range(2)}
                context = start_processes("echo", sys.executable, args, envs, specs)
            else:
                context = start_processes("echo", echo, {0: (0,), 1: (1,)}, envs, specs, start_method=method)
            result = context.wait(period=0.05)
        shown = sorted(Path(folder, "console").read_text().splitlines())
        return {
            **_outcome(result),
            "stdouts": _files(result.stdouts),
            "stderrs": _files(result.stderrs),
            "console": shown,
        }


def run_ending(method: str, body: Any) -> dict[str, Any]:
    """One function worker that ends in its own way."""
    with tempfile.TemporaryDirectory() as folder:
        specs = DefaultLogsSpecs(log_dir=folder, redirects=Std.ALL)
        context = start_processes("end", body, {0: (0,)}, {0: {}}, specs, start_method=method)
        result = context.wait(timeout=60, period=0.05)
        context.close()
        return _outcome(result)


def main(target: str, methods: list[str]) -> None:
    """Run everything for these methods."""
    logging.disable(logging.CRITICAL)
    outcomes = {}
    for method in methods:
        for redirects in (Std.NONE, Std.OUT, Std.ALL, {0: Std.OUT, 1: Std.ERR}):
            for tee in (Std.NONE, Std.ALL, {0: Std.ERR}):
                if method == "spawn" and (redirects, tee) != (Std.ALL, Std.ALL):
                    continue  # torch takes seconds for each
                outcomes[f"{method} redirects={redirects} tee={tee}"] = run_echo(method, redirects, tee)
        for body in ENDINGS if method not in ("program", "spawn") else ():
            outcomes[f"{method} {body.__name__}"] = run_ending(method, body)
    Path(target).write_text(json.dumps(outcomes, indent=1, default=str))


if __name__ == "__main__":
    main(sys.argv[2], sys.argv[3:])
