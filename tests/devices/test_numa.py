"""NUMA binding on simulated machines (a folder instead of /sys), the same on torch's, and for real with numactl."""

from __future__ import annotations

import builtins
import inspect
import json
import logging
import os
import pickle
import random
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import cloudpickle
import pytest

from ipyelastic.devices import numa, numa_topology
from ipyelastic.devices.numa import AffinityMode, NumaOptions

NODE, SOCKET = AffinityMode.NODE, AffinityMode.SOCKET
EXCLUSIVE, CORE_COMPLEX = AffinityMode.EXCLUSIVE, AffinityMode.CORE_COMPLEX


@dataclass
class Machine:
    """A machine to simulate: `nodes[n]` has its cores, a core is the tuple of its CPUs.

    Attributes:
        package_of: Package of each node.
        gpu_nodes: What the firmware says of each GPU.
        complexes: CPUs behind one L3, in sets; a CPU in none has no L3.
    """

    nodes: dict[int, list[tuple[int, ...]]]
    package_of: dict[int, int]
    gpu_nodes: list[int]
    complexes: list[set[int]] = field(default_factory=list)
    possible: str = ""

    @property
    def cpus(self) -> set[int]:
        return {cpu for cores in self.nodes.values() for core in cores for cpu in core}

    @property
    def addresses(self) -> list[str]:
        return [f"{gpu % 2:04x}:{0x10 + gpu:02x}:{gpu:02x}.0" for gpu in range(len(self.gpu_nodes))]

    def write(self, root: Path) -> None:
        """Make the files that numa.py reads, each with the newline that sysfs gives."""

        def put(path: str, text: object) -> None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"{text}\n")

        for address, node in zip(self.addresses, self.gpu_nodes, strict=True):
            put(f"bus/pci/devices/{address}/numa_node", node)
        put("devices/system/node/possible", self.possible or ranges(self.nodes))
        for node, cores in self.nodes.items():
            put(f"devices/system/node/node{node}/cpulist", ranges(cpu for core in cores for cpu in core))
            for core in cores:
                for cpu in core:
                    here = f"devices/system/cpu/cpu{cpu}"
                    put(f"{here}/topology/thread_siblings_list", ranges(core))
                    put(f"{here}/topology/physical_package_id", self.package_of[node])
                    caches = [("Data", 1, core), ("Instruction", 1, core), ("Unified", 2, core)]
                    caches += [("Unified", 3, shared) for shared in self.complexes if cpu in shared]
                    for index, (kind, level, shared) in enumerate(caches):
                        put(f"{here}/cache/index{index}/type", kind)
                        put(f"{here}/cache/index{index}/level", level)
                        put(f"{here}/cache/index{index}/shared_cpu_list", ranges(shared))
                    put(f"{here}/cache/uevent", "")


def ranges(numbers):
    return ",".join(map(str, sorted(numbers)))


def two_sockets(gpu_nodes=(-1, 0, 1, 1, 2, 2, 3, 3), cores_per_node=4) -> Machine:
    """2 sockets x 2 nodes x 4 cores x 2 threads: core c has the CPUs c and c + 16; an L3 for every two cores."""
    count = 4 * cores_per_node
    nodes = {
        node: [(core, core + count) for core in range(node * cores_per_node, (node + 1) * cores_per_node)]
        for node in range(4)
    }
    complexes = [{core, core + 1, core + count, core + count + 1} for core in range(0, count, 2)]
    return Machine(nodes, {0: 0, 1: 0, 2: 1, 3: 1}, list(gpu_nodes), complexes)


@pytest.fixture
def simulate(tmp_path, monkeypatch):
    """Put a machine in /sys's place; all its CPUs are allowed, unless said, and numactl is there."""

    def put(machine: Machine, allowed: set[int] | None = None) -> Path:
        root = tmp_path / "sys"
        if root.exists():
            shutil.rmtree(root)
        machine.write(root)
        monkeypatch.setattr(numa_topology, "SYSFS", str(root))
        monkeypatch.setattr(numa, "visible_gpu_addresses", lambda: machine.addresses)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(machine.cpus if allowed is None else allowed))
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
        return root

    return put


def cpus_for(gpu: int, mode: AffinityMode) -> str:
    """The ranges in the command that a program of this GPU gets."""
    name, option, *rest = numa._maybe_wrap_command_args_with_numa_binding(
        ("python", "x.py"), gpu_index=gpu, numa_options=NumaOptions(mode)
    )
    assert (name, rest) == ("numactl", ["python", "x.py"])
    assert option.startswith("--physcpubind=")
    return option.partition("=")[2]


# ---- the four modes


PAIRS_OF_CORES = [f"{core}-{core + 1},{core + 16}-{core + 17}" for core in range(0, 16, 2)]


@pytest.mark.parametrize(
    ("mode", "by_gpu"),
    [
        (NODE, ["0-3,16-19"] * 2 + ["4-7,20-23"] * 2 + ["8-11,24-27"] * 2 + ["12-15,28-31"] * 2),
        (SOCKET, ["0-7,16-23"] * 4 + ["8-15,24-31"] * 4),
        (EXCLUSIVE, PAIRS_OF_CORES),
        (CORE_COMPLEX, PAIRS_OF_CORES),
    ],
)
def test_each_mode_gives_each_gpu_its_cpus(simulate, mode, by_gpu):
    simulate(two_sockets())
    assert [cpus_for(gpu, mode) for gpu in range(8)] == by_gpu


def test_a_gpu_whose_node_the_firmware_does_not_know_counts_for_node_0(simulate):
    simulate(two_sockets())
    assert numa._get_numa_node_index_for_gpu_index(gpu_index=0) == 0
    assert numa._get_numa_node_index_for_gpu_index(gpu_index=7) == 3


@pytest.mark.parametrize(
    ("mode", "gpu", "expected"),
    [
        (NODE, 0, "0-2,16"),
        (NODE, 2, "5"),
        (SOCKET, 0, "0-2,5,16"),
        (EXCLUSIVE, 0, "0-1,16"),
        (EXCLUSIVE, 1, "2"),
        # Two of the first complex's three and the second's one: the fuller one is the first.
        (CORE_COMPLEX, 0, "0-1,16"),
        (CORE_COMPLEX, 1, "2"),
    ],
)
def test_only_allowed_cpus_are_ever_given(simulate, mode, gpu, expected):
    simulate(two_sockets(), allowed={0, 1, 2, 16, 5})
    assert cpus_for(gpu, mode) == expected


def test_the_first_gpus_of_a_node_get_the_cores_that_a_division_leaves(simulate):
    simulate(two_sockets(gpu_nodes=(0, 0, 0)))
    assert [cpus_for(gpu, EXCLUSIVE) for gpu in range(3)] == ["0-1,16-17", "2,18", "3,19"]


def test_exclusive_shares_are_apart_and_together_the_node(simulate):
    simulate(two_sockets(gpu_nodes=(1, 0, 1, 0, 1)))
    shares = [numa._get_set_of_int_from_ranges_str(cpus_for(gpu, EXCLUSIVE)) for gpu in (0, 2, 4)]
    assert sum(map(len, shares)) == 8
    assert set().union(*shares) == {4, 5, 6, 7, 20, 21, 22, 23}


def test_core_complexes_are_taken_in_turn_the_fullest_first(simulate):
    machine = two_sockets(gpu_nodes=(0,) * 4)
    machine.complexes = [{0, 16}, {1, 2, 17, 18}, {3, 19}]
    simulate(machine)
    assert [cpus_for(gpu, CORE_COMPLEX) for gpu in range(4)] == ["1-2,17-18", "0,16", "3,19", "1-2,17-18"]


def test_equal_core_complexes_go_by_their_lowest_cpu_allowed_or_not(simulate):
    machine = two_sockets(gpu_nodes=(0,) * 2)
    machine.complexes = [{0, 3}, {1, 2}]
    simulate(machine, allowed={2, 3})
    assert [cpus_for(gpu, CORE_COMPLEX) for gpu in range(2)] == ["3", "2"]


def test_a_cache_that_two_nodes_share_gives_the_cpus_of_one(simulate):
    machine = two_sockets(gpu_nodes=(1,))
    machine.complexes = [{0, 1, 2, 3, 4, 5}]
    simulate(machine)
    assert cpus_for(0, CORE_COMPLEX) == "4-5"


def test_core_complexes_are_counted_among_the_gpus_of_their_node(simulate):
    simulate(two_sockets(gpu_nodes=(0, 1, 0, 1, 1)))
    assert [cpus_for(gpu, CORE_COMPLEX) for gpu in (1, 3, 4)] == ["4-5,20-21", "6-7,22-23", "4-5,20-21"]


def test_without_a_shared_cache_a_complex_is_a_core(simulate):
    machine = two_sockets(gpu_nodes=(0, 0))
    machine.complexes = []
    simulate(machine)
    assert [cpus_for(gpu, CORE_COMPLEX) for gpu in range(2)] == ["0,16", "1,17"]


def test_one_node_with_everything_is_bound_to_everything(simulate):
    simulate(Machine({0: [(0,), (1,)]}, {0: 0}, [-1], [{0, 1}]))
    assert {mode: cpus_for(0, mode) for mode in AffinityMode} == dict.fromkeys(AffinityMode, "0-1")


# ---- what torch stumbles over


def test_socket_skips_nodes_that_are_possible_but_not_there(simulate):
    machine = two_sockets()
    machine.possible = "0-7"
    simulate(machine)
    assert cpus_for(0, SOCKET) == "0-7,16-23"


def test_socket_skips_nodes_that_have_memory_only(simulate):
    machine = two_sockets()
    machine.nodes[4] = []
    simulate(machine)
    assert cpus_for(7, SOCKET) == "8-15,24-31"


def test_socket_serves_a_gpu_whose_own_node_is_not_allowed(simulate):
    simulate(two_sockets(), allowed={4, 5})
    assert cpus_for(0, SOCKET) == "4-5"


# ---- what cannot be bound


@pytest.mark.parametrize("mode", [NODE, SOCKET, CORE_COMPLEX])
def test_an_empty_set_is_refused_with_what_was_asked_and_what_is_allowed(simulate, mode):
    simulate(two_sockets(), allowed={0, 1})
    with pytest.raises(RuntimeError) as caught:
        cpus_for(7, mode)
    assert str(caught.value) == (
        f"Must bind to a non-empty set of CPU indices: GPU 7 is at NUMA node 3, and mode '{mode.value}' finds none "
        "there among the CPUs that this process may use (0-1)"
    )


def test_exclusive_with_fewer_cores_than_gpus_is_refused_in_torchs_words(simulate):
    simulate(two_sockets(), allowed={0, 16})
    with pytest.raises(RuntimeError) as caught:
        cpus_for(0, EXCLUSIVE)
    assert str(caught.value) == (
        "There are only 1 physical cores on numa_node_index=0, but there are 2 GPUs associated with this NUMA node."
    )


@pytest.mark.parametrize("gpu", [-1, 8])
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(simulate, gpu):
    simulate(two_sockets())
    with pytest.raises(RuntimeError, match=rf"^gpu_index={gpu}: expected 0 to 7, the GPUs this process sees$"):
        cpus_for(gpu, NODE)


@pytest.mark.parametrize(
    ("mode", "missing"),
    [
        (NODE, "bus/pci/devices/0000:10:00.0/numa_node"),
        (NODE, "devices/system/node/node0/cpulist"),
        (SOCKET, "devices/system/node/possible"),
        (EXCLUSIVE, "devices/system/cpu/cpu0/topology/thread_siblings_list"),
        (CORE_COMPLEX, "devices/system/cpu/cpu0/cache/index3/shared_cpu_list"),
        (CORE_COMPLEX, "devices/system/cpu/cpu0/cache"),
    ],
)
def test_a_missing_file_is_named_by_the_error(simulate, mode, missing):
    root = simulate(two_sockets(), allowed={0, 1, 2})
    path = root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        cpus_for(0, mode)
    assert caught.value.filename == str(path)


def test_without_numactl_on_path_programs_and_functions_are_refused(simulate, monkeypatch, tmp_path):
    which = shutil.which
    simulate(two_sockets())
    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"^numactl CLI is required for NUMA binding, and PATH has none"):
        cpus_for(0, NODE)
    bound = numa._maybe_wrap_with_numa_binding(len, gpu_index=0, numa_options=NumaOptions(NODE))
    with pytest.raises(RuntimeError, match=r"^numactl CLI is required"):
        bound("abc")


def test_falling_back_gives_the_same_arguments_and_says_why_in_the_log(simulate, monkeypatch, caplog):
    events = []
    simulate(two_sockets(), allowed={0})
    monkeypatch.setattr(numa, "signpost_event", lambda **event: events.append(event))
    command = ("python", "x.py")
    options = NumaOptions(EXCLUSIVE, should_fall_back_if_binding_fails=True)
    with caplog.at_level(logging.WARNING, "ipyelastic"):
        assert numa._maybe_wrap_command_args_with_numa_binding(command, gpu_index=1, numa_options=options) is command
        assert numa._maybe_wrap_with_numa_binding(len, gpu_index=1, numa_options=options)("abc") == 3
    for record in caplog.records:
        assert "'gpu_index': 1" in record.getMessage()
        assert "RuntimeError: There are only 1 physical cores" in record.getMessage()
    assert len(caplog.records) == 2
    assert [event["name"] for event in events] == ["apply_exception"] * 2
    assert "There are only 1 physical cores" in events[0]["parameters"]["traceback"]


def test_an_error_of_the_function_itself_is_no_binding_failure(simulate, monkeypatch):
    simulate(two_sockets())
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: None)
    options = NumaOptions(NODE, should_fall_back_if_binding_fails=True)
    with pytest.raises(ZeroDivisionError):
        numa._maybe_wrap_with_numa_binding(lambda: 1 / 0, gpu_index=1, numa_options=options)()


# ---- the face


def test_no_options_give_the_very_same_objects():
    def work():
        pass

    command = ("python",)
    assert numa._maybe_wrap_command_args_with_numa_binding(command, gpu_index=0, numa_options=None) is command
    assert numa._maybe_wrap_with_numa_binding(work, gpu_index=0, numa_options=None) is work
    assert numa.get_default_numa_options() is None


def test_the_events_have_torchs_names_and_parameters(simulate, monkeypatch):
    events = []
    simulate(two_sockets())
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: None)
    monkeypatch.setattr(numa, "signpost_event", lambda **event: events.append(event))
    cpus_for(2, NODE)
    numa._maybe_wrap_with_numa_binding(len, gpu_index=2, numa_options=NumaOptions(NODE))("")
    options = {"affinity_mode": NODE, "should_fall_back_if_binding_fails": False}
    assert events == [
        {
            "category": "numa_binding",
            "name": "apply_success",
            "parameters": {
                "command_args": ("python", "x.py"),
                "gpu_index": 2,
                "numa_options": options,
                "wrapped_command": ("numactl", "--physcpubind=4-7,20-23", "python", "x.py"),
            },
        },
        {
            "category": "numa_binding",
            "name": "apply_success",
            "parameters": {"gpu_index": 2, "numa_options": options, "logical_cpu_indices": "4-7,20-23"},
        },
    ]


def test_names_that_torchs_users_replace_are_looked_up_at_each_call(simulate, monkeypatch):
    simulate(two_sockets())
    monkeypatch.setattr(numa, "_get_numa_node_index_for_gpu_index", lambda *, gpu_index: 3 - gpu_index)
    assert cpus_for(0, NODE) == "12-15,28-31"
    monkeypatch.setattr(numa, "_get_ranges_str_from_ints", lambda ints: f"{len(set(ints))} of them")
    assert cpus_for(0, NODE) == "8 of them"
    monkeypatch.setattr(numa, "_get_set_of_int_from_ranges_str", lambda text: {30})
    assert cpus_for(0, NODE) == "1 of them"
    monkeypatch.setattr(numa, "shutil", mock.Mock(**{"which.return_value": None}))
    with pytest.raises(RuntimeError, match=r"^numactl CLI"):
        cpus_for(0, NODE)


def work_of_a_rank(first, second=2):
    """What the rank does."""
    return first, second


def test_a_bound_function_keeps_its_name_and_travels(simulate, monkeypatch):
    simulate(two_sockets())
    moved = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: moved.append((pid, cpus)))
    bound = numa._maybe_wrap_with_numa_binding(work_of_a_rank, gpu_index=4, numa_options=NumaOptions(NODE))
    assert (bound.__name__, bound.__doc__) == ("work_of_a_rank", "What the rank does.")
    assert str(inspect.signature(bound)) == "(first, second=2)"
    local = numa._maybe_wrap_with_numa_binding(lambda first: first, gpu_index=4, numa_options=NumaOptions(NODE))
    assert cloudpickle.loads(cloudpickle.dumps(local))(7) == 7
    plain = numa._maybe_wrap_with_numa_binding(json.dumps, gpu_index=4, numa_options=NumaOptions(NODE))
    assert pickle.loads(pickle.dumps(plain))([1]) == "[1]"
    assert bound(1, second=3) == (1, 3)
    assert moved[0] == (os.getpid(), {8, 9, 10, 11, 24, 25, 26, 27})


def test_options_are_frozen_text_enums():
    assert [mode.value for mode in AffinityMode] == ["node", "socket", "exclusive", "core-complex"]
    assert AffinityMode("core-complex") is CORE_COMPLEX == "core-complex"
    assert NumaOptions(affinity_mode=NODE) == NumaOptions(NODE, should_fall_back_if_binding_fails=False)
    with pytest.raises(AttributeError):
        NumaOptions(NODE).affinity_mode = SOCKET


# ---- ranges


def test_ranges_go_round_for_any_set():
    chance = random.Random(11)
    for _ in range(300):
        numbers = set(chance.sample(range(40), chance.randrange(0, 30)))
        text = numa._get_ranges_str_from_ints(numbers)
        assert numa._get_set_of_int_from_ranges_str(text) == numbers
        assert numa._get_set_of_int_from_ranges_str(f" {text}\n") == numbers


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3, 1, 2], "1-3"), ([0, 2, 4], "0,2,4"), ([1, 1, 2], "1-2"), (iter([5, 6, 9]), "5-6,9")],
)
def test_ranges_are_written_as_the_kernel_writes_them(numbers, text):
    assert numa._get_ranges_str_from_ints(numbers) == text


@pytest.mark.parametrize("text", ["a", "1-b", "-1", "3-1", "1-2-3"])
def test_a_text_that_is_no_range_is_refused(text):
    with pytest.raises(ValueError):
        numa._get_set_of_int_from_ranges_str(text)


# ---- against torch


def some_machine(chance: random.Random) -> Machine:
    """A machine nobody built: packages, nodes, cores, threads and caches drawn by chance."""
    threads, per_node = chance.choice([1, 2]), chance.randrange(1, 7)
    packages, nodes_each = chance.choice([1, 2]), chance.choice([1, 2, 3])
    count = packages * nodes_each
    total, nodes, complexes = count * per_node, {}, []
    for node in range(count):
        nodes[node] = [
            tuple(core + total * thread for thread in range(threads))
            for core in range(node * per_node, (node + 1) * per_node)
        ]
        rest = list(nodes[node])
        chance.shuffle(rest)
        while rest and chance.random() < 0.9:
            size = chance.randrange(1, 4)
            complexes.append({cpu for core in rest[:size] for cpu in core})
            rest = rest[size:]
    gpus = [chance.choice([-1, *range(count)]) for _ in range(chance.randrange(1, 7))]
    return Machine(nodes, {node: node // nodes_each for node in nodes}, gpus, complexes)


@pytest.mark.torch
@pytest.mark.slow
def test_cpu_sets_equal_torchs_on_simulated_machines(simulate, monkeypatch):
    import torch
    import torch.numa.binding as theirs

    root: Path
    open_, listdir = builtins.open, os.listdir

    def moved(path):
        return f"{root}{path[4:]}" if isinstance(path, str) and path.startswith("/sys/") else path

    def properties(machine):
        parts = [address.replace(".", ":").split(":") for address in machine.addresses]
        return [
            types.SimpleNamespace(pci_domain_id=int(a, 16), pci_bus_id=int(b, 16), pci_device_id=int(c, 16))
            for a, b, c, _ in parts
        ]

    chance, compared, refused = random.Random(2), 0, 0
    theirs.logger.disabled = True
    for _ in range(30):
        machine = some_machine(chance)
        allowed = set(machine.cpus)
        if chance.random() < 0.5:
            allowed = {cpu for cpu in allowed if chance.random() < 0.7}
        root = simulate(machine, allowed)
        gpus = properties(machine)
        for gpu in range(len(gpus)):
            for mode in AffinityMode:
                try:
                    our_answer = cpus_for(gpu, mode)
                except RuntimeError as error:
                    our_answer = type(error)
                with (
                    mock.patch.object(builtins, "open", lambda path, *a, **k: open_(moved(path), *a, **k)),
                    mock.patch.object(os, "listdir", lambda path=".": listdir(moved(path))),
                    mock.patch.object(torch.cuda, "device_count", lambda gpus=gpus: len(gpus)),
                    mock.patch.object(torch.cuda, "get_device_properties", gpus.__getitem__),
                    mock.patch.object(torch.cuda, "is_available", return_value=True),
                ):
                    try:
                        options = theirs.NumaOptions(theirs.AffinityMode(mode.value))
                        their_answer = theirs._maybe_wrap_command_args_with_numa_binding(
                            ("p",), gpu_index=gpu, numa_options=options
                        )[1].partition("=")[2]
                    except RuntimeError as error:
                        their_answer = type(error)
                    except (ValueError, ZeroDivisionError):
                        # A node none of whose CPUs is allowed: torch trips, we answer or refuse.
                        refused += 1
                        continue
                assert our_answer == their_answer, (mode, gpu, machine, allowed)
                compared += 1
    theirs.logger.disabled = False
    print(f"compared {compared} sets, torch tripped over {refused}")
    assert compared > 250


# ---- for real


@pytest.mark.skipif(shutil.which("numactl") is None, reason="needs the program numactl")
def test_a_program_runs_on_the_cpus_that_numactl_was_given(simulate, monkeypatch):
    allowed = os.sched_getaffinity(0)
    machine = Machine({0: [(min(allowed),)], 1: [(max(allowed) + 1,)]}, {0: 0, 1: 0}, [0])
    which, getaffinity = shutil.which, os.sched_getaffinity
    simulate(machine)
    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(os, "sched_getaffinity", getaffinity)
    command = numa._maybe_wrap_command_args_with_numa_binding(
        (sys.executable, "-S", "-c", "import os; print(os.sched_getaffinity(0))"),
        gpu_index=0,
        numa_options=NumaOptions(NODE),
    )
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{{{min(allowed)}}}\n"


_THREADS = """
import json, os, shutil, sys, threading
from ipyelastic.devices import numa, numa_topology
numa_topology.SYSFS, shutil.which = sys.argv[1], lambda name: name
numa.visible_gpu_addresses = lambda: ["0000:10:00.0"]
first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
gone, placed, ids = threading.Event(), threading.Barrier(3), {}
def thread(name, cpus):
    if cpus:
        os.sched_setaffinity(0, cpus)
    ids[name] = threading.get_native_id()
    placed.wait()
    gone.wait()
for name, cpus in (("followed", None), ("placed", {last})):
    threading.Thread(target=thread, args=(name, cpus)).start()
placed.wait()
def work():
    later = []
    one = threading.Thread(target=lambda: later.append(os.sched_getaffinity(0)))
    one.start()
    one.join()
    return {"main": os.sched_getaffinity(0), "later": later[0], **{n: os.sched_getaffinity(i) for n, i in ids.items()}}
found = numa._maybe_wrap_with_numa_binding(work, gpu_index=0, numa_options=numa.NumaOptions(numa.AffinityMode.NODE))()
gone.set()
print(json.dumps({name: sorted(cpus) for name, cpus in found.items()}))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_a_function_binds_its_process_but_for_threads_that_were_placed(tmp_path):
    allowed = os.sched_getaffinity(0)
    first, last = min(allowed), max(allowed)
    Machine({0: [(first,)], 1: [(last,)]}, {0: 0, 1: 0}, [0]).write(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _THREADS, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == {"main": [first], "later": [first], "followed": [first], "placed": [last]}
