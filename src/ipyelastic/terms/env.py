"""Every environment variable that we set or read, spelt once.

Runs in: owner, fork server and ranks.
Source: torch 2.13 (SEEDS section 14) for the names without our prefix.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

__all__ = ["of_this_process", "names_read_at_import"]

# Set for every rank, as torchrun does.
RANK = "RANK"
LOCAL_RANK = "LOCAL_RANK"
WORLD_SIZE = "WORLD_SIZE"
LOCAL_WORLD_SIZE = "LOCAL_WORLD_SIZE"
GROUP_RANK = "GROUP_RANK"
GROUP_WORLD_SIZE = "GROUP_WORLD_SIZE"
ROLE_RANK = "ROLE_RANK"
ROLE_WORLD_SIZE = "ROLE_WORLD_SIZE"
ROLE_NAME = "ROLE_NAME"
MASTER_ADDR = "MASTER_ADDR"
MASTER_PORT = "MASTER_PORT"
RESTART_COUNT = "TORCHELASTIC_RESTART_COUNT"
MAX_RESTARTS = "TORCHELASTIC_MAX_RESTARTS"
RUN_ID = "TORCHELASTIC_RUN_ID"
USE_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
NCCL_ASYNC_ERROR_HANDLING = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
JAX_COORDINATOR_ADDRESS = "JAX_COORDINATOR_ADDRESS"
JAX_PROCESS_ID = "JAX_PROCESS_ID"
JAX_NUM_PROCESSES = "JAX_NUM_PROCESSES"

# Copied or set where it makes sense.
OMP_NUM_THREADS = "OMP_NUM_THREADS"
OPENBLAS_NUM_THREADS = "OPENBLAS_NUM_THREADS"
CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
NVML_CUDA_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
MPLBACKEND = "MPLBACKEND"
ACCELERATE_USE_CPU = "ACCELERATE_USE_CPU"
PYTHONFAULTHANDLER = "PYTHONFAULTHANDLER"
ACCELERATE_MIXED_PRECISION = "ACCELERATE_MIXED_PRECISION"
PYTHONPATH = "PYTHONPATH"
WORKER_SERVER_SOCKET = "TORCH_WORKER_SERVER_SOCKET"

# Read by the parent.
SIGNALS_TO_HANDLE = "TORCHELASTIC_SIGNALS_TO_HANDLE"
LOGLEVEL = "LOGLEVEL"
TORCH_CPP_LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"
TORCHRUN_DEFAULT_PREFIX = "PET_"
"""With a torchrun option's name in capitals (`PET_NPROC_PER_NODE`) the default of that option on the command line."""
LOG_LINE_PREFIX_TEMPLATE = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"
PARALLEL_START = "TORCH_MP_PARALLEL_START"
WORKER_IDENTICAL = "TORCH_ELASTIC_WORKER_IDENTICAL"
SHUTDOWN_TIMEOUT = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
EXIT_BARRIER_TIMEOUT = "TORCH_ELASTIC_EXIT_BARRIER_TIMEOUT"
UNINTERRUPTIBLE_STATE_TIMEOUT = "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT"
HEALTH_CHECK_PORT = "TORCHELASTIC_HEALTH_CHECK_PORT"
ENABLE_FILE_TIMER = "TORCHELASTIC_ENABLE_FILE_TIMER"
TIMER_FILE = "TORCHELASTIC_TIMER_FILE"
LIVE_FRONT_END = ("JPY_SESSION_NAME", "VSCODE_PID", "VSCODE_CWD", "COLAB_RELEASE_TAG")

# Ours.
RUN_MARK = "IPYELASTIC_RUN_MARK"
"""`<owner mark>.<run number>`: in every rank's environment, and so in its children's: how strays are found."""

OWNER_MARK = "IPYELASTIC_OWNER_MARK"
"""The fork server carries its owner's mark: how `%elastic_status` and the tests name what belongs together."""

RUN_ROOT = "IPYELASTIC_RUN_ROOT"
"""Folder for the log folders of runs without `--log-dir`; default `<temp folder>/ipyelastic-<uid>`."""

SPARES = "IPYELASTIC_SPARES"
"""How many ranks a fork server forks ahead; 0: none. Default: as many as the last launch used, at most the larger of 8
and the CPU count. Read in the owner at each launch."""


def semaphore_prefix(run_mark: str) -> str:
    """What the names of multiprocessing's semaphores begin with in ranks of one run, and in their children."""
    return f"mp-{run_mark}-"


_known: tuple[dict[bytes, bytes], dict[str, str]] = ({}, {})


def of_this_process() -> dict[str, str]:
    """A copy of `os.environ`, which decodes each name and value in Python: one that has not changed is decoded once."""
    global _known
    encoded = getattr(os.environ, "_data", None)  # CPython's and PyPy's; somebody may have put a plain dict there
    if type(encoded) is not dict or os.name != "posix":
        return dict(os.environ)
    raw, decoded = _known
    if encoded != raw:
        raw = dict(encoded)
        decoded = {os.fsdecode(name): os.fsdecode(value) for name, value in raw.items()}
        _known = raw, decoded
    return dict(decoded)


_READ_AT_IMPORT = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "NUMEXPR_", "LD_", "PYTHON", "TORCH_LOGS", "MALLOC_")


def names_read_at_import(environment: Mapping[str, str] | Iterable[str]) -> list[str]:
    """The names in `environment` that a library or the loader reads once, at its import or the process's start; sorted.

    Setting such a name in a process that was forked with the library loaded comes too late.
    """
    return sorted([name for name in environment if name.startswith(_READ_AT_IMPORT)])
