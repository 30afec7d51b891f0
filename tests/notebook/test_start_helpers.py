"""`compat.spawn` in a notebook: torch.multiprocessing's start helpers over functions and classes of cells."""

from __future__ import annotations

import pytest

from support.kernels import Kernel

pytestmark = pytest.mark.slow

_CELL = """
import multiprocessing
from ipyelastic.compat import spawn
class Pair:
    def __init__(self, a, b): self.a, self.b = a, b
scale = 7
def scaled(n): return n * scale
def demo(rank, size, queue):
    queue.put((rank, Pair(size, scaled(rank))))
def fails(rank):
    if rank == 1: raise KeyError('of the cell')
"""


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_functions_and_classes_of_cells_reach_the_children(kernel: Kernel, method: str) -> None:
    assert kernel.run(_CELL).ok
    code = f"queue = multiprocessing.get_context({method!r}).SimpleQueue()\n"
    code += f"spawn.start_processes(demo, args=(2, queue), nprocs=2, start_method={method!r})\n"
    code += "got = dict(queue.get() for _ in range(2))\n[(got[n].a, got[n].b, type(got[n]) is Pair) for n in (0, 1)]"
    result = kernel.run(code)
    assert result.value == "[(2, 0, True), (2, 7, True)]", result.text
    assert kernel.value("hasattr(multiprocessing.reduction.ForkingPickler, 'reducer_override')") is False


def test_error_in_a_child_shows_the_cells_line(kernel: Kernel) -> None:
    assert kernel.run(_CELL).ok
    result = kernel.run("spawn.spawn(fails, nprocs=2)")
    assert result.error_name == "ProcessRaisedException"
    assert "    if rank == 1: raise KeyError('of the cell')\n" in result.error_value
