"""What `import ipyelastic` costs: a fresh interpreter or a fresh kernel for every sample.

Runs in: the benchmark's process, which starts the fresh ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.kernels import Kernel

__all__ = ["import_times", "load_times"]

_IMPORT = """
import json, sys, threading, time
import IPython, ipykernel.ipkernel, ipykernel.zmqshell
threads = threading.active_count()
def now(statement):
    began = time.perf_counter(); exec(statement); return time.perf_counter() - began
figures = {"import ipyelastic": now("import ipyelastic")}
figures["then: from ipyelastic import launch"] = now("from ipyelastic import launch")
figures["then: ipyelastic.notebook.magic"] = now("import ipyelastic.notebook.magic")
print(json.dumps([figures, threads, threading.active_count()]))
"""

_LOAD = """
import time as _t
_began = _t.monotonic()
get_ipython().run_line_magic("load_ext", "ipyelastic")
_loaded = _t.monotonic()
get_ipython().run_cell_magic("elastic_run", "-n 2", "rank")
_ran = _t.monotonic()
"""


def import_times(count: int) -> tuple[list[dict[str, float]], set[tuple[int, int]]]:
    """Seconds of each import in `count` fresh interpreters with IPython loaded, and threads before and after."""
    samples, threads = [], set()
    for turn in range(count + 1):
        done = subprocess.run([sys.executable, "-c", _IMPORT], stdout=subprocess.PIPE, check=True)
        figures, before, after = json.loads(done.stdout)
        if turn:  # the first one compiles
            samples.append(figures)
        threads.add((before, after))
    return samples, threads


def load_times(count: int, folder: Path) -> list[dict[str, float]]:
    """Seconds of `%load_ext` in `count` fresh kernels, and of the very first run right after it."""
    samples = []
    for _ in range(count):
        with Kernel.start(folder) as kernel:
            result = kernel.run(_LOAD)
            assert result.ok, result.text
            loaded, ran = kernel.value("[_loaded - _began, _ran - _loaded]")
            samples.append({"%load_ext ipyelastic": loaded, "then: the first %%elastic_run -n 2": ran})
    return samples
