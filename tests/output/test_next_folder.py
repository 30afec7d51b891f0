"""The folder that is there before its run: taken once, by the run it fits, and never a thing of somebody else's."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipyelastic import launch
from ipyelastic.output import next_folder
from ipyelastic.output.retention import owner_folder
from support.launch_bodies import log_folder
from support.waiting import wait_until


@pytest.fixture(autouse=True)
def home() -> str:
    """Where runs of this process go; without a first run there would be none."""
    return owner_folder()


@pytest.fixture
def made() -> Iterator[next_folder.NextFolder]:
    """One for two ranks, taken."""
    next_folder.prepare(2)
    taken = next_folder.take(2)
    assert taken is not None
    yield taken
    shutil.rmtree(taken.path)


def test_it_has_what_the_ranks_of_its_first_attempt_write_to_and_is_private(made: next_folder.NextFolder) -> None:
    path = Path(made.path)
    assert (str(path.parent), path.name.startswith(f"{made.run_id}_")) == (owner_folder(), True)
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert files == {f"attempt_0/{n}/{name}" for n in (0, 1) for name in ("stdout.log", "stderr.log", "stacks.txt")}
    modes = {(file.is_dir(), stat.S_IMODE(file.stat().st_mode)) for file in [path, *path.rglob("*")]}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_it_is_taken_once(made: next_folder.NextFolder) -> None:
    assert next_folder.take(2) is None


def test_another_number_of_ranks_does_not_get_it_and_has_it_replaced() -> None:
    next_folder.prepare(2)
    before = set(os.listdir(owner_folder()))
    assert next_folder.take(3) is None
    next_folder.prepare(3)
    assert len(set(os.listdir(owner_folder())) - before) == 1
    assert len(before - set(os.listdir(owner_folder()))) == 1
    taken = next_folder.take(3)
    assert taken is not None
    shutil.rmtree(taken.path)


def test_one_that_was_cleared_away_is_not_handed_out() -> None:
    next_folder.prepare(2)
    for name in os.listdir(owner_folder()):
        shutil.rmtree(os.path.join(owner_folder(), name), ignore_errors=True)
    assert next_folder.take(2) is None
    assert launch(log_folder, nproc=2, ui="none").result(20)[0].endswith("attempt_0/0")


def test_a_process_forked_while_one_is_made_can_make_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(attempt: str, nprocs: int) -> None:
        pid = os.fork()
        if pid == 0:
            home = owner_folder()  # of its own: the lock that its parent holds at this moment is not its lock
            next_folder._lock.acquire(timeout=20) or os._exit(1)
            os.rmdir(home) if not os.listdir(home) else shutil.rmtree(home)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    codes: list[int] = []
    monkeypatch.setattr(next_folder, "_fill", fill)
    next_folder.prepare(5)
    assert codes == [0]


def test_a_forked_process_leaves_its_parents_alone() -> None:
    next_folder.prepare(2)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if next_folder.take(2) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    taken = next_folder.take(2)
    assert taken is not None
    shutil.rmtree(taken.path)


def test_the_next_run_like_the_last_one_finds_its_folder_there(tmp_path: Path) -> None:
    assert launch(log_folder, nproc=2, ui="none").result(20)
    wait_until(lambda: next_folder._next is not None and next_folder._next[1].nprocs == 2, what="the next folder")
    before = set(os.listdir(owner_folder()))
    elsewhere = launch(log_folder, nproc=2, ui="none", log_dir=str(tmp_path / "logs"))
    assert Path(elsewhere.result(20)[0]).parents[2] == tmp_path / "logs"
    run = launch(log_folder, nproc=2, ui="none")
    folders = [Path(text) for text in run.result(20)]
    assert folders[0].parents[1].name in before
    assert folders[0].parents[1].name.startswith(f"{run.run_id}_")
    assert str(folders[0].parents[1]) == run.log_dir


def test_what_a_rank_finds_in_it_is_empty_and_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    for word in ("one", "two"):
        assert launch(print, args=(word,), nproc=2).result(20) == [None, None]
        wait_until(lambda: next_folder._next is not None, what="the next folder")
    assert sorted(capfd.readouterr().out.split()) == sorted(["[rank", "0]", "[rank", "1]"] * 2 + ["one", "two"] * 2)
    sys.stdout.flush()
