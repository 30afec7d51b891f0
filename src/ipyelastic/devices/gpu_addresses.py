"""Where this process's GPUs sit on the PCI bus, without torch and without touching CUDA.

    NVML, else nvidia-smi, else a torch that uses CUDA already -> [here] -> numa.py, which asks sysfs about the address

Runs in: owner (for programs) and ranks (for functions).
Other end: `gpus.py` counts the same GPUs by their device files and hands them out; both obey CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..terms import env

__all__ = ["Gpu", "named_gpus", "visible_gpu_addresses"]


class Gpu(NamedTuple):
    """One physical GPU: `address` as sysfs spells it (`0000:65:00.0`), and the names CUDA_VISIBLE_DEVICES may use."""

    address: str
    uuids: tuple[str, ...]


def visible_gpu_addresses(named: str | None = None) -> list[str]:
    """PCI addresses of the GPUs that CUDA would show this process, by CUDA's index.

    Args:
        named: CUDA_VISIBLE_DEVICES to go by; None: this process's own.

    Returns:
        Addresses as the folders of `/sys/bus/pci/devices` are named, `domain:bus:device.0` in lower-case hexadecimal.

    Raises:
        RuntimeError: Nobody on this machine can tell, or CUDA_VISIBLE_DEVICES names a GPU that is not there first of
            all. The text names what was asked and what it said.

    Note:
        Order is that of the PCI bus. CUDA's own default puts faster GPUs first, which differs only on machines with
        GPUs of several kinds; CUDA_DEVICE_ORDER=PCI_BUS_ID makes the two agree there.

    Runs in: any process, thread-safe. CUDA is not initialised: a process may fork afterwards.
    """
    said: list[str] = []
    gpus = _physical(said)
    if gpus is not None:
        visible = os.environ.get(env.CUDA_VISIBLE_DEVICES) if named is None else named
        return [gpu.address for _, gpu in _visible(gpus, visible)]
    addresses = _by_torch()
    if addresses is not None:
        return addresses
    said.append("torch: not imported here, or it has not started CUDA")
    raise RuntimeError(
        "the PCI addresses of this process's GPUs are unknown. Asked: " + "; ".join(said) + ". "
        "On a machine with NVIDIA GPUs, `pip install nvidia-ml-py` lets this work"
    )


def named_gpus(named: str | None) -> list[tuple[str, Gpu]]:
    """The GPUs that a CUDA_VISIBLE_DEVICES of this text shows (None: all), each with the UUID that names it there.

    Raises:
        RuntimeError: Neither NVML nor nvidia-smi can be asked, or the text names no GPU of this machine first of all.
    """
    said: list[str] = []
    gpus = _physical(said)
    if gpus is None:
        raise RuntimeError("the UUIDs of this machine's GPUs are unknown. Asked: " + "; ".join(said))
    return _visible(gpus, named)


def _physical(said: list[str]) -> Sequence[Gpu] | None:
    """All GPUs of this machine; None when nobody can tell, with each one's reason in `said`."""
    for source in (_by_nvml, _by_nvidia_smi):
        try:
            return source()
        except Exception as error:  # the caller says it, unless the next one knows
            said.append(f"{source.__name__.removeprefix('_by_')}: {type(error).__name__}: {error}")
    return None


def _visible(gpus: Sequence[Gpu], named: str | None) -> list[tuple[str, Gpu]]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order. As in CUDA, an unknown entry ends the list."""
    if named is None:
        return [(gpu.uuids[0], gpu) for gpu in gpus]
    kept: list[tuple[str, Gpu]] = []
    for entry in (part.strip() for part in named.split(",")):
        if entry.isdigit():
            found = [(gpu.uuids[0], gpu) for gpu in gpus[int(entry) : int(entry) + 1]]
        else:
            # A shortened name is enough as long as one GPU only begins so.
            found = [(uuid, gpu) for gpu in gpus for uuid in gpu.uuids if entry and uuid.startswith(entry)]
            if len({gpu.address for _, gpu in found}) == 1:
                found = found[:1]
        if len(found) != 1:
            break
        kept += found
    if named.strip() not in ("", "-1") and not kept:
        raise RuntimeError(f"{env.CUDA_VISIBLE_DEVICES}={named!r} names none of the {len(gpus)} GPUs of this machine")
    return kept


@functools.cache
def _by_nvml() -> tuple[Gpu, ...]:
    """Ask the driver's management library; it knows no CUDA context. Physical GPUs are the same all our life."""
    pynvml: Any = importlib.import_module("pynvml")  # by name: it has no types, and need not be installed
    pynvml.nvmlInit()
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            pci = pynvml.nvmlDeviceGetPciInfo(handle)
            uuids = [_text(pynvml.nvmlDeviceGetUUID(handle)), *_mig_uuids(pynvml, handle)]
            gpus.append(Gpu(_address(pci.domain, pci.bus, pci.device), tuple(uuids)))
        return tuple(gpus)
    finally:
        pynvml.nvmlShutdown()


def _mig_uuids(pynvml: Any, handle: Any) -> list[str]:
    """Names of the slices of a GPU that is cut into some; each is as near to the CPUs as the whole."""
    try:
        slices = range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except pynvml.NVMLError:
        return []
    uuids = []
    for index in slices:
        try:
            uuids.append(_text(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))))
        except pynvml.NVMLError:  # fewer slices than there could be
            break
    return uuids


@functools.cache
def _by_nvidia_smi() -> tuple[Gpu, ...]:
    """Ask the driver's program, which is there where the driver is."""
    command = ["nvidia-smi", "--query-gpu=pci.bus_id,uuid", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    gpus = []
    for line in done.stdout.splitlines():
        address, _, uuid = (part.strip() for part in line.partition(","))
        domain, bus, device = address.partition(".")[0].split(":")
        gpus.append(Gpu(_address(int(domain, 16), int(bus, 16), int(device, 16)), (uuid,)))
    return tuple(gpus)


def _by_torch() -> list[str] | None:
    """Ask torch, only where CUDA runs in this process already: its first question to a GPU would start CUDA."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    properties = [cuda.get_device_properties(index) for index in range(cuda.device_count())]
    return [_address(gpu.pci_domain_id, gpu.pci_bus_id, gpu.pci_device_id) for gpu in properties]


def _address(domain: int, bus: int, device: int) -> str:
    return f"{domain:04x}:{bus:02x}:{device:02x}.0"


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name  # nvidia-ml-py before 12 gave bytes
