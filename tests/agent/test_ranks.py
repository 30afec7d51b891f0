"""What one worker is told: its environment, arguments and prefix."""

from __future__ import annotations

import pytest

from ipyelastic.agent.ranks import identical_workers, line_prefix, own_args, worker_environment
from ipyelastic.agent.spec import Worker, WorkerGroup, WorkerSpec
from ipyelastic.rendezvous.standalone import StandaloneRendezvous


def _group(**options: object) -> WorkerGroup:
    spec = WorkerSpec("trainer", 2, StandaloneRendezvous("job"), entrypoint=abs, max_restarts=3, **options)  # type: ignore[arg-type]
    group = WorkerGroup(spec)
    group.workers = identical_workers(1, 2, 2)
    group.group_rank, group.group_world_size = 1, 2
    group.master_addr, group.master_port = "10.0.0.1", 1234
    return group


def test_environment_of_one_worker_whole() -> None:
    group = _group()
    assert worker_environment(group, group.workers[1], {"A": "not copied"}, restart_count=2) == {
        "LOCAL_RANK": "1",
        "RANK": "3",
        "GROUP_RANK": "1",
        "ROLE_RANK": "3",
        "ROLE_NAME": "trainer",
        "LOCAL_WORLD_SIZE": "2",
        "WORLD_SIZE": "4",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_WORLD_SIZE": "4",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "1234",
        "TORCHELASTIC_RESTART_COUNT": "2",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_RUN_ID": "job",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
        "JAX_PROCESS_ID": "3",
        "JAX_NUM_PROCESSES": "4",
    }


def test_what_is_copied_from_below() -> None:
    below = {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "4,5", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}
    group = _group()
    told = worker_environment(group, group.workers[0], below)
    assert {name: told[name] for name in below} == below


@pytest.mark.parametrize(("listed", "own"), [("4,5", "5"), (" GPU-a , GPU-b", "GPU-b"), (None, "1")])
def test_virtual_local_rank_sees_its_own_gpu_as_the_only_one(listed: str | None, own: str) -> None:
    group = _group(virtual_local_rank=True)
    told = worker_environment(group, group.workers[1], {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed})
    assert (told["LOCAL_RANK"], told["CUDA_VISIBLE_DEVICES"]) == ("0", own)


def test_too_few_gpus_for_virtual_local_ranks_are_refused() -> None:
    group = _group(virtual_local_rank=True)
    with pytest.raises(ValueError, match=r"CUDA_VISIBLE_DEVICES='4' has no entry for local rank 1"):
        worker_environment(group, group.workers[1], {"CUDA_VISIBLE_DEVICES": "4"})


def test_macros_in_arguments() -> None:
    given = ("--rank=${local_rank}", "$local_rank", "${other}", 3, None)
    assert own_args(given, 1) == ("--rank=1", "1", "${other}", 3, None)


def test_prefix_of_lines() -> None:
    worker = Worker(1, global_rank=5)
    assert line_prefix("[${role_name}/${rank}/${local_rank}/${what}]: ", "trainer", worker) == "[trainer/5/1/${what}]: "
