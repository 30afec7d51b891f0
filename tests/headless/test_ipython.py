"""IPython without a page: `ipython script.ipy`, `ipython -c`, a terminal fed by a pipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Runs = Callable[..., Any]
IPYTHON = ["-m", "IPython", "--no-banner", "--colors=NoColor"]


def test_ipy_script_prints_everything_in_order(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "script.ipy").write_text(
        "%load_ext ipyelastic\n"
        "print('first')\n"
        "values = %elastic_run -n 2 [print('line', n) for n in range(3000)] and rank\n"
        "print(values)\n"
        "run = %elastic_run --bg -n 2 print('behind') or rank\n"
        "print(run.result())\n"
    )
    ended = runs([*IPYTHON, "script.ipy"])
    assert (ended.returncode, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "first"
    for rank in (0, 1):
        own = [line for line in lines if line.startswith(f"[rank {rank}] line")]
        assert own == [f"[rank {rank}] line {n}" for n in range(3000)]
    assert lines[6001] == "[0: 0, 1: 1]"
    assert sorted(lines[6002:6004]) == ["[rank 0] behind", "[rank 1] behind"]
    assert re.fullmatch(r"run [0-9a-f]{8}, .* on 2 ranks: succeeded after \d+\.\d s", lines[6004])
    assert lines[6005:] == ["[0: 0, 1: 1]"]


def test_terminal_that_inherited_a_pages_environment_loses_no_line(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSCODE_PID", "1")  # a terminal of VS Code
    (tmp_path / "script.ipy").write_text(
        "%load_ext ipyelastic\n_ = %elastic_run -n 1 [print('line', n) for n in range(3000)]\n"
    )
    ended = runs([*IPYTHON, "script.ipy"])
    assert ended.out.splitlines() == [f"[rank 0] line {n}" for n in range(3000)]


@pytest.mark.parametrize("failing", ["%elastic_run -n 1 1 / 0", "run = %elastic_run --bg -n 1 1 / 0\nrun.result()"])
def test_failing_ipy_script_ends_with_1_and_shows_the_failure(runs: Runs, tmp_path: Path, failing: str) -> None:
    (tmp_path / "script.ipy").write_text(f"%load_ext ipyelastic\n{failing}\nprint('never')\n")
    ended = runs([*IPYTHON, "script.ipy"])
    text = ended.out + ended.err
    assert ended.returncode == 1
    assert "rank 0 of 1 failed (local_rank 0)\n  what    ZeroDivisionError: division by zero" in text
    assert "never" not in text


def test_command_line_code_shows_lines_and_fails_with_1(runs: Runs) -> None:
    ended = runs([*IPYTHON, "-c", "from ipyelastic import launch\nlaunch(lambda: print('a rank'), nproc=1).result()"])
    assert (ended.returncode, ended.err) == (0, "")
    assert ended.out.startswith("[rank 0] a rank\n")
    ended = runs([*IPYTHON, "-c", "from ipyelastic import launch\nlaunch(lambda: 1 / 0, nproc=1).result()"])
    assert ended.returncode == 1
    assert "rank 0 of 1 failed (local_rank 0)" in ended.out + ended.err


def test_terminal_fed_by_a_pipe_runs_cells_one_after_the_other(runs: Runs) -> None:
    ended = runs(
        [*IPYTHON, "--simple-prompt"],
        stdin="%load_ext ipyelastic\n"
        "values = %elastic_run -n 2 print('front') or rank\n"
        "values\n"
        "run = %elastic_run --bg -n 1 print('behind') or 7\n"
        "run.result()\n"
        "run\n"
        "exit\n",
    )
    assert ended.returncode == 0
    front = [ended.out.index(f"[rank {rank}] front\n") for rank in (0, 1)]
    values = ended.out.index("[0: 0, 1: 1]\n")
    behind = ended.out.index("[rank 0] behind\n")
    result = ended.out.index("[0: 7]\n")
    assert max(front) < values < behind < result
    assert "on 1 rank, succeeded" in ended.out[result:]


def test_run_that_lives_when_the_terminal_leaves_is_named(runs: Runs) -> None:
    ended = runs(
        [*IPYTHON, "--simple-prompt"],
        stdin="%load_ext ipyelastic\n"
        "run = %elastic_run --bg -n 1 __import__('signal').pause()\n"
        "while not run.ranks[0].pid: pass\n\n"
        "exit\n",
    )
    assert ended.returncode == 0
    assert "has not ended; it ends with this process\n" in ended.err


def test_background_run_says_in_the_terminal_how_it_failed(runs: Runs) -> None:
    ended = runs(
        [*IPYTHON, "--simple-prompt"],
        stdin="%load_ext ipyelastic\nrun = %elastic_run --bg -n 2 1 / 0\nrun.wait()\nprint('after')\nexit\n",
    )
    assert (ended.returncode, ended.err) == (0, "")
    assert re.search(
        r"run [0-9a-f]{8}, .* on 2 ranks: failed after \d+\.\d s\n\n"
        r"rank \d of 2 failed \(local_rank \d\)\n"
        r"  what    ZeroDivisionError: division by zero \(.*\)\n"
        r"(rank \d .*\n)?\n"
        r"Traceback \(most recent call last\):\n"
        r"(.*\n)+"
        r"ZeroDivisionError: division by zero\n",
        ended.out,
    )
    assert ended.out.index("ZeroDivisionError") < ended.out.index("after\n")


def test_launch_in_a_terminal_leaves_the_failure_to_result(runs: Runs) -> None:
    code = "from ipyelastic import launch\nrun = launch(lambda: 1 / 0, nproc=1)\nrun.wait()\nprint('after')"
    ended = runs([*IPYTHON, "-c", code])
    assert ended.out == "after\n"
    assert ended.err.startswith("ipyelastic: the failure of <Run ")
