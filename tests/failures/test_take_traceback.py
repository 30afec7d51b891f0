"""A program that does not use `record` still tells why it failed (SEEDS section 18, 17)."""

from __future__ import annotations

import sys
from pathlib import Path

from ipyelastic.contexts.start import start_processes
from ipyelastic.output.logs import DefaultLogsSpecs
from ipyelastic.terms.errors import ChildFailedError
from ipyelastic.terms.failure import ProcessFailure
from ipyelastic.terms.std import Std


def _failure(tmp_path: Path, script: str) -> ProcessFailure:
    logs = DefaultLogsSpecs(log_dir=str(tmp_path), redirects=Std.ALL)
    result = start_processes("script", sys.executable, {0: ("-c", script)}, {0: {}}, logs).wait(timeout=60)
    assert result is not None
    return result.failures[0]


def test_the_last_traceback_on_stderr_is_the_failures(tmp_path: Path) -> None:
    script = "import sys\ntry: 1 / 0\nexcept ZeroDivisionError as e: raise ValueError('two\\nlines') from e"
    failure = _failure(tmp_path, script)
    assert failure.message["message"] == "ValueError: two"
    callstack = failure.message["extraInfo"]["py_callstack"].splitlines()
    assert (callstack[0], callstack[-1]) == ("Traceback (most recent call last):", "ValueError: two")
    assert "  traceback : Traceback (most recent call last):" in str(ChildFailedError("script", {0: failure}))


def test_a_program_that_cannot_be_compiled_says_where(tmp_path: Path) -> None:
    failure = _failure(tmp_path, "x = 1\ndef")
    assert failure.message["message"].startswith("SyntaxError: ")
    assert failure.message["extraInfo"]["py_callstack"].startswith('  File "<string>", line 2\n')


def test_a_crash_leaves_its_python_stack(tmp_path: Path) -> None:
    failure = _failure(tmp_path, "import ctypes\nctypes.string_at(0)")
    assert failure.exitcode == -11
    assert failure.stacks.startswith("Fatal Python error: Segmentation fault")
    assert "in string_at" in failure.stacks
    assert failure.message == f"Signal 11 (SIGSEGV) received by PID {failure.pid}"


def test_an_exit_code_without_a_traceback_stays_without(tmp_path: Path) -> None:
    failure = _failure(tmp_path, "import sys\nprint('Trace', file=sys.stderr)\nsys.exit(3)")
    assert failure.exitcode == 3
    assert isinstance(failure.message, str)
    assert failure.note == "it exited with code 3 and left no traceback"
