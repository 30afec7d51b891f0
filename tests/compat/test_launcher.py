"""The same job, its import apart, ends the same way when torch launches it and when we do."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("same_launch.py")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of it, by who launched it."""
    folder = tmp_path_factory.mktemp("same")
    read = {}
    for which in ("torch", "ours"):
        target = folder / f"{which}.json"
        command = [sys.executable, str(PROGRAM), which, str(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert target.exists(), done.stderr
        read[which] = json.loads(target.read_text())
    return read


CASES = [
    *(
        f"{kind} {ending}"
        for kind in ("function", "program")
        for ending in ("succeeds", "fails", "is flaky", "runs out of restarts", "has a virtual local rank")
    ),
    "function is killed",
]


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_outcome_environment_files_events_and_metrics_equal_torchs(
    outcomes: dict[str, dict[str, Any]], case: str
) -> None:
    assert outcomes["ours"][case] == outcomes["torch"][case]


@pytest.mark.torch
def test_every_case_is_compared(outcomes: dict[str, dict[str, Any]]) -> None:
    assert set(outcomes["ours"]) == set(outcomes["torch"]) == set(CASES)
    flaky = outcomes["ours"]["function is flaky"]
    assert {environment["TORCHELASTIC_RESTART_COUNT"] for environment in flaky["environments"].values()} == {"2"}


@pytest.mark.torch
def test_config_has_torchs_fields_in_torchs_order_with_torchs_defaults() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.distributed.launcher.api import LaunchConfig as Torchs

    from ipyelastic.compat.launcher import LaunchConfig

    def fields(kind: Any) -> list[tuple[str, object]]:
        return [
            (one.name, one.default if one.default_factory is dataclasses.MISSING else one.default_factory())
            for one in dataclasses.fields(kind)
        ]

    torchs = fields(Torchs)
    assert fields(LaunchConfig)[: len(torchs)] == torchs
    assert [name for name, _ in fields(LaunchConfig)[len(torchs) :]] == ["exit_barrier_timeout"]
