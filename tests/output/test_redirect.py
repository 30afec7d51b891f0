"""Redirects of this process's streams, in processes of their own; the same programs against torch's and ours."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.output.std_redirect import get_libc, get_std_cm, redirect, redirect_stderr, redirect_stdout

OURS = "ipyelastic.output.std_redirect"
TORCHS = "torch.distributed.elastic.multiprocessing.redirects"

HEAD = """
    import contextlib, ctypes, io, os, subprocess, sys
    from {module} import redirect, redirect_stderr, redirect_stdout, get_libc

    libc = get_libc()

    def write_all(word, fd=1):
        "One line from each of the four sources."
        stream = {{1: sys.stdout, 2: sys.stderr}}[fd]
        stream.write(f"python {{word}}\\n")
        if fd == 1:
            libc.puts(f"c {{word}}".encode())
        else:
            libc.perror(f"c {{word}}".encode())
        os.write(fd, f"fd {{word}}\\n".encode())
        subprocess.run([sys.executable, "-S", "-c", f"import os; os.write({{fd}}, b'child {{word}}\\\\n')"])

"""


def run(body: str, folder: Path, module: str = OURS) -> tuple[str, str]:
    """Run a program in `folder` whose output goes to pipes; what came through them."""
    code = textwrap.dedent(HEAD).format(module=module) + textwrap.dedent(body)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines())


def four(word: str) -> list[str]:
    return [f"c {word}", f"child {word}", f"fd {word}", f"python {word}"]


def test_everything_is_captured_and_restored(tmp_path: Path) -> None:
    out, err = run(
        """
        write_all("before")
        with redirect_stdout("log") as nothing:
            assert nothing is None
            write_all("inside")
        write_all("after")
        """,
        tmp_path,
    )
    assert lines(tmp_path / "log") == four("inside")
    assert sorted(out.splitlines()) == sorted(four("before") + four("after"))
    assert err == ""


def test_stderr_is_captured_too_and_stdout_is_not(tmp_path: Path) -> None:
    out, err = run(
        """
        with redirect_stderr("log"):
            write_all("inside", 2)
            print("console")
        write_all("after", 2)
        """,
        tmp_path,
    )
    assert len(lines(tmp_path / "log")) == 4
    assert out == "console\n"
    assert sum("after" in line for line in err.splitlines()) == 4


@pytest.mark.parametrize(
    "replaced",
    [
        "io.StringIO()",
        "None",
        "open('elsewhere', 'w')",
        "type('NoFileno', (), {'write': lambda self, text: None, 'flush': lambda self: None})()",
        "type('NoFlush', (), {'write': lambda self, text: None})()",
        "type('Sub', (io.TextIOWrapper,), {'write': lambda self, text: 0})(open(os.dup(1), 'wb'))",
    ],
)
def test_replaced_stream_is_redirected_with_its_descriptor(tmp_path: Path, replaced: str) -> None:
    out, _ = run(
        f"""
        sys.stdout = former = {replaced}
        with redirect_stdout("log"):
            write_all("inside")
            assert sys.stdout is not former
        assert sys.stdout is former
        sys.stdout = sys.__stdout__  # the interpreter flushes it at its end
        os.write(1, b"console\\n")
        """,
        tmp_path,
    )
    assert lines(tmp_path / "log") == four("inside")
    assert out == "console\n"


def test_a_stream_on_its_own_descriptor_is_kept(tmp_path: Path) -> None:
    run(
        """
        former = sys.stdout
        with redirect_stdout("log"):
            assert sys.stdout is former
        assert sys.stdout is former
        """,
        tmp_path,
    )


def test_nested_blocks_each_have_their_file(tmp_path: Path) -> None:
    out, _ = run(
        """
        with redirect_stdout("outer"), redirect_stderr("errors"):
            write_all("outer")
            with redirect_stdout("inner"):
                write_all("inner")
                os.write(2, b"error\\n")
            write_all("again")
        print("console")
        """,
        tmp_path,
    )
    assert lines(tmp_path / "outer") == sorted(four("outer") + four("again"))
    assert lines(tmp_path / "inner") == four("inner")
    assert lines(tmp_path / "errors") == ["error"]
    assert out == "console\n"


def test_nested_with_a_capture_between(tmp_path: Path) -> None:
    out, _ = run(
        """
        caught = io.StringIO()
        with redirect_stdout("outer"), contextlib.redirect_stdout(caught):
            print("caught")
            with redirect_stdout("inner"):
                write_all("inner")
            print("caught again")
        print("console")
        open("caught", "w").write(caught.getvalue())
        """,
        tmp_path,
    )
    assert lines(tmp_path / "outer") == []
    assert lines(tmp_path / "inner") == four("inner")
    assert lines(tmp_path / "caught") == ["caught", "caught again"]
    assert out == "console\n"


@pytest.mark.parametrize("replace", ["pass", "sys.stdout = io.StringIO()"])
def test_all_is_restored_after_an_error(tmp_path: Path, replace: str) -> None:
    out, _ = run(
        f"""
        {replace}
        former, fds = sys.stdout, set(os.listdir("/proc/self/fd"))
        try:
            with redirect_stdout("log"):
                sys.stdout.write("half a line")
                libc.printf(b" and c")
                raise KeyError("inside")
        except KeyError:
            pass
        assert sys.stdout is former
        assert set(os.listdir("/proc/self/fd")) == fds
        write_all("after") if former is sys.__stdout__ else os.write(1, b"after\\n")
        """,
        tmp_path,
    )
    assert (tmp_path / "log").read_text() in ("half a line and c", " and chalf a line")
    assert "after" in out
    assert "half" not in out


def test_error_at_the_door_changes_nothing(tmp_path: Path) -> None:
    out, _ = run(
        """
        fds = set(os.listdir("/proc/self/fd"))
        for std, path, error in (("stdout", "missing/log", FileNotFoundError), ("stdout", ".", IsADirectoryError),
                                 ("stdin", "log", ValueError)):
            try:
                with redirect(std, path):
                    raise AssertionError("entered")
            except error as caught:
                print(caught)
        assert set(os.listdir("/proc/self/fd")) == fds
        """,
        tmp_path,
    )
    assert out.splitlines() == [
        "[Errno 2] No such file or directory: 'missing/log'",
        "[Errno 21] Is a directory: '.'",
        "unknown standard stream <stdin>, must be one of {'stdout', 'stderr'}",
    ]
    assert not (tmp_path / "log").exists()


def test_target_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("old words\n" * 100)
    run('with redirect_stdout("log"): print("new")', tmp_path)
    assert (tmp_path / "log").read_text() == "new\n"


def test_both_streams_may_share_a_file(tmp_path: Path) -> None:
    run(
        """
        with redirect_stdout("log"), redirect_stderr("log"):
            for _ in range(100):
                os.write(1, b"out\\n")
                os.write(2, b"err\\n")
        """,
        tmp_path,
    )
    assert (tmp_path / "log").read_text() == "out\nerr\n" * 100


def test_closed_descriptors_are_closed_again(tmp_path: Path) -> None:
    run(
        """
        sys.stdout = sys.stderr = None
        for fd in (0, 1, 2):
            os.close(fd)
        with redirect_stdout("log"):
            print("inside")
        left = os.listdir("/proc/self/fd")
        open("left", "w").write(repr([fd for fd in ("1", "2") if fd in left]))
        """,
        tmp_path,
    )
    assert (tmp_path / "log").read_text() == "inside\n"
    assert (tmp_path / "left").read_text() == "[]"


def test_children_do_not_inherit_our_descriptors(tmp_path: Path) -> None:
    run(
        """
        code = "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"
        with redirect_stdout("log"):
            subprocess.run([sys.executable, "-S", "-c", code], close_fds=False)
        """,
        tmp_path,
    )
    assert (tmp_path / "log").read_text() == "[0, 1, 2, 3]\n"  # 3 is the listing's own


def test_libc_is_loaded_once_and_an_import_warns_of_nothing() -> None:
    libc = get_libc()
    assert libc is get_libc()
    assert libc is not None
    assert libc.abs(-3) == 3
    code = f"import sys, {OURS}; print('ctypes' in sys.modules)"
    ended = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("False\n", "")


def test_an_empty_path_redirects_nothing(tmp_path: Path) -> None:
    assert isinstance(get_std_cm("", redirect_stdout), contextlib.nullcontext)
    assert isinstance(get_std_cm(None, redirect_stderr), contextlib.nullcontext)
    given: list[Any] = []
    assert get_std_cm("path", lambda path: given.append(path) or redirect("stdout", path))  # type: ignore[func-returns-value]
    assert given == ["path"]


@pytest.mark.torch
@pytest.mark.slow
def test_the_same_program_has_the_same_outcome_with_torch(tmp_path: Path) -> None:
    body = """
        import json
        errors = []
        for std, path in (("stdin", "log"), ("stdout", "missing/log"), ("stdout", ".")):
            try:
                redirect(std, path).__enter__()
            except Exception as error:
                errors.append((type(error).__name__, "stdin" in str(error)))
        with redirect_stdout("outer") as nothing:
            write_all("outer")
            with redirect_stdout("inner"), redirect_stderr("errors"):
                write_all("inner")
                write_all("error", 2)
            write_all("again")
        try:
            with redirect_stdout("failed"):
                print("inside")
                raise KeyError
        except KeyError:
            print("after")
        print(json.dumps([errors, nothing, redirect_stdout.args, redirect_stderr.args]))
    """
    outcomes = []
    for module in (TORCHS, OURS):
        folder = tmp_path / module
        folder.mkdir()
        out, _ = run(body, folder, module)
        files = {path.name: lines(path) for path in folder.iterdir()}
        outcomes.append((files, [json.loads(line) if line[0] == "[" else line for line in out.splitlines()]))
    assert outcomes[1] == outcomes[0]
    assert set(outcomes[1][0]) == {"outer", "inner", "errors", "failed"}
