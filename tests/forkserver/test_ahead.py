"""Spares that were told ahead what the next launch probably brings: a launch of another kind finds no trace of it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import Run, launch
from ipyelastic.forkserver.ahead import Ahead
from ipyelastic.forkserver.client import ForkServers, servers
from ipyelastic.terms.errors import ChildFailedError, RunStopped, UnpicklableError
from support.families import rank_number
from support.gates import Gate, wait_at
from support.hard_to_pack import Refuses, Waits, WaitsInPython
from support.launch_bodies import environment, log_folder
from support.left import is_running
from support.surroundings import open_files, surroundings
from support.waiting import wait_until


@pytest.fixture
def ours() -> ForkServers:
    """This process's fork servers."""
    return servers()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _run(function: Callable[..., Any], *args: Any, **options: Any) -> Run[Any]:
    return launch(function, args=args, **{"nproc": 2, "ui": "none", **options})


def _told(ours: ForkServers, nproc: int = 2) -> Ahead:
    """What the spares were told after a launch of so many ranks."""
    assert _run(rank_number, nproc=nproc).result(20) == list(range(nproc))
    wait_until(lambda: ours._ahead is not None and len(ours._ahead.pids) == nproc, what="spares to be told")
    ahead = ours._ahead
    assert ahead is not None
    for pid in ahead.pids:  # it has opened its log files
        wait_until(
            lambda pid=pid: any(name.endswith("stacks.txt") for name in _files(pid)), what="each to have done it"
        )  # type: ignore[misc]
    return ahead


def _files(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(entry))
    return found


def _wait_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(map(is_running, pids)), what="them to be gone")


def _speak(word: str) -> str:
    print(word)
    print(word, file=sys.stderr)
    return log_folder()


def _said(run: Run[Any], name: str) -> list[str]:
    return [Path(folder, name).read_text() for folder in run.result(20)]


def test_a_launch_like_the_last_goes_to_those_that_were_told(ours: ForkServers) -> None:
    told = _told(ours)
    assert _run(os.getpid).result(20) == told.pids
    again = _told(ours)
    assert not set(again.pids) & set(told.pids)


_CHANGES: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "nothing": lambda patch: None,
    "a variable more": lambda patch: patch.setenv("AHEAD_NEW", "1"),
    "a variable less": lambda patch: patch.delenv("AHEAD_OLD"),
    "a variable of another value": lambda patch: patch.setenv("AHEAD_OLD", "other"),
    "another time zone": lambda patch: patch.setenv("TZ", "Asia/Tokyo"),
    "another folder": lambda patch: (os.mkdir("below"), patch.chdir("below")),
    "another umask": lambda patch: os.umask(0o027),
    "another limit": lambda patch: resource.setrlimit(resource.RLIMIT_CORE, (0, resource.RLIM_INFINITY)),
    "another path": lambda patch: patch.setattr(sys, "path", [*sys.path, "/nowhere"]),
    "other arguments": lambda patch: patch.setattr(sys, "argv", ["other", "words"]),
}


@pytest.fixture
def _as_it_was() -> Iterator[None]:
    mask, limits = os.umask(0), resource.getrlimit(resource.RLIMIT_CORE)
    os.umask(mask)
    yield
    os.umask(mask)
    resource.setrlimit(resource.RLIMIT_CORE, limits)


@pytest.mark.usefixtures("_as_it_was")
@pytest.mark.parametrize("change", _CHANGES)
def test_it_cannot_be_told_from_one_that_was_forked_at_the_call(
    ours: ForkServers, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AHEAD_OLD", "1")
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    told = _told(ours)
    _CHANGES[change](monkeypatch)
    run = _run(surroundings)
    ahead = run.result(20)
    assert [view.pid for view in run.ranks] == told.pids
    monkeypatch.setenv("IPYELASTIC_SPARES", "0")
    _run(rank_number).result(20)
    wait_until(lambda: ours.describe()[0]["spares"] == 0, what="no spares")
    forked = _run(surroundings).result(20)
    for rank in range(2):
        forked[rank]["environment"].pop("IPYELASTIC_SPARES")
        ahead[rank]["environment"].pop("IPYELASTIC_SPARES", None)
    assert ahead == forked


def test_a_variable_that_is_gone_since_is_nowhere(ours: ForkServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    _told(ours)
    monkeypatch.delenv("SECRET_OF_MINE")
    assert ["SECRET_OF_MINE" in found for found in _run(environment).result(20)] == [False, False]


def test_options_of_the_launch_have_the_last_word(ours: ForkServers, tmp_path: Path) -> None:
    _told(ours)
    run = _run(_speak, "elsewhere", log_dir=str(tmp_path / "logs"))
    assert _said(run, "stdout.log") == _said(run, "stderr.log") == ["elsewhere\n"] * 2
    assert all(folder.startswith(str(tmp_path / "logs")) for folder in run.result())
    assert [found["ASKED"] for found in _run(environment, env={"ASKED": "yes"}).result(20)] == ["yes", "yes"]
    _told(ours)
    first = _run(_random, seed=3).result(20)
    assert first == _run(_random, seed=3).result(20) != _run(_random).result(20)


def _random() -> float:
    import random

    return random.random()


def test_output_is_not_lost_when_the_files_that_were_opened_ahead_are_removed(ours: ForkServers) -> None:
    told = _told(ours)
    for path in (*told.given["stdouts"].values(), told.given["stderrs"][0], *told.given["stacks"].values()):
        os.unlink(path)
    run = _run(_speak, "still here")
    assert _said(run, "stdout.log") == _said(run, "stderr.log") == ["still here\n"] * 2


@pytest.mark.parametrize("what", ["one folder", "the last folder"])
def test_a_folder_that_is_no_longer_whole_is_made_again(ours: ForkServers, what: str) -> None:
    told = _told(ours)
    stdout = told.given["stdouts"][1 if what == "the last folder" else 0]
    shutil.rmtree(os.path.dirname(stdout))
    assert _said(_run(_speak, "whole"), "stdout.log") == ["whole\n"] * 2


@pytest.mark.parametrize("nproc", [2, 3])
@pytest.mark.parametrize("what", ["stdouts", "stacks"])
def test_one_that_cannot_do_what_it_was_told_takes_its_call_all_the_same(
    ours: ForkServers, what: str, nproc: int
) -> None:
    """The folder that was made ahead is cleared away when a run of another number of ranks ends: at any moment."""
    told = _told(ours)
    given: Any = {**told.given, what: {rank: f"/nowhere/{rank}" for rank in range(2)}}
    ours._drop_ahead()
    ours.tell_ahead(ours._mark_of(ours._runs), given, 2)
    wait_until(lambda: ours._ahead is not None, what="them to be told")
    run = _run(_speak, "all the same", nproc=nproc)
    assert _said(run, "stdout.log") == ["all the same\n"] * nproc
    assert set(told.pids) <= {view.pid for view in run.ranks}


@pytest.mark.parametrize("is_there_again", [False, True])
def test_a_working_folder_that_is_gone_is_held_by_nobody(
    ours: ForkServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there_again: bool
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    told = _told(ours)
    assert {os.readlink(f"/proc/{pid}/cwd") for pid in told.pids} == {"/"}
    folder.rmdir()
    if is_there_again:
        folder.mkdir()
        monkeypatch.chdir(folder)
    run = _run(os.getcwd)
    assert run.result(20) == [str(folder) if is_there_again else "/"] * 2
    assert [view.pid for view in run.ranks] == told.pids


@pytest.mark.parametrize("nproc", [1, 3, 4])
def test_another_number_of_ranks_takes_them_as_any_others(ours: ForkServers, nproc: int) -> None:
    told = _told(ours)
    run = _run(_speak, "so many", nproc=nproc)
    assert _said(run, "stdout.log") == ["so many\n"] * nproc
    assert set(told.pids[:nproc]) <= {view.pid for view in run.ranks}
    again = _run(environment, nproc=nproc).result(20)
    assert [found["WORLD_SIZE"] for found in again] == [str(nproc)] * nproc


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_start_methods_leave_them_alone(ours: ForkServers, method: str) -> None:
    told = _told(ours)
    assert not set(_run(os.getpid, start_method=method).result(30)) & set(told.pids)
    assert all(map(is_running, told.pids))
    assert _run(rank_number).result(20) == [0, 1]


def test_one_that_died_since_is_missed_by_nobody(ours: ForkServers) -> None:
    told = _told(ours)
    os.kill(told.pids[1], signal.SIGKILL)
    _wait_gone(told.pids[1:])
    assert _run(rank_number).result(20) == [0, 1]


def test_a_call_that_cannot_be_packed_ends_them_and_says_why(ours: ForkServers) -> None:
    _told(ours)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        told = _told(ours)
        with pytest.raises(UnpicklableError, match="not this one"):
            _run(str, Refuses()).result(20)
        _wait_gone(told.pids)
    assert _run(str, "fine").result(20) == ["fine", "fine"]
    _told(ours)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_one_that_is_stopped_while_its_call_is_packed_says_so(ours: ForkServers) -> None:
    told = _told(ours)
    run = _run(str, WaitsInPython())
    wait_until(lambda: run.busy_with == "packing the call", what="packing to begin")
    run.stop()
    with pytest.raises(RunStopped):
        run.result(20)
    _wait_gone(told.pids)
    assert _run(rank_number).result(20) == [0, 1]


def test_one_that_is_killed_while_its_call_is_packed_is_a_killed_rank(ours: ForkServers, tmp_path: Path) -> None:
    told = _told(ours)
    with Gate(tmp_path / "gate") as gate:
        run = _run(str, Waits(gate.path))
        wait_until(lambda: run.busy_with == "packing the call", what="packing to begin")
        os.kill(told.pids[1], signal.SIGKILL)
        gate.open()
        error = run.exception(20)
    assert isinstance(error, ChildFailedError)
    assert error.failures[1].exitcode == -signal.SIGKILL


def test_their_server_waits_for_their_call_when_another_takes_over(
    ours: ForkServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _told(ours)
    server = told.server.pid
    with Gate(tmp_path / "gate") as gate:
        run = _run(str, Waits(gate.path))
        wait_until(lambda: run.busy_with == "packing the call", what="packing to begin")
        monkeypatch.setenv("OMP_SCHEDULE", "static")  # read once: this takes another server
        assert _run(os.getppid).result(20) != [server, server]
        gate.open()
        assert run.result(20) == ["packed", "packed"]
        assert [view.pid for view in run.ranks] == told.pids


def test_a_launch_within_a_launch_takes_others(ours: ForkServers) -> None:
    told = _told(ours)
    run = _run(_both, _Launches())
    assert [value[0] for value in run.result(30)] == [[0, 1], [0, 1]]
    assert [value[1] for value in run.result()] == told.pids


class _Launches:
    def __reduce__(self) -> Any:
        return list, (_run(rank_number).result(20),)


def _both(value: Any) -> tuple[Any, int]:
    return value, os.getpid()


def test_launches_of_several_threads_do_not_share_them(ours: ForkServers) -> None:
    for _ in range(5):
        _told(ours)
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(lambda: _run(os.getpid).result(30)) for _ in range(4)]
        assert len({pid for pids in found for pid in pids.result()}) == 8


def test_a_child_of_the_owners_that_holds_everything_open_is_in_nobodys_way(ours: ForkServers) -> None:
    _told(ours)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        assert _run(rank_number, nproc=3).result(20) == [0, 1, 2]
        assert _run(rank_number).result(20) == [0, 1]
        _told(ours)
        assert _run(rank_number).result(20) == [0, 1]
    finally:
        os.close(writer)
        os.waitpid(child, 0)
        os.close(reader)


def test_restarts_and_time_limits_are_as_ever(ours: ForkServers, tmp_path: Path) -> None:
    _told(ours)
    run = _run(_fail_once, str(tmp_path / "mark"), max_restarts=1)
    assert run.result(20) == ["1", "1"]
    _told(ours)
    with Gate(tmp_path / "gate") as gate:
        error = _run(wait_at, gate.path, timeout=0.3).exception(20)
    assert type(error).__name__ == "RunTimedOut"


def _fail_once(mark: str) -> str:
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    if attempt == "0":
        raise ValueError("the first time")
    return attempt


def test_they_hold_no_more_than_any_spare_and_what_their_run_will_need(ours: ForkServers) -> None:
    told = _told(ours)
    held = [re.sub(r".*/|:.*", "", name) for name in open_files(told.pids[0])]
    sockets, pipes, files = (sum(name.startswith(word) for name in held) for word in ("socket", "pipe", "memfd"))
    assert (sockets, pipes, files) == (2, 1, 3)
    assert len(held) - 6 <= 1 + 3  # stdin; stdout.log, stderr.log, stacks.txt


_OWNER = """
import os, sys, time
from ipyelastic import launch
from ipyelastic.forkserver.client import servers
from support.families import rank_number

launch(rank_number, nproc=2, ui="none").result()
while servers()._ahead is None:
    time.sleep(0.01)
print(*servers()._ahead.pids, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["ends", "killed"])
def test_they_go_with_their_owner(how: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", _OWNER, how], env=environment, stdout=subprocess.PIPE, text=True, timeout=60
    )
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    _wait_gone(pids)


def test_files_that_were_opened_ahead_and_are_not_needed_are_closed_without_a_word(
    ours: ForkServers, tmp_path: Path
) -> None:
    code = _OWNER.replace(
        'if sys.argv[1] == "killed":',
        "again = launch(rank_number, nproc=2, log_dir='elsewhere')\n" + "again.result()\nif 0:",
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONWARNINGS": "always"}
    done = subprocess.run(
        [sys.executable, "-c", code, "ends"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert [path.read_text() for path in sorted(tmp_path.rglob("std*.log"))] == [""] * 4
