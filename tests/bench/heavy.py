"""The figures that take seconds each: large arrays, a million lines, growth, idle kernels, first launches.

    bench.py > [here] > kernels (cells/ours.py, cells/rivals.py)

Runs in: the benchmark's process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from figures import Figures
from first_cell import must
from goals import ARRAY, FRESH, GROWTH, IDLE, OURS, PRINT, RESULT, STOP

from support.kernels import Kernel

__all__ = ["measure_heavy", "measure_growth", "measure_fresh_kernels", "measure_idle"]

_MIB = 512
_IDLE_S = 20.0
_GIB_NEEDED = {"ipyparallel": 16, "loky": 10}  # of memory, at their peak
_NEEDS = {"pipe": "", "loky": "loky", "ray": "ray", "ipyparallel": "ipyparallel", "accelerate": "accelerate"}


def measure_heavy(kernels: dict[str, Kernel], figures: Figures) -> None:
    """Each tool once; memory is what the ranks hold above what they hold with a small array."""
    missing = kernels["rivals"].value("missing")
    there = [way for way, needs in _NEEDS.items() if needs not in missing]
    for n in (2, 8):
        _take(figures, STOP, OURS, n, kernels["bare"], f"measure_stop({n})")
    _take_copies(figures, OURS, kernels["bare"], "measure_array(8, {mib})")
    for way in [way for way in there if way != "pipe"]:
        if _free_gib() < _GIB_NEEDED.get(way, 4):
            figures.remarks.append(f"{ARRAY}, {way}: left out, it takes {_GIB_NEEDED[way]} GiB and less is free")
            continue
        _take_copies(figures, way, kernels["rivals"], f"measure_array({way!r}, 8, {{mib}})")
    _take(figures, RESULT, OURS, 2, kernels["bare"], f"measure_result(2, {_MIB})")
    for way in [way for way in there if way != "accelerate"]:
        _take(figures, RESULT, way, 2, kernels["rivals"], f"measure_result({way!r}, 2, {_MIB})")
    _take(figures, PRINT, OURS, 1, kernels["bare"], "measure_print(1_000_000)")
    bare = "redirect to a file, line-buffered"
    _take(figures, PRINT, bare, 1, kernels["bare"], "measure_print_bare(1_000_000)")


def measure_growth(kernel: Kernel, count: int, figures: Figures) -> None:
    """Launches of 1 to 64 ranks."""
    for n in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(max(3, count // 2)):
            _take(figures, GROWTH, OURS, n, kernel, f"measure_launch({n})")


def _free_gib() -> float:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) / (1 << 20)


def _take(figures: Figures, part: str, tool: str, ranks: int, kernel: Kernel, call: str) -> dict[str, float]:
    result = kernel.run(call, timeout_s=180)
    if not (result.ok and result.value):
        said = result.error_value.strip().splitlines() or ["no value came"]
        figures.remarks.append(f"{part}, {tool}: {result.error_name}: {said[-1][:200]}")
        return {}
    found: dict[str, float] = eval(result.value, {})
    figures.add(part, tool, ranks, {name: value for name, value in found.items() if name != "MiB"})
    return found


def _take_copies(figures: Figures, tool: str, kernel: Kernel, call: str) -> None:
    small = kernel.run(call.format(mib=0), timeout_s=180)
    large = _take(figures, ARRAY, tool, 8, kernel, call.format(mib=_MIB))
    if small.ok and small.value and large:
        figures.add(ARRAY, tool, 8, {"copies": (large["MiB"] - eval(small.value, {})["MiB"]) / _MIB})


_FIRST = """
import time
began = time.monotonic()
get_ipython().run_cell_magic("elastic_run", "-n 2", {cell!r})
time.monotonic() - began
"""


def measure_fresh_kernels(count: int, figures: Figures, folder: Path) -> None:
    """The first launch of a new kernel, sent as soon as %load_ext has returned; and a bare import beside it."""
    uses_torch = "import torch\nfloat(torch.ones(1).sum())"
    cases = (
        ("torch", "import torch", uses_torch),
        ("torch in the cell", "", uses_torch),
        ("no torch", "", "rank"),
    )
    for _ in range(count):
        for figure, before, cell in cases:
            with Kernel.start(folder) as kernel:
                if before:
                    must(kernel, before)
                must(kernel, "%load_ext ipyelastic")
                figures.add(FRESH, OURS, 2, {figure: float(kernel.value(_FIRST.format(cell=cell)))})
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        took = time.monotonic() - began
        figures.add(FRESH, "bare python -c import torch", 2, {"torch": took, "torch in the cell": took})


def measure_idle(kernels: dict[str, Kernel], figures: Figures) -> None:
    """CPU time of an idle kernel with a warm server, of that server, and of a kernel that never heard of us."""
    mark = "__import__('ipyelastic.forkserver.client', fromlist=['x']).servers().describe()[0]['pid']"
    watched = {
        "the kernel": kernels["torch"].pid,
        "the fork server": kernels["torch"].value(mark),
        "a kernel without ipyelastic": kernels["rivals"].pid,
    }
    time.sleep(2)
    before = {name: _cpu_s(pid) for name, pid in watched.items()}
    began = time.monotonic()
    time.sleep(_IDLE_S)
    for name, pid in watched.items():
        share = (_cpu_s(pid) - before[name]) / (time.monotonic() - began)
        figures.add(IDLE, name, 0, {"% of a core": share * 100})


def _cpu_s(pid: int) -> float:
    """Nanoseconds are the scheduler's own count; ticks of 10 ms would hide what is asked for here."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9
