"""Ranks forked ahead: there for the next launch, like any other rank in it, and gone with whoever they belong to."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import launch
from ipyelastic.forkserver.client import ForkServers, servers
from ipyelastic.terms.errors import ChildFailedError, OptionError, ServerError
from support import families
from support.families import parent_pid, rank_number
from support.gates import Gate, wait_at
from support.gone import children_of, parent_of, pids_in, seconds_until_gone
from support.kernels import Kernel
from support.left import is_running
from support.packages import loaded_modules
from support.surroundings import leave_traces, open_files, random_number, see_traces, surroundings
from support.waiting import wait_until


@pytest.fixture
def ours() -> ForkServers:
    """This process's fork servers."""
    return servers()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of this test and its ranks."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _current(ours: ForkServers) -> dict[str, Any]:
    return next(row for row in ours.describe() if row["role"] == "current")


def _waiting(ours: ForkServers, count: int) -> list[int]:
    """The pids of `count` spares, once there are as many; no run may be alive."""
    wait_until(lambda: _current(ours)["spares"] == count, what=f"{count} spares")
    server = _current(ours)["pid"]
    wait_until(lambda: len(_running_children(server)) == count, what="the last run's ranks to be reaped")
    spares = _running_children(server)
    wait_until(lambda: all(map(_is_waiting, spares)), what="each to wait for its call")
    wait_until(lambda: _in_hand(ours) == set(spares), what="each to be announced")
    return spares


def _in_hand(ours: ForkServers) -> set[int]:
    """The spares that the next launch would take."""
    assert ours._current is not None
    ours._current.trim()
    return {pid for pid, _ in ours._current._handover._ready if is_running(pid)}


def _is_gone(pid: int) -> bool:
    return not is_running(pid)


def _running_children(pid: int) -> list[int]:
    return [child for child in children_of(pid) if is_running(child)]


def _is_waiting(pid: int) -> bool:
    """Whether it has gone through its motions and waits: of its parent's many descriptors it has one socket left, and
    the ranks' end of the value channel if it was told something ahead."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "S" and sum(name.startswith("socket:") for name in open_files(pid)) in (1, 2)


def _after_a_launch(ours: ForkServers, nproc: int = 2) -> list[int]:
    assert launch(rank_number, nproc=nproc).result(20) == list(range(nproc))
    return _waiting(ours, nproc)


def test_the_next_launch_takes_what_waits_and_others_take_its_place(ours: ForkServers) -> None:
    before = _after_a_launch(ours)
    assert sorted(launch(os.getpid, nproc=2).result(20)) == sorted(before)
    assert not set(_waiting(ours, 2)) & set(before)


def test_before_the_first_launch_there_is_none(ours: ForkServers) -> None:
    ours.start()
    assert (_current(ours)["spares"], ours._current.wait_ready(20)) == (0, True)  # type: ignore[union-attr]
    assert _running_children(_current(ours)["pid"]) == []


def test_ranks_that_no_spare_is_left_for_are_forked(ours: ForkServers) -> None:
    before = _after_a_launch(ours)
    pids = launch(os.getpid, nproc=5).result(20)
    assert set(before) < set(pids)
    assert len(set(pids)) == 5


def test_a_smaller_launch_leaves_fewer_waiting(ours: ForkServers) -> None:
    _after_a_launch(ours, 4)
    _after_a_launch(ours, 1)


@pytest.mark.parametrize("tz", ["Asia/Tokyo", "America/Lima"])
def test_a_rank_cannot_be_told_from_one_that_was_forked_at_the_call(
    ours: ForkServers, folder: Path, monkeypatch: pytest.MonkeyPatch, tz: str
) -> None:
    waiting = _after_a_launch(ours)
    monkeypatch.setenv("NEW_SINCE", "the spares were forked")
    monkeypatch.setenv("TZ", tz)
    monkeypatch.delenv("HOME")
    monkeypatch.syspath_prepend(str(folder))
    former = os.umask(0o027)
    try:
        run = launch(surroundings, nproc=2)
        spare = run.result(20)
        assert [view.pid for view in run.ranks] == waiting
        monkeypatch.setenv("IPYELASTIC_SPARES", "0")
        assert launch(rank_number, nproc=1).result(20) == [0]
        _waiting(ours, 0)
        forked = launch(surroundings, nproc=2).result(20)
    finally:
        os.umask(former)
    for one, other in zip(spare, forked, strict=True):
        assert one.pop("environment") == {k: v for k, v in other.pop("environment").items() if k != "IPYELASTIC_SPARES"}
        assert one == other
    assert (one["umask"], one["folder"], one["is marked outside as inside"]) == ("0027", str(folder), True)


def test_nothing_of_one_run_is_to_be_seen_in_the_next(ours: ForkServers, folder: Path) -> None:
    _after_a_launch(ours)
    first = launch(leave_traces, nproc=2).result(20)
    waiting = _waiting(ours, 2)
    assert not set(first) & set(waiting)
    assert launch(see_traces, nproc=2).result(20) == [[], []]


def test_random_numbers_differ_by_rank_and_run_and_repeat_with_a_seed(ours: ForkServers) -> None:
    seen = [number for _ in range(3) for number in launch(random_number, nproc=2).result(20)]
    assert len(set(seen)) == 6
    _waiting(ours, 2)
    first = launch(random_number, nproc=2, seed=7).result(20)
    _waiting(ours, 2)
    assert launch(random_number, nproc=2, seed=7).result(20) == first
    assert len({*first, *seen}) == 8


def test_streams_without_a_file_are_the_owners_in_a_spare_too(tmp_path: Path) -> None:
    code = (
        "from ipyelastic.contexts.start import start_processes\n"
        "from ipyelastic.output.logs import DefaultLogsSpecs\n"
        "from ipyelastic.forkserver.client import servers\n"
        "import time\n"
        "for turn in (1, 2):\n"
        "    context = start_processes('echo', print, {0: (f'turn {turn}',)}, {0: {}}, DefaultLogsSpecs(),"
        " start_method='forkserver')\n"
        "    assert not context.wait().is_failed()\n"
        "    while servers().describe()[0]['spares'] != 1: time.sleep(0.01)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.stdout.split("\n"), done.stderr) == (["turn 1", "turn 2", ""], "")


def test_while_a_run_lives_new_spares_have_nothing_of_it(ours: ForkServers, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        run = launch(wait_at, args=(gate.path,), nproc=2)
        wait_until(lambda: run.ranks[1].pid, what="its ranks")
        server = _current(ours)["pid"]
        wait_until(lambda: len(_running_children(server)) == 4, what="two spares beside the run")
        ranks = {view.pid for view in run.ranks}
        spares = [pid for pid in _running_children(server) if pid not in ranks]
        wait_until(lambda: all(map(_is_waiting, spares)), what="each to wait for its call")
        assert [len(open_files(pid)) for pid in spares] == [4, 4]  # 0 to 2, the socket
        gate.open()
        assert run.result(20) == [None, None]
        assert _waiting(ours, 2) == spares


def test_what_a_run_leaves_behind_is_ended_and_the_spares_are_not(
    ours: ForkServers, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYELASTIC_SPARES", "3")
    before = _after_a_launch(ours, 3)
    run = launch(families.have_all_and_block, nproc=1)
    wait_until(lambda: len(pids_in(folder)) == 5, 20, "a rank with children in and out of its session")
    run.kill()
    assert run.exception(20) is not None
    assert not [pid for pid in pids_in(folder) if is_running(pid)]
    assert all(is_running(pid) for pid in before[1:])


# ------------------------------------------------------------------------------------------------------- turned off


def test_none_at_all_when_they_are_turned_off(ours: ForkServers, monkeypatch: pytest.MonkeyPatch) -> None:
    _after_a_launch(ours)
    monkeypatch.setenv("IPYELASTIC_SPARES", "0")
    assert launch(rank_number, nproc=2).result(20) == [0, 1]
    assert _waiting(ours, 0) == []


def test_as_many_as_the_person_says(ours: ForkServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYELASTIC_SPARES", "3")
    assert launch(rank_number, nproc=1).result(20) == [0]
    assert len(_waiting(ours, 3)) == 3


def test_a_number_that_is_none_is_refused_with_what_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("many", "-3"):
        monkeypatch.setenv("IPYELASTIC_SPARES", value)
        with pytest.raises(OptionError) as raised:
            launch(rank_number, nproc=1)
        said = f"IPYELASTIC_SPARES={value!r}: expected how many ranks to fork ahead: a whole number, 0 for none"
        assert str(raised.value) == said
        assert [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)][1:] in ([], ["launch"])


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_start_methods_take_none(ours: ForkServers, method: str) -> None:
    before = _after_a_launch(ours)
    pids = launch(os.getpid, nproc=2, start_method=method).result(20)
    assert not set(pids) & set(before)
    assert _waiting(ours, 2) == before


# ------------------------------------------------------------------------------------------------------- successors


@pytest.mark.slow
def test_a_successor_has_spares_with_what_it_preloaded(ours: ForkServers) -> None:
    former = _current(ours)["pid"] if _after_a_launch(ours) else 0
    gone = _running_children(former)
    ours.start(["numpy"])
    wait_until(lambda: _current(ours)["preload"] == ["numpy"], 60, "numpy to be warm")
    spares = _waiting(ours, 2)
    assert set(map(parent_of, spares)) == {_current(ours)["pid"]}
    run = launch(loaded_modules, nproc=2)
    assert all("numpy" in names for names in run.result(20))
    assert sorted(view.pid for view in run.ranks) == sorted(spares)
    wait_until(lambda: not any(map(is_running, [former, *gone])), what="the former server and its spares to leave")


def test_what_they_cost_is_told(ours: ForkServers, monkeypatch: pytest.MonkeyPatch) -> None:
    _after_a_launch(ours, 4)
    with_spares = _current(ours)
    assert 5 < with_spares["pss_mb"] < 100
    monkeypatch.setenv("IPYELASTIC_SPARES", "0")
    launch(rank_number, nproc=1).result(20)
    _waiting(ours, 0)
    assert 1 < _current(ours)["pss_mb"] < with_spares["pss_mb"]


@pytest.mark.slow
def test_the_status_shows_them(kernel: Kernel) -> None:
    assert kernel.run("%elastic_run -n 2 rank").ok

    def status() -> str:
        return kernel.run("%elastic_status").out

    wait_until(lambda: ", 2 ranks ready; " in status(), what="the spares in the status")


# ------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_that_dies_while_it_waits_is_replaced_silently(ours: ForkServers, signum: int) -> None:
    before = _after_a_launch(ours)
    os.kill(before[0], signum)
    wait_until(lambda: not is_running(before[0]), what="its end")
    after = _waiting(ours, 2)
    assert before[1] in after
    run = launch(rank_number, nproc=2)
    assert run.result(20) == [0, 1]
    assert sorted(view.pid for view in run.ranks) == sorted(after)
    assert ours._current is not None
    assert os.pread(ours._current._errors, 4000, 0) == b""


def test_those_that_died_do_not_count_as_waiting(ours: ForkServers) -> None:
    for _ in range(4):
        for pid in _after_a_launch(ours):
            os.kill(pid, signal.SIGKILL)
            wait_until(functools.partial(_is_gone, pid), what="its end")
        after = _waiting(ours, 2)
        assert sorted(launch(os.getpid, nproc=2).result(20)) == sorted(after)


def test_the_call_of_one_that_is_dead_already_goes_to_another(ours: ForkServers) -> None:
    """The server has not been able to notice: it is stopped when the spare dies, and goes on with the launch."""
    spares, server = _after_a_launch(ours), _current(ours)["pid"]
    os.kill(server, signal.SIGSTOP)
    try:
        os.kill(spares[0], signal.SIGKILL)
        wait_until(lambda: not is_running(spares[0]), what="its end")
        run = launch(rank_number, nproc=2)
        assert not run.wait(0.05)
    finally:
        os.kill(server, signal.SIGCONT)
    assert run.result(20) == [0, 1]
    assert spares[0] not in [view.pid for view in run.ranks]


def test_one_that_is_killed_with_its_call_in_hand_is_a_killed_rank(ours: ForkServers) -> None:
    """It is stopped, so the call is in its socket and nothing of it has run."""
    spares = _after_a_launch(ours)
    os.kill(spares[0], signal.SIGSTOP)
    run = launch(wait_for_ever, nproc=2)
    wait_until(lambda: run.ranks[1].pid, what="the server's word that both are started")
    os.kill(spares[0], signal.SIGKILL)
    error = run.exception(20)
    assert isinstance(error, ChildFailedError)
    (first,) = [rank for rank, failure in error.failures.items() if not failure.is_stopped]
    assert (error.failures[first].exitcode, error.failures[first].pid) == (-signal.SIGKILL, spares[0])
    assert launch(rank_number, nproc=2).result(20) == [0, 1]
    assert len(_waiting(ours, 2)) == 2


def wait_for_ever() -> None:
    """Until it is ended."""
    while True:
        signal.pause()


def test_a_stop_reaches_one_that_has_its_call_and_has_not_begun(ours: ForkServers) -> None:
    spares = _after_a_launch(ours)
    os.kill(spares[0], signal.SIGSTOP)
    run = launch(wait_for_ever, nproc=2)
    wait_until(lambda: run.ranks[1].pid, what="the server's word that both are started")
    run.stop()
    assert run.exception(20) is not None
    assert run.status == "stopped"
    assert not any(map(is_running, spares))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_they_go_with_their_server(ours: ForkServers, signum: int) -> None:
    spares, server = _after_a_launch(ours, 4), _current(ours)["pid"]
    seconds_until_gone(lambda: os.kill(server, signum), ours.mark, spares, f"server with spares got {signum}")
    assert launch(rank_number, nproc=2).result(20) == [0, 1]


def test_they_go_when_the_servers_are_stopped(ours: ForkServers) -> None:
    spares = _after_a_launch(ours, 4)
    seconds_until_gone(ours.stop, ours.mark, spares, "stop")


def test_a_server_that_dies_at_the_handing_over_says_so(ours: ForkServers) -> None:
    for _ in range(5):
        _after_a_launch(ours)
        os.kill(_current(ours)["pid"], signal.SIGKILL)
        error = launch(rank_number, nproc=2).exception(20)
        assert error is None or isinstance(error, ServerError), error
    _after_a_launch(ours)


_OWNER = """
import json, os, sys, time
from ipyelastic import launch
from ipyelastic.forkserver.client import servers
if __name__ == "__main__":
    launch(os.getpid, nproc=3).result()
    while servers().describe()[0]["spares"] != 3: time.sleep(0.01)
    print(json.dumps([servers().mark, servers().describe()[0]["pid"]]), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    """Another process with three spares; it ends when its stdin is closed."""
    process = subprocess.Popen([sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield process
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "ends"])
def test_they_go_with_their_owner(owner: subprocess.Popen[str], how: str) -> None:
    assert owner.stdout is not None
    assert owner.stdin is not None
    mark, server = json.loads(owner.stdout.readline())
    spares = children_of(server)
    assert len(spares) == 3
    strike = owner.kill if how == "killed" else owner.stdin.close
    seconds_until_gone(strike, mark, [server, *spares], f"an owner with spares {how}")


def test_a_hundred_launches_in_a_row_without_a_pause(ours: ForkServers) -> None:
    """Whether a spare is ready, on its way or not there: each launch gets its ranks, and nothing piles up."""
    deadline = time.monotonic() + 60
    for turn in range(100):
        assert launch(parent_pid, nproc=1 + turn % 3).result(20)
        assert time.monotonic() < deadline
    last = 1 + 99 % 3
    assert len(_waiting(ours, last)) == last
    assert launch(parent_pid, nproc=2).result(20) == [_current(ours)["pid"]] * 2
