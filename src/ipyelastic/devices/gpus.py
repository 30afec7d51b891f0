"""Which GPUs a run may use and who uses them: device files and NVML; no torch, no CUDA call in any parent.

Runs in: owner.
Other end: gpu_addresses.py knows the same GPUs by their place on the bus; both obey CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..terms import env
from .gpu_addresses import named_gpus

__all__ = ["VisibleGpu", "compute_processes", "has_accelerator", "visible_gpu_count", "visible_gpus"]

DEVICE_FOLDER = "/dev"
"""Tests put a folder here that has the device files of a machine."""


# ROCm, WSL's CUDA, TPU and Gaudi, graphics (Intel's among them), Gaudi's older driver, Ascend.
_OTHERS = re.compile(r"(kfd|dxg|accel|dri|hl|davinci)\d*").fullmatch


class VisibleGpu(NamedTuple):
    """One GPU: `number` within CUDA_VISIBLE_DEVICES; `name` as ranks get it in theirs, a UUID where one is known."""

    number: int
    name: str


def visible_gpu_count(named: str | None = None) -> int:
    """NVIDIA GPUs that this process would see; 0 where there are none. NVML is not asked.

    Args:
        named: CUDA_VISIBLE_DEVICES to count in; None: this process's own.

    A container has device files for the GPUs it was given only, so they are asked rather than the driver's list.
    """
    try:
        present, _ = _device_files()
    except OSError:
        present = 0
    visible = os.environ.get(env.CUDA_VISIBLE_DEVICES) if named is None else named
    if visible is None or not present:
        return present
    return min(len(_entries(visible)), present)


def visible_gpus(named: str | None = None) -> list[VisibleGpu]:
    """The GPUs that this process would see, in its order.

    Args:
        named: CUDA_VISIBLE_DEVICES to go by; None: this process's own.

    Returns:
        With their UUIDs where NVML or nvidia-smi knows them; else named as CUDA_VISIBLE_DEVICES has them, or by number.

    Note:
        Numbers are NVML's, by place on the PCI bus. CUDA's own order, fastest first, differs from it on machines with
        GPUs of several kinds.
    """
    visible = os.environ.get(env.CUDA_VISIBLE_DEVICES) if named is None else named
    try:
        names = [name for name, _ in named_gpus(visible)]
    except RuntimeError:  # nobody can tell, or nothing that is named is there
        count = visible_gpu_count(visible)
        names = [str(number) for number in range(count)] if visible is None else _entries(visible)[:count]
    return [VisibleGpu(number, name) for number, name in enumerate(names)]


def compute_processes(gpus: Sequence[VisibleGpu]) -> dict[int, list[int]]:
    """Which processes compute on each GPU now.

    Returns:
        `{number: pids}` for all of `gpus`. In a container the pids are the host's.

    Raises:
        RuntimeError: NVML cannot be asked; the text says why.
    """
    try:
        pynvml: Any = importlib.import_module("pynvml")  # by name: it has no types, and need not be installed
        pynvml.nvmlInit()
    except Exception as error:
        raise RuntimeError(f"NVML cannot be asked ({type(error).__name__}: {error})") from error
    try:
        found = {}
        for gpu in gpus:
            handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.name)
            found[gpu.number] = sorted(
                {int(process.pid) for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
            )
        return found
    except Exception as error:
        raise RuntimeError(f"NVML does not say who uses them ({type(error).__name__}: {error})") from error
    finally:
        pynvml.nvmlShutdown()


_SETTLED_NS = 2_000_000_000
_listed: tuple[str, int, tuple[int, bool]] = ("", 0, (0, False))


def _device_files() -> tuple[int, bool]:
    """How many GPUs have files in the device folder, and whether something else there may be one; not read again while
    it stays as it was. Raises OSError."""
    global _listed
    changed = os.stat(DEVICE_FOLDER).st_mtime_ns
    if _listed[:2] == (DEVICE_FOLDER, changed):
        return _listed[2]
    names = os.listdir(DEVICE_FOLDER)
    gpus = sum(1 for name in names if name.startswith("nvidia") and name[6:].isdecimal())
    found = gpus, any(map(_OTHERS, names))
    if time.time_ns() - changed > _SETTLED_NS:  # else it may change once more within the clock's tick
        _listed = (DEVICE_FOLDER, changed, found)
    return found


def _entries(visible: str) -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES that CUDA reads: up to the first empty one or -1."""
    entries = [entry.strip() for entry in visible.split(",")]
    stop = next((index for index, entry in enumerate(entries) if entry in ("", "-1")), len(entries))
    return entries[:stop]


def has_accelerator() -> bool:
    """Whether there may be anything but CPUs to compute on, of whatever maker; in doubt, yes."""
    try:
        gpus, has_others = _device_files()
    except OSError:
        return True
    return has_others or (gpus > 0 and visible_gpu_count() > 0)
