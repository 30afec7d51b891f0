"""What a rank is told about itself and its group: the environment that torchrun sets.

    agent/local > [here];   engines/here > [here]

Runs in: agent, owner. Pure functions.
Source: torch 2.13 (SEEDS section 14), and JAX's three names.
"""

from __future__ import annotations

import os

from ..terms import env
from .spec import Worker, WorkerGroup

__all__ = ["worker_environment"]


def worker_environment(group: WorkerGroup, worker: Worker, gpus: str | None = None) -> dict[str, str]:
    """The variables of one worker whose ranks and master are assigned; its error file is not among them.

    `gpus`: CUDA_VISIBLE_DEVICES of the whole group, of which a worker with a virtual local rank gets its own entry;
    None: there is none, and it gets its number. Raises ValueError when that list is too short.
    """
    spec = group.spec
    values = {
        env.LOCAL_RANK: worker.local_rank,
        env.RANK: worker.global_rank,
        env.GROUP_RANK: group.group_rank,
        env.ROLE_RANK: worker.role_rank,
        env.ROLE_NAME: spec.role,
        env.LOCAL_WORLD_SIZE: spec.local_world_size,
        env.WORLD_SIZE: worker.world_size,
        env.GROUP_WORLD_SIZE: group.group_world_size,
        env.ROLE_WORLD_SIZE: worker.role_world_size,
        env.MASTER_ADDR: group.master_addr,
        env.MASTER_PORT: group.master_port,
        env.RESTART_COUNT: 0,
        env.MAX_RESTARTS: spec.max_restarts,
        env.RUN_ID: spec.run_id,
        env.USE_AGENT_STORE: False,  # we host no store: True would make init_process_group wait for one
        env.NCCL_ASYNC_ERROR_HANDLING: os.environ.get(env.NCCL_ASYNC_ERROR_HANDLING, "1"),
        env.JAX_COORDINATOR_ADDRESS: f"{group.master_addr}:{group.master_port}",
        env.JAX_PROCESS_ID: worker.global_rank,
        env.JAX_NUM_PROCESSES: worker.world_size,
    }
    if spec.virtual_local_rank:
        values[env.LOCAL_RANK] = 0
        values[env.CUDA_VISIBLE_DEVICES] = _own_gpu(worker.local_rank, gpus)
    return {name: str(value) for name, value in values.items()}


def _own_gpu(local_rank: int, listed: str | None) -> str:
    if listed is None:
        return str(local_rank)
    entries = [entry.strip() for entry in listed.split(",")]
    if local_rank >= len(entries):
        raise ValueError(f"{env.CUDA_VISIBLE_DEVICES}={listed!r} has no entry for local rank {local_rank}")
    return entries[local_rank]
