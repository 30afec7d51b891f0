"""All that is known about a worker's end, gathered; a damaged file is part of the story."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipyelastic.failures.read import exit_note, memory_state, read_failure
from ipyelastic.failures.record import exception_record, write_error_file
from ipyelastic.terms.failure import MemoryState

HINT = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"


def test_what_is_known_is_gathered(tmp_path: Path) -> None:
    record = exception_record(ValueError("x"), lambda name: "")
    write_error_file(str(tmp_path / "error.json"), record)
    (tmp_path / "stacks").write_bytes(b"Current thread \xff")
    failure = read_failure(
        local_rank=2,
        pid=7,
        exitcode=1,
        error_file=str(tmp_path / "error.json"),
        host="node-a",
        time_ns=5,
        duration_s=1.5,
        exception=record,
        stacks_file=str(tmp_path / "stacks"),
        is_stopped=True,
        note="a note",
        memory=MemoryState(1, 2),
    )
    assert (failure.local_rank, failure.pid, failure.exitcode, failure.host) == (2, 7, 1, "node-a")
    assert (failure.timestamp_ns, failure.duration_s, failure.is_stopped, failure.note) == (5, 1.5, True, "a note")
    assert (failure.exception, failure.stacks, failure.memory) == (record, "Current thread \ufffd", MemoryState(1, 2))
    assert failure.message["message"] == "ValueError: x"


def test_nothing_known_is_no_error() -> None:
    failure = read_failure(local_rank=0, pid=-1, exitcode=1)
    assert (failure.message, failure.stacks, failure.exception) == (HINT, "", None)


@pytest.mark.parametrize("where", ["missing", ".", "closed/inner"])
def test_files_that_cannot_be_read_are_part_of_the_story(tmp_path: Path, where: str) -> None:
    path = str(tmp_path / where)
    failure = read_failure(local_rank=0, pid=1, exitcode=-9, error_file=path, stacks_file=path)
    assert failure.stacks == ""
    assert str(failure.message)


def test_endless_stacks_are_cut(tmp_path: Path) -> None:
    (tmp_path / "stacks").write_bytes(b"x" * 1_000_000)
    failure = read_failure(local_rank=0, pid=1, exitcode=-11, stacks_file=str(tmp_path / "stacks"))
    assert len(failure.stacks) == 200_000


@pytest.mark.parametrize(
    ("exitcode", "is_program", "note"),
    [
        (0, False, "it exited with code 0 without handing over a value"),
        (0, True, "it exited with code 0 and left no traceback"),
        (3, False, "it exited with code 3 and left no traceback"),
        (3, True, "it exited with code 3 and left no traceback"),
        (-9, False, ""),
        (-9, True, ""),
    ],
)
def test_end_without_a_trace_has_a_plain_word(exitcode: int, is_program: bool, note: str) -> None:
    assert exit_note(exitcode, is_program) == note


def test_memory_of_this_machine_is_known_and_plausible() -> None:
    memory = memory_state()
    assert memory is not None
    assert 0 < memory.used_bytes <= memory.total_bytes
