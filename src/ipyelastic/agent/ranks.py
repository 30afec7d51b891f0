"""Which rank is whose, and what a rank is told about itself and its group: the environment that torchrun sets.

    agent/simple > [here] assign;   agent/local, engines/as_rank > [here] worker_environment

Runs in: agent, owner. Pure functions.
Source: torch 2.13 (SEEDS sections 13 and 14), and JAX's three names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from ..terms import env
from .spec import Worker, WorkerGroup

__all__ = ["RoleInstanceInfo", "assign", "identical_workers", "line_prefix", "own_args", "worker_environment"]


class RoleInstanceInfo:
    """What one agent brings; torch's `_RoleInstanceInfo`. Agents exchange it through the store as JSON.

    Args:
        role: Its role.
        rank: Its number among the agents.
        local_world_size: How many workers it has.
    """

    __slots__ = ["role", "rank", "local_world_size"]  # noqa: RUF023  # the order in JSON

    def __init__(self, role: str, rank: int, local_world_size: int) -> None:
        self.role, self.rank, self.local_world_size = role, rank, local_world_size

    def serialize(self) -> bytes:
        """JSON with the three fields."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode()

    @staticmethod
    def deserialize(data: bytes) -> RoleInstanceInfo:
        """What `serialize` made of `data`. Raises ValueError or KeyError for anything else."""
        fields = json.loads(data)
        return RoleInstanceInfo(fields["role"], fields["rank"], fields["local_world_size"])

    @staticmethod
    def compare(obj1: RoleInstanceInfo, obj2: RoleInstanceInfo) -> int:
        """How `obj1` stands to `obj2` by role, then by rank: -1, 0 or 1."""
        one, other = (obj1.role, obj1.rank), (obj2.role, obj2.rank)
        return (one > other) - (one < other)

    @staticmethod
    def find_role_boundaries(roles_infos: Sequence[RoleInstanceInfo], role: str) -> tuple[int, int]:
        """First and last index of `role` in `roles_infos`, sorted by role; (-1, -1) when it is not there."""
        found = [index for index, info in enumerate(roles_infos) if info.role == role]
        return (found[0], found[-1]) if found else (-1, -1)


def assign(infos: Sequence[RoleInstanceInfo]) -> list[tuple[int, int, int, int]]:
    """For each agent, in order: (its first global rank, world size, its first role rank, size of its role)."""
    world_size = sum(info.local_world_size for info in infos)
    role_sizes: dict[str, int] = {}
    firsts = []
    first = 0
    for info in infos:
        firsts.append((first, role_sizes.get(info.role, 0)))
        first += info.local_world_size
        role_sizes[info.role] = role_sizes.get(info.role, 0) + info.local_world_size
    return [
        (first, world_size, role_first, role_sizes[info.role])
        for info, (first, role_first) in zip(infos, firsts, strict=True)
    ]


def identical_workers(group_rank: int, group_world_size: int, local_world_size: int) -> list[Worker]:
    """The workers of agent `group_rank` when every agent has the same role and number: nothing to exchange."""
    world_size, first = group_world_size * local_world_size, group_rank * local_world_size
    return [
        Worker(local_rank, first + local_rank, first + local_rank, world_size, world_size)
        for local_rank in range(local_world_size)
    ]


def own_args(args: Sequence[Any], local_rank: int) -> tuple[Any, ...]:
    """`args` with `${local_rank}` replaced in texts; other names in `${}` stay."""
    return tuple(
        Template(arg).safe_substitute(local_rank=str(local_rank)) if isinstance(arg, str) else arg for arg in args
    )


def line_prefix(template: str, role: str, worker: Worker) -> str:
    """`template` with `${role_name}`, `${rank}` and `${local_rank}` replaced; other names stay."""
    return Template(template).safe_substitute(role_name=role, rank=worker.global_rank, local_rank=worker.local_rank)


def worker_environment(
    group: WorkerGroup, worker: Worker, base: Mapping[str, str] | None = None, restart_count: int = 0
) -> dict[str, str]:
    """The variables of one worker whose ranks and master are assigned; its error file is not among them.

    Args:
        base: The environment below it (default: this process's): a few names are copied from there, and a worker with
            a virtual local rank gets its own entry of CUDA_VISIBLE_DEVICES; without any, its number.
        restart_count: How often the group has been started again after a failure.

    Raises ValueError when CUDA_VISIBLE_DEVICES is too short.
    """
    spec, below = group.spec, os.environ if base is None else base
    values: dict[str, Any] = {
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
        env.RESTART_COUNT: restart_count,
        env.MAX_RESTARTS: spec.max_restarts,
        env.RUN_ID: spec.rdzv_handler.get_run_id(),
        # True without a store of ours would make init_process_group wait for one.
        env.USE_AGENT_STORE: spec.rdzv_handler.use_agent_store,
        env.NCCL_ASYNC_ERROR_HANDLING: below.get(env.NCCL_ASYNC_ERROR_HANDLING, "1"),
        env.JAX_COORDINATOR_ADDRESS: f"{group.master_addr}:{group.master_port}",
        env.JAX_PROCESS_ID: worker.global_rank,
        env.JAX_NUM_PROCESSES: worker.world_size,
    }
    for name in (env.OMP_NUM_THREADS, env.CUDA_VISIBLE_DEVICES):
        if name in below:
            values[name] = below[name]
    if spec.virtual_local_rank:
        values[env.LOCAL_RANK] = 0
        values[env.CUDA_VISIBLE_DEVICES] = _own_gpu(worker.local_rank, below.get(env.CUDA_VISIBLE_DEVICES))
    return {name: str(value) for name, value in values.items()}


def _own_gpu(local_rank: int, listed: str | None) -> str:
    if listed is None:
        return str(local_rank)
    entries = [entry.strip() for entry in listed.split(",")]
    if local_rank >= len(entries):
        raise ValueError(f"{env.CUDA_VISIBLE_DEVICES}={listed!r} has no entry for local rank {local_rank}")
    return entries[local_rank]
