"""Owners that are no kernel: scripts, asyncio, pytest, processes that fork, threads that end. Nothing outlives them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import launch
from ipyelastic.forkserver.client import servers
from support.families import parent_pid, rank_number
from support.gates import Gate
from support.gone import pids_in, seconds_until_gone
from support.left import is_running, marked_processes
from support.packages import wait_and_say_parent
from support.waiting import wait_until

pytestmark = pytest.mark.slow

_HEAD = """
import os, signal, sys
from ipyelastic import launch
from ipyelastic.forkserver.client import servers

def leave(name, text=""):
    with open(name, "w") as file:
        file.write(text)

leave("mark", servers().mark)

def block():
    leave(f"pid-rank-{os.getpid()}")
    while True:
        signal.pause()

def until_they_block(count):
    while len([name for name in os.listdir() if name.startswith("pid-")]) < count:
        os.sched_yield()
"""

_NAMED = r"ipyelastic: <Run \w+: {}> has not ended; it ends with this process\n"

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a script in an empty folder."""
    started: list[subprocess.Popen[str]] = []

    def run(text: str) -> subprocess.Popen[str]:
        path = tmp_path / "script.py"
        path.write_text(_HEAD + text)
        command = [sys.executable, "-W", "error", str(path)]
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def _end(process: subprocess.Popen[str], folder: Path, within_s: float = 40.0) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; nothing of it is left at its very end."""
    out, err = process.communicate(timeout=within_s)
    left = marked_processes((folder / "mark").read_text())
    left += [pid for pid in pids_in(folder) if is_running(pid)]
    assert not left, f"left after the script: {left}"
    return process.returncode, out, err


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_a_scripts_own_functions_and_classes_travel(start: Start, tmp_path: Path, method: str) -> None:
    text = f"""
class Point:
    count = 7
    def __init__(self, x): self.x = x
    def doubled(self): return scaled(self)

def scaled(point):
    return Point(point.x * FACTOR)

FACTOR = 2

def work(point):
    return point.doubled(), int(os.environ["RANK"])

values = launch(work, args=(Point(21),), nproc=2, start_method={method!r}).result()
assert [rank for _, rank in values] == [0, 1]
assert all(type(point) is Point and point.x == 42 and point.count == 7 for point, _ in values)
print("fine")
"""
    assert _end(start(text), tmp_path) == (0, "fine\n", "")


def test_a_script_that_ends_with_a_run_alive_takes_it_along(start: Start, tmp_path: Path) -> None:
    text = "run = launch(block, nproc=2)\nuntil_they_block(2)\nprint('over')"
    code, out, err = _end(start(text), tmp_path)
    assert (code, out) == (0, "over\n")
    assert re.fullmatch(_NAMED.format("block on 2 ranks, running"), err)


def test_a_script_that_ends_right_after_launching(start: Start, tmp_path: Path) -> None:
    code, out, err = _end(start("launch(block, nproc=4)"), tmp_path)
    assert (code, out) == (0, "")
    assert re.fullmatch(_NAMED.format("block on 4 ranks, (starting|running)"), err)


def test_a_script_that_raises_with_a_run_alive(start: Start, tmp_path: Path) -> None:
    code, _, err = _end(start("run = launch(block, nproc=2)\nuntil_they_block(2)\n1 / 0"), tmp_path)
    assert code == 1
    *_, raised, named = err.splitlines()
    assert raised == "ZeroDivisionError: division by zero"
    assert re.fullmatch(_NAMED.format("block on 2 ranks, running"), named + "\n")
    assert err.count("Traceback") == 1


def test_a_script_whose_rank_failed_shows_the_failure_once(start: Start, tmp_path: Path) -> None:
    code, _, err = _end(start("def work(): 1 / 0\nlaunch(work, nproc=2).result()"), tmp_path)
    assert code == 1
    assert "ChildFailedError" in err
    assert "ZeroDivisionError: division by zero" in err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_script_that_a_signal_ends_with_a_run_alive(start: Start, tmp_path: Path, signum: signal.Signals) -> None:
    process = start("launch(block, nproc=2).result()")
    wait_until(lambda: len(pids_in(tmp_path)) == 2, 30, "both ranks")
    mark = (tmp_path / "mark").read_text()
    seconds_until_gone(lambda: process.send_signal(signum), mark, pids_in(tmp_path), f"script ended by {signum.name}")
    _, err = process.communicate(timeout=10)
    assert process.returncode == -signum
    assert ("KeyboardInterrupt" in err) == (signum == signal.SIGINT)


@pytest.mark.parametrize(
    "setting",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        "for number in (2, 1, 15, 10): signal.signal(number, signal.SIG_IGN)",
    ],
)
def test_an_owner_that_ignores_or_blocks_signals(start: Start, tmp_path: Path, setting: str) -> None:
    """Both come along to a new program: the server's own must not depend on the owner's."""
    text = f"""
{setting}
print(launch(int, args=("3",), nproc=2).result(30))
run = launch(block, nproc=2)
until_they_block(2)
run.stop()
print(type(run.exception(30)).__name__)
"""
    assert _end(start(text), tmp_path) == (0, "[0: 3, 1: 3]\nRunStopped\n", "")


def test_an_owner_that_dies_of_broken_pipes_does_not_die_of_a_killed_server(start: Start, tmp_path: Path) -> None:
    """`signal(SIGPIPE, SIG_DFL)`: how scripts end quietly in `script | head`."""
    text = """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
for _ in range(20):
    server = launch(os.getppid, nproc=1).result(30)[0]
    os.kill(server, signal.SIGKILL)
    launch(int, nproc=1).exception(30)
print(launch(int, nproc=2).result(30))
"""
    assert _end(start(text), tmp_path) == (0, "[0: 0, 1: 0]\n", "")


def test_os_exit_of_a_script_takes_its_run_along(start: Start, tmp_path: Path) -> None:
    process = start("launch(block, nproc=2)\nuntil_they_block(2)\nsys.stdin.close(); os._exit(3)")
    assert process.wait(40) == 3
    mark = (tmp_path / "mark").read_text()
    wait_until(lambda: not marked_processes(mark), 0.5 * 4, "everything to go")
    assert not [pid for pid in pids_in(tmp_path) if is_running(pid)]


@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)"])
def test_a_process_that_forks_after_launching(start: Start, tmp_path: Path, leave: str) -> None:
    """The child launches on a server of its own; its end does not stop what its parent runs."""
    text = f"""
def server():
    return os.getppid()

def wait(gate):
    os.close(os.open(gate, os.O_RDONLY))
    return os.getppid()

os.mkfifo("gate")
first = launch(server, nproc=2).result()
running = launch(wait, args=(os.path.abspath("gate"),), nproc=2)
while running.ranks[1].pid is None:
    os.sched_yield()
pid = os.fork()
if pid == 0:
    own = launch(server, nproc=2).result()
    assert own[0] == own[1] != first[0], own
    assert launch(server, nproc=2).result() == own
    {leave}
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert not running.done()
gate = os.open("gate", os.O_RDWR)
assert running.result() == first
assert launch(server, nproc=2).result() == first
print("fine")
"""
    code, out, err = _end(start(text), tmp_path)
    assert (code, out, err) == (0, "fine\n", "")


def test_a_forked_child_outlives_its_parents_run(start: Start, tmp_path: Path) -> None:
    """The parent is killed while a child that launched, too, lives on: each has its own."""
    text = """
launch(int, nproc=1).result()
if os.fork() == 0:
    leave("child-mark", servers().mark)
    launch(block, nproc=2).result()
until_they_block(2)
launch(block, nproc=2).result()
"""
    process = start(text)
    wait_until(lambda: len(pids_in(tmp_path)) == 4, 30, "ranks of both")
    mark, child_mark = (tmp_path / "mark").read_text(), (tmp_path / "child-mark").read_text()
    assert mark != child_mark
    kept = marked_processes(child_mark)
    child = next(int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                 if int(pid) not in marked_processes(mark))  # fmt: skip
    try:
        seconds_until_gone(process.kill, mark, (), "the parent of a forked owner killed")
        assert all(map(is_running, kept))
    finally:
        seconds_until_gone(lambda: os.kill(child, signal.SIGKILL), child_mark, [child], "the forked owner killed")


def test_asyncio_code_awaits_runs() -> None:
    async def one() -> Any:
        return await launch(rank_number, nproc=2)

    async def two() -> Any:
        return await asyncio.gather(launch(rank_number, nproc=2), launch(rank_number, nproc=3))

    assert asyncio.run(one()) == [0, 1]
    assert asyncio.run(two()) == [[0, 1], [0, 1, 2]]


def test_a_loop_goes_on_while_it_awaits(tmp_path: Path) -> None:
    async def scene(gate: Gate) -> Any:
        run = launch(wait_and_say_parent, args=(gate.path,), nproc=2)
        asyncio.get_running_loop().call_soon(gate.open)  # never, were the loop blocked
        return await run

    with Gate(tmp_path / "gate") as gate:
        assert len(set(asyncio.run(scene(gate)))) == 1


def test_an_await_that_is_cancelled_leaves_the_run_alone(tmp_path: Path) -> None:
    async def scene(gate: Gate) -> Any:
        run = launch(wait_and_say_parent, args=(gate.path,), nproc=2)
        waiting = asyncio.ensure_future(_awaited(run))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not run.done()
        gate.open()
        return await run

    with Gate(tmp_path / "gate") as gate:
        assert len(asyncio.run(scene(gate))) == 2


async def _awaited(run: Any) -> Any:
    return await run


def test_functions_of_a_test_module_go_by_value(tmp_path: Path, start: Start) -> None:
    """pytest under --import-mode=importlib: ranks cannot import the module, and need not."""
    (tmp_path / "mark").write_text("none")
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "test_inside.py").write_text(
        "import os\nfrom dataclasses import dataclass\nfrom ipyelastic import launch\nHERE = os.getpid()\n\n"
        "@dataclass\nclass Pair:\n    rank: int\n    made_in: int\n\n"
        "def pair():\n    return Pair(int(os.environ['RANK']), HERE)\n\n"
        "def test_it():\n    values = launch(pair, nproc=2).result(60)\n"
        "    assert values == [Pair(0, HERE), Pair(1, HERE)]\n    assert type(values[0]) is Pair\n"
    )
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path / "suite", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_runs_go_on_when_the_thread_that_launched_them_has_ended(tmp_path: Path) -> None:
    runs: list[Any] = []
    with Gate(tmp_path / "gate") as gate:
        for method in ("forkserver", "spawn", "fork"):
            run_it = lambda method=method: runs.append(
                launch(wait_and_say_parent, args=(gate.path,), nproc=2, start_method=method)
            )
            thread = threading.Thread(target=run_it)
            thread.start()
            thread.join()
        for run in runs:
            wait_until(lambda run=run: run.ranks[1].pid, 20, "its ranks")
        assert not any(run.done() for run in runs)
        gate.open()
        server = next(row["pid"] for row in servers().describe() if row["role"] == "current")
        parents = [set(run.result(20)) for run in runs]
        assert parents[:2] == [{server}, {server}]
        assert len(parents[2]) == 1  # the keeper of the forked run
        assert not parents[2] & {server, os.getpid()}
    assert launch(parent_pid, nproc=1).result(20) == [server]
