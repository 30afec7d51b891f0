"""LaunchConfig: defaults, times, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from ipyelastic.launcher.config import LaunchConfig
from ipyelastic.output import retention
from ipyelastic.output.logs import DefaultLogsSpecs


def _config(**options: Any) -> LaunchConfig:
    return LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, **options)


@pytest.mark.parametrize(
    ("options", "timeout"),
    [
        ({}, 900),
        ({"rdzv_configs": {"timeout": 3}}, 3),
        ({"rdzv_configs": {"timeout": 3}, "rdzv_timeout": 5}, 5),
        ({"rdzv_timeout": 0}, 0),
    ],
)
def test_the_rendezvous_timeout_is_the_one_given_last(options: dict[str, Any], timeout: int) -> None:
    assert _config(**options).rdzv_configs["timeout"] == timeout


def test_the_callers_dict_stays_as_it_is() -> None:
    given = {"rank": 0}
    config = _config(rdzv_configs=given)
    assert given == {"rank": 0}
    assert config.rdzv_configs == {"rank": 0, "timeout": 900}


@pytest.mark.parametrize(
    ("given", "in_environment", "seconds"), [(None, None, 30), (None, "7", 7), (0, "7", 0), (5, "x", 5)]
)
def test_shutdown_timeout(
    monkeypatch: pytest.MonkeyPatch, given: int | None, in_environment: str | None, seconds: int
) -> None:
    if in_environment is not None:
        monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", in_environment)
    assert _config(shutdown_timeout=given).shutdown_timeout == seconds


@pytest.mark.parametrize(
    ("given", "in_environment", "seconds"), [(None, None, 300), (None, "7.5", 7.5), (0, "7", 0), (5, "x", 5)]
)
def test_exit_barrier_timeout(
    monkeypatch: pytest.MonkeyPatch, given: float | None, in_environment: str | None, seconds: float
) -> None:
    if in_environment is not None:
        monkeypatch.setenv("TORCH_ELASTIC_EXIT_BARRIER_TIMEOUT", in_environment)
    assert _config(exit_barrier_timeout=given).exit_barrier_timeout == seconds


@pytest.mark.parametrize("name", ["shutdown_timeout", "exit_barrier_timeout"])
def test_times_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be non-negative, got -1$"):
        _config(**{name: -1})
    for value in ("x", "", "-1"):
        monkeypatch.setenv(f"TORCH_ELASTIC_{name.upper()}", value)
        with pytest.raises(ValueError):  # Python's own words for what is no number
            _config()


def test_logs_go_to_a_folder_that_goes_with_this_process() -> None:
    logs = _config().logs_specs
    assert isinstance(logs, DefaultLogsSpecs)
    assert logs.root_log_dir == retention.owner_folder()


def test_numa_stays_unset_and_no_torch_is_loaded() -> None:
    code = (
        "import sys; from ipyelastic.launcher.config import LaunchConfig;"
        "print(LaunchConfig(1, 1, 1).numa_options, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.stdout == "None False\n", done.stderr
