"""`launch()` in a program: what ranks write goes to its stdout, whole, in order, before anyone hears of the end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import ChildFailedError, OptionError, RunTimedOut, launch
from ipyelastic.engines.run import last_run, live_runs
from ipyelastic.engines.showing import PrintedLines, set_place
from ipyelastic.launcher.options import RunOptions
from support.gates import Gate, wait_at
from support.waiting import wait_until


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as made:
        yield made


def rank() -> int:
    return int(os.environ["RANK"])


def says(path: str = "") -> int:
    print("first", rank())
    print("careful", file=sys.stderr, flush=True)
    if path:
        wait_at(path)
    print("half a line", end="")
    return rank()


def test_lines_of_ranks_are_printed_with_their_rank(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(says, nproc=2).result(20) == [0, 1]
    out, err = capsys.readouterr()
    assert err == ""
    assert sorted(out.splitlines()) == sorted(
        line
        for rank in (0, 1)
        for line in (f"[rank {rank}] first {rank}", f"[rank {rank} stderr] careful", f"[rank {rank}] half a line")
    )


def test_lines_come_while_the_run_goes_on(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def has_both() -> bool:
        seen.append(capsys.readouterr().out)
        text = "".join(seen)
        return "first" in text and "careful" in text

    run = launch(says, args=(gate.path,), nproc=1)
    wait_until(has_both, 20)
    assert run.running()
    assert "half" not in "".join(seen)
    gate.open()
    run.wait(20)
    assert capsys.readouterr().out == "[rank 0] half a line\n"


def floods() -> int:
    for n in range(20_000):
        print("line", n)
    return rank()


@pytest.mark.parametrize("waiter", ["result", "wait", "callback", "await"])
def test_every_line_is_printed_before_anyone_hears_of_the_end(waiter: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = launch(floods, nproc=2)
    at_the_end: list[str] = []
    if waiter == "callback":
        run.add_done_callback(lambda _: at_the_end.append(capsys.readouterr().out))
        wait_until(lambda: at_the_end, 60)
    elif waiter == "await":

        async def main() -> Any:
            return await run

        asyncio.run(main())
    elif waiter == "wait":
        run.wait(60)
    else:
        run.result(60)
    lines = (at_the_end or [capsys.readouterr().out])[0].splitlines()
    for number in (0, 1):
        own = [line for line in lines if line.startswith(f"[rank {number}]")]
        assert own == [f"[rank {number}] line {n}" for n in range(20_000)]
    assert len(lines) == 40_000


def test_only_chosen_ranks_are_shown_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    launch(says, nproc=3, ranks=[1]).result(20)
    shown = capsys.readouterr().out.splitlines()
    assert shown
    assert all(line.startswith("[rank 1") for line in shown)
    run = launch(says, nproc=3, ui="none")
    run.result(20)
    assert capsys.readouterr().out == ""
    assert "first 2" in run.ranks[2].tail()


def test_unknown_ui_is_refused_at_the_door() -> None:
    with pytest.raises(OptionError, match="ui='nome': expected auto, panel, text or none, did you mean none"):
        launch(says, nproc=1, ui="nome")


def test_redirected_stdout_stays_the_runs_own(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    own, others = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(own):
        run = launch(says, args=(gate.path,), nproc=1)
    with contextlib.redirect_stdout(others):
        gate.open()
        run.result(20)
    assert sorted(own.getvalue().splitlines()) == [
        "[rank 0 stderr] careful",
        "[rank 0] first 0",
        "[rank 0] half a line",
    ]
    assert (others.getvalue(), capsys.readouterr().out) == ("", "")


def test_stdout_that_was_closed_gives_way_to_the_one_of_the_moment(
    gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    own = io.StringIO()
    with contextlib.redirect_stdout(own):
        run = launch(says, args=(gate.path,), nproc=1)
    wait_until(lambda: "careful" in own.getvalue() and "first" in own.getvalue(), 20)
    own.close()
    gate.open()
    run.result(20)
    assert capsys.readouterr().out == "[rank 0] half a line\n"


def test_stream_that_knows_few_characters_gets_the_others_spelt_out() -> None:
    raw = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, encoding="ascii")):
        launch(lambda: print("é 漢"), nproc=1).result(20)
    assert raw.getvalue() == b"[rank 0] \\xe9 \\u6f22\n"


def test_run_without_any_stdout_runs() -> None:
    held, sys.stdout = sys.stdout, None  # as under pythonw
    try:
        assert launch(says, nproc=1).result(20) == [0]
    finally:
        sys.stdout = held


class Rude(io.StringIO):
    def write(self, text: str) -> int:
        raise RuntimeError("not today")


def test_stdout_that_raises_does_not_fail_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.redirect_stdout(Rude()):
        run = launch(says, nproc=2)
    assert run.result(20) == [0, 1]
    assert caplog.text.count("the output of a run cannot be printed") == 1


def test_restarted_run_shows_itself(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    run = launch(says, args=(gate.path,), nproc=1)
    wait_until(lambda: len(run.ranks[0].tail()) == 2, 20)
    again = run.restart()
    capsys.readouterr()
    gate.open()
    again.wait(20)
    assert "[rank 0] half a line\n" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ its failures


def fails() -> None:
    if rank() == 1:
        raise ValueError("bad")
    wait_for_ever()


def wait_for_ever() -> None:
    os.read(os.pipe()[0], 1)


def test_failures_cause_is_what_the_rank_said() -> None:
    with pytest.raises(ChildFailedError) as caught:
        launch(fails, nproc=2).result(20)
    cause = caught.value.__cause__
    assert cause is not None
    head, _, traceback = str(cause).partition("\n\n")
    line = fails.__code__.co_firstlineno + 2
    assert head == (
        "\nrank 1 of 2 failed (local_rank 1)\n"
        f"  what    ValueError: bad ({__file__}, line {line})\n"
        "rank 0 was stopped because of it"
    )
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert traceback.endswith("ValueError: bad")


@pytest.mark.slow
def test_cause_of_a_run_that_timed_out_is_where_its_ranks_were() -> None:
    with pytest.raises(RunTimedOut) as caught:
        launch(wait_for_ever, nproc=1, timeout=3).result(20)
    assert "rank 0 was here:" in str(caught.value.__cause__)
    assert "in wait_for_ever" in str(caught.value.__cause__)


# ------------------------------------------------------------------------------------------------ a run that never was


class Shows(PrintedLines):
    """A display of a notebook: `begin` may raise, `end` is noted."""

    def __init__(self, options: RunOptions, why: str) -> None:
        super().__init__(options)
        self.why, self.ended = why, [""]

    def begin(self, run: Any) -> None:
        if self.why:
            raise RuntimeError(self.why)

    def end(self, run: Any) -> None:
        self.ended.append(f"{run.status}: {run.error_so_far}")


class Shell:
    """A place whose displays are `Shows`."""

    is_kernel = True

    def __init__(self, why: str = "") -> None:
        self.why, self.displays = why, []  # type: tuple[str, list[Shows]]

    def display(self, options: RunOptions) -> Shows:
        self.displays.append(Shows(options, self.why))
        return self.displays[-1]

    def dress(self, error: BaseException, world_size: int) -> BaseException:
        return error

    def show(self, run: Any) -> bool:
        return False

    def answer_while(self, is_on: Callable[[float], bool], timeout: float | None) -> float | None:
        return timeout


@pytest.fixture
def shell() -> Iterator[Callable[..., Shell]]:
    def put(why: str = "") -> Shell:
        made = Shell(why)
        set_place(made)
        return made

    yield put
    set_place(None)


def test_display_that_cannot_begin_leaves_no_run_behind(shell: Callable[..., Shell]) -> None:
    before = last_run()
    made = shell("no page")
    with pytest.raises(RuntimeError, match=r"^no page$"):
        launch(rank, nproc=1)
    assert (live_runs(), last_run(), made.displays[0].ended) == ([], before, [""])


def test_no_thread_for_a_run_leaves_no_run_behind(shell: Callable[..., Shell]) -> None:
    before, made = last_run(), shell()
    threading.stack_size(1 << 50)  # more than there are addresses
    try:
        with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
            launch(rank, nproc=1)
    finally:
        threading.stack_size(0)
    assert (live_runs(), last_run()) == ([], before)
    assert made.displays[0].ended == ["", "failed: can't start new thread"]
    assert launch(rank, nproc=1, ui="none").result(20) == [0]


def test_restarted_run_of_this_process_has_no_display_either(shell: Callable[..., Shell]) -> None:
    made = shell()
    run = launch(lambda: 5, engine="here")
    assert (run.restart().result(0), made.displays) == ([5], [])
