"""What each process uses of this machine's NVIDIA GPUs, asked of the driver's management library (NVML).

    NVML -> [here] -> usage.py

Runs in: owner, the sampling thread. CUDA is not touched: a process may fork afterwards.
Note: In a container NVML may know processes by the host's pids only; then no process of ours is found here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

__all__ = ["GpuUse", "Nvml"]


@dataclass
class GpuUse:
    """One process on all GPUs together: 150 per cent is one and a half GPUs busy."""

    percent: float = 0.0
    size_bytes: int = 0


class Nvml:
    """An open NVML. `close` gives it back."""

    def __init__(self, pynvml: Any, handles: list[Any]) -> None:
        self._pynvml, self._handles = pynvml, handles
        self._seen_us = [0] * len(handles)

    @classmethod
    def open(cls) -> Nvml | None:
        """NVML with all GPUs; None where there is no driver, no GPU or no `pynvml`."""
        try:
            pynvml: Any = importlib.import_module("pynvml")  # by name: it has no types, and need not be installed
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:  # no driver
            return None
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:
            handles = []
        if not handles:
            pynvml.nvmlShutdown()
            return None
        return cls(pynvml, handles)

    def close(self) -> None:
        """Give the library back."""
        try:
            self._pynvml.nvmlShutdown()
        except self._pynvml.NVMLError:
            pass  # the driver went away; nothing is left to give back

    def look(self) -> dict[int, GpuUse]:
        """Processes with a CUDA context, by pid."""
        found: dict[int, GpuUse] = {}
        for index, handle in enumerate(self._handles):
            try:
                running = self._pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except self._pynvml.NVMLError:  # lost, or cut into slices that do not answer for the whole
                continue
            if not running:
                continue
            percents = self._percents(index, handle, len({process.pid for process in running}))
            for pid in {process.pid for process in running}:
                found.setdefault(pid, GpuUse()).percent += percents.get(pid, percents.get(0, 0.0))
            for process in running:
                found[process.pid].size_bytes += process.usedGpuMemory or 0  # None where the driver does not tell
        return found

    def _percents(self, index: int, handle: Any, processes: int) -> dict[int, float]:
        """Per cent of one GPU by pid; under 0: for each process that is not named, a guess."""
        try:
            samples = self._pynvml.nvmlDeviceGetProcessUtilization(handle, self._seen_us[index])
        except self._pynvml.NVMLError as error:
            if getattr(error, "value", None) == getattr(self._pynvml, "NVML_ERROR_NOT_FOUND", 6):
                return {}  # nobody did anything since the last look
            return self._shares_of_whole(handle, processes)
        newest: dict[int, tuple[int, float]] = {}
        for sample in samples:
            self._seen_us[index] = max(self._seen_us[index], sample.timeStamp)
            newest[sample.pid] = max(newest.get(sample.pid, (0, 0.0)), (sample.timeStamp, float(sample.smUtil)))
        return {pid: percent for pid, (_, percent) in newest.items() if 0 <= percent <= 100}

    def _shares_of_whole(self, handle: Any, processes: int) -> dict[int, float]:
        """Where the driver counts no processes: the GPU's own figure, in equal parts."""
        try:
            return {0: self._pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / processes}
        except self._pynvml.NVMLError:
            return {}
