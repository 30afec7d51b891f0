"""kill -9 of a kernel, at every moment that matters: nothing of its servers, ranks and their children is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.gone import children_of, has_mapped, pids_in, seconds_until_gone, thread_count
from support.kernels import Kernel
from support.left import is_running, marked_processes
from support.waiting import wait_until

pytestmark = pytest.mark.slow

_HERE = str(Path(__file__).parent.parent)
Record = Callable[[str, Any], None]


def _prepare(kernel: Kernel) -> str:
    """The tests' bodies within reach of the notebook; returns the owner's mark."""
    assert kernel.run(f"import sys; sys.path.insert(0, {_HERE!r})\nfrom support import families\n").ok
    mark = kernel.owner_mark()
    wait_until(lambda: len(marked_processes(mark)) == 1, what="the bare server alone")
    return mark


def _kill_and_check(kernel: Kernel, mark: str, record: Record, pids: list[int], what: str) -> None:
    record("cleanup_s", seconds_until_gone(kernel.kill, mark, pids, what))


def _running_cell(kernel: Kernel, folder: Path, body: str, expected: int, options: str = "-n 2") -> list[int]:
    kernel.send(f"%%elastic_run {options}\nfrom support import families\n{body}")
    wait_until(lambda: len(pids_in(folder)) == expected, 40, f"{expected} processes")
    return pids_in(folder)


def test_kernel_killed_while_idle(kernel: Kernel, record_property: Record) -> None:
    mark = _prepare(kernel)
    _kill_and_check(kernel, mark, record_property, [], "idle, before any run")


def test_kernel_killed_while_idle_after_a_run(kernel: Kernel, record_property: Record) -> None:
    mark = _prepare(kernel)
    assert kernel.run("%%elastic_run -n 2\nrank").ok
    _kill_and_check(kernel, mark, record_property, [], "idle, after a run")


def test_kernel_killed_while_a_server_waits_in_an_import(
    kernel: Kernel, tmp_path: Path, record_property: Record
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "slow_package.py").write_text("import signal\nsignal.pause()\n")
    mark = _prepare(kernel)
    kernel.run(
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from ipyelastic.forkserver.client import servers\nservers().start(['slow_package'])"
    )
    warming = max(marked_processes(mark))
    wait_until(lambda: thread_count(warming) == 2, what="the import, with its watching thread")
    _kill_and_check(kernel, mark, record_property, [warming], "mid-preload, in a blocking import")


@pytest.mark.torch
@pytest.mark.parametrize("moment", ["at once", "importing", "loading libraries"])
def test_kernel_killed_while_a_server_preloads_torch(kernel: Kernel, record_property: Record, moment: str) -> None:
    mark = _prepare(kernel)
    assert kernel.run("import torch").ok
    bare, warming = sorted(marked_processes(mark))
    assert warming in children_of(kernel.pid)
    if moment == "importing":
        wait_until(lambda: thread_count(warming) == 2, what="the import, with its watching thread")
    elif moment == "loading libraries":
        wait_until(lambda: has_mapped(warming, "libtorch_cpu"), what="dlopen of torch, which holds the interpreter")
    _kill_and_check(kernel, mark, record_property, [bare, warming], f"mid-preload of torch, {moment}")


@pytest.mark.parametrize("seen", [1, 2, 4, 8])
def test_kernel_killed_in_mid_launch(kernel: Kernel, record_property: Record, seen: int) -> None:
    mark = _prepare(kernel)
    servers = set(marked_processes(mark))
    kernel.send("%%elastic_run -n 8\nimport signal\nwhile True: signal.pause()")
    wait_until(lambda: len(set(marked_processes(mark)) - servers) >= seen, what=f"rank process {seen} of 8")
    _kill_and_check(kernel, mark, record_property, marked_processes(mark), f"mid-launch, {seen} of 8 ranks seen")


@pytest.mark.parametrize("until", ["True", "os.path.exists(run.ranks[0].stdout_path)", "run.ranks[0].pid"])
def test_kernel_that_kills_itself_while_it_hands_a_run_over(
    kernel: Kernel, record_property: Record, until: str
) -> None:
    mark = _prepare(kernel)
    kernel.run("from ipyelastic import launch\nimport os, signal\ndef wait():\n    while True: signal.pause()")

    def strike() -> None:
        kernel.send(f"run = launch(wait, nproc=8)\nwhile not ({until}): pass\nos.kill(os.getpid(), 9)")
        wait_until(lambda: not is_running(kernel.pid), what="the kernel's own kill -9")

    record_property("cleanup_s", seconds_until_gone(strike, mark, [kernel.pid], f"killed by itself at: {until}"))


def test_ranks_of_a_killed_kernel_are_asked_before_they_are_killed(kernel: Kernel, tmp_path: Path) -> None:
    """server.OWNER_GONE_GRACE_S: a moment for handlers of SIGTERM, for the last byte of a checkpoint, say."""
    mark = _prepare(kernel)
    pids = _running_cell(kernel, tmp_path, "families.block_tidily()", 2)
    seconds_until_gone(kernel.kill, mark, pids, "mid-run, ranks that answer SIGTERM")
    assert sorted(pids_in(tmp_path, "tidied-")) == sorted(pids)


@pytest.mark.parametrize("body", ["block", "block_deaf", "hold_the_gil", "hold_the_gil_deaf"])
def test_kernel_killed_in_mid_run(kernel: Kernel, tmp_path: Path, record_property: Record, body: str) -> None:
    mark = _prepare(kernel)
    pids = _running_cell(kernel, tmp_path, f"families.{body}()", 2)
    _kill_and_check(kernel, mark, record_property, pids, f"mid-run, {body}")


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("body", ["block", "hold_the_gil"])
def test_kernel_killed_in_mid_run_of_another_start_method(
    kernel: Kernel, tmp_path: Path, record_property: Record, method: str, body: str
) -> None:
    mark = _prepare(kernel)
    pids = _running_cell(kernel, tmp_path, f"families.{body}()", 2, f"-n 2 --start-method {method}")
    _kill_and_check(kernel, mark, record_property, pids, f"mid-run, {method}, {body}")


def test_kernel_killed_while_forked_children_of_its_own_live(
    kernel: Kernel, tmp_path: Path, record_property: Record
) -> None:
    mark = _prepare(kernel)
    made = kernel.value(
        "(lambda os, signal: [pid if (pid := os.fork()) else signal.pause() for _ in range(3)])"
        "(__import__('os'), __import__('signal'))"
    )
    try:
        pids = _running_cell(kernel, tmp_path, "families.block()", 2)
        late = [pid for pid in children_of(kernel.pid) if pid not in made]
        _kill_and_check(kernel, mark, record_property, [*pids, *late], "with forked children of the kernel")
        assert all(map(is_running, made)), "the kernel's own children are not ours to end"
    finally:
        for pid in made:
            os.kill(pid, signal.SIGKILL)


def test_kernel_that_forks_during_a_run_is_killed(kernel: Kernel, tmp_path: Path, record_property: Record) -> None:
    """The children hold whatever descriptors of that run a fork does not close."""
    mark = _prepare(kernel)
    kernel.run("from ipyelastic import launch\nimport os, signal\nrun = launch(families.block, nproc=2)")
    wait_until(lambda: len(pids_in(tmp_path)) == 2, what="both ranks")
    made = kernel.value("[pid if (pid := os.fork()) else signal.pause() for _ in range(2)]")
    try:
        _kill_and_check(kernel, mark, record_property, pids_in(tmp_path), "children forked during the run")
    finally:
        for pid in made:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_kernel_killed_with_grandchildren_that_left_their_session(
    kernel: Kernel, tmp_path: Path, record_property: Record, method: str
) -> None:
    mark = _prepare(kernel)
    pids = _running_cell(kernel, tmp_path, "families.have_all_and_block()", 10, f"-n 2 --start-method {method}")
    _kill_and_check(kernel, mark, record_property, pids, f"two ranks with four children each, {method}")


def test_kernel_killed_with_two_runs_alive(kernel: Kernel, tmp_path: Path, record_property: Record) -> None:
    mark = _prepare(kernel)
    kernel.run("from ipyelastic import launch\nruns = [launch(families.have_all_and_block, nproc=2) for _ in '12']")
    wait_until(lambda: len(pids_in(tmp_path)) == 20, 20, "two runs of two ranks with four children each")
    _kill_and_check(kernel, mark, record_property, pids_in(tmp_path), "two runs alive, 20 processes")
