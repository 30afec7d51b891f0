"""What rivals' ranks run, in a module they can import: torch's spawn pickles a function by its name only.

    first_cell.py copies this file into the kernels' folder; cells/rivals.py imports it there.

Runs in: ranks of the rivals. Other end: cells/ours.py has the same bodies as cells; change them together.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

__all__ = ["Arrived", "first_line", "ddp_step", "group_sum", "touch", "array_of", "big_result", "raise_or_compute"]


class Arrived:
    """A value that turns into the clock of whoever unpickles it: when the value was back."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return time.monotonic, ()


def first_line() -> tuple[float, object]:
    """Read the clock, at once."""
    now = time.monotonic()
    return now, Arrived()


def ddp_step() -> float:
    """One step of DistributedDataParallel over gloo; the loss."""
    import torch
    from torch import distributed, nn

    distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(256, 16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(torch.randn(32, 256)).square().mean()
    loss.backward()
    optimizer.step()
    distributed.destroy_process_group()
    return float(loss)


def raise_or_compute(folder: str, rank: int, size: int, compute_s: float) -> None:
    """The last rank raises once all others compute; they would go on for `compute_s` seconds."""
    gate = Path(folder)
    if rank < size - 1:
        (gate / str(rank)).touch()
    while len(os.listdir(gate)) < size - 1:
        time.sleep(0.002)
    if rank < size - 1:
        end = time.monotonic() + compute_s
        while time.monotonic() < end:
            pass
        return
    time.sleep(0.1)
    (gate / "raised").write_text(repr(time.monotonic()))
    raise RuntimeError("one rank raises")


def group_sum() -> float:
    """The sum of all ranks' numbers, over gloo."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    total = torch.ones(1) * (distributed.get_rank() + 1)
    distributed.all_reduce(total)
    distributed.destroy_process_group()
    return float(total)


def touch(gate: str, n: int, array: Any) -> tuple[float, float, int]:
    """Read every page; when all have: the clock at the last page, this process's share of the memory in MiB, a sum."""
    total = int(array[::4096].sum())
    read = time.monotonic()
    _meet(gate, "read", n)
    with open("/proc/self/smaps_rollup") as file:
        pss = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    _meet(gate, "measured", 2 * n)
    return read, pss / 1024, total


def _meet(gate: str, what: str, count: int) -> None:
    Path(gate, f"{os.getpid()}-{what}").touch()
    while len(os.listdir(gate)) < count:
        time.sleep(0.005)


def array_of(mib: int) -> Any:
    """So many MiB of ones, a page at least."""
    import numpy

    return numpy.ones(max(mib << 20, 4096), numpy.uint8)


def big_result(mib: int) -> Any:
    """So many MiB of ones."""
    return array_of(mib)
