"""An exception as plain data, and torch's error file: complete or not at all."""

from __future__ import annotations

import ast
import json
import linecache
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.failures.record import exception_record, write_error_file
from ipyelastic.terms.failure import ExceptionRecord, ProcessFailure


def no_label(filename: str) -> str:
    return ""


def caught(raiser: Callable[[], Any]) -> BaseException:
    try:
        raiser()
    except BaseException as error:
        error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None
        return error
    raise AssertionError("it did not raise")


def ran(code: str, filename: str = "<cell>", **names: Any) -> BaseException:
    """What a piece of code that has its own file name raises."""
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
    return caught(lambda: exec(compile(code, filename, "exec"), names))


def frames(record: ExceptionRecord, filename: str = "<cell>") -> list[tuple[int, str, str, int]]:
    return [(f.lineno, f.name, f.line, f.first_lineno) for f in record.frames if f.filename == filename]


def test_exception_is_recorded_with_its_frames() -> None:
    record = exception_record(ran("def inner(n):\n    return 1 / n\n\ninner(0)\n"), no_label)
    assert (record.type_name, record.module, record.message) == ("ZeroDivisionError", "builtins", "division by zero")
    assert frames(record) == [(4, "<module>", "inner(0)", 1), (2, "inner", "return 1 / n", 1)]
    assert record.text.endswith("    return 1 / n\n           ~~^~~\nZeroDivisionError: division by zero\n")


def test_files_are_called_as_a_person_calls_them() -> None:
    record = exception_record(ran("1 / 0"), lambda name: "Cell In[7]" if name == "<cell>" else "")
    assert [frame.label for frame in record.frames if frame.filename == "<cell>"] == ["Cell In[7]"]
    assert '  File "Cell In[7]", line 1, in <module>\n    1 / 0\n' in record.text


def test_cause_context_and_notes_are_recorded() -> None:
    code = "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    e.add_note('noted')\n    raise KeyError('k')"
    record = exception_record(ran(code), no_label)
    assert (record.cause, record.suppress_context) == (None, False)
    assert record.context is not None
    assert (record.context.type_name, record.context.notes) == ("ZeroDivisionError", ("noted",))
    record = exception_record(ran(code + " from e"), no_label)
    assert record.cause is not None
    assert (record.cause.type_name, record.context) == ("ZeroDivisionError", None)
    assert "noted\n" in record.text
    record = exception_record(ran(code + " from None"), no_label)
    assert (record.cause, record.suppress_context) == (None, True)
    assert "division by zero" not in record.text


def test_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    record = exception_record(first, no_label)
    assert record.context is not None
    assert (record.context.message, record.context.context) == ("second", None)


def test_of_a_thousand_exceptions_in_a_row_both_ends_are_recorded() -> None:
    code = "def connect(n):\n    try:\n        raise OSError(f'try {n}')\n    except OSError:\n        connect(n + 1)\n"
    code += "connect(0)"
    record = exception_record(ran(code), no_label)
    assert record.type_name == "RecursionError"
    messages, notes, one = [], [], record
    while one.context is not None:
        one = one.context
        messages.append(one.message)
        notes += one.notes
    assert messages[-2:] == ["try 1", "try 0"]
    assert len(messages) < 30
    (note,) = notes
    assert re.fullmatch(r"\.\.\. [\d,]+ exceptions between this one and the one it came from are left out \.\.\.", note)
    assert ExceptionRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_syntax_error_keeps_its_own_place() -> None:
    record = exception_record(caught(lambda: compile("x = (1,\n", "<cell>", "exec")), lambda name: "Cell In[2]")
    assert record.syntax is not None
    assert {key: record.syntax[key] for key in ("filename", "lineno", "msg")} == {
        "filename": "<cell>",
        "lineno": 1,
        "msg": "'(' was never closed",
    }
    assert '  File "Cell In[2]", line 1\n' in record.text


def test_exception_group_keeps_its_parts_in_the_text() -> None:
    record = exception_record(ran("raise ExceptionGroup('two', [ValueError('a'), KeyError('b')])"), no_label)
    assert record.type_name == "ExceptionGroup"
    assert "ValueError: a" in record.text
    assert "KeyError: 'b'" in record.text


def test_endless_recursion_is_kept_short() -> None:
    error = ran("def f(n):\n    return f(n + 1)\nf(0)")
    record = exception_record(error, no_label)
    assert len(record.frames) == 100
    assert frames(record)[0] == (3, "<module>", "f(0)", 1)
    assert len(record.text) < 20_000


class RudeText(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")


class RudeName(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RudeText(), "<its text could not be made: KeyError>"),
        (RudeName(3, "text"), "text"),
        (ValueError(), ""),
        (ValueError("half a pair \udc80"), "half a pair \udc80"),
        (
            ValueError("x" * 200_000),
            "x" * 50_000 + "\n... 100,000 characters left out ...\n" + "x" * 50_000,
        ),
        (KeyboardInterrupt(), ""),
        (OSError(2, "No such file", "name"), "[Errno 2] No such file: 'name'"),
    ],
)
def test_text_of_any_exception_is_recorded(error: BaseException, message: str, tmp_path: Path) -> None:
    record = exception_record(error, no_label)
    assert record.message == message
    write_error_file(str(tmp_path / "error.json"), record)
    assert ProcessFailure(0, 1, 1, str(tmp_path / "error.json")).message["message"].startswith(type(error).__qualname__)


def test_error_file_has_torchs_keys(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    error = ran("1 / 0")
    before = int(time.time())
    write_error_file(str(path), exception_record(error, no_label))
    data = json.loads(path.read_text())
    assert list(data) == ["message"]
    assert list(data["message"]) == ["message", "extraInfo"]
    assert data["message"]["message"] == "ZeroDivisionError: division by zero"
    assert list(data["message"]["extraInfo"]) == ["py_callstack", "timestamp"]
    assert before <= int(data["message"]["extraInfo"]["timestamp"]) <= time.time()
    text = "".join(traceback.format_exception(error))
    assert data["message"]["extraInfo"]["py_callstack"] == text
    assert os.listdir(tmp_path) == ["error.json"]


def test_error_file_replaces_an_older_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    path.write_text("x" * 100_000)
    write_error_file(str(path), exception_record(ValueError("new"), no_label))
    assert json.loads(path.read_text())["message"]["message"] == "ValueError: new"


def test_error_file_without_its_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_error_file(str(tmp_path / "gone" / "error.json"), exception_record(ValueError(), no_label))


_READ_WHILE_WRITTEN = """
import sys
from ipyelastic.failures.record import exception_record, write_error_file
record = exception_record(ValueError('x' * 50_000), lambda name: '')
print('up', flush=True)
while True:
    write_error_file(sys.argv[1], record)
"""


def test_reader_never_sees_half_a_file_even_when_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    writer = subprocess.Popen([sys.executable, "-c", _READ_WHILE_WRITTEN, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == b"up\n"
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline
        for _ in range(200):
            assert len(json.loads(path.read_text())["message"]["message"]) == 50_012
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert len(json.loads(path.read_text())["message"]["message"]) == 50_012


@pytest.mark.torch
def test_torch_writes_the_same_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.errors.error_handler import ErrorHandler

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "theirs.json"))
    error = ran("1 / 0")
    ErrorHandler().record_exception(error)
    write_error_file(str(tmp_path / "ours.json"), exception_record(error, no_label))
    ours, theirs = (json.loads((tmp_path / name).read_text()) for name in ("ours.json", "theirs.json"))
    assert list(ours) == list(theirs)
    assert list(ours["message"]) == list(theirs["message"])
    assert sorted(ours["message"]["extraInfo"]) == sorted(theirs["message"]["extraInfo"])
    assert ours["message"]["message"] == theirs["message"]["message"]


# ----------------------------------------------------------------------------------- exceptions that do not want to be


class Unreadable(Exception):
    def __getattribute__(self, name: str) -> object:
        raise RuntimeError("no attributes")


class _Forbidding(type):
    def __getattribute__(cls, name: str) -> object:
        raise RuntimeError("not even my name")


class Nameless(Exception, metaclass=_Forbidding):
    pass


@pytest.mark.parametrize("name", ["Unreadable", "Nameless"])
def test_exception_whose_class_forbids_everything_is_recorded_with_its_line(name: str) -> None:
    code = f"raise {name}('x')"
    linecache.cache["<cell>"] = (len(code), None, [code], "<cell>")
    try:
        exec(compile(code, "<cell>", "exec"), globals())
    except Exception as error:
        record = exception_record(error, no_label)
    assert (record.type_name, record.message) == (name, "<nothing more can be read of it: RuntimeError>")
    assert frames(record) == [(1, "<module>", f"raise {name}('x')", 1)]


class _Rude:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("notes", [5, [_Rude()]])
def test_notes_that_are_none_are_no_reason_to_lose_the_exception(notes: object) -> None:
    error = ran("raise ValueError('kept')")
    vars(error)["__notes__"] = notes
    record = exception_record(error, no_label)
    assert record.message == "kept"
    assert re.fullmatch(r"<its notes could not be read: \w+Error>", record.notes[0])


def test_text_of_a_hundred_megabytes_is_told_by_its_two_ends() -> None:
    record = exception_record(ValueError("a" * 50_000_000 + "b" * 50_000_000), no_label)
    assert record.message.startswith("aaa")
    assert record.message.endswith("bbb")
    assert "99,900,000 characters left out" in record.message
    assert len(json.dumps(record.to_dict())) < 500_000


def test_asyncios_frames_below_an_awaiting_function_are_not_the_users() -> None:
    import asyncio

    from ipyelastic.payload.body import CellBody

    code = compile("import asyncio\nawait asyncio.sleep(0)\n1 / 0", "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    body = CellBody(code, None, {}, {})
    try:
        asyncio.run(body._run_async({}))
    except ZeroDivisionError as error:
        below_ours = error.__traceback__
        while below_ours is not None and "asyncio" not in below_ours.tb_frame.f_code.co_filename:
            below_ours = below_ours.tb_next
        record = exception_record(error.with_traceback(below_ours), no_label)
    assert [frame.name for frame in record.frames if not frame.is_internal] == ["<module>"]
    assert "asyncio" not in record.text
