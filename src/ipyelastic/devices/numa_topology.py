"""Where sysfs says which CPUs and devices belong together: its paths, and the one function that reads them.

Runs in: agent and ranks; read by numa.py.
Source: Documentation/ABI/{stable/sysfs-devices-node,testing/sysfs-devices-system-cpu,testing/sysfs-bus-pci} of Linux.
"""

from __future__ import annotations

import os

__all__ = [
    "NODES_POSSIBLE",
    "read",
    "node_of_pci",
    "cpus_of_node",
    "siblings_of_cpu",
    "package_of_cpu",
    "caches_of_cpu",
]

SYSFS = "/sys"
"""Tests put a folder here that simulates a machine."""

NODES_POSSIBLE = "devices/system/node/possible"
"""Ranges of the nodes this machine could have; those it lacks have no folder."""


def read(path: str, root: str | None = None) -> str:
    """The text of a file below sysfs.

    Args:
        path: Relative to `root`.
        root: Where sysfs is; None for `SYSFS`.

    Raises:
        OSError: It is not there or may not be read.
    """
    with open(f"{root or SYSFS}/{path}") as file:
        return file.read()


def node_of_pci(address: str) -> str:
    """File with the NUMA node of a PCI device (`0000:65:00.0`), -1 where the firmware does not say."""
    return f"bus/pci/devices/{address}/numa_node"


def cpus_of_node(node: int) -> str:
    """File with the ranges of a node's CPUs, those that are switched on."""
    return f"devices/system/node/node{node}/cpulist"


def siblings_of_cpu(cpu: int) -> str:
    """File with the ranges of the CPUs (hardware threads) of the same physical core."""
    return f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"


def package_of_cpu(cpu: int) -> str:
    """File with the number of a CPU's package, its socket."""
    return f"devices/system/cpu/cpu{cpu}/topology/physical_package_id"


def caches_of_cpu(cpu: int, root: str | None = None) -> list[str]:
    """Folders of a CPU's caches; each has `type`, `level` and `shared_cpu_list`.

    Raises:
        OSError: The system does not describe its caches (some virtual machines and sandboxes).
    """
    folder = f"devices/system/cpu/cpu{cpu}/cache"
    entries = os.listdir(f"{root or SYSFS}/{folder}")
    return [f"{folder}/{entry}" for entry in sorted(entries) if entry.startswith("index")]
