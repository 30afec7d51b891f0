"""The GPUs of this machine, who uses them, and which CUDA their driver knows; NVML only, no CUDA call.

    doctor > [here] > devices/gpus, launcher/gpu_choice

Runs in: owner (a shell's process).
"""

from __future__ import annotations

import importlib
import os
from typing import Any, NamedTuple

import psutil

from ..devices.gpu_claims import holders
from ..devices.gpus import VisibleGpu, compute_processes, visible_gpu_count, visible_gpus
from ..launcher.gpu_choice import lock_folder
from ..terms import env
from ..view.amounts import counted, size_words
from .findings import Finding

__all__ = ["Seen", "look"]


class Seen(NamedTuple):
    """What torch's own build is compared with: how many GPUs, and the newest CUDA (major, minor) of their driver."""

    gpu_count: int
    cuda: tuple[int, int] | None


def look() -> tuple[list[Finding], Seen]:
    """One fact per GPU, and one about the driver."""
    count = visible_gpu_count()
    hidden = os.environ.get(env.CUDA_VISIBLE_DEVICES)
    if not count:
        text = "no NVIDIA GPU here: ranks run on the CPUs"
        if hidden is not None and visible_gpu_count("0"):
            text = f"{env.CUDA_VISIBLE_DEVICES}={hidden!r} hides every GPU"
        return [Finding("GPUs", "gpus", "ok", text)], Seen(0, None)
    gpus = visible_gpus()
    try:
        users = compute_processes(gpus)
    except RuntimeError as error:
        do = "pip install nvidia-ml-py" if "ModuleNotFoundError" in str(error) else "look at nvidia-smi: the driver"
        text = f"{counted(count, 'GPU')} by the device files, but {error}"
        return [Finding("GPUs", "gpus", "do", text, do)], Seen(count, None)
    nvml = _Nvml()
    found = [_one(gpu, users[gpu.number], nvml) for gpu in gpus]
    cuda = nvml.cuda()
    if cuda is not None:
        text = f"driver {nvml.driver() or '?'}, for CUDA up to {cuda[0]}.{cuda[1]}"
        found.append(Finding("GPUs", "driver", "ok", text))
    nvml.close()
    return found, Seen(len(gpus), cuda)


def _one(gpu: VisibleGpu, pids: list[int], nvml: _Nvml) -> Finding:
    parts = [f"GPU {gpu.number}: {nvml.describe(gpu.name) or gpu.name}"]
    parts.append("used by " + ", ".join(map(_process, pids)) if pids else "free")
    try:
        holder = holders([gpu.name], lock_folder()).get(gpu.name)
    except OSError:
        holder = None
    if holder is not None:
        parts.append(f"taken by {holder}")
    return Finding("GPUs", f"gpu {gpu.number}", "ok", "; ".join(parts))


def _process(pid: int) -> str:
    try:
        return f"process {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:  # the host's number, seen from a container; or just gone
        return f"process {pid}"


class _Nvml:
    """The driver's words about itself; None and empty where it has none."""

    def __init__(self) -> None:
        self._pynvml: Any = importlib.import_module("pynvml")  # by name: it has no types
        self._pynvml.nvmlInit()

    def close(self) -> None:
        self._pynvml.nvmlShutdown()

    def describe(self, uuid: str) -> str:
        handle = self._asked("nvmlDeviceGetHandleByUUID", uuid)
        name, memory = self._asked("nvmlDeviceGetName", handle), self._asked("nvmlDeviceGetMemoryInfo", handle)
        if name is None:
            return ""
        told = name.decode() if isinstance(name, bytes) else str(name)
        return f"{told}, {size_words(memory.used)} of {size_words(memory.total)} used" if memory is not None else told

    def cuda(self) -> tuple[int, int] | None:
        number = self._asked("nvmlSystemGetCudaDriverVersion_v2")  # 12040 for 12.4
        return None if number is None else (number // 1000, number % 1000 // 10)

    def driver(self) -> str:
        version = self._asked("nvmlSystemGetDriverVersion")
        return "" if version is None else version.decode() if isinstance(version, bytes) else str(version)

    def _asked(self, name: str, *args: Any) -> Any:
        try:
            return getattr(self._pynvml, name)(*args)
        except Exception:  # an older library or driver, a GPU in slices: that line says less
            return None
