"""Restarts as `launch()` shows them: attempts, their files and failures, what is printed, and a stop in their midst."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ipyelastic import ChildFailedError, OptionError, RunStopped, launch
from support.waiting import wait_until

pytestmark = pytest.mark.slow


def lucky_at(attempt: int) -> str:
    """Rank 1 fails until this attempt."""
    import os

    rank, now = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    print(f"try {now}", flush=True)
    if now < attempt:
        if rank == 1:
            raise ValueError(f"no luck {now}")
        os.read(os.pipe()[0], 1)
    return f"rank {rank} at {now} of {os.environ['TORCHELASTIC_MAX_RESTARTS']}"


def test_worker_that_fails_twice_succeeds_at_the_third_attempt(capsys: pytest.CaptureFixture[str]) -> None:
    run = launch(lucky_at, args=(2,), nproc=2, max_restarts=2)
    assert run.result(60) == ["rank 0 at 2 of 2", "rank 1 at 2 of 2"]
    assert [one.attempt for one in run.attempts] == [0, 1, 2]
    first, second, last = run.attempts
    for number, attempt in enumerate((first, second)):
        assert attempt.failures[1].exception.message == f"no luck {number}"
        assert attempt.failures[0].is_stopped
        assert Path(attempt.stdouts[1]).read_text() == f"try {number}\n"
        assert attempt.started <= attempt.ended
    assert last.failures == {}
    assert run.ranks[1].stdout_path == last.stdouts[1] == os.path.join(run.log_dir, "attempt_2", "1", "stdout.log")
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith(("note: rank", "---", "[rank 1] "))] == [
        "[rank 1] try 0",
        "note: rank 1 failed: ValueError: no luck 0; all ranks start again",
        "--- attempt 2 ---",
        "[rank 1] try 1",
        "note: rank 1 failed: ValueError: no luck 1; all ranks start again",
        "--- attempt 3 ---",
        "[rank 1] try 2",
    ]


def test_attempts_are_in_run_json(run_root: Path) -> None:
    run = launch(lucky_at, args=(1,), nproc=2, max_restarts=5, ui="none")
    run.result(60)
    told = json.loads((Path(run.log_dir) / "run.json").read_text())
    assert [one["attempt"] for one in told["attempts"]] == [0, 1]
    assert told["attempts"][0]["failed_ranks"]["1"]["message"] == "no luck 0"
    assert told["attempts"][0]["folder"] == os.path.join(run.log_dir, "attempt_0")
    assert told["attempts"][1]["failed_ranks"] == {}
    assert all(rank["stdout"].startswith(os.path.join(run.log_dir, "attempt_1")) for rank in told["ranks"])
    assert (told["status"], told["options"]["max_restarts"]) == ("succeeded", 5)


def test_failure_of_the_last_attempt_names_it_and_the_earlier_ones() -> None:
    run = launch(lucky_at, args=(9,), nproc=2, max_restarts=2, ui="none")
    with pytest.raises(ChildFailedError) as caught:
        run.result(60)
    tries = caught.value.tries
    assert (tries.attempt, tries.max_restarts) == (2, 2)
    reasons = [f"rank 1 failed: ValueError: no luck {number}" for number in (0, 1)]
    assert tries.earlier == tuple(enumerate(reasons))
    lines = str(caught.value.__cause__).splitlines()
    assert lines[1] == "rank 1 of 2 failed (local_rank 1, attempt 3 of 3)"
    assert lines[3:6] == [
        "rank 0 was stopped because of it",
        f"attempt 1 of 3: {reasons[0]}",
        f"attempt 2 of 3: {reasons[1]}",
    ]
    assert (run.board.snapshot().attempt, run.board.snapshot().tries.earlier) == (2, tries.earlier)


def test_early_import_error_is_not_restarted_and_the_report_says_why() -> None:
    def imports() -> None:
        import no_such_module_at_all  # noqa: F401

    run = launch(imports, nproc=1, max_restarts=3, ui="none")
    with pytest.raises(ChildFailedError) as caught:
        run.result(60)
    assert len(run.attempts) == 1
    why = run.attempts[0].why_not_restarted
    assert why.startswith("not restarted: rank 0 failed ")
    assert why in str(caught.value.__cause__).splitlines()
    assert run.board.snapshot().tries.why_not_restarted == why


def test_stop_ends_all_though_restarts_are_left(tmp_path: Path) -> None:
    gate = tmp_path / "gate"  # nobody opens it
    os.mkfifo(gate)

    def fails(path: str) -> None:
        import os

        if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
            open(path).read()
        raise ValueError("again")

    run = launch(fails, args=(str(gate),), nproc=2, max_restarts=1000, ui="none")
    wait_until(lambda: len(run.attempts) == 2 and run.ranks[0].pid is not None, within_s=30)
    run.stop(grace_s=1)
    with pytest.raises(RunStopped):
        run.result(60)
    assert len(run.attempts) == 2
    assert run.status == "stopped"


def test_a_stop_at_any_moment_of_a_restart_ends_the_run() -> None:
    def fails() -> None:
        raise ValueError("again")

    for wanted in (1, 2, 3):
        run = launch(fails, nproc=2, max_restarts=100_000, ui="none")
        wait_until(lambda run=run, wanted=wanted: len(run.attempts) >= wanted, within_s=30)
        run.stop()
        assert run.wait(60)
        assert run.status in ("stopped", "failed")


@pytest.mark.parametrize("value", [-1, 1.5, "some", True, None])
def test_a_number_of_restarts_that_cannot_be_taken_is_refused(value: object) -> None:
    with pytest.raises(OptionError, match="expected a whole number, 0 or more"):
        launch(print, max_restarts=value)
