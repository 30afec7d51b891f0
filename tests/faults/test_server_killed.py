"""kill -9 of the fork server itself: its ranks and their children go, the person is told, the next launch works."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import launch
from ipyelastic.forkserver.client import ForkServers, servers
from ipyelastic.terms.errors import RunStopped, ServerError
from support import families
from support.families import parent_pid, rank_number
from support.gone import parent_of, pids_in, seconds_until_gone, thread_count
from support.kernels import Kernel
from support.left import is_running, marked_processes
from support.waiting import wait_until

_HERE = str(Path(__file__).parent.parent)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of this test and its ranks."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ours() -> ForkServers:
    """This process's fork servers."""
    return servers()


def _current(ours: ForkServers) -> int:
    return next(int(row["pid"]) for row in ours.describe() if row["role"] == "current")


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), what="the server's end")


@pytest.mark.slow
def test_the_cell_says_what_happened_and_the_next_one_works(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run(f"import sys; sys.path.insert(0, {_HERE!r})")
    sent = kernel.send("%%elastic_run -n 2\nfrom support import families\nprint('here')\nfamilies.have_all_and_block()")
    wait_until(lambda: len(pids_in(tmp_path)) == 10, 20, "two ranks with four children each")
    server = parent_of(pids_in(tmp_path, "pid-rank-")[0])
    _kill(server)
    result = kernel.collect(sent)
    assert result.error_name == "ServerError"
    first, second = result.error_value.splitlines()
    assert first == f"the fork server (pid {server}) was killed by signal 9"
    assert second == "all ranks of the run ended with it"
    assert "[rank 0] here" in result.out
    assert not [pid for pid in pids_in(tmp_path) if is_running(pid)], "the cell ended before its ranks"
    assert kernel.run("%elastic_run -n 2 rank * 10").value == "[0: 0, 1: 10]"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("body", ["have_all_and_block", "hold_the_gil", "block_deaf"])
def test_ranks_and_their_children_are_gone_with_it(
    folder: Path, ours: ForkServers, record_property: Any, body: str, method: str
) -> None:
    run = launch(getattr(families, body), nproc=2, start_method=method)
    wait_until(lambda: len(pids_in(folder)) == (10 if "all" in body else 2), 20, "all of them")
    server = _current(ours)
    took = seconds_until_gone(lambda: os.kill(server, 9), ours.mark, pids_in(folder), f"server killed, {method} {body}")
    record_property("cleanup_s", took)
    with pytest.raises(ServerError, match=rf"the fork server \(pid {server}\) was killed by signal 9"):
        run.result(10)
    assert launch(rank_number, nproc=2, start_method=method).result(20) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("seen", [1, 5])
def test_server_killed_while_it_starts_ranks(folder: Path, ours: ForkServers, seen: int) -> None:
    ours.start()
    server = _current(ours)
    run = launch(families.block, nproc=8)
    wait_until(lambda: len(marked_processes(ours.mark)) > seen, what="some of its ranks")
    seconds_until_gone(lambda: os.kill(server, 9), ours.mark, (), f"server killed with {seen} of 8 ranks started")
    with pytest.raises(ServerError, match="was killed by signal 9"):
        run.result(10)
    assert launch(rank_number, nproc=2).result(20) == [0, 1]


def test_two_runs_of_a_killed_server_both_say_so(folder: Path, ours: ForkServers) -> None:
    runs = [launch(families.block, nproc=2) for _ in range(2)]
    wait_until(lambda: len(pids_in(folder)) == 4, what="both runs")
    _kill(_current(ours))
    for run in runs:
        with pytest.raises(ServerError, match="was killed by signal 9"):
            run.result(10)
        assert run.status == "failed"


def test_what_other_ranks_returned_before_is_kept(folder: Path, ours: ForkServers) -> None:
    run = launch(families.value_or_block, nproc=2)
    wait_until(lambda: pids_in(folder) and run.results, what="the value of rank 0 and the start of rank 1")
    _kill(_current(ours))
    with pytest.raises(ServerError):
        run.result(10)
    assert run.results == {0: 41}


def test_server_killed_while_idle_costs_the_next_launch_nothing(ours: ForkServers) -> None:
    first = launch(parent_pid, nproc=2).result(10)[0]
    _kill(first)
    second = launch(parent_pid, nproc=2).result(10)[0]
    assert second != first


def test_server_killed_in_the_very_moment_of_a_launch(ours: ForkServers) -> None:
    """The kill is on its way while the run is handed over: the server may still look alive."""
    for _ in range(10):
        server = launch(parent_pid, nproc=1).result(10)[0]
        os.kill(server, signal.SIGKILL)
        run = launch(rank_number, nproc=2)
        error = run.exception(10)
        assert error is None or isinstance(error, ServerError), error
        assert launch(rank_number, nproc=2).result(10) == [0, 1]


@pytest.mark.slow
def test_what_was_preloaded_is_preloaded_again_after_a_server_was_killed(ours: ForkServers) -> None:
    def preloads() -> list[str]:
        return [name for row in ours.describe() if row["role"] == "current" for name in row["preload"]]

    ours.start(["numpy"])
    wait_until(lambda: "numpy" in preloads(), 60, "numpy to be warm")
    _kill(_current(ours))
    assert launch(rank_number, nproc=2).result(20) == [0, 1]
    wait_until(lambda: "numpy" in preloads(), 6, "numpy to be warm again")


@pytest.mark.slow
def test_warm_server_killed_while_preloading(ours: ForkServers, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "slow_package.py").write_text("import signal\nsignal.pause()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ours.start(["slow_package"])
    warming = next(int(row["pid"]) for row in ours.describe() if row["role"] == "warming")
    wait_until(lambda: thread_count(warming) == 2, what="the import")
    assert launch(rank_number, nproc=2).result(20) == [0, 1]
    _kill(warming)
    assert launch(rank_number, nproc=2).result(20) == [0, 1]
    assert [row["role"] for row in ours.describe()] == ["current"]


def test_a_server_asked_to_terminate_takes_its_ranks_along(folder: Path, ours: ForkServers) -> None:
    run = launch(families.block_deaf, nproc=2)
    wait_until(lambda: len(pids_in(folder)) == 2, what="both ranks")
    server = _current(ours)
    seconds_until_gone(lambda: os.kill(server, signal.SIGTERM), ours.mark, pids_in(folder), "server got SIGTERM")
    assert run.exception(10) is not None
    assert launch(rank_number, nproc=2).result(20) == [0, 1]


def test_stopped_server_is_no_dead_server(folder: Path, ours: ForkServers) -> None:
    """SIGSTOP and SIGCONT (a debugger, a suspended container) only delay."""
    server = launch(parent_pid, nproc=1).result(10)[0]
    os.kill(server, signal.SIGSTOP)
    try:
        run = launch(rank_number, nproc=2)
        assert not run.wait(0.05)
    finally:
        os.kill(server, signal.SIGCONT)
    assert run.result(20) == [0, 1]


@pytest.mark.parametrize("moment", ["before the launch", "in mid-run"])
def test_a_stopped_server_goes_on_when_it_is_to_stop_a_run(folder: Path, ours: ForkServers, moment: str) -> None:
    """Whoever wants the end of a run must not wait for a SIGCONT that nobody sends."""
    server = launch(parent_pid, nproc=1).result(10)[0]
    if moment == "before the launch":
        os.kill(server, signal.SIGSTOP)
        run = launch(families.block, nproc=2)
        run.stop()
    else:
        run = launch(families.block, nproc=2)
        wait_until(lambda: len(pids_in(folder)) == 2, 20, "both ranks")
        os.kill(server, signal.SIGSTOP)
        run.stop()
    try:
        with pytest.raises(RunStopped):
            run.result(20)
    finally:
        os.kill(server, signal.SIGCONT)
    assert launch(parent_pid, nproc=1).result(10) == [server]
