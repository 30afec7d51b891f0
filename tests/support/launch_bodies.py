"""What workers do in the tests of launches: tell their environment, train, meet other agents' workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .gates import wait_at

__all__ = ["environment", "fail", "leave_note_and_wait", "train", "train_some", "value_of"]


def value_of(value: Any) -> tuple[int, Any]:
    """The rank and the argument."""
    return int(os.environ["RANK"]), value


def log_folder() -> str:
    """Where this rank's log files are."""
    return os.path.dirname(os.environ["TORCHELASTIC_ERROR_FILE"])


def environment() -> dict[str, str]:
    """Everything in it."""
    return dict(os.environ)


def fail() -> None:
    raise ValueError("on purpose")


def leave_note_and_wait(folder: str, gate: str) -> tuple[str, str]:
    """Say which rank of how many this is, in which machine's group; then wait for the gate."""
    rank, world_size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    note = Path(folder, f"rank-{rank}-of-{world_size}-attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}-{os.getpid()}")
    note.touch()
    wait_at(gate)
    return rank, world_size


def train(steps: int) -> tuple[list[float], list[float]]:
    """Linear regression with DDP over gloo; the losses, and the parameters at the end."""
    import torch
    from torch import distributed, nn

    distributed.init_process_group("gloo")
    try:
        torch.manual_seed(0)
        model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
        torch.manual_seed(1 + distributed.get_rank())  # each rank has data of its own
        inputs = torch.randn(64, 4)
        wanted = inputs @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]]) + 1
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), wanted)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, [value for parameter in model.parameters() for value in parameter.detach().flatten().tolist()]
    finally:
        distributed.destroy_process_group()


def train_some() -> tuple[list[float], list[float]]:
    """Thirty steps of it."""
    return train(30)
