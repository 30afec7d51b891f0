"""A rank that somebody killed is the cause, also when a peer that lost its connection to it is heard of first."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from ipyelastic import ChildFailedError, launch
from support.gates import Gate, wait_at
from support.waiting import wait_until


def _is_zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _is_over(pid: int) -> bool:
    """The owner hears of rank 0 and wakes the server, which may have reaped both before we look."""
    try:
        return _is_zombie(pid)
    except psutil.NoSuchProcess:
        return True


def _lose(folder: str) -> None:
    """Rank 1 is killed while nobody can reap it; rank 0 notices that its connection is gone."""
    if os.environ["RANK"] == "1":
        Path(folder, "killed.new").write_text(str(os.getpid()))
        os.rename(f"{folder}/killed.new", f"{folder}/killed")
        wait_at(f"{folder}/gate")
        return
    wait_until(lambda: Path(folder, "killed").exists(), 60, "rank 1")
    peer = int(Path(folder, "killed").read_text())
    os.kill(os.getppid(), signal.SIGSTOP)
    os.kill(peer, signal.SIGKILL)
    wait_until(lambda: _is_zombie(peer), 60, "the end of rank 1")
    raise ConnectionResetError("connection closed by peer")


@pytest.mark.slow
def test_the_killed_rank_is_the_root_cause(tmp_path: Path) -> None:
    with Gate(tmp_path / "gate"):
        run = launch(_lose, args=(str(tmp_path),), nproc=2, ui="none")
        wait_until(lambda: all(view.pid for view in run.ranks), 60, "both ranks")
        pids = [view.pid for view in run.ranks]
        server = psutil.Process(pids[0]).ppid()
        wait_until(lambda: all(map(_is_over, pids)), 60, "the end of both")
        os.kill(server, signal.SIGCONT)
        with pytest.raises(ChildFailedError) as raised:
            run.result(timeout=60)
    failures = raised.value.failures
    assert [(rank, failures[rank].is_stopped) for rank in sorted(failures)] == [(0, False), (1, False)]
    rank, failure = raised.value.get_first_failure()
    assert (rank, failure.exitcode, failure.signal_name()) == (1, -9, "SIGKILL")
    assert failures[0].exception.type_name == "ConnectionResetError"
