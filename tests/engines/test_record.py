"""`run.json`: there from the start, true at the end, and never a reason for a run to fail."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipyelastic
from ipyelastic import ChildFailedError, Run, RunTimedOut, UnpicklableError, launch
from support.gates import Gate, wait_at
from support.waiting import wait_until


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as made:
        yield made


def rank() -> int:
    return int(os.environ["RANK"])


def passes(path: str) -> int:
    print("here")
    wait_at(path)
    if rank() == 1:
        raise ValueError("bad 漢字")
    return 1


def record(run: Run[Any]) -> Any:
    return json.loads((Path(run.log_dir) / "run.json").read_text(encoding="utf-8"))


ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"


def test_record_says_what_runs_while_it_runs(gate: Gate) -> None:
    run = launch(passes, args=(gate.path,), nproc=2, env={"SHOWN": "yes"}, ranks=[0], ui="none")
    wait_until(lambda: all(view.pid for view in run.ranks), 20)
    wait_until((Path(run.log_dir) / "run.json").exists, 20)
    wait_until(lambda: all(entry["pid"] for entry in record(run)["ranks"]), 20)
    told = record(run)
    gate.open()
    run.wait(20)
    assert (told["run_id"], told["name"], told["nproc"]) == (run.run_id, "passes", 2)
    assert (told["status"], told["ended"], told["duration_s"], told["failure"]) == ("running", None, None, None)
    assert [entry["pid"] for entry in told["ranks"]] == [view.pid for view in run.ranks]
    assert [entry["state"] for entry in told["ranks"]] == ["running"] * 2
    assert [entry["stdout"] for entry in told["ranks"]] == [view.stdout_path for view in run.ranks]
    options = told["options"]
    assert (options["env"], options["shown"], options["stop_signal"]) == ({"SHOWN": "yes"}, [0], "SIGTERM")
    versions = told["versions"]
    assert (versions["ipyelastic"], versions["python"]) == (ipyelastic.__version__, platform.python_version())


OWNER = """
import sys
from ipyelastic import launch
from support.gates import wait_at
launch(wait_at, args=(sys.argv[1],), nproc=2, log_dir=sys.argv[2], ui="none").result()
"""


def test_record_of_a_run_whose_owner_was_killed_says_that_it_was_running(gate: Gate, tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, gate.path, str(tmp_path / "logs")]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as owner:
        try:
            wait_until(lambda: any(entry["pid"] for told in records(tmp_path) for entry in told["ranks"]), 20)
        finally:
            owner.kill()
    [told] = records(tmp_path)
    assert (told["status"], told["ended"], told["owner_pid"]) == ("running", None, owner.pid)
    assert [entry["state"] for entry in told["ranks"]] == ["running"] * 2


def records(folder: Path) -> list[Any]:
    return [json.loads(path.read_text()) for path in folder.glob("logs/*/run.json")]


def test_record_of_a_failed_run_names_the_rank_and_holds_its_traceback(gate: Gate) -> None:
    run = launch(passes, args=(gate.path,), nproc=2, ui="none")
    gate.open()
    assert isinstance(run.exception(20), ChildFailedError)
    told = record(run)
    assert told["status"] == "failed"
    failure = told["failure"]
    assert (failure["rank"], failure["type"], failure["message"]) == (1, "ValueError", "bad 漢字")
    assert re.search(r"line \d+, in passes\n", failure["traceback"])
    assert "1" in told["failed_ranks"]
    assert re.fullmatch(ISO, told["started"])
    assert re.fullmatch(ISO, told["ended"])
    assert told["duration_s"] > 0
    last = told["ranks"][1]
    assert (last["state"], last["exitcode"], last["has_value"], len(told["attempts"])) == ("failed", 1, False, 1)
    assert re.fullmatch(ISO, last["started"])
    assert re.fullmatch(ISO, last["ended"])


def test_record_is_complete_before_anyone_is_told_of_the_end() -> None:
    seen: list[Any] = []
    run = launch(lambda: 5, nproc=1, ui="none")
    run.add_done_callback(lambda run: seen.append(record(run)["status"]))
    wait_until(lambda: seen, 20)
    assert seen == ["succeeded"]
    assert record(run)["ranks"][0]["has_value"] is True


@pytest.mark.parametrize("ending", ["stopped", "timed out", "unpicklable"])
def test_record_tells_every_way_to_end(gate: Gate, ending: str) -> None:
    options = {"timeout": 0.3} if ending == "timed out" else {}
    value: Any = gate.path if ending != "unpicklable" else (n for n in ())
    run = launch(passes, args=(value,), nproc=1, ui="none", **options)
    if ending == "stopped":
        run.stop()
    error = run.exception(20)
    told = record(run)
    expected = {"stopped": "RunStopped", "timed out": "RunTimedOut", "unpicklable": "UnpicklableError"}[ending]
    assert type(error).__name__ == expected
    assert isinstance(error, (ipyelastic.RunStopped, RunTimedOut, UnpicklableError))
    assert (told["failure"]["type"], told["failure"]["message"]) == (expected, str(error))
    assert told["status"] == ("stopped" if ending == "stopped" else "failed")
    assert told["ended"] is not None


def test_record_holds_no_environment_but_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-of-mine")
    run = launch(lambda token: None, args=("arg-s3cr3t",), nproc=1, ui="none", env={"A": "given"})
    run.wait(20)
    text = (Path(run.log_dir) / "run.json").read_text()
    assert "s3cr3t" not in text
    assert "given" in text


def test_record_is_the_owners_alone_and_holds_no_secret_that_was_given() -> None:
    names = ("HF_TOKEN", "AWS_SECRET_ACCESS", "api_key", "DB_PASSWORD", "GOOGLE_CREDENTIALS")
    run = launch(int, nproc=1, ui="none", env={**dict.fromkeys(names, "s3cr3t"), "LR": "0.1"})
    run.wait(20)
    path = Path(run.log_dir) / "run.json"
    assert record(run)["options"]["env"] == {**dict.fromkeys(names, "***"), "LR": "0.1"}
    assert "s3cr3t" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_record_that_cannot_be_written_is_a_note_and_the_run_goes_on(gate: Gate) -> None:
    """A folder stands where the file belongs: it fails as a full disk does, at the rename."""
    run = launch(passes_one, args=(gate.path,), nproc=1, ui="none")
    wait_until(lambda: run.ranks[0].tail(), 20)
    path = Path(run.log_dir) / "run.json"
    path.unlink()
    (path / "in-the-way").mkdir(parents=True)
    gate.open()
    assert run.result(20) == [3]
    notes = run.board.snapshot().notes
    assert notes == (f"{path} could not be written: Is a directory",)
    assert [entry.name for entry in path.parent.glob("run.json*")] == ["run.json"]


def passes_one(path: str) -> int:
    print("here")
    wait_at(path)
    return 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_loses_the_record_and_not_the_run(gate: Gate) -> None:
    run = launch(passes_one, args=(gate.path,), nproc=1, ui="none")
    wait_until(lambda: run.ranks[0].tail(), 20)
    path = Path(run.log_dir) / "run.json"
    (path.parent / "run.json.new").symlink_to("/dev/full")
    gate.open()
    assert run.result(20) == [3]
    assert run.board.snapshot().notes == (f"{path} could not be written: No space left on device",)
    assert record(run)["status"] == "running"


def test_folder_of_a_failed_run_is_marked_to_stay_and_that_of_a_good_one_is_not() -> None:
    good = launch(lambda: 1, nproc=1, ui="none")
    bad = launch(lambda: 1 / 0, nproc=1, ui="none")
    cannot_start = launch(lambda lock: None, args=((n for n in ()),), nproc=1, ui="none")
    for run in (good, bad, cannot_start):
        run.wait(20)
    assert [(Path(run.log_dir) / "failed").exists() for run in (good, bad, cannot_start)] == [False, True, True]
