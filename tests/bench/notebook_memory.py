"""The memory that each notebook needs: the kernel, the fork servers and the ranks together, at their most.

    notebooks/execute.py in a process of its own <- watched here, every 50 ms, through /proc

Runs in: the benchmark's process, by hand: `.venv/bin/python tests/bench/notebook_memory.py [NOTEBOOK ...]`.
mybinder.org promises 1 GB and ends what needs more than 2; Jupyter's own server, about 150 MB, comes on top.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

__all__ = ["peak_of", "main"]

_ROOT = Path(__file__).resolve().parents[2]
_PERIOD_S = 0.05
_LIMIT_MB = 1000.0


def peak_of(notebook: Path) -> tuple[float, float, float, int]:
    """Execute a notebook and watch.

    Returns:
        Its peak in MB (10**6 bytes), pages that processes share counted once (PSS); the peak of RSS, where each process
        counts them; the seconds it took; its exit code. What executes it (nbclient) is not counted.
    """
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        command = [sys.executable, str(_ROOT / "notebooks" / "execute.py"), str(notebook), "--to", folder]
        began = time.monotonic()
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        shared, alone = 0.0, 0.0
        while started.poll() is None:
            pss, rss = _memory_below(started.pid)
            shared, alone = max(shared, pss), max(alone, rss)
            time.sleep(_PERIOD_S)
        return shared / 1e6, alone / 1e6, time.monotonic() - began, started.returncode


def _memory_below(pid: int) -> tuple[int, int]:
    pss = rss = 0
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0, 0
    for process in below:
        try:
            memory = process.memory_full_info()
        except psutil.Error:
            continue  # it has just ended
        pss += memory.pss
        rss += memory.rss
    return pss, rss


def main() -> int:
    """Print a row for each notebook; 1 when one fails or needs 1 GB."""
    parser = argparse.ArgumentParser(description="Measure the memory that notebooks need.")
    parser.add_argument("notebooks", type=Path, nargs="*", metavar="NOTEBOOK")
    notebooks = parser.parse_args().notebooks or sorted((_ROOT / "notebooks").glob("*.ipynb"))
    too_much = 0
    print(f"{'notebook':24}{'peak MB':>9}{'as RSS':>9}{'seconds':>9}")
    for notebook in notebooks:
        shared, alone, took_s, code = peak_of(notebook)
        trouble = " failed" if code else " too much" if shared >= _LIMIT_MB else ""
        too_much += bool(trouble)
        print(f"{notebook.stem:24}{shared:9.0f}{alone:9.0f}{took_s:9.1f}{trouble}", flush=True)
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main())
