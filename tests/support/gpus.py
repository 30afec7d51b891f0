"""A machine with GPUs, pretended: device files, and a `pynvml` that reads what there is from a file.

Everything above these two is real: options, locks, processes, and the environment that ranks get.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipyelastic.devices import gpu_addresses, gpus

__all__ = ["GpuMachine", "pretended"]

_PYNVML = """
import json, types

class NVMLError(Exception):
    pass

def _state():
    with open({state!r}) as file:
        return json.load(file)

def nvmlInit():
    if _state()["broken"]:
        raise NVMLError("NVML Shared Library Not Found")

def nvmlShutdown():
    pass

def nvmlDeviceGetCount():
    return len(_state()["gpus"])

def nvmlDeviceGetHandleByIndex(index):
    return index

def nvmlDeviceGetHandleByUUID(uuid):
    return _state()["gpus"].index(uuid)

def nvmlDeviceGetPciInfo(index):
    return types.SimpleNamespace(domain=0, bus=0x10 + index, device=0)

def nvmlDeviceGetUUID(index):
    return _state()["gpus"][index]

def nvmlDeviceGetMaxMigDeviceCount(index):
    raise NVMLError("Not Supported")

def nvmlDeviceGetComputeRunningProcesses(index):
    pids = _state()["processes"].get(str(index), [])
    return [types.SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in pids]
"""


class GpuMachine:
    """A machine of `count` GPUs below `folder`; `uuids` are theirs, in order."""

    def __init__(self, folder: Path, count: int = 4) -> None:
        self.folder = folder
        self.uuids = [f"GPU-{letter * 4}0000" for letter in "abcdefgh"[:count]]
        self._state: dict[str, object] = {"gpus": self.uuids, "processes": {}, "broken": False}
        self.devices, self.modules = folder / "dev", folder / "modules"
        self.devices.mkdir(parents=True)
        self.modules.mkdir()
        for number in range(count):
            (self.devices / f"nvidia{number}").touch()
        (self.devices / "nvidiactl").touch()
        (self.modules / "pynvml.py").write_text(_PYNVML.format(state=str(folder / "state.json")))
        self._write()

    def _write(self) -> None:
        aside = self.folder / "state.part"
        aside.write_text(json.dumps(self._state))
        aside.replace(self.folder / "state.json")

    def computes_on(self, **pids: list[int]) -> None:
        """`gpu1=[77]`: process 77 computes on GPU 1, nobody on the others."""
        self._state["processes"] = {name.removeprefix("gpu"): list(listed) for name, listed in pids.items()}
        self._write()

    def break_nvml(self, is_broken: bool = True) -> None:
        """As on a machine without the driver's library."""
        self._state["broken"] = is_broken
        self._write()

    def names(self, *numbers: int) -> str:
        """CUDA_VISIBLE_DEVICES of these GPUs."""
        return ",".join(self.uuids[number] for number in numbers)

    def environment(self) -> dict[str, str]:
        """For a kernel on this machine."""
        paths = [str(self.modules), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths)}

    @property
    def cell(self) -> str:
        """What a kernel runs to find this machine's device files."""
        return f"import ipyelastic.devices.gpus as _gpus; _gpus.DEVICE_FOLDER = {str(self.devices)!r}"


@contextlib.contextmanager
def pretended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., GpuMachine]]:
    """`put(4)`: this very process finds so many GPUs from then on, until the block's end."""
    sources = (gpu_addresses._by_nvml, gpu_addresses._by_nvidia_smi)

    def put(count: int = 4) -> GpuMachine:
        machine = GpuMachine(folder, count)
        monkeypatch.setattr(gpus, "DEVICE_FOLDER", str(machine.devices))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.syspath_prepend(str(machine.modules))
        monkeypatch.delitem(sys.modules, "pynvml", raising=False)
        importlib.invalidate_caches()
        for source in sources:
            source.cache_clear()
        return machine

    yield put
    sys.modules.pop("pynvml", None)
    for source in sources:
        source.cache_clear()
