"""Keep a rank on the CPUs that are near its GPU: torch.numa's options and entry points.

    program   _maybe_wrap_command_args_with_numa_binding puts `numactl --physcpubind=...` before its words
    function  _maybe_wrap_with_numa_binding: the call first binds its process, then does its work

Runs in: agent (programs) and ranks (functions). Linux only.
Other end: contexts/ calls the entry points with the local rank as `gpu_index`; numa_topology.py knows the hardware.
Source: torch 2.13, SEEDS section 11, for names, modes and events. What torch's users replace (`shutil`,
`signpost_event`, the functions for ranges and for a GPU's node) is looked up in this module at each call.
"""

from __future__ import annotations

import logging
import os
import shutil
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Generic, ParamSpec, TypeVar

from . import numa_topology as topology
from .gpu_addresses import visible_gpu_addresses

__all__ = ["AffinityMode", "NumaOptions", "check_numa_binding", "get_default_numa_options", "signpost_event"]

logger = logging.getLogger("ipyelastic")

P = ParamSpec("P")
R = TypeVar("R")


class AffinityMode(str, Enum):
    """Which CPUs a rank gets, of those its process may use.

    NODE: all of the GPU's NUMA node. SOCKET: all of the package that node belongs to. EXCLUSIVE: the node's physical
    cores, dealt out to the node's GPUs, so that no two ranks share one. CORE_COMPLEX: those behind one of the node's
    caches of the highest level.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/numa.html.
    """

    NODE = "node"
    SOCKET = "socket"
    EXCLUSIVE = "exclusive"
    CORE_COMPLEX = "core-complex"


@dataclass(frozen=True)
class NumaOptions:
    """How ranks are bound.

    Attributes:
        affinity_mode: Which CPUs each gets.
        should_fall_back_if_binding_fails: Go on unbound, with a warning in the log, where binding is impossible.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/numa.html.
    """

    affinity_mode: AffinityMode
    should_fall_back_if_binding_fails: bool = False


def get_default_numa_options() -> NumaOptions | None:
    """What a launch without options uses: None, no binding, as in torch's open-source build.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/numa.html.
    """
    return None


def check_numa_binding(local_world_size: int, named: str | None) -> None:
    """Refuse what no rank could be bound with, before any is started.

    Args:
        local_world_size: Ranks, each to be bound near the GPU of its number.
        named: The ranks' CUDA_VISIBLE_DEVICES; None: none is set.

    Raises:
        RuntimeError: No `numactl` on PATH, nobody knows the GPUs, there are fewer of them than ranks, or sysfs does
            not know one of them.
    """
    _check_tools()
    addresses = visible_gpu_addresses(named)
    if len(addresses) < local_world_size:
        raise RuntimeError(
            f"{local_world_size} ranks need a GPU each to be bound near, and {len(addresses)} are visible"
        )
    for address in addresses[:local_world_size]:
        try:
            topology.read(topology.node_of_pci(address))
        except OSError as error:
            said = f"{error.filename}: {error.strerror}"
            raise RuntimeError(f"the system does not say where the GPU at {address} is ({said})") from error


def signpost_event(category: str, name: str, parameters: dict[str, Any]) -> None:
    """Told of each binding that was applied or failed. Does nothing; there to be replaced.

    Args:
        category: "numa_binding".
        name: "apply_success" or "apply_exception".
        parameters: `gpu_index`, `numa_options` (a dict), and what was bound or the traceback's text.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/numa.html.
    """


def _maybe_wrap_command_args_with_numa_binding(
    command_args: tuple[str, ...], *, gpu_index: int, numa_options: NumaOptions | None
) -> tuple[str, ...]:
    """The words that start a program bound to the CPUs near a GPU.

    Args:
        command_args: The program and its arguments.
        gpu_index: CUDA's index of the GPU; contexts pass the local rank.
        numa_options: None for no binding.

    Returns:
        `("numactl", "--physcpubind=<ranges>", *command_args)`; the same object for None, and where binding failed
        and the options let the program go on without.

    Raises:
        RuntimeError: No `numactl` on PATH, no GPU of that number, nobody knows the GPUs, fewer cores than GPUs
            (EXCLUSIVE), or none of the CPUs in question may be used.
        OSError: Sysfs lacks what the mode needs; the error names the file.

    Runs in: agent. CUDA is not initialised.
    Source: torch 2.13. Checked by tests/devices/test_numa.py, also against torch itself.
    """
    if numa_options is None:
        return command_args
    what: dict[str, Any] = {
        "command_args": command_args,
        "gpu_index": gpu_index,
        "numa_options": asdict(numa_options),
    }
    try:
        cpus = _cpus_to_bind_to(gpu_index, numa_options.affinity_mode)
        wrapped = ("numactl", f"--physcpubind={_get_ranges_str_from_ints(cpus)}", *command_args)
    except Exception as error:
        if not _may_go_on(error, numa_options, what):
            raise
        return command_args
    signpost_event(category="numa_binding", name="apply_success", parameters={**what, "wrapped_command": wrapped})
    return wrapped


def _maybe_wrap_with_numa_binding(
    func: Callable[P, R], *, gpu_index: int, numa_options: NumaOptions | None
) -> Callable[P, R]:
    """A callable that binds the process it is called in to the CPUs near a GPU, then calls `func`.

    All threads of the process are bound whose affinity is that of the main thread; a thread that was put somewhere on
    purpose stays there. Threads started later inherit from theirs.

    Args:
        func: What the rank does. Where it can be pickled, so can the result.
        gpu_index: CUDA's index of the GPU; contexts pass the local rank.
        numa_options: None for no binding.

    Returns:
        The callable, with the name and the docstring of `func`; `func` itself for None.

    Raises:
        RuntimeError, OSError: When called, not here; as `_maybe_wrap_command_args_with_numa_binding`.

    Runs in: agent; the result in the rank's main thread.
    Source: torch 2.13. Checked by tests/devices/test_numa.py.
    """
    if numa_options is None:
        return func
    return _Bound(func, gpu_index, numa_options)


class _Bound(Generic[P, R]):
    """A function with a binding before it. A class at module level, because a closure cannot be pickled."""

    def __init__(self, func: Callable[P, R], gpu_index: int, numa_options: NumaOptions) -> None:
        self.gpu_index, self.numa_options = gpu_index, numa_options
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            if hasattr(func, name):
                setattr(self, name, getattr(func, name))
        self.__wrapped__ = func  # where `inspect.signature` looks

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        _bind_this_process(self.gpu_index, self.numa_options)
        return self.__wrapped__(*args, **kwargs)


def _bind_this_process(gpu_index: int, numa_options: NumaOptions) -> None:
    what: dict[str, Any] = {"gpu_index": gpu_index, "numa_options": asdict(numa_options)}
    try:
        cpus = _cpus_to_bind_to(gpu_index, numa_options.affinity_mode)
        _bind_threads(cpus)
    except Exception as error:
        if not _may_go_on(error, numa_options, what):
            raise
        return
    bound = {**what, "logical_cpu_indices": _get_ranges_str_from_ints(cpus)}
    signpost_event(category="numa_binding", name="apply_success", parameters=bound)


def _bind_threads(cpus: set[int]) -> None:
    """Move the main thread, and all threads that are where it was."""
    original = os.sched_getaffinity(os.getpid())
    os.sched_setaffinity(os.getpid(), cpus)  # first: its refusal is an error, and nothing else has moved then
    for thread in map(int, os.listdir("/proc/self/task")):
        try:
            if os.sched_getaffinity(thread) == original:
                os.sched_setaffinity(thread, cpus)
        except ProcessLookupError:  # it ended since the listing
            continue


def _may_go_on(error: Exception, numa_options: NumaOptions, what: dict[str, Any]) -> bool:
    """Whether the options say to go on unbound; then it is in the log why."""
    text = "".join(traceback.format_exception(error))
    signpost_event(category="numa_binding", name="apply_exception", parameters={**what, "traceback": text})
    if numa_options.should_fall_back_if_binding_fails:
        logger.warning("Continuing without NUMA binding: failed to apply it for input=%r\n%s", what, text)
    return numa_options.should_fall_back_if_binding_fails


def _cpus_to_bind_to(gpu_index: int, mode: AffinityMode) -> set[int]:
    """The CPUs of one GPU in one mode, never none, always a part of those this process may use."""
    _check_tools()
    choose = {
        AffinityMode.NODE: _cpus_of_node,
        AffinityMode.SOCKET: _cpus_of_socket,
        AffinityMode.EXCLUSIVE: _cpus_of_own_cores,
        AffinityMode.CORE_COMPLEX: _cpus_of_core_complex,
    }[AffinityMode(mode)]
    node = _get_numa_node_index_for_gpu_index(gpu_index=gpu_index)
    allowed = os.sched_getaffinity(0)
    cpus = choose(gpu_index, node, allowed)
    if not cpus:
        raise RuntimeError(
            f"Must bind to a non-empty set of CPU indices: GPU {gpu_index} is at NUMA node {node}, and mode "
            f"{AffinityMode(mode).value!r} finds none there among the CPUs that this process may use "
            f"({_get_ranges_str_from_ints(allowed)})"
        )
    return cpus


def _check_tools() -> None:
    if not hasattr(os, "sched_getaffinity"):
        raise RuntimeError("NUMA binding needs Linux: this system cannot keep a process on some CPUs")
    if shutil.which("numactl") is None:
        # Functions are bound without it; it is asked for all the same, so that a launch that works with functions
        # does not fail with programs.
        raise RuntimeError("numactl CLI is required for NUMA binding, and PATH has none: install the package `numactl`")


def _cpus_of_node(gpu_index: int, node: int, allowed: set[int]) -> set[int]:
    """NODE."""
    return _all_cpus_of_node(node) & allowed


def _cpus_of_socket(gpu_index: int, node: int, allowed: set[int]) -> set[int]:
    """SOCKET. Nodes without CPUs (memory only) or without a folder (possible, not there) belong to no package."""
    package = _package_of_node(node)
    if package is None:
        return set()
    cpus: set[int] = set()
    for other in _get_set_of_int_from_ranges_str(topology.read(topology.NODES_POSSIBLE)):
        if _package_of_node(other) == package:
            cpus |= _all_cpus_of_node(other)
    return cpus & allowed


def _cpus_of_own_cores(gpu_index: int, node: int, allowed: set[int]) -> set[int]:
    """EXCLUSIVE: the node's physical cores by their lowest CPU, an equal share for each of its GPUs, and one more for
    the first ones where the division leaves some."""
    cores: dict[int, set[int]] = {}
    for cpu in _all_cpus_of_node(node) & allowed:
        siblings = _get_set_of_int_from_ranges_str(topology.read(topology.siblings_of_cpu(cpu)))
        cores.setdefault(min(siblings), set()).add(cpu)
    gpus = [
        gpu for gpu in range(len(visible_gpu_addresses())) if _get_numa_node_index_for_gpu_index(gpu_index=gpu) == node
    ]
    if len(cores) < len(gpus):
        raise RuntimeError(
            f"There are only {len(cores)} physical cores on numa_node_index={node}, but there are {len(gpus)} GPUs "
            "associated with this NUMA node."
        )
    share, rest = divmod(len(cores), len(gpus))
    place = gpus.index(gpu_index)
    first = place * share + min(place, rest)
    own = sorted(cores)[first : first + share + (place < rest)]
    return {cpu for core in own for cpu in cores[core]}


def _cpus_of_core_complex(gpu_index: int, node: int, allowed: set[int]) -> set[int]:
    """CORE_COMPLEX: dealt out in turn to the node's GPUs; those with most CPUs for us first, then by lowest CPU."""
    ours = _all_cpus_of_node(node) & allowed
    complexes = {frozenset(_cpus_behind_last_cache(cpu)) for cpu in ours}
    if not complexes:
        return set()
    ordered = sorted(complexes, key=lambda cpus: (-len(cpus & ours), min(cpus)))
    return ours & ordered[_gpus_of_node(node).index(gpu_index) % len(ordered)]


def _cpus_behind_last_cache(cpu: int) -> set[int]:
    """Those that share this CPU's data cache of the highest level."""
    levels: dict[int, str] = {}
    for cache in topology.caches_of_cpu(cpu):
        if topology.read(f"{cache}/type").strip() in ("Data", "Unified"):
            levels[int(topology.read(f"{cache}/level"))] = cache
    if not levels:
        return {cpu}
    return _get_set_of_int_from_ranges_str(topology.read(f"{levels[max(levels)]}/shared_cpu_list"))


def _gpus_of_node(node: int) -> list[int]:
    gpus = range(len(visible_gpu_addresses()))
    return [gpu for gpu in gpus if _get_numa_node_index_for_gpu_index(gpu_index=gpu) == node]


def _all_cpus_of_node(node: int) -> set[int]:
    return _get_set_of_int_from_ranges_str(topology.read(topology.cpus_of_node(node)))


def _package_of_node(node: int) -> int | None:
    """The package of any CPU of the node, whether we may use it or not; None when there is no such CPU."""
    try:
        cpus = sorted(_all_cpus_of_node(node))
    except FileNotFoundError:
        return None
    for cpu in cpus:
        try:
            return int(topology.read(topology.package_of_cpu(cpu)))
        except FileNotFoundError:  # switched off
            continue
    return None


def _get_numa_node_index_for_gpu_index(*, gpu_index: int) -> int:
    """The NUMA node of a GPU; 0 where the firmware does not say (-1).

    Raises:
        RuntimeError: No GPU of that number is visible, or nobody knows where the GPUs are.
        OSError: Sysfs does not have it.
    """
    addresses = visible_gpu_addresses()
    if not 0 <= gpu_index < len(addresses):
        raise RuntimeError(f"gpu_index={gpu_index}: expected 0 to {len(addresses) - 1}, the GPUs this process sees")
    return max(0, int(topology.read(topology.node_of_pci(addresses[gpu_index]))))


def _get_ranges_str_from_ints(ints: Iterable[int]) -> str:
    """`{0, 1, 2, 5}` -> `"0-2,5"`, as the kernel and numactl write sets of CPUs."""
    ranges: list[list[int]] = []
    for number in sorted(set(ints)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)


def _get_set_of_int_from_ranges_str(ranges_str: str) -> set[int]:
    """`"0-2,5"` -> `{0, 1, 2, 5}`; nothing but white space gives the empty set.

    Raises:
        ValueError: It is not such a text, or a range runs backwards.
    """
    numbers: set[int] = set()
    for part in filter(None, (part.strip() for part in ranges_str.split(","))):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if high < low:
            raise ValueError(f"range {part!r} in {ranges_str!r}: expected its lower end first")
        numbers.update(range(low, high + 1))
    return numbers
