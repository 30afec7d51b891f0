"""Who is asked where the GPUs are: NVML, nvidia-smi, torch; and what CUDA_VISIBLE_DEVICES leaves of them."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from ipyelastic.devices import gpu_addresses
from ipyelastic.devices.gpu_addresses import visible_gpu_addresses


class NVMLError(Exception):
    pass


def fake_nvml(gpus, mig=()):
    """A `pynvml` that knows `gpus` as (domain, bus, device, uuid); the first one is cut into the `mig` uuids."""
    calls = []

    def slice_of(handle, index):
        if index >= len(mig):
            raise NVMLError("not found")
        return mig[index]

    def max_slices(handle):
        if handle or not mig:
            raise NVMLError("not supported")
        return 7

    module = types.SimpleNamespace(
        NVMLError=NVMLError,
        calls=calls,
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetPciInfo=lambda handle: types.SimpleNamespace(
            **dict(zip(("domain", "bus", "device"), gpus[handle], strict=False))
        ),
        nvmlDeviceGetUUID=lambda handle: handle if isinstance(handle, str) else gpus[handle][3],
        nvmlDeviceGetMaxMigDeviceCount=max_slices,
        nvmlDeviceGetMigDeviceHandleByIndex=slice_of,
    )
    return module


FOUR = [(0, 0x10, 0, b"GPU-aa11"), (0, 0x2F, 0, "GPU-ab22"), (1, 0x10, 0, "GPU-cc33"), (0x1000A, 0xC1, 3, "GPU-dd44")]
ADDRESSES = ["0000:10:00.0", "0000:2f:00.0", "0001:10:00.0", "1000a:c1:03.0"]


@pytest.fixture(autouse=True)
def nobody_knows(monkeypatch, tmp_path):
    """No NVML, no nvidia-smi, no torch, unless the test brings one."""
    for source in (gpu_addresses._by_nvml, gpu_addresses._by_nvidia_smi):
        source.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield
    for source in (gpu_addresses._by_nvml, gpu_addresses._by_nvidia_smi):
        source.cache_clear()


def test_nvml_is_asked_once_and_given_back(monkeypatch):
    nvml = fake_nvml(FOUR)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert visible_gpu_addresses() == ADDRESSES
    assert visible_gpu_addresses() == ADDRESSES
    assert nvml.calls == ["init", "shutdown"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("GPU-cc33,GPU-aa", [2, 0]),
        ("1,GPU-a,0", [1]),  # the name fits two GPUs
        ("1,9,0", [1]),  # as CUDA does: what follows an unknown one is gone
        ("0,-1,1", [0]),
        ("", []),
        ("-1", []),
        ("MIG-two", [0]),
    ],
)
def test_cuda_visible_devices_chooses_and_orders(monkeypatch, visible, expected):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(FOUR, mig=("MIG-one", "MIG-two")))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpu_addresses() == [ADDRESSES[index] for index in expected]


def test_names_of_no_gpu_here_are_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(FOUR))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-zz")
    with pytest.raises(RuntimeError, match=r"^CUDA_VISIBLE_DEVICES='GPU-zz' names none of the 4 GPUs"):
        visible_gpu_addresses()


def test_nvidia_smi_is_asked_where_nvml_cannot_be(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        '[ "$1 $2" = "--query-gpu=pci.bus_id,uuid --format=csv,noheader" ] || exit 9\n'
        "echo '00000000:10:00.0, GPU-aa11'\necho '00000001:C1:03.0, GPU-ab22'\n"
    )
    program.chmod(0o755)
    assert visible_gpu_addresses() == ["0000:10:00.0", "0001:c1:03.0"]


def fake_torch(is_initialized):
    def must_not_be_asked(*_):
        raise AssertionError("this starts CUDA")

    device = types.SimpleNamespace(pci_domain_id=0, pci_bus_id=0x65, pci_device_id=1)
    cuda = types.SimpleNamespace(is_initialized=lambda: is_initialized)
    cuda.device_count = (lambda: 1) if is_initialized else must_not_be_asked
    cuda.get_device_properties = (lambda index: device) if is_initialized else must_not_be_asked
    return types.SimpleNamespace(cuda=cuda)


def test_a_torch_that_uses_cuda_already_is_asked_last(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(True))
    assert visible_gpu_addresses() == ["0000:65:01.0"]


def test_a_torch_that_has_not_started_cuda_is_left_alone_and_the_error_says_who_was_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(False))
    with pytest.raises(RuntimeError) as caught:
        visible_gpu_addresses()
    assert str(caught.value) == (
        "the PCI addresses of this process's GPUs are unknown. Asked: nvml: ModuleNotFoundError: import of pynvml "
        "halted; None in sys.modules; nvidia_smi: FileNotFoundError: [Errno 2] No such file or directory: "
        "'nvidia-smi'; torch: not imported here, or it has not started CUDA. On a machine with NVIDIA GPUs, "
        "`pip install nvidia-ml-py` lets this work"
    )


def test_asking_imports_no_torch():
    code = (
        "import sys\nfrom ipyelastic.devices import numa\n"
        "try: numa._get_numa_node_index_for_gpu_index(gpu_index=0)\nexcept (RuntimeError, OSError): pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
