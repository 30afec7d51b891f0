"""ProcessFailure: torch's constructor and fields, and damaged error files as part of the story."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.terms.failure import ExceptionRecord, FrameRecord, ProcessFailure

HINT = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
SYSTEM = {"category": "system_terminated_error", "retryability": "False"}


def written(path: Path, data: Any) -> str:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


def test_error_file_of_a_traceback_is_read(tmp_path: Path) -> None:
    message = {"message": "ValueError: x", "extraInfo": {"py_callstack": "Traceback ...", "timestamp": "1700000000"}}
    path = written(tmp_path / "error.json", {"message": message})
    failure = ProcessFailure(local_rank=1, pid=7, exitcode=1, error_file=path)
    assert (failure.message, failure.timestamp, failure.error_file) == (message, 1700000000, path)
    assert failure.error_file_data == {"message": message}
    assert failure.signal_name() == "<N/A>"


def test_error_file_with_a_plain_text_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "error.json", {"message": "plain words", "timestamp": "12"})
    failure = ProcessFailure(0, 7, 1, path)
    assert (failure.message, failure.timestamp) == ("plain words", 12)
    failure = ProcessFailure(0, 7, 1, written(tmp_path / "error.json", {"message": "no time"}))
    assert (failure.message, failure.timestamp) == ("no time", 0)


def test_missing_file_and_exit_code_give_torchs_hint(tmp_path: Path) -> None:
    before = int(time.time())
    failure = ProcessFailure(0, 7, 3, str(tmp_path / "never"))
    assert (failure.message, failure.error_file) == (HINT, "<N/A>")
    assert failure.error_file_data == {"message": "<NONE>", "errorTraits": SYSTEM}
    assert before <= failure.timestamp <= time.time()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT", "SIGINT"])
def test_signal_is_named(name: str) -> None:
    failure = ProcessFailure(0, 99, -getattr(signal, name), "")
    number = int(getattr(signal, name))
    assert failure.message == f"Signal {number} ({name}) received by PID 99"
    assert failure.signal_name() == name


def test_unknown_signal_is_no_error() -> None:
    failure = ProcessFailure(0, 99, -500, "")
    assert (failure.signal_name(), failure.message) == ("<N/A>", "Signal 500 (<N/A>) received by PID 99")


def test_failures_share_no_data() -> None:
    first, second = ProcessFailure(0, 1, -9, ""), ProcessFailure(1, 2, 1, "")
    first.error_file_data["errorTraits"]["category"] = "changed"
    assert second.error_file_data["errorTraits"] == SYSTEM


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        '{"message": null}',
        '{"message": 3}',
        '{"message": []}',
        '{"message": {}}',
        '{"message": {"message": "x"}}',
        '{"message": {"message": "x", "extraInfo": {}}}',
        '{"message": {"message": "x", "extraInfo": {"timestamp": "soon"}}}',
        '{"message": {"message": "x", "extraInfo": null}}',
        '{"message": "x", "timestamp": "soon"}',
        '{"message": "x", "timestamp": null}',
        "\udcff",
    ],
)
def test_damaged_file_makes_a_failure_that_says_so(tmp_path: Path, content: str) -> None:
    path = tmp_path / "error.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    failure = ProcessFailure(0, 7, 1, str(path))
    assert re.match(rf"the error file {re.escape(str(path))} cannot be read: \w+: .+", str(failure.message)), (
        failure.message
    )
    assert failure.error_file == str(path)
    assert failure.timestamp > 0


def test_file_that_is_a_folder_or_closed_to_us_makes_a_failure_that_says_so(tmp_path: Path) -> None:
    assert "cannot be read: IsADirectoryError" in ProcessFailure(0, 7, 1, str(tmp_path)).message
    if os.getuid() != 0:
        path = tmp_path / "error.json"
        path.write_text("{}")
        path.chmod(0)
        assert "cannot be read: PermissionError" in ProcessFailure(0, 7, 1, str(path)).message


def test_no_file_asked_for_is_no_complaint() -> None:
    assert ProcessFailure(0, 7, 1, "").message == HINT


def test_empty_message_falls_back_to_the_exit(tmp_path: Path) -> None:
    failure = ProcessFailure(0, 7, -9, written(tmp_path / "error.json", {"message": ""}))
    assert failure.message == "Signal 9 (SIGKILL) received by PID 7"


def test_failure_travels_with_all_its_fields() -> None:
    failure = ProcessFailure(1, 2, -9, "")
    failure.exception = ExceptionRecord(
        "E", "m", "text", (FrameRecord("f.py", 3, "go", label="Cell In[2]"),), ("note",)
    )
    failure.stacks, failure.note, failure.is_stopped, failure.timestamp_ns = "stacks", "note", True, 5
    again = pickle.loads(pickle.dumps(failure))
    assert again == failure
    assert vars(again) == vars(failure)


def test_exception_record_goes_through_json_and_back() -> None:
    frame = FrameRecord("f.py", 3, "go", "line", "Cell In[2]", True, 2)
    inner = ExceptionRecord("I", "m", "inner", (frame,))
    record = ExceptionRecord(
        "E", "m", "text", (frame, frame), ("n",), inner, None, True, "whole", {"filename": "f", "lineno": 1, "msg": "m"}
    )
    assert ExceptionRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    with_context = ExceptionRecord("E", "m", "text", context=inner)
    assert ExceptionRecord.from_dict(json.loads(json.dumps(with_context.to_dict()))) == with_context


def test_time_is_told_in_local_time() -> None:
    failure = ProcessFailure(0, 1, 1, "")
    failure.timestamp = 1700000000
    assert failure.timestamp_isoformat() == time.strftime("%Y-%m-%d_%H:%M:%S", time.localtime(1700000000))


@pytest.mark.torch
@pytest.mark.parametrize("exitcode", [1, -9, -11, 255])
def test_fields_are_torchs(tmp_path: Path, exitcode: int) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure as Torchs

    message = {"message": "ValueError: x", "extraInfo": {"py_callstack": "Traceback", "timestamp": "1700000000"}}
    for path in (written(tmp_path / "error.json", {"message": message}), str(tmp_path / "none")):
        ours, theirs = ProcessFailure(2, 3, exitcode, path), Torchs(2, 3, exitcode, path)
        for name in ("local_rank", "pid", "exitcode", "error_file", "message"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert ours.signal_name() == theirs.signal_name()
        if not path.endswith("none"):
            assert ours.timestamp == theirs.timestamp
            assert ours.timestamp_isoformat() == theirs.timestamp_isoformat()
            assert ours.error_file_data == theirs.error_file_data


def test_repr_is_one_short_line() -> None:
    failure = ProcessFailure(1, 7, 3, "")
    assert repr(failure) == "<ProcessFailure: local_rank 1, pid 7, exit code 3>"
    failure.note = "it exited with code 3 and left no traceback"
    assert repr({1: failure}) == (
        "{1: <ProcessFailure: local_rank 1, pid 7, exit code 3, it exited with code 3 and left no traceback>}"
    )
    failure.exception = ExceptionRecord("ValueError", "builtins", "bad\nand more", text="x" * 5000)
    assert repr(failure) == "<ProcessFailure: local_rank 1, pid 7, exit code 3, ValueError: bad>"
    assert repr(ProcessFailure(0, 9, -9, "")).endswith("exit code -9, Signal 9 (SIGKILL) received by PID 9>")
    failure.message, failure.exception = {"message": "y" * 5000, "extraInfo": {"timestamp": "1"}}, None
    assert len(repr(failure)) < 300
