"""Many at once and many in a row: runs, threads, kernels; what they cost stays flat."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import launch
from ipyelastic.forkserver.client import servers
from support.endings import end
from support.families import rank_number
from support.gates import Gate
from support.kernels import Kernel
from support.left import is_running, marked_processes
from support.packages import wait_and_say_parent
from support.waiting import wait_until

pytestmark = pytest.mark.slow


def test_three_runs_at_once_from_three_threads(tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate, ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(lambda: launch(wait_and_say_parent, args=(gate.path,), nproc=2)) for _ in range(3)]
        runs = [job.result() for job in jobs]
        for run in runs:
            wait_until(lambda run=run: run.ranks[1].pid, what="its ranks")
        pids = [view.pid for run in runs for view in run.ranks]
        assert len(set(pids)) == 6
        assert all(map(is_running, pids))
        assert sum(row["runs"] for row in servers().describe()) == 3
        gate.open()
        assert len({pid for run in runs for pid in run.result(20)}) == 1, "one server forked them all"


def test_stopping_one_of_three_leaves_the_others(tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        runs = [launch(wait_and_say_parent, args=(gate.path,), nproc=2) for _ in range(3)]
        for run in runs:
            wait_until(lambda run=run: run.ranks[1].pid, what="its ranks")
        runs[1].stop()
        assert runs[1].wait(20)
        assert [run.status for run in runs] == ["running", "stopped", "running"]
        gate.open()
        assert [len(run.result(20)) for run in (runs[0], runs[2])] == [2, 2]


def test_twenty_threads_launch_at_once() -> None:
    barrier = threading.Barrier(20)

    def one(number: int) -> Any:
        barrier.wait()
        return launch(lambda: (number, rank_number()), nproc=2).result(60)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == [[(number, 0), (number, 1)] for number in range(20)]
    assert [row["role"] for row in servers().describe()] == ["current"]


def test_threads_that_launch_with_environments_of_their_own() -> None:
    """`--env` names that are read at start mean spawn; all methods side by side."""

    def one(number: int) -> Any:
        method = ("forkserver", "spawn", "fork")[number % 3]
        own = {"MINE": str(number)}
        return launch(os.getenv, args=("MINE",), nproc=2, start_method=method, env=own).result(60)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(9))) == [[str(number)] * 2 for number in range(9)]


def test_two_kernels_in_one_folder_run_cells_at_the_same_time(
    new_kernel: Callable[..., Kernel], tmp_path: Path
) -> None:
    kernels = [new_kernel(tmp_path), new_kernel(tmp_path)]
    for number, kernel in enumerate(kernels):
        assert kernel.run(f"%load_ext ipyelastic\nmine = {number}").ok
    with Gate(tmp_path / "gate") as gate:
        cell = f"%%elastic_run -n 2\nprint('here', mine)\nopen({gate.path!r}, 'rb').close()\nmine * 10 + rank"
        sent = [kernel.send(cell) for kernel in kernels]
        seen = [kernel.collect(one, until="[rank 1] here").out for kernel, one in zip(kernels, sent, strict=True)]
        gate.open()
        results = [kernel.collect(one) for kernel, one in zip(kernels, sent, strict=True)]
    assert [result.value for result in results] == ["[0: 0, 1: 1]", "[0: 10, 1: 11]"]
    for number, text in enumerate(seen):
        assert f"[rank 1] here {number}" in text
        assert f"here {1 - number}" not in text
    marks = [kernel.owner_mark() for kernel in kernels]
    kernels[0].kill()
    wait_until(lambda: not marked_processes(marks[0]), what="all of the first kernel's")
    assert kernels[1].run("%elastic_run -n 2 rank").value == "[0: 0, 1: 1]"


def _rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def _cost(server: int) -> dict[str, int]:
    gc.collect()
    current = servers()._current
    spares = 0 if current is None else len(current._handover._ready)  # announced by now, or not yet
    ahead = servers()._ahead  # told by now, or not yet
    spares += 0 if ahead is None else len(ahead.delivery._held) + 2
    return {
        "own fds": len(os.listdir("/proc/self/fd")) - spares,
        "own threads": len(os.listdir("/proc/self/task")),
        "server fds": len(os.listdir(f"/proc/{server}/fd")),
        "server threads": len(os.listdir(f"/proc/{server}/task")),
        "own KiB": _rss_kib(os.getpid()),
        "server KiB": _rss_kib(server),
    }


@pytest.mark.parametrize(("outcome", "times"), [("value", 200), ("failure", 60)])
def test_many_launches_in_a_row_cost_nothing_that_stays(record_property: Any, outcome: str, times: int) -> None:
    def once() -> None:
        run = launch(end, args=("returns" if outcome == "value" else "raises",), nproc=2)
        assert run.wait(20)
        assert run.status == ("succeeded" if outcome == "value" else "failed")

    for _ in range(20):
        once()
    server = next(int(row["pid"]) for row in servers().describe())
    before = _cost(server)
    counted = [name for name in before if not name.endswith("KiB")]
    for _ in range(times):
        once()
    # A run's thread says that it is done and then ends, and the server closes its end later still: of the last run
    # here, and of the last one before the first count, which may be one too high for that.
    wait_until(lambda: all(_cost(server)[name] <= before[name] for name in counted), 20, "the last run to be cleared")
    after = _cost(server)
    grown = {name: after[name] - before[name] for name in before}
    print(outcome, grown)
    record_property("grown", grown)
    assert next(int(row["pid"]) for row in servers().describe()) == server
    assert all(grown[name] <= 0 for name in counted), grown
    assert grown["own KiB"] < 4096, grown
    assert grown["server KiB"] < 2048, grown


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_launches_by_other_methods_leave_no_descriptors(method: str) -> None:
    def once() -> None:
        assert launch(rank_number, nproc=2, start_method=method).result(30) == [0, 1]

    once()
    server = next((int(row["pid"]) for row in servers().describe()), os.getpid())
    before = _cost(server)
    counted = [name for name in before if not name.endswith("KiB")]
    for _ in range(8):
        once()
    # A run's thread says that it is done and then ends, and the server closes its end later still: of the last run
    # here, and of the last one before the first count, which may be one too high for that.
    wait_until(lambda: all(_cost(server)[name] <= before[name] for name in counted), 20, "the last run to be cleared")


def test_many_ranks() -> None:
    assert launch(rank_number, nproc=64).result(60) == list(range(64))
