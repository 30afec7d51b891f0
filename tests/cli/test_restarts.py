"""`ipyelastic run --max-restarts`: a script that succeeds at its third attempt, and one that never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Command = Callable[..., Any]

LUCKY = """
now = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
print("try", now)
if now < {until}:
    if rank == 1:
        sys.exit(3 + now)
    signal.pause()
"""


def test_script_that_fails_twice_succeeds_at_the_third_attempt(command: Command, script: Callable[..., str]) -> None:
    script(LUCKY.format(until=2))
    ended = command("run", "-n", "2", "--max_restarts=2", "train.py")
    assert ended.code == 0
    assert ended.lines_of(1) == ["try 0", "try 1", "try 2"]
    assert ended.err.splitlines() == [
        "note: rank 1 failed: it exited with code 3 and left no traceback; all ranks start again",
        "--- attempt 2 ---",
        "note: rank 1 failed: it exited with code 4 and left no traceback; all ranks start again",
        "--- attempt 3 ---",
    ]


def test_exit_code_is_that_of_the_last_attempt_and_the_report_names_all(
    command: Command, script: Callable[..., str]
) -> None:
    script(LUCKY.format(until=9))
    ended = command("run", "-n", "2", "train.py", env={"PET_MAX_RESTARTS": "1"})
    assert ended.code == 4
    assert "\nrank 1 of 2 failed (local_rank 1, attempt 2 of 2)\n" in ended.err
    assert "\nattempt 1 of 2: rank 1 failed: it exited with code 3 and left no traceback\n" in ended.err


def test_program_is_restarted_too(command: Command) -> None:
    line = "echo try $TORCHELASTIC_RESTART_COUNT; test $TORCHELASTIC_RESTART_COUNT = 1"
    ended = command("run", "-n", "1", "--max-restarts", "3", "--no-python", "sh", "-c", line)
    assert (ended.code, ended.lines_of(0)) == (0, ["try 0", "try 1"])
