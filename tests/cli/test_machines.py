"""`ipyelastic run --nnodes 2`: two commands, as if on two machines, make up one job through torch's rendezvous."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.torch]

Start = Callable[..., Any]


def words(folder: Path, *more: str) -> list[str]:
    """A rendezvous whose state is in a file: no port that somebody else could have."""
    state = ["--rdzv-backend", "c10d", "--rdzv-endpoint", str(folder / "state"), "--rdzv-conf", "store_type=file"]
    return ["run", "--nnodes", "2", "-n", "2", *state, "--rdzv_id=job7", "--local-addr", "127.0.0.1", *more, "train.py"]


def test_two_commands_form_one_job_of_four_ranks(start: Start, script: Callable[..., str], tmp_path: Path) -> None:
    script("print('rank', rank, 'of', os.environ['WORLD_SIZE'], os.environ['TORCHELASTIC_RUN_ID'])")
    nodes = [start(*words(tmp_path)) for _ in range(2)]
    ended = [node.end() for node in nodes]
    assert [(one.code, one.err) for one in ended] == [(0, ""), (0, "")]
    lines = sorted(line for one in ended for line in one.out.splitlines())
    assert lines == [f"[rank {rank}] rank {rank} of 4 job7" for rank in range(4)]
    assert [len(one.out.splitlines()) for one in ended] == [2, 2]


def test_failure_is_told_where_it_was_with_its_exit_code(
    start: Start, script: Callable[..., str], tmp_path: Path
) -> None:
    script("if rank == 3: sys.exit(7)\nsignal.pause()")
    nodes = [start(*words(tmp_path)) for _ in range(2)]
    # The other machine hears nothing of it: its ranks go on, as torchrun's.
    wait_until(lambda: any(node.process.poll() is not None for node in nodes), within_s=90)
    failed = 0 if nodes[0].process.poll() is not None else 1
    ended = nodes[failed].end()
    assert ended.code == 7
    assert "\nrank 3 of 4 failed (local_rank 1" in ended.err
    other = nodes[1 - failed]
    other.signal(signal.SIGTERM)
    assert other.end().code == 143


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--timeout", "3"], "--timeout: for one machine only"),
        (["--logs-specs", "mine"], "--logs-specs mine: no such plug-in of the group torchrun.logs_specs"),
    ],
)
def test_what_only_one_machine_has_is_refused(
    start: Start, script: Callable[..., str], tmp_path: Path, more: list[str], said: str
) -> None:
    script("")
    ended = start(*words(tmp_path, *more)).end()
    assert (ended.code, ended.err) == (2, f"ipyelastic run: {said}\n")
