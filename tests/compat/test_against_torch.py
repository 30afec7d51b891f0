"""The same program, its import apart, ends the same way with torch and with us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("same_program.py")


def _outcomes(which: str, folder: Path, *methods: str) -> dict[str, Any]:
    target = folder / f"{which}.json"
    command = [sys.executable, str(PROGRAM), which, str(target), *methods]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, "SAME_PROGRAM": ""})
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(target.read_text())
    return read


def _teed(outcome: dict[str, Any]) -> set[str]:
    return {line for line in outcome.pop("console", []) if line.startswith("[")}


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "program", "spawn"])
def test_outcomes_files_and_console_equal_torchs(tmp_path: Path, method: str) -> None:
    ours, torchs = _outcomes("ours", tmp_path, method), _outcomes("torch", tmp_path, method)
    assert len(ours) >= 1
    for case, outcome in torchs.items():
        # torch's tails lose last lines now and then (pt#143823): nothing may be on its console that is not on ours.
        # Without a prefix two programs write at once, and nobody promises whole lines.
        shown, own = (
            {line for line in one.pop("console", []) if line.startswith("[")} for one in (outcome, ours[case])
        )
        assert shown <= own, case
    different = {case: (ours[case], torchs[case]) for case in torchs if ours[case] != torchs[case]}
    assert different == {}


@pytest.mark.slow
def test_start_methods_end_alike(tmp_path: Path) -> None:
    fork = _outcomes("ours", tmp_path, "fork")
    forkserver = _outcomes("ours", tmp_path, "forkserver")
    assert len(fork) == 21
    assert {case.replace("forkserver", "fork"): outcome for case, outcome in forkserver.items()} == fork
