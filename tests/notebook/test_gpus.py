"""Which GPUs ranks see, in a real kernel on a pretended machine: what is in their environment, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.gpus import GpuMachine
from support.kernels import Kernel
from support.waiting import wait_until

Ranks = Callable[..., list[Any]]

SEEN = "import os\n[os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ['LOCAL_RANK']]"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> GpuMachine:
    """Four GPUs."""
    return GpuMachine(tmp_path_factory.mktemp("machine") / "four")


@pytest.fixture(scope="module")
def shared_kernel(machine: GpuMachine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel on it."""
    environment = {**machine.environment(), "IPYELASTIC_RUN_ROOT": str(tmp_path_factory.mktemp("runs"))}
    with Kernel.start(tmp_path_factory.mktemp("notebook"), env=environment) as started:
        for cell in ("%load_ext ipyelastic", machine.cell, "import ipyelastic as ie, signal, os"):
            assert started.run(cell).ok
        yield started


@pytest.fixture
def kernel(shared_kernel: Kernel, machine: GpuMachine) -> Iterator[Kernel]:
    yield shared_kernel
    machine.computes_on()
    machine.break_nvml(False)
    shared_kernel.run("%elastic_stop\nos.environ.pop('CUDA_VISIBLE_DEVICES', None)")


def background(kernel: Kernel, **options: object) -> tuple[str, int]:
    """Start a run that lasts; its id and the pid of its rank 0."""
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    assert kernel.run(f"bg = ie.launch(signal.pause, {text})").ok
    wait_until(lambda: kernel.value("bg.ranks[0].pid"), 20, "the rank has started")
    return kernel.value("bg.run_id"), kernel.value("bg.ranks[0].pid")


def test_ranks_see_the_named_gpus_as_uuids(kernel: Kernel, ranks: Ranks, machine: GpuMachine) -> None:
    seen = machine.names(2, 0)
    assert ranks(SEEN, "--gpus 2,0") == [[seen, "0"], [seen, "1"]]
    assert ranks(SEEN, "--gpus 2,0 -n 1") == [[seen, "0"]]
    assert (
        kernel.value("list(ie.launch(lambda: os.environ['CUDA_VISIBLE_DEVICES'], gpus='2,0').result())") == [seen] * 2
    )


def test_numbers_count_within_the_notebooks_own(kernel: Kernel, ranks: Ranks, machine: GpuMachine) -> None:
    kernel.run("os.environ['CUDA_VISIBLE_DEVICES'] = '3,1'")
    assert ranks(SEEN, "--gpus 1") == [[machine.names(1), "0"]]
    assert kernel.run("%elastic_run --gpus 2 1").out == (
        "UsageError: --gpus 2: there is no GPU 2; visible here within CUDA_VISIBLE_DEVICES=3,1: GPU 0-1\n"
    )


def test_without_options_there_is_a_rank_per_gpu_and_cuda_visible_devices_is_left_alone(kernel: Kernel) -> None:
    result = kernel.run(f"%%elastic_run\n{SEEN}")
    assert result.out == "note: nproc=4: one rank per visible GPU\n"
    assert result.value == "[0: [None, '0'], 1: [None, '1'], 2: [None, '2'], 3: [None, '3']]"


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_with_virtual_local_ranks_each_sees_its_own_only(
    kernel: Kernel, ranks: Ranks, machine: GpuMachine, method: str
) -> None:
    options = f"--virtual-local-rank --start-method {method}"
    body = "import os\n[os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ['LOCAL_RANK'], local_rank, rank]"
    assert ranks(body, f"{options} --gpus 3,1") == [[machine.names(3), "0", 0, 0], [machine.names(1), "0", 0, 1]]
    assert ranks(body, f"{options} -n 2") == [[machine.names(0), "0", 0, 0], [machine.names(1), "0", 0, 1]]
    given = f"{options} -n 2 --env CUDA_VISIBLE_DEVICES=5,6"
    assert ranks(body, given) == [["5", "0", 0, 0], ["6", "0", 0, 1]]


def test_virtual_local_ranks_need_a_gpu_each(kernel: Kernel) -> None:
    assert kernel.run("%elastic_run -n 3 --virtual-local-rank --env CUDA_VISIBLE_DEVICES=0,1 1").out == (
        "UsageError: --virtual-local-rank with 3 ranks: each needs a GPU of its own, and CUDA_VISIBLE_DEVICES=0,1 "
        "names 2\n"
    )


def test_free_gpus_are_those_without_processes_and_without_our_runs(
    kernel: Kernel, ranks: Ranks, machine: GpuMachine
) -> None:
    machine.computes_on(gpu0=[4711])
    run_id, _ = background(kernel, gpus=[1])
    result = kernel.run(f"%%elastic_run --gpus free\n{SEEN}")
    seen = machine.names(2, 3)
    assert result.out == "note: nproc=2: one rank per free GPU (2-3)\n"
    assert result.value == f"[0: ['{seen}', '0'], 1: ['{seen}', '1']]"
    assert kernel.run("%elastic_run --gpus free -n 3 1").out == (
        f"UsageError: --gpus free with 3 ranks: 2 of 4 GPUs are free (GPU 0: process 4711; GPU 1: run {run_id})\n"
    )
    assert kernel.run("bg.stop(); bg.wait(20)").value == "True"
    assert len(ranks(SEEN, "--gpus free")) == 3


def test_two_runs_do_not_get_the_same_gpu_unless_they_ask_for_it(
    kernel: Kernel, ranks: Ranks, machine: GpuMachine
) -> None:
    run_id, _ = background(kernel, nproc=2)
    result = kernel.run(f"%%elastic_run -n 2\n{SEEN}")
    assert result.out == f"note: ranks see GPU 2-3 only: run {run_id} has GPU 0-1\n"
    assert result.value == f"[0: ['{machine.names(2, 3)}', '0'], 1: ['{machine.names(2, 3)}', '1']]"
    result = kernel.run(f"%%elastic_run\n{SEEN}")
    assert result.out == (f"note: nproc=2: one rank per visible GPU that no other run has (run {run_id} has GPU 0-1)\n")
    result = kernel.run(f"%%elastic_run --gpus 1,2\n{SEEN}")
    assert result.out == f"note: shared GPUs: run {run_id} has GPU 1\n"
    assert machine.names(1, 2) in (result.value or "")


@pytest.mark.parametrize("ending", ["1 / 0", "os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_run_that_fails_gives_its_gpus_back(kernel: Kernel, ranks: Ranks, ending: str) -> None:
    kernel.run(f"%%elastic_run --gpus 0-3\nimport os\n{ending}")
    assert len(ranks(SEEN, "--gpus free")) == 4


def test_a_run_that_cannot_start_gives_its_gpus_back(kernel: Kernel, ranks: Ranks) -> None:
    result = kernel.run("import threading\nlock = threading.Lock()\n%elastic_run --gpus 0-3 lock")
    assert result.error_name == "UnpicklableError", result.text
    assert len(ranks(SEEN, "--gpus free")) == 4


@pytest.mark.slow
def test_a_killed_notebook_gives_its_gpus_back(
    kernel: Kernel, new_kernel: Callable[..., Kernel], ranks: Ranks, machine: GpuMachine, tmp_path: Path
) -> None:
    root = kernel.value("os.environ['IPYELASTIC_RUN_ROOT']")
    other = new_kernel(tmp_path, env={**machine.environment(), "IPYELASTIC_RUN_ROOT": root})
    for cell in ("%load_ext ipyelastic", machine.cell, "import ipyelastic as ie, signal"):
        assert other.run(cell).ok
    holder = f"run {background(other, gpus='0-2')[0]} of process {other.pid}"
    assert kernel.run("%elastic_run --gpus free -n 2 1").out == (
        "UsageError: --gpus free with 2 ranks: 1 of 4 GPUs is free "
        f"(GPU 0: {holder}; GPU 1: {holder}; GPU 2: {holder})\n"
    )
    other.kill()
    wait_until(lambda: len(ranks(SEEN, "--gpus free")) == 4, 20, "the dead notebook's GPUs are free")


def test_without_nvml_numbers_are_passed_on(
    kernel: Kernel, machine: GpuMachine, new_kernel: Callable[..., Kernel]
) -> None:
    machine.break_nvml()
    fresh = new_kernel(env=machine.environment())  # NVML's answer is kept once it has given one
    for cell in ("%load_ext ipyelastic", machine.cell):
        assert fresh.run(cell).ok
    result = fresh.run("import os\n%elastic_run --gpus 2,0 os.environ['CUDA_VISIBLE_DEVICES']")
    assert result.value == "[0: '2,0', 1: '2,0']"
    assert fresh.run("%elastic_run --gpus free 1").out.startswith("UsageError: --gpus free: NVML cannot be asked (")


# ---------------------------------------------------------------------------------------------------------------- NUMA


def simulated_sysfs(folder: Path, nodes: list[list[int]]) -> str:
    """A sysfs where GPU n is at node n, which has the CPUs `nodes[n]`."""

    def put(path: str, text: object) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"{text}\n")

    put("devices/system/node/possible", f"0-{len(nodes) - 1}")
    for node, cpus in enumerate(nodes):
        put(f"bus/pci/devices/0000:{0x10 + node:02x}:00.0/numa_node", node)
        put(f"devices/system/node/node{node}/cpulist", ",".join(map(str, cpus)))
        for cpu in cpus:
            put(f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", cpu)
            put(f"devices/system/cpu/cpu{cpu}/topology/physical_package_id", node)
    return str(folder)


@pytest.fixture
def numa_machine(kernel: Kernel, tmp_path: Path) -> Iterator[list[int]]:
    """Two nodes with one of this machine's real CPUs each, in the kernel (and so in ranks that are its forks)."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    (tmp_path / "numactl").write_text("#!/bin/sh\n")
    (tmp_path / "numactl").chmod(0o755)
    root = simulated_sysfs(tmp_path / "sys", [[cpus[0]], [cpus[1]]])
    kernel.run(
        "from ipyelastic.devices import numa_topology\n"
        f"numa_topology.SYSFS, _path = {root!r}, os.environ['PATH']\n"
        f"os.environ['PATH'] = {str(tmp_path)!r} + os.pathsep + _path"
    )
    yield cpus
    kernel.run("numa_topology.SYSFS = '/sys'\nos.environ['PATH'] = _path")


@pytest.mark.parametrize("virtual", ["", "--virtual-local-rank"])
@pytest.mark.parametrize("mode", ["node", "socket", "exclusive"])
def test_ranks_are_bound_to_the_cpus_near_their_gpu(
    ranks: Ranks, numa_machine: list[int], machine: GpuMachine, mode: str, virtual: str
) -> None:
    near, far = numa_machine
    body = "import os\n[sorted(os.sched_getaffinity(0)), os.environ['CUDA_VISIBLE_DEVICES'], (lambda: rank)()]"
    own = [machine.names(1), machine.names(0)] if virtual else [machine.names(1, 0)] * 2
    assert ranks(body, f"--gpus 1,0 --numa {mode} {virtual} --start-method fork") == [
        [[far], own[0], 0], [[near], own[1], 1],
    ]  # fmt: skip


def test_a_bound_cell_keeps_its_lines_and_its_placeholders(kernel: Kernel, numa_machine: list[int]) -> None:
    result = kernel.run("%%elastic_run --gpus 0 --numa node --start-method fork\nimport threading\nthreading.Lock()")
    assert result.ok, result.text
    assert "lock" in (result.value or "")
    result = kernel.run("%%elastic_run --gpus 0 --numa node --start-method fork\nzero = 0\n1 / zero")
    assert "----> 3 1 / zero" in result.traceback
    assert "bound.py" not in result.traceback
    assert "numa.py" not in result.traceback


def test_binding_that_cannot_be_is_refused_before_anything_starts(kernel: Kernel, numa_machine: list[int]) -> None:
    assert kernel.run("%elastic_run --gpus 2 --numa node 1").out == (
        "UsageError: numa='node': the system does not say where the GPU at 0000:12:00.0 is "
        f"({kernel.value('numa_topology.SYSFS')}/bus/pci/devices/0000:12:00.0/numa_node: No such file or directory)\n"
    )
    assert kernel.run("%elastic_run -n 5 --numa node 1").out == (
        "UsageError: numa='node': 5 ranks need a GPU each to be bound near, and 4 are visible\n"
    )
    kernel.run("os.environ['PATH'] = '/nowhere'")
    assert kernel.run("%elastic_run --gpus 0 --numa node 1").out == (
        "UsageError: numa='node': numactl CLI is required for NUMA binding, and PATH has none: install the package "
        "`numactl`\n"
    )
