"""Public exceptions: their fields, their texts, and that they travel."""

from __future__ import annotations

import json
import pickle
import textwrap
from pathlib import Path
from typing import Any

import pytest

import ipyelastic
from ipyelastic.terms.errors import (
    ChildFailedError,
    IpyelasticError,
    OptionError,
    RunStopped,
    RunTimedOut,
    ServerError,
    UnpicklableError,
)
from ipyelastic.terms.failure import ProcessFailure

STAMP = 1700000000


def failed(
    local_rank: int, exitcode: int = 1, *, path: str = "", at: int = STAMP, host: str = "node-a"
) -> ProcessFailure:
    failure = ProcessFailure(local_rank, 100 + local_rank, exitcode, path)
    failure.timestamp, failure.host = at, host
    return failure


@pytest.mark.parametrize(
    ("error", "bases", "text"),
    [
        (OptionError("nproc=0: no"), (IpyelasticError, ValueError), "nproc=0: no"),
        (
            UnpicklableError("model", "_thread.lock", "Cell In[3], line 2", "TypeError: cannot"),
            (IpyelasticError, TypeError),
            "model (_thread.lock), used in Cell In[3], line 2, cannot be pickled: TypeError: cannot",
        ),
        (UnpicklableError("argument 2", "Socket"), (TypeError,), "argument 2 (Socket) cannot be pickled"),
        (ServerError("gone"), (IpyelasticError,), "gone"),
        (RunStopped(), (IpyelasticError,), "the run was stopped"),
        (RunTimedOut("late", {0: 1}, 2.0, {1: "stack"}), (RunStopped, TimeoutError), "late"),
    ],
)
def test_errors_have_their_bases_text_and_travel(error: Exception, bases: tuple[type, ...], text: str) -> None:
    assert str(error) == text
    assert all(isinstance(error, base) for base in bases)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), text, vars(error))


def test_public_names_are_the_same_classes() -> None:
    for cls in (ChildFailedError, OptionError, RunStopped, RunTimedOut, ServerError, UnpicklableError, IpyelasticError):
        assert getattr(ipyelastic, cls.__name__) is cls
        assert cls.__name__ in dir(ipyelastic)


def test_results_of_a_stopped_run_are_a_copy() -> None:
    values: dict[int, Any] = {0: 1}
    error = RunStopped("x", values)
    values[1] = 2
    assert error.results == {0: 1}


def test_text_of_one_failure_is_torchs() -> None:
    error = ChildFailedError("train", {0: failed(0)})
    time = failed(0).timestamp_isoformat()
    assert str(error) == (
        "\n"
        + textwrap.dedent(f"""\
        ============================================================
        train FAILED
        ------------------------------------------------------------
        Failures:
          <NO_OTHER_FAILURES>
        ------------------------------------------------------------
        Root Cause (first observed failure):
        [0]:
          time      : {time}
          host      : node-a
          rank      : 0 (local_rank: 0)
          exitcode  : 1 (pid: 100){" "}
          error_file: <N/A>
          traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
        ============================================================""")
    )


def test_text_of_several_failures_goes_by_rank_with_the_first_failure_last() -> None:
    failures = {6: failed(2, 3, at=STAMP + 5), 4: failed(0, -15, at=STAMP + 9), 5: failed(1, -9, at=STAMP)}
    text = str(ChildFailedError("train", failures))
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("[")] == ["[0]:", "[2]:", "[1]:"]
    assert "  rank      : 5 (local_rank: 1)" in lines
    assert "  exitcode  : -9 (pid: 101)  (SIGKILL)" in lines
    assert "  traceback : Signal 9 (SIGKILL) received by PID 101" in lines
    root = text.partition("Root Cause")[2]
    assert "rank      : 5 (local_rank: 1)" in root


def test_first_failure_is_the_earliest_that_we_did_not_cause() -> None:
    stopped = failed(0, -15, at=STAMP - 100)
    stopped.is_stopped = True
    late, early = failed(1, at=STAMP), failed(2, at=STAMP)
    late.timestamp_ns, early.timestamp_ns = 20, 10
    assert ChildFailedError("x", {0: stopped, 1: late, 2: early}).get_first_failure() == (2, early)
    assert ChildFailedError("x", {3: stopped}).get_first_failure() == (3, stopped)


def test_no_failure_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        ChildFailedError("x", {})


def test_error_travels_with_its_failures() -> None:
    error = ChildFailedError("train", {1: failed(1, -11)})
    again = pickle.loads(pickle.dumps(error))
    assert (again.name, again.failures, str(again)) == (error.name, error.failures, str(error))


_MESSAGE = {
    "message": "ValueError: x",
    "extraInfo": {
        "py_callstack": 'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: x\n',
        "timestamp": str(STAMP),
    },
}


@pytest.mark.torch
@pytest.mark.parametrize("ranks", [[0], [0, 1], [1, 2, 3]])
@pytest.mark.parametrize("name", ["train", "a_rather_long_name_of_a_script_that_is_longer_than_the_sixty_columns.py"])
@pytest.mark.parametrize("has_file", [True, False])
@pytest.mark.parametrize("exitcode", [1, -9])
def test_text_is_torchs_but_for_the_host(
    tmp_path: Path, ranks: list[int], name: str, has_file: bool, exitcode: int
) -> None:
    from torch.distributed.elastic.multiprocessing import errors as torchs

    path = tmp_path / "error.json"
    if has_file:
        path.write_text(json.dumps({"message": _MESSAGE}))
    ours: dict[int, Any] = {}
    theirs: dict[int, Any] = {}
    for rank in ranks:
        ours[rank] = ProcessFailure(rank, 100 + rank, exitcode, str(path))
        theirs[rank] = torchs.ProcessFailure(rank, 100 + rank, exitcode, str(path))
        ours[rank].timestamp = theirs[rank].timestamp = STAMP - rank
        ours[rank].message = theirs[rank].message  # torch's second failure without a file shares the first one's data

    def without_host(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("  host ")]

    mine, torch_error = ChildFailedError(name, ours), torchs.ChildFailedError(name, theirs)
    assert mine.get_first_failure()[0] == torch_error.get_first_failure()[0]
    assert without_host(str(mine)) == without_host(str(torch_error))
    assert without_host(mine.format_msg("#", "~")) == without_host(torch_error.format_msg("#", "~"))
