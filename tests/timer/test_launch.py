"""A launched worker that does not finish a block in time: the worker dies, its agent finds it failed and goes on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from ipyelastic.compat.launcher.api import LaunchConfig, elastic_launch
from ipyelastic.compat.multiprocessing import DefaultLogsSpecs
from ipyelastic.compat.multiprocessing.errors import ChildFailedError

WORKER = """
import os, sys
from ipyelastic.timer.countdown import configure, expires
from ipyelastic.timer.pipe_client import FileTimerClient
configure(FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"]))
with expires(after=1000, scope="in time"):
    pass
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
    with expires(after=0.1, scope="late"):
        os.read(int(sys.argv[1]), 1)
if os.environ["TORCHELASTIC_MAX_RESTARTS"] == "0":
    os.read(int(sys.argv[1]), 1)
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LaunchConfig:
    monkeypatch.setenv("TORCHELASTIC_ENABLE_FILE_TIMER", "1")
    monkeypatch.delenv("TORCHELASTIC_TIMER_FILE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="standalone",
        monitor_interval=0.05,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(tmp_path / "logs")),
    )


def _command(gate: Path) -> tuple[str, ...]:
    os.mkfifo(gate)  # nobody writes: who reads it stays until it is killed
    return "-c", WORKER.replace("int(sys.argv[1])", "os.open(sys.argv[1], os.O_RDWR)"), str(gate)


@pytest.mark.slow
def test_a_worker_whose_time_is_up_is_a_failure_of_the_launch(tmp_path: Path, config: LaunchConfig) -> None:
    with pytest.raises(ChildFailedError) as caught:
        elastic_launch(config, sys.executable)(*_command(tmp_path / "gate"))
    rank, failure = caught.value.get_first_failure()
    assert (rank, failure.exitcode) == (1, -signal.SIGKILL)
    assert not list(tmp_path.glob("watchdog_timer*"))


@pytest.mark.slow
def test_a_group_whose_worker_ran_out_of_time_is_started_again(tmp_path: Path, config: LaunchConfig) -> None:
    config.max_restarts = 1
    assert elastic_launch(config, sys.executable)(*_command(tmp_path / "gate")) == {0: None, 1: None}
    assert not list(tmp_path.glob("watchdog_timer*"))
