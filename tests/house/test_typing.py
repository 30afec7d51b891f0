"""A user's file that uses the public names passes `mypy --strict`, and a wrong use of them does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import ipyelastic

pytestmark = pytest.mark.slow

PROGRAM = """
from __future__ import annotations

import asyncio
import concurrent.futures
from pathlib import Path
from typing import Any

import ipyelastic as ie
from ipyelastic import ChildFailedError, OptionError, ProcessFailure, Results, Run, notebook_launcher


def work(base: int, power: int = 1) -> int:
    return base * power


def report(failures: dict[int, ProcessFailure]) -> list[str]:
    return [f"{rank}: {failure.exitcode} {failure.signal_name()}" for rank, failure in failures.items()]


def main(folder: Path) -> int:
    run: Run[int] = ie.launch(work, args=(10,), kwargs={"power": 2}, nproc=2, timeout=60, env={"A": "1"})
    script: Run[None] = ie.launch(folder / "train.py", args=("--lr", 1e-3), nproc="auto", ui="none")
    try:
        values: Results = run.result(timeout=60)
        total: int = sum(values)
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        print(rank, first.exception.message if first.exception else "", report(dict(error.failures)))
        return 1
    except ie.RunTimedOut as error:
        print(error.timeout_s, error.stacks)
        return 2
    except (ie.RunStopped, ie.RunCancelled) as stopped:
        print(stopped.results)
    except (OptionError, ie.ServerError, ie.UnpicklableError, ie.IpyelasticError) as error:
        print(error)
    so_far: dict[int, int] = run.results
    lines: list[str] = run.ranks[1].tail(50)
    done, waiting = concurrent.futures.wait([run, ie.launch(work, args=(3,))], timeout=1)
    run.add_done_callback(lambda ended: print(ended))
    script.stop(grace_s=1.0)
    script.kill(rank=0)
    again: Run[Any] = script.restart()
    newest = ie.last_run()
    trained = notebook_launcher(work, (3,), num_processes=2, mixed_precision="bf16")
    print(so_far, lines, done, waiting, again.status, newest.log_dir if newest else "", trained[0], ie.__version__)
    return 0


async def both() -> list[int]:
    one, two = ie.launch(work, args=(1,)), ie.launch(work, args=(2,))
    values = await asyncio.gather(asyncio.wrap_future(one), asyncio.wrap_future(two))
    return [*values[0], *(await two)]
"""


def mypy(folder, root, code):
    """mypy's verdict on a user's file: its exit code and what it printed."""
    (folder / "program.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "program.py"]
    ended = subprocess.run(
        [*command, "--cache-dir", str(folder.parent / "mypy"), "--show-error-codes"],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(root / "src")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    return ended.returncode, ended.stdout


def test_a_program_with_every_public_name_is_typed(tmp_path, root):
    code, said = mypy(tmp_path, root, PROGRAM)
    assert said == "Success: no issues found in 1 source file\n"
    assert code == 0
    ours = {"load_ipython_extension", "unload_ipython_extension"}  # %load_ext calls them
    assert [name for name in ipyelastic.__all__ if name not in ours and not re.search(rf"\b{name}\b", PROGRAM)] == []


WRONG = """
import ipyelastic as ie

run = ie.launch(len, nproc=2)
ie.launch(5)
word: str = run.results[0]
run.stoop()
"""


def test_a_wrong_use_is_found(tmp_path, root):
    code, said = mypy(tmp_path, root, WRONG)
    assert code == 1
    found = re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", said)
    assert found == [("5", "call-overload"), ("6", "assignment"), ("7", "attr-defined")]
