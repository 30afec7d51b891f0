"""`ipyelastic run --nnodes 2`: two commands, as if on two machines, make up one job through torch's rendezvous."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.rendezvous.held_port import HeldPort
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
    assert "ERROR" not in ended.err
    other = nodes[1 - failed]
    other.signal(signal.SIGTERM)
    assert other.end().code == 143


def test_who_waits_is_told_for_whom_and_nothing_more(start: Start, script: Callable[..., str], tmp_path: Path) -> None:
    script("")
    first = start(*words(tmp_path))
    state = tmp_path / "state"
    assert first.process.stderr.readline() == (f"ipyelastic run: waiting for 1 more machine at {state} (1 of 2 here)\n")
    second = start(*words(tmp_path))
    assert [(one.code, one.err) for one in (first.end(), second.end())] == [(0, ""), (0, "")]


def test_machines_that_do_not_come_and_a_job_that_is_over_are_told(
    start: Start, script: Callable[..., str], tmp_path: Path
) -> None:
    script("")
    state = tmp_path / "state"
    ended = start(*words(tmp_path, "--rdzv-conf", "store_type=file,join_timeout=1")).end()
    said = f"too few machines came to {state} in time: 2 are needed"
    more = " (--rdzv-conf join_timeout=SECONDS says how long to wait)"
    assert (ended.code, ended.err.splitlines()[-1]) == (1, f"ipyelastic run: {said}{more}")
    state.unlink()
    nodes = [start(*words(tmp_path)) for _ in range(2)]
    assert [node.end().code for node in nodes] == [0, 0]
    ended = start(*words(tmp_path)).end()
    said = f"the job 'job7' at {state} is over: nobody can join it any more"
    assert (ended.code, ended.err) == (1, f"ipyelastic run: {said}\n")


@pytest.mark.parametrize(
    ("node_rank", "said"),
    [
        (0, "no meeting point at 127.0.0.1:{port}: this port is in use"),
        (1, "no answer from 127.0.0.1:{port}: is the job started there, and can this machine reach it?"),
    ],
)
def test_meeting_point_that_cannot_be_had_is_one_sentence(
    start: Start, script: Callable[..., str], node_rank: int, said: str
) -> None:
    script("")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if node_rank == 0:
            held.listen()
        port = held.getsockname()[1]
        where = ["--master-addr", "127.0.0.1", "--master-port", str(port), "--rdzv-conf", "timeout=1"]
        ended = start("run", "--nnodes", "2", "--node-rank", str(node_rank), *where, "-n", "1", "train.py").end()
    told = [line for line in ended.err.splitlines() if ": waiting for " not in line]
    assert (ended.code, told) == (1, [f"ipyelastic run: {said.format(port=port)}"])


def test_every_machine_says_why_its_ranks_start_again(start: Start, script: Callable[..., str], tmp_path: Path) -> None:
    script(
        """
if os.path.exists("failed"):
    sys.exit()
if rank == 0:
    open("gate", "w").close()
    signal.pause()
open("gate").close()
open("failed", "w").close()
raise ValueError("bad batch")
"""
    )
    os.mkfifo(tmp_path / "gate")
    nodes = [start(*words(tmp_path, "-n", "1", "--max-restarts", "2")) for _ in range(2)]
    ended = [node.end() for node in nodes]
    assert [one.code for one in ended] == [0, 0]
    told = sorted(line for one in ended for line in one.err.splitlines() if "start again" in line)
    assert told == [
        "ipyelastic run: 1 other node joined, or started again; all ranks start again (attempt 1 of 3)",
        "ipyelastic run: rank 1 failed: ValueError: bad batch; all ranks start again (attempt 2 of 3)",
    ]


def test_lost_meeting_point_is_one_sentence(start: Start, script: Callable[..., str]) -> None:
    script("print('up', flush=True)\nsignal.pause()")
    held = HeldPort()
    try:
        where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{held.port}", "--local-addr", "127.0.0.1"]
        nodes = [
            start("run", "--nnodes", "2", "-n", "1", *where, "--rdzv-conf", f"is_host={is_host}", "train.py")
            for is_host in (1, 0)
        ]
        for node in nodes:
            assert node.line().endswith("up")
        nodes[0].signal(signal.SIGKILL)
        ended = nodes[1].end()
    finally:
        held.close()
    assert ended.code == 1
    said = f"the job's meeting point 127.0.0.1:{held.port} is gone: its machine has ended or cannot be reached any more"
    assert ended.err == f"ipyelastic run: {said}\n"


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
