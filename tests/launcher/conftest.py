"""A pretended machine with GPUs, and saved defaults that do not outlive their test."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipyelastic.devices import gpu_addresses, gpus
from ipyelastic.launcher import defaults
from support.gpus import GpuMachine


@pytest.fixture
def gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., GpuMachine]]:
    """`gpu_machine(4)`: this process finds so many GPUs from then on."""
    sources = (gpu_addresses._by_nvml, gpu_addresses._by_nvidia_smi)

    def put(count: int = 4) -> GpuMachine:
        machine = GpuMachine(tmp_path / "machine", count)
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


@pytest.fixture(autouse=True)
def no_saved_defaults() -> Iterator[None]:
    """Each test begins and ends without any."""
    yield
    for layer in defaults.LAYERS:
        defaults.take_back(layer)
