"""`@record` and ErrorHandler: what each end of a program leaves, in real files; compared with torch's."""

from __future__ import annotations

import faulthandler
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.failures import handler as handler_module
from ipyelastic.failures.handler import ErrorHandler, get_error_handler, record
from ipyelastic.terms import env
from ipyelastic.terms.errors import ChildFailedError
from ipyelastic.terms.failure import ProcessFailure

NEW = {"message": {"message": "E: text", "extraInfo": {"py_callstack": "stack", "timestamp": "1"}}}
OLD = {"message": "text", "timestamp": 5}


@pytest.fixture(autouse=True)
def error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process's own error file, as its agent would name it; faulthandler is pytest's again afterwards."""
    path = tmp_path / "error.json"
    monkeypatch.setenv(env.ERROR_FILE, str(path))
    yield path
    faulthandler.enable(2)


@pytest.fixture
def child_file(tmp_path: Path) -> Path:
    return tmp_path / "child.json"


@record
def main(given: object = None, error: BaseException | None = None) -> object:
    """Return what is given, or raise."""
    if error is not None:
        raise error
    return given


def failed(error_file: Path, exitcode: int = 7) -> ChildFailedError:
    return ChildFailedError("job", {3: ProcessFailure(0, 997, exitcode, str(error_file))})


def left_beside(path: Path) -> list[str]:
    return [other.name for other in path.parent.iterdir() if ".tmp" in other.name]


def test_value_name_and_docstring_pass_through(error_file: Path) -> None:
    assert main("value") == "value"
    assert (main.__name__, main.__doc__) == ("main", "Return what is given, or raise.")
    assert not error_file.exists()


def test_exception_is_written_with_torchs_keys_and_passes_on(error_file: Path) -> None:
    before = int(time.time())
    with pytest.raises(ValueError, match="boom"):
        main(error=ValueError("boom"))
    data = json.loads(error_file.read_text())
    assert set(data) == {"message"}
    assert set(data["message"]) == {"message", "extraInfo"}
    assert data["message"]["message"] == "ValueError: boom"
    extra = data["message"]["extraInfo"]
    assert set(extra) == {"py_callstack", "timestamp"}
    assert before <= int(extra["timestamp"]) <= time.time()
    assert extra["py_callstack"].startswith("Traceback (most recent call last):\n")
    assert extra["py_callstack"].endswith("ValueError: boom\n")
    assert "raise error" in extra["py_callstack"]
    assert handler_module.__file__ not in extra["py_callstack"]
    assert left_beside(error_file) == []
    failure = ProcessFailure(0, 1, 1, str(error_file))
    assert failure.message["message"] == "ValueError: boom"


@pytest.mark.parametrize("code", [None, 3, 256, "text", True])
def test_other_exits_pass_unrecorded(error_file: Path, code: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main(error=SystemExit(code))
    assert caught.value.code == code
    assert not error_file.exists()


def test_exit_with_code_0_is_a_return_of_none(error_file: Path) -> None:
    assert main("value", error=SystemExit(0)) is None
    assert not error_file.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
def test_interrupt_passes_unrecorded(error_file: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        main(error=error)
    assert not error_file.exists()


def test_exception_without_text_is_recorded_all_the_same(error_file: Path) -> None:
    class Wordless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    with pytest.raises(Wordless):
        main(error=Wordless())
    assert json.loads(error_file.read_text())["message"]["message"].startswith("Wordless: <its text could not be made")


def test_lone_surrogates_do_not_keep_the_file_from_being_written(error_file: Path) -> None:
    with pytest.raises(ValueError):
        main(error=ValueError("\ud800 \u2603"))
    assert json.loads(error_file.read_text())["message"]["message"] == "ValueError: \ud800 \u2603"


@pytest.mark.parametrize("path", [None, ""])
def test_without_an_error_file_nothing_is_written(path: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(env.ERROR_FILE) if path is None else monkeypatch.setenv(env.ERROR_FILE, path)
    with pytest.raises(ValueError, match="boom"):
        main(error=ValueError("boom"))


def test_file_that_cannot_be_written_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(env.ERROR_FILE, str(tmp_path / "gone" / "error.json"))
    with caplog.at_level(logging.WARNING, "ipyelastic"), pytest.raises(ValueError, match="boom"):
        main(error=ValueError("boom"))
    assert caplog.messages[0].startswith("Unable to write error to file. FileNotFoundError: ")
    monkeypatch.setenv(env.ERROR_FILE, str(tmp_path))
    with pytest.raises(ValueError, match="boom"):
        main(error=ValueError("boom"))
    assert left_beside(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "copied"),
    [(NEW, {"message": {**NEW["message"], "errorCode": 7}}), (OLD, OLD)],
)
@pytest.mark.parametrize("is_there", [False, True])
def test_root_failures_file_is_copied(
    error_file: Path, child_file: Path, data: Any, copied: Any, is_there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    child_file.write_text(json.dumps(data))
    if is_there:
        error_file.write_text('{"mine": 1}')
    with caplog.at_level(logging.INFO, "ipyelastic"), pytest.raises(ChildFailedError):
        main(error=failed(child_file))
    assert json.loads(error_file.read_text()) == copied
    assert json.loads(child_file.read_text()) == data
    expected = [f"dumped error file to parent's {error_file}"]
    if is_there:
        said = f"{error_file} already exists and will be overwritten. Original contents:\n" + '{\n  "mine": 1\n}'
        expected.insert(0, said)
    if data is OLD:
        said = f"child error file ({child_file}) has a new message format. \nskipping error code override"
        expected.insert(0, said)
    assert caplog.messages == expected


def test_failure_without_a_file_is_one_sentence_in_the_log(
    error_file: Path, child_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ipyelastic"), pytest.raises(ChildFailedError):
        main(error=failed(child_file))
    assert caplog.messages == [
        "local_rank 3 FAILED with no error file. Decorate your entrypoint fn with @record for traceback info."
        " See: https://pytorch.org/docs/stable/elastic/errors.html"
    ]
    assert not error_file.exists()


def test_without_a_file_of_its_own_a_parent_says_what_it_could_not_copy(
    child_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    child_file.write_text(json.dumps(NEW))
    monkeypatch.delenv(env.ERROR_FILE)
    with pytest.raises(ChildFailedError):
        main(error=failed(child_file))
    assert caplog.messages == [f"no error file defined for parent, to copy child error file ({child_file})"]


@pytest.mark.parametrize("text", ["", '{"message": ', "not json", "\udcff"])
def test_damaged_child_file_becomes_a_note_that_says_so(error_file: Path, child_file: Path, text: str) -> None:
    child_file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ChildFailedError):
        main(error=failed(child_file))
    message = json.loads(error_file.read_text())["message"]
    assert message["errorCode"] == 7
    assert message["message"].startswith(f"the error file {child_file} cannot be read: JSONDecodeError: ")
    assert ProcessFailure(0, 1, 7, str(error_file)).message == message


@pytest.mark.parametrize("data", [[], 3, None, {}, {"message": None}, {"message": {}}])
@pytest.mark.parametrize("code", [0, 5, -9])
def test_foreign_child_file_is_copied_as_it_is(error_file: Path, child_file: Path, data: Any, code: int) -> None:
    child_file.write_text(json.dumps(data))
    ErrorHandler().dump_error_file(str(child_file), code)
    expected = {"message": {"errorCode": code}} if data == {"message": {}} and code else data
    assert json.loads(error_file.read_text()) == expected


def test_missing_child_file_is_an_error_of_the_caller_but_hides_no_failure(
    child_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FileNotFoundError):
        ErrorHandler().dump_error_file(str(child_file))
    child_file.write_text(json.dumps(NEW))
    gone = failed(child_file)
    child_file.unlink()
    with pytest.raises(ChildFailedError):
        main(error=gone)
    assert caplog.messages == ["cannot copy the root failure's error file"]


def test_override_takes_code_0_too_and_names_data_without_message(caplog: pytest.LogCaptureFixture) -> None:
    data: dict[str, Any] = {"message": {"message": "x", "errorCode": 2}}
    ErrorHandler().override_error_code_in_rootcause_data("file", data)
    assert data == {"message": {"message": "x", "errorCode": 0}}
    ErrorHandler().override_error_code_in_rootcause_data("file", {}, 3)
    assert caplog.messages == ["child error file (file) does not have field `message`. \ncannot override error code: 3"]


def test_removing_keeps_unreadable_words_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff")
    ErrorHandler()._rm(str(path))
    ErrorHandler()._rm(str(path))
    assert caplog.messages == [
        f"{path} already exists and will be overwritten. Unable to load original contents:\n\ufffd"
    ]
    assert not path.exists()


def test_writing_warns_when_it_cannot(tmp_path: Path, error_file: Path) -> None:
    handler = ErrorHandler()
    assert handler._get_error_file_path() == str(error_file)
    handler._write_error_file(str(error_file), "text")
    assert error_file.read_text() == "text"
    with pytest.warns(UserWarning, match=r"^Unable to write error to file\. FileNotFoundError: "):
        handler._write_error_file(str(tmp_path / "gone" / "file"), "text")


def test_initialize_enables_faulthandler_and_only_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    faulthandler.disable()
    ErrorHandler().initialize()
    assert faulthandler.is_enabled()
    monkeypatch.setattr(handler_module, "stacks_file", object())
    with pytest.warns(UserWarning, match=r"^Unable to enable fault handler\. \w+: "):
        ErrorHandler().initialize()


def test_a_handler_of_ones_own_is_asked_in_order(child_file: Path) -> None:
    asked: list[object] = []

    class Mine(ErrorHandler):
        def initialize(self) -> None:
            asked.append("initialize")

        def record_exception(self, e: BaseException) -> None:
            asked.append(repr(e))

        def dump_error_file(self, rootcause_error_file: str, error_code: int = 0) -> None:
            asked.append((rootcause_error_file, error_code))

    @functools.partial(record, error_handler=Mine())
    def fail(error: Exception) -> None:
        raise error

    child_file.write_text(json.dumps(NEW))
    for error in (ValueError("x"), failed(child_file)):
        with pytest.raises(type(error)):
            fail(error)
    assert asked == ["initialize", "ValueError('x')", "initialize", (str(child_file), 7)]


def test_handler_that_raises_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ErrorHandler):
        def record_exception(self, e: BaseException) -> None:
            raise OSError("the handler's own")

    with pytest.raises(ValueError, match="the user's"):
        record(main, Broken())(error=ValueError("the user's"))
    assert "cannot record the exception" in caplog.messages


def test_record_is_for_functions() -> None:
    assert get_error_handler() is not get_error_handler()
    with pytest.raises(TypeError, match=r"^record\(3\): expected a function$"):
        record(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'fn'"):
        record(error_handler=ErrorHandler())  # type: ignore[call-arg]


def test_a_process_killed_while_it_writes_leaves_a_whole_file_or_none(tmp_path: Path, error_file: Path) -> None:
    # Killed at the very moment the words are on disk and the file does not have its name yet.
    code = """
        import os, signal
        from ipyelastic.failures.handler import record
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        @record
        def main():
            raise ValueError("x" * 100_000)
        main()
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert not error_file.exists()


PROGRAM = """
    import json, os, sys, tempfile
    from {module} import record, {classes}
    {more}
    folder = tempfile.mkdtemp()
    mine, child = folder + "/mine.json", folder + "/child.json"
    os.environ["TORCHELASTIC_ERROR_FILE"] = mine
    new = {{"message": {{"message": "E", "extraInfo": {{"py_callstack": "s", "timestamp": "1"}}}}}}
    old = {{"message": "text", "timestamp": 5}}
    results = []

    @record
    def main(error):
        if error is not None:
            raise error
        return "value"

    def noted(call, *args):
        try:
            outcome = repr(call(*args))
        except BaseException as error:
            outcome = type(error).__name__, str(getattr(error, "code", ""))
        data = None
        if os.path.exists(mine):
            data = json.load(open(mine))
            try:
                extra = data["message"]["extraInfo"]
            except (KeyError, TypeError):
                extra = {{"timestamp": "1"}}
            if extra["timestamp"] != "1":
                # The wrapper's own frame, which torch leaves in, is not what is compared.
                extra["py_callstack"] = extra["py_callstack"].splitlines()[-1]
                extra["timestamp"] = type(extra["timestamp"]).__name__
            os.remove(mine)
        results.append((outcome, data))

    class Own(Exception):
        pass

    for error in (None, ValueError("boom"), KeyError("k"), Own(), SystemExit(0), SystemExit(3), SystemExit("t"),
                  SystemExit(None), KeyboardInterrupt()):
        noted(main, error)
    for data in (new, old):
        for exitcode in (7, -9):
            json.dump(data, open(child, "w"))
            noted(main, ChildFailedError("job", {{0: ProcessFailure(0, 1, exitcode, child)}}))
    os.remove(child)
    noted(main, ChildFailedError("job", {{0: ProcessFailure(0, 1, 7, child)}}))
    handler = ErrorHandler()
    for data in ([], {{}}, {{"message": None}}, {{"message": {{}}}}):
        json.dump(data, open(child, "w"))
        noted(handler.dump_error_file, child, 0)
        if data != {{"message": None}}:  # torch's raises TypeError
            noted(handler.dump_error_file, child, 5)
    for data in ({{"message": "x"}}, {{}}, {{"message": {{"errorCode": 2}}}}):
        handler.override_error_code_in_rootcause_data("f", data, 3)
        results.append(data)
    noted(record, )
    results.append((main.__name__, handler._get_error_file_path() == mine))
    del os.environ["TORCHELASTIC_ERROR_FILE"]
    noted(main, ValueError("nowhere"))
    results.append(handler._get_error_file_path())
    print(json.dumps(results))
"""


@pytest.mark.torch
@pytest.mark.slow
def test_the_same_program_has_the_same_outcome_with_torch() -> None:
    outcomes = []
    names = "ChildFailedError, ErrorHandler, ProcessFailure"
    ours = "from ipyelastic.terms.errors import ChildFailedError; from ipyelastic.terms.failure import ProcessFailure"
    for filled in (
        PROGRAM.format(module="torch.distributed.elastic.multiprocessing.errors", classes=names, more=""),
        PROGRAM.format(module="ipyelastic.failures.handler", classes="ErrorHandler", more=ours),
    ):
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(filled)], capture_output=True, text=True, timeout=60, env=environment
        )
        assert ended.returncode == 0, ended.stderr
        outcomes.append(json.loads(ended.stdout.splitlines()[-1]))
    assert outcomes[1] == outcomes[0]


@pytest.mark.torch
@pytest.mark.slow
def test_signatures_are_those_of_torch() -> None:
    import inspect

    from torch.distributed.elastic.multiprocessing import errors

    for name in ("record", "get_error_handler", *(f"ErrorHandler.{name}" for name in vars(ErrorHandler))):
        ours: Any = handler_module
        theirs: Any = errors
        for part in name.split("."):
            ours, theirs = getattr(ours, part), getattr(theirs, part)
        if callable(ours) and not name.endswith("__"):
            mine, torchs = (inspect.signature(function).parameters.values() for function in (ours, theirs))
            assert [(one.name, one.default) for one in mine] == [(one.name, one.default) for one in torchs]
