"""What ranks start, in whatever session, is gone when their run is; whatever the run's end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import launch
from support import families
from support.gone import pids_in
from support.left import is_running
from support.waiting import wait_until

METHODS = ("forkserver", "spawn", "fork")
KINDS = {"exec": families.have_exec_child, "forked": families.have_forked_child, "daemon": families.have_daemon}
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of this test and its ranks."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _left(folder: Path, kind: str) -> list[int]:
    return [pid for pid in pids_in(folder, f"pid-{kind}-") if is_running(pid)]


def _check_gone(folder: Path, kind: str) -> None:
    try:
        # At once but for the kernel's own work on a process that SIGKILL has reached.
        wait_until(lambda: not _left(folder, kind), 0.5)
    except AssertionError:
        left = _left(folder, kind)
        for pid in left:
            families.end(pid)
        raise AssertionError(f"{kind} children outlived their run: {left}") from None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_children_are_gone_when_their_ranks_have_returned(folder: Path, method: str, kind: str) -> None:
    run = launch(families.have_then_return, args=(kind,), nproc=2, start_method=method)
    assert run.result(30) == [0, 1]
    assert len(pids_in(folder, f"pid-{kind}-")) == 2
    _check_gone(folder, kind)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_children_are_gone_when_the_run_was_stopped(folder: Path, method: str, kind: str) -> None:
    run = launch(families.have_then_block, args=(kind,), nproc=2, start_method=method)
    wait_until(lambda: len(pids_in(folder)) == 4, 30, "ranks and children")
    run.stop(grace_s=0.2)
    assert run.wait(20)
    _check_gone(folder, kind)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_children_are_gone_when_a_rank_was_killed(folder: Path, method: str, kind: str) -> None:
    run = launch(families.have_then_block, args=(kind,), nproc=2, start_method=method, grace=0.2)
    wait_until(lambda: len(pids_in(folder)) == 4, 30, "ranks and children")
    run.kill(1)
    assert run.wait(20)
    _check_gone(folder, kind)


def test_children_of_another_run_are_left_alone(folder: Path) -> None:
    blocked = launch(families.have_then_block, args=("daemon",), nproc=1)
    wait_until(lambda: len(pids_in(folder)) == 2, 30, "rank and daemon")
    kept: Any = pids_in(folder)
    assert launch(families.have_then_return, args=("exec",), nproc=2).result(20) == [0, 1]
    assert all(map(is_running, kept))
    blocked.stop(grace_s=0.0)
    assert blocked.wait(20)
    assert not any(map(is_running, kept))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_semaphores_of_ranks_are_gone_with_their_run(folder: Path, method: str, how: str) -> None:
    run = launch(families.have_semaphores_then_block, nproc=2, start_method=method)
    wait_until(lambda: len(list(folder.glob("semaphores-*"))) == 2, 30, "ranks with semaphores")
    names = [name for path in folder.glob("semaphores-*") for name in path.read_text().split()]
    assert len(names) == 4
    assert all(os.path.exists(f"/dev/shm/sem.{name}") for name in names)
    if how == "stopped":
        run.stop(grace_s=0.2)
    else:
        run.kill()
    assert run.wait(20)
    assert not [name for name in names if os.path.exists(f"/dev/shm/sem.{name}")]
