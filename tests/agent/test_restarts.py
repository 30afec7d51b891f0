"""What an agent decides: tables, no process."""

from __future__ import annotations

from typing import Any

import pytest

from ipyelastic.agent.restarts import Step, next_step, restart_reason, why_not_restarted
from ipyelastic.agent.spec import WorkerState
from ipyelastic.terms.failure import ExceptionRecord, ProcessFailure

S = WorkerState


@pytest.mark.parametrize(
    ("state", "remaining", "waiting", "is_refused", "step"),
    [
        (S.SUCCEEDED, 0, 0, False, Step.FINISH),
        (S.SUCCEEDED, 3, 2, True, Step.FINISH),
        (S.FAILED, 1, 0, False, Step.RESTART),
        (S.FAILED, 1, 0, True, Step.GIVE_UP),
        (S.FAILED, 0, 0, False, Step.GIVE_UP),
        (S.FAILED, 0, 5, False, Step.GIVE_UP),
        (S.UNHEALTHY, 2, 0, False, Step.RESTART),
        (S.UNHEALTHY, 0, 0, False, Step.GIVE_UP),
        (S.UNHEALTHY, 2, 0, True, Step.GIVE_UP),
        (S.HEALTHY, 0, 0, False, Step.GO_ON),
        (S.HEALTHY, 0, 1, False, Step.RESTART_FREE),
        (S.HEALTHY, 3, 1, True, Step.GO_ON),
        (S.UNKNOWN, 3, 1, False, Step.REFUSE),
        (S.INIT, 3, 0, False, Step.REFUSE),
        (S.STOPPED, 3, 0, False, Step.REFUSE),
    ],
)
def test_next_step(state: WorkerState, remaining: int, waiting: int, is_refused: bool, step: Step) -> None:
    decided = next_step(state, remaining_restarts=remaining, nodes_waiting=waiting, is_restart_refused=is_refused)
    assert decided is step


def _failure(type_name: str = "ValueError", after_s: float | None = 0.5, **fields: Any) -> ProcessFailure:
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=fields.pop("exitcode", 1), error_file="")
    failure.duration_s = after_s
    if type_name:
        failure.exception = ExceptionRecord(type_name, "builtins", "bad")
    for name, value in fields.items():
        setattr(failure, name, value)
    return failure


@pytest.mark.parametrize(
    ("type_name", "kind"),
    [
        ("ImportError", "an import"),
        ("ModuleNotFoundError", "an import"),
        ("SyntaxError", "a syntax"),
        ("IndentationError", "a syntax"),
        ("TabError", "a syntax"),
        ("PicklingError", "a pickling"),
        ("UnpicklingError", "a pickling"),
    ],
)
def test_an_early_error_that_would_come_again_is_not_restarted(type_name: str, kind: str) -> None:
    assert why_not_restarted({3: _failure(type_name)}) == (
        f"not restarted: rank 3 failed 0.5 s after its start with {kind} error, which would come again"
    )


@pytest.mark.parametrize(
    "failures",
    [
        {},
        {0: _failure("ValueError")},
        {0: _failure("ImportError", after_s=2.1)},
        {0: _failure("ImportError", after_s=None)},
        {0: _failure("", exitcode=-9)},
        {0: _failure("ImportError", is_stopped=True)},
        # The first failure counts: what another rank met on its way out does not.
        {0: _failure("ValueError", timestamp_ns=1), 1: _failure("ImportError", timestamp_ns=2)},
    ],
)
def test_anything_else_is_worth_another_start(failures: dict[int, ProcessFailure]) -> None:
    assert why_not_restarted(failures) == ""


def test_a_programs_own_traceback_tells_an_import_error_too() -> None:
    told = _failure("", message={"message": "ModuleNotFoundError: No module named 'x'"})
    assert "an import error" in why_not_restarted({0: told})
    assert why_not_restarted({0: _failure("", message={"message": "my.ImportErrorish: x"})}) == ""


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        ({1: _failure()}, "rank 1 failed: ValueError: bad"),
        ({1: _failure("", exitcode=-9)}, "rank 1 failed: SIGKILL"),
        ({1: _failure("", exitcode=7, note="it exited with code 7")}, "rank 1 failed: it exited with code 7"),
        ({2: _failure(timestamp_ns=5), 1: _failure("KeyError", timestamp_ns=9)}, "rank 2 failed: ValueError: bad"),
        ({0: _failure(is_stopped=True)}, "the group is not healthy"),
    ],
)
def test_the_reason_names_the_first_failure(failures: dict[int, ProcessFailure], words: str) -> None:
    assert restart_reason(failures) == words
