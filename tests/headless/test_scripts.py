"""`python script.py` with `launch()`: what stands on its stdout and stderr, and its exit status."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Script = Callable[..., Any]

HEAD = """
import os, sys
from ipyelastic import launch

def rank():
    return int(os.environ["RANK"])
"""


def test_output_is_complete_and_stands_between_the_scripts_own_lines(script: Script) -> None:
    ended = script(
        HEAD
        + """
def work():
    for n in range(30_000):
        print("line", n)
    print("careful", file=sys.stderr)
    return rank()

print("before")
run = launch(work, nproc=2)
values = run.result()
print("after", values)
"""
    )
    assert (ended.returncode, ended.err) == (0, "")
    first, *lines, last = ended.out.splitlines()
    assert (first, last) == ("before", "after [0: 0, 1: 1]")
    for number in (0, 1):
        assert [line for line in lines if line.startswith(f"[rank {number}] ")] == [
            f"[rank {number}] line {n}" for n in range(30_000)
        ]
    assert sorted(line for line in lines if "stderr" in line) == [f"[rank {n} stderr] careful" for n in (0, 1)]
    assert len(lines) == 60_002


def test_failure_that_nobody_catches_ends_the_script_with_1_and_the_ranks_words_first(script: Script) -> None:
    ended = script(
        HEAD
        + """
def work():
    print("at work", rank())
    if rank() == 1:
        raise ValueError("bad batch")
    os.read(os.pipe()[0], 1)

launch(work, nproc=2).result()
print("never")
"""
    )
    assert ended.returncode == 1
    assert sorted(ended.out.splitlines()) in (
        ["[rank 0] at work 0", "[rank 1] at work 1"],
        ["[rank 1] at work 1"],  # rank 0 was stopped before it came to its print
    )
    words, _, own = ended.err.partition("\nThe above exception was the direct cause of the following exception:\n")
    assert re.fullmatch(
        r"ipyelastic\.RankTraceback: \n"
        r"rank 1 of 2 failed \(local_rank 1\)\n"
        r"  what    ValueError: bad batch \(.*script\.py, line 11\)\n"
        r"rank 0 was stopped because of it\n\n"
        r"Traceback \(most recent call last\):\n"
        r'  File ".*script\.py", line 11, in work\n'
        r'    raise ValueError\("bad batch"\)\n'
        r"ValueError: bad batch\n",
        words,
    )
    assert own.startswith("\nTraceback (most recent call last):\n")
    assert "ipyelastic.terms.errors.ChildFailedError: \n" in own
    assert "line 14, in <module>\n" in own


def test_failure_that_is_caught_leaves_stderr_empty(script: Script) -> None:
    ended = script(
        HEAD
        + """
from ipyelastic import ChildFailedError
try:
    launch(lambda: 1 / 0, nproc=1).result()
except ChildFailedError as error:
    print(error.get_first_failure()[1].exception.type_name)
"""
    )
    assert (ended.returncode, ended.out, ended.err) == (0, "ZeroDivisionError\n", "")


HOLDS = (
    HEAD
    + """
import signal
def holds():
    def told(*_):
        print("asked to end", rank(), flush=True)
        os._exit(3)
    signal.signal(signal.SIGTERM, told)
    print("up", rank(), flush=True)
    while True:
        signal.pause()

run = launch(holds, nproc=1)
"""
)


def test_ctrl_c_while_waiting_stops_the_ranks_and_shows_their_last_words(script: Script) -> None:
    ended = script(HOLDS + "run.result()\n", interrupt_at="up 0")
    assert ended.returncode == -signal.SIGINT  # a shell says 130
    assert ended.out == "[rank 0] up 0\n[rank 0] asked to end 0\n"
    assert ended.err.splitlines()[-1] == "KeyboardInterrupt"


def test_ctrl_c_that_is_caught_finds_the_run_ended(script: Script) -> None:
    ended = script(
        HOLDS + "try:\n    run.wait()\nexcept KeyboardInterrupt:\n    print(run.done(), run.status)\n",
        interrupt_at="up 0",
    )
    assert (ended.returncode, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == "True stopped"


def test_run_that_lives_at_the_scripts_end_is_named_and_ended(script: Script) -> None:
    ended = script(HOLDS + "while not run.ranks[0].tail(): pass\n")
    assert ended.returncode == 0
    assert ended.out == "[rank 0] up 0\n[rank 0] asked to end 0\n"
    assert re.fullmatch(
        r"ipyelastic: <Run \w+: holds on 1 rank, running> has not ended; it ends with this process\n", ended.err
    )


def test_exit_status_is_the_scripts_own_while_a_run_lives(script: Script) -> None:
    assert script(HOLDS + "sys.exit(7)\n").returncode == 7


def test_run_is_shown_in_an_asyncio_program(script: Script) -> None:
    ended = script(
        HEAD
        + """
import asyncio

def work(n):
    print("run", n)
    return n

async def main():
    return await asyncio.gather(*(launch(work, args=(n,), nproc=1) for n in range(3)))

print(asyncio.run(main()))
"""
    )
    assert (ended.returncode, ended.err) == (0, "")
    *lines, last = ended.out.splitlines()
    assert (sorted(lines), last) == ([f"[rank 0] run {n}" for n in range(3)], "[[0: 0], [0: 1], [0: 2]]")


def test_reader_that_goes_away_ends_the_printing_and_not_the_run(script: Script, tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(
        HEAD
        + """
def work():
    for n in range(100_000):
        print("line", n)
    return 5

values = launch(work, nproc=1).result()
with open("values", "w") as file:
    file.write(repr(values))
os._exit(0)
"""
    )
    ended = script(
        "import subprocess, sys\n"
        "inner = subprocess.Popen([sys.executable, 'inner.py'], stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "print(inner.stdout.readline())\ninner.stdout.close()\n"
        "print(inner.stderr.read(), inner.wait())\n"
    )
    assert ended.out == "b'[rank 0] line 0\\n'\nb'' 0\n"
    assert (tmp_path / "values").read_text() == "[0: 5]"


def test_run_in_a_forked_child_is_shown_on_the_childs_stdout(script: Script) -> None:
    ended = script(
        HEAD
        + """
launch(lambda: print("in the parent"), nproc=1).result()
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    launch(lambda: print("in the child"), nproc=1).result()
    os._exit(0)
print(os.waitpid(pid, 0)[1])
"""
    )
    assert (ended.returncode, ended.err) == (0, "")
    assert ended.out == "[rank 0] in the parent\n[rank 0] in the child\n0\n"


def test_record_of_a_failed_run_outlives_the_script(script: Script, run_root: Path) -> None:
    assert script("from ipyelastic import launch\nlaunch(lambda: 1 / 0, nproc=1).result()\n").returncode == 1
    (path,) = run_root.glob("*/*/run.json")
    told = json.loads(path.read_text())
    assert (told["status"], told["failure"]["type"], told["owner"]) == ("failed", "ZeroDivisionError", "script.py")


def test_plain_python_repl_shows_lines_and_values(runs: Callable[..., Any]) -> None:
    ended = runs(
        ["-i", "-q"],
        stdin="from ipyelastic import launch\nrun = launch(lambda: print('from a rank'), nproc=1)\nrun.result()\n",
    )
    assert ended.returncode == 0
    assert ended.out == "[rank 0] from a rank\n[0: None]\n"


def test_notebook_launcher_in_a_script_prints_and_returns(script: Script) -> None:
    ended = script(
        HEAD
        + """
from ipyelastic import notebook_launcher

def train(a, b):
    print("training", rank(), os.environ["MASTER_PORT"] != "0", os.environ["ACCELERATE_MIXED_PRECISION"])
    return a + b + rank()

print(notebook_launcher(train, (1, 2), num_processes=2, use_port=0, mixed_precision="bf16"))
"""
    )
    assert (ended.returncode, ended.err) == (0, "")
    *lines, last = ended.out.splitlines()
    assert sorted(lines) == ["[rank 0] training 0 True bf16", "[rank 1] training 1 True bf16"]
    assert last == "[0: 3, 1: 4]"


def test_ctrl_c_stops_notebook_launcher(script: Script) -> None:
    ended = script(
        HOLDS.replace("run = launch(holds, nproc=1)", "")
        + "from ipyelastic import notebook_launcher\nnotebook_launcher(holds, num_processes=1, use_port=0)\n",
        interrupt_at="up 0",
    )
    assert ended.returncode == -signal.SIGINT
    assert ended.out == "[rank 0] up 0\n[rank 0] asked to end 0\n"
    assert ended.err.splitlines()[-1] == "KeyboardInterrupt: all 1 ranks were stopped"


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_ranks_have_the_scripts_command_line(runs: Callable[..., Any], tmp_path: Path, method: str) -> None:
    (tmp_path / "script.py").write_text(
        HEAD
        + f"""
if __name__ == "__main__":
    run = launch(lambda: sys.argv, nproc=2, start_method={method!r})
    print(list(run.result()) == [sys.argv, sys.argv], sys.argv[1:])
    print(launch(lambda: sys.argv == ["script.py", "--lr", "0.1"], engine="here").result())
"""
    )
    ended = runs(["script.py", "--lr", "0.1"])
    assert (ended.returncode, ended.err) == (0, "")
    assert ended.out == "True ['--lr', '0.1']\n[0: True]\n"


def test_command_line_is_there_for_a_main_that_parses_it(runs: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        HEAD
        + """
import argparse

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    return parser.parse_args().lr

print(launch(main, nproc=2).result())
"""
    )
    assert runs(["script.py", "--lr", "0.1"]).out == "[0: 0.1, 1: 0.1]\n"


# ---------------------------------------------------------------------------------- a failure that nobody asked about

FAILS = HEAD + "def fails():\n    raise ValueError('bad batch')\n"
UNASKED = (
    r"ipyelastic: the failure of <Run \w+: fails on 2 ranks, failed, \d+\.\d s> was never asked for"
    r" \(run\.result\(\) raises it\)\n"
    r"rank \d of 2 failed \(local_rank \d\)\n"
    r"  what    ValueError: bad batch \(.*script\.py, line 8\)\n"
    r"(rank \d .*\n)?\n"
    r"Traceback \(most recent call last\):\n"
    r'  File ".*script\.py", line 8, in fails\n'
    r"    raise ValueError\('bad batch'\)\n"
    r"ValueError: bad batch\n"
)


@pytest.mark.parametrize(
    "code",
    [
        "run = launch(fails, nproc=2)\nrun.wait()\n",
        "import gc\nlaunch(fails, nproc=2).wait()\n"
        "launch(rank, nproc=1).result()\ngc.collect()\n"
        "assert not any('fails' in repr(o) for o in gc.get_objects() if type(o).__name__ == 'Run')\n",
        "run = launch(fails, nproc=2, ui='none')\nrun.wait()\nsys.exit(0)\n",
    ],
)
def test_failure_that_nobody_asked_for_is_told_at_the_end(script: Script, code: str) -> None:
    ended = script(FAILS + code)
    assert ended.returncode == 0
    assert re.fullmatch(UNASKED, ended.err), ended.err


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    run.result()\nexcept Exception as error:\n    pass\n",
        "run.exception()\n",
        "run.add_done_callback(lambda run: None)\nrun.wait()\n",
        "import asyncio\nasync def main():\n    try:\n        await run\n    except Exception as error:\n        pass\n"
        "asyncio.run(main())\n",
        "run.wait()\nrun = run.restart()\nrun.exception()\n",
    ],
)
def test_failure_that_was_asked_for_is_not_told(script: Script, code: str) -> None:
    ended = script(FAILS + "run = launch(fails, nproc=2)\n" + code)
    assert (ended.returncode, ended.err) == (0, "")


def test_await_that_was_given_up_asks_for_nothing(script: Script, tmp_path: Path) -> None:
    ended = script(
        FAILS
        + f"""
import asyncio
os.mkfifo({str(tmp_path / "gate")!r})

def fails_later():
    open({str(tmp_path / "gate")!r}).close()
    raise ValueError("bad batch")

async def main():
    try:
        await asyncio.wait_for(run, 0.01)
    except asyncio.TimeoutError:
        print("given up")

run = launch(fails_later, nproc=1)
asyncio.run(main())
open({str(tmp_path / "gate")!r}, "w").close()
run.wait()
"""
    )
    assert ended.out == "given up\n"
    assert ended.err.startswith("ipyelastic: the failure of <Run ")


def test_child_that_is_forked_does_not_tell_its_parents_failures(script: Script) -> None:
    ended = script(FAILS + "launch(fails, nproc=2).wait()\nif os.fork():\n    os.wait()\n")
    assert len(re.findall(UNASKED, ended.err)) == ended.err.count("never asked for") == 1, ended.err


def test_words_of_many_failures_are_not_all_kept(script: Script) -> None:
    ended = script(FAILS + "for _ in range(12): launch(fails, engine='here')\n")
    assert ended.err.count("was never asked for") == 10
    assert ended.err.endswith("ipyelastic: 2 more failed and nobody asked\n")


def test_last_lines_are_a_file_where_there_is_no_notebook(script: Script) -> None:
    ended = script(HEAD + "launch(lambda: sys.exit(3), nproc=1).result()\n")
    found = re.search(r"  do      read its last lines \((.*/stderr\.log)\)\n", ended.err)
    assert found is not None, ended.err
    assert Path(found[1]).is_file()
    assert "%" not in ended.err
