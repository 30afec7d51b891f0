"""The same line typed with `torchrun` and with `ipyelastic run`: what ranks see, and a training that learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch]

Command = Callable[..., Any]

# What each run has its own of (on one machine torchrun makes up an id, whatever --rdzv-id says; we take it), and what is
# ours: no store of the agent's, the address's spelling.
DIFFERENT = {
    "MASTER_PORT",
    "MASTER_ADDR",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_ERROR_FILE",
    "TORCHELASTIC_RUN_ID",
}
NAMES = str.split(
    "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_WORLD_SIZE ROLE_NAME"
    " MASTER_ADDR MASTER_PORT TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS TORCHELASTIC_RUN_ID"
    " TORCHELASTIC_USE_AGENT_STORE TORCHELASTIC_ERROR_FILE TORCH_NCCL_ASYNC_ERROR_HANDLING OMP_NUM_THREADS"
)
SHOW = """
import json, sys
told = [sys.argv, os.getcwd(), sys.path[0], __name__, {name: os.environ.get(name) for name in NAMES}]
json.dump(told, open(f"{os.environ['INTO']}-{rank}", "w"))
"""


@pytest.mark.parametrize(
    ("options", "target"),
    [
        (["--standalone", "--nproc_per_node=2"], ["below/train.py", "--lr", "1", "-m"]),
        (["--nproc-per-node", "2", "--max-restarts=3", "--role", "r", "--rdzv-id", "job7"], ["below/train.py"]),
        (["--nnodes=1:1", "--nproc-per-node=2", "--virtual-local-rank"], ["-m", "below.train", "a b"]),
    ],
)
def test_ranks_see_the_same(
    command: Command, script: Callable[..., str], tmp_path: Path, options: list[str], target: list[str]
) -> None:
    script(SHOW.replace("NAMES", repr(NAMES)), "below/train.py")
    words = [*options, *target]
    environment = {**os.environ, "INTO": "torchrun"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", *words]
    subprocess.run(torchrun, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=100)
    ended = command("run", *words, env={"INTO": "ours"})
    assert ended.code == 0, ended.err
    for rank in (0, 1):
        theirs, ours = (json.loads((tmp_path / f"{who}-{rank}").read_text()) for who in ("torchrun", "ours"))
        assert ours[:4] == theirs[:4]
        for told in (theirs[4], ours[4]):
            for name in DIFFERENT:
                assert told.pop(name)
        assert ours[4] == theirs[4]


def test_a_ddp_training_learns_and_its_ranks_agree(command: Command, script: Callable[..., str]) -> None:
    script(
        """
import torch
from torch import distributed, nn

distributed.init_process_group("gloo")
torch.manual_seed(rank)
model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
inputs = torch.randn(64, 4)
targets = inputs.sum(1, keepdim=True)
losses = []
for _ in range(50):
    loss = nn.functional.mse_loss(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
everybodys = [torch.zeros_like(weights) for _ in range(2)]
distributed.all_gather(everybodys, weights)
print("learnt", losses[-1] < losses[0] / 10, "agree", torch.equal(*everybodys))
distributed.destroy_process_group()
"""
    )
    ended = command("run", "--standalone", "--nproc_per_node", "2", "train.py")
    assert ended.code == 0, ended.err
    assert sorted(ended.out.splitlines()) == ["[rank 0] learnt True agree True", "[rank 1] learnt True agree True"]
