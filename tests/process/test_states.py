"""What processes are doing, and which hang in the kernel for too long."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ipyelastic.process import states
from ipyelastic.process.states import (
    Stuck,
    UninterruptibleWatch,
    is_uninterruptible_state,
    read_proc_state,
    uninterruptible_since,
)
from support.waiting import wait_until


@pytest.mark.parametrize("name", ["sleep", "a b", "a) D (b", "((()", ") R"])
def test_a_state_is_read_whatever_the_command_is_called(tmp_path: Path, name: str) -> None:
    program = shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / name)
    process = subprocess.Popen([program, "1000"])
    try:
        wait_until(lambda: read_proc_state(process.pid) == "S")
    finally:
        process.kill()
    wait_until(lambda: read_proc_state(process.pid) == "Z")
    process.wait()
    assert read_proc_state(process.pid) is None


def test_who_reads_runs() -> None:
    command = [
        sys.executable,
        "-c",
        "import os; from ipyelastic.process.states import read_proc_state as read; print(read(os.getpid()))",
    ]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "R\n"


@pytest.mark.parametrize("pid", [-1, 0, 2**22 + 5])
def test_who_is_not_there_has_no_state(pid: int) -> None:
    assert read_proc_state(pid) is None


@pytest.mark.parametrize("content", [OSError(), b"", b"7 (a b", b"7 (a)", b"7 (a) \xff 1"])
def test_a_state_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch, content: bytes | OSError) -> None:
    def fields(pid: int) -> list[bytes]:
        if isinstance(content, OSError):
            raise content
        return content.rpartition(b")")[2].split() if b")" in content else []

    monkeypatch.setattr(states, "_stat_fields", fields)
    assert read_proc_state(os.getpid()) is None


@pytest.mark.parametrize(
    ("state", "expected"),
    [("D", True), ("D+", True), ("S", False), ("R", False), ("Z", False), ("I", False), ("", False), (None, False)],
)
def test_only_d_is_uninterruptible(state: str | None, expected: bool) -> None:
    assert is_uninterruptible_state(state) is expected


@pytest.mark.parametrize(
    ("since", "seen", "now", "expected"),
    [
        ({}, {}, 5.0, {}),
        ({}, {1: "D", 2: "S", 3: None}, 5.0, {1: 5.0}),
        ({1: 5.0}, {1: "D"}, 9.0, {1: 5.0}),
        ({1: 5.0, 2: 6.0}, {1: "R", 2: "D"}, 9.0, {2: 6.0}),
        ({1: 5.0}, {2: "D"}, 9.0, {2: 9.0}),
        ({1: 5.0}, {1: None}, 9.0, {}),
    ],
)
def test_a_process_hangs_from_when_it_was_first_seen_to(
    since: dict[int, float], seen: dict[int, str | None], now: float, expected: dict[int, float]
) -> None:
    before = dict(since)
    assert uninterruptible_since(since, seen, now) == expected
    assert since == before


@pytest.mark.parametrize(
    ("timeout_s", "looks", "expected"),
    [
        # each look: (now, {pid: state}); expected of the last
        (10, [(0, {1: "D"}), (9.9, {1: "D"})], []),
        (10, [(0, {1: "D"}), (10, {1: "D"})], [Stuck(1, 10)]),
        (10, [(0, {1: "D"}), (5, {1: "S"}), (11, {1: "D"})], []),
        (10, [(0, {1: "D"}), (5, {2: "S"}), (11, {1: "D"})], []),
        (10, [(0, {1: "D"}), (3, {1: "D", 2: "D"}), (15, {2: "D", 1: "D"})], [Stuck(2, 12), Stuck(1, 15)]),
        (10, [(0, {1: "D"}), (11, {1: "D"}), (12, {1: "Z"})], []),
        (0, [(0, {1: "D"}), (1e9, {1: "D"})], []),
        (-1, [(0, {1: "D"}), (1e9, {1: "D"})], []),
    ],
)
def test_who_hangs_for_longer_than_the_limit_is_named(
    monkeypatch: pytest.MonkeyPatch, timeout_s: float, looks: list, expected: list[Stuck]
) -> None:
    watch = UninterruptibleWatch(timeout_s)
    stuck: list[Stuck] = []
    for now, seen in looks:
        monkeypatch.setattr(states, "read_proc_state", seen.get)
        stuck = watch.look(seen, now)
    assert stuck == expected


def test_a_process_that_works_is_never_stuck() -> None:
    watch = UninterruptibleWatch(1e-9)
    assert [watch.look([os.getpid()]) for _ in range(3)] == [[]] * 3


def test_a_limit_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^timeout_s=nan: expected seconds, 0 for never$"):
        UninterruptibleWatch(float("nan"))
