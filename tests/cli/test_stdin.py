"""`ipyelastic run` hands its stdin on to the ranks, as torchrun does: a pipe, a terminal, or nothing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Start = Callable[..., Any]
Script = Callable[..., str]

READS = "print(repr(sys.stdin.readline()), input(), os.read(0, 10))"


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_a_script_reads_what_is_piped_in(start: Start, script: Script, method: str) -> None:
    script(READS)
    ended = start("run", "-n", "1", "--start-method", method, "train.py", stdin=subprocess.PIPE).end(typed="a\nb\n")
    assert (ended.code, ended.out, ended.err) == (0, "[rank 0] 'a\\n' b b''\n", "")


def test_a_program_reads_what_is_piped_in(start: Start) -> None:
    ended = start("run", "-n", "1", "--no-python", "cat", stdin=subprocess.PIPE).end(typed="a\nb\n")
    assert (ended.code, ended.out, ended.err) == (0, "[rank 0] a\n[rank 0] b\n", "")


def test_ranks_share_it(start: Start, script: Script) -> None:
    script("got = b''\nwhile more := os.read(0, 1):\n    got += more\nprint(got.decode())")
    ended = start("run", "-n", "2", "train.py", stdin=subprocess.PIPE).end(typed="x" * 1000)
    assert ended.code == 0
    assert "".join(ended.lines_of(0) + ended.lines_of(1)) == "x" * 1000


def test_a_file_goes_on_where_it_was_read_to(start: Start, script: Script, tmp_path: Path) -> None:
    script(READS)
    (tmp_path / "lines").write_text("read before\na\nb\n")
    with open(tmp_path / "lines", "rb", buffering=0) as file:
        assert file.readline() == b"read before\n"
        ended = start("run", "-n", "1", "train.py", stdin=file).end()
    assert (ended.code, ended.out) == (0, "[rank 0] 'a\\n' b b''\n")


def test_a_person_is_asked_in_a_whole_line(start: Start, script: Script) -> None:
    script("print('hello', input('name? '))")
    here, there = pty.openpty()
    try:
        started = start("run", "-n", "1", "train.py", stdin=there)
        assert started.line() == "[rank 0] name? "
        os.write(here, b"Ada\n")
        ended = started.end()
    finally:
        os.close(here)
        os.close(there)
    assert (ended.code, ended.out, ended.err) == (0, "[rank 0] hello Ada\n", "")


def test_debugger_stops_in_a_rank(start: Start, script: Script) -> None:
    script("number = 6 * 7\nbreakpoint()\nprint('went on')")
    ended = start("run", "-n", "1", "train.py", stdin=subprocess.PIPE).end(typed="p number\nc\n")
    assert (ended.code, ended.err) == (0, "")
    assert "(Pdb) 42" in ended.lines_of(0)
    assert ended.lines_of(0)[-1].endswith("went on")


def test_without_anybody_the_script_is_told_what_to_do(start: Start, script: Script) -> None:
    script("assert sys.stdin.read() == ''\ninput('name? ')")
    ended = start("run", "-n", "1", "train.py").end()
    said = "EOFError: input() has nobody to ask inside a rank: pass the value as an argument of the script"
    assert ended.code == 1
    assert said in ended.err.splitlines()


def test_closed_stdin_is_the_null_device(script: Script, tmp_path: Path) -> None:
    script("print(repr(sys.stdin.read()))")
    line = 'exec "$0" -m ipyelastic run -n 1 train.py <&-'
    ended = subprocess.run(["sh", "-c", line, sys.executable], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[rank 0] ''\n", "")
