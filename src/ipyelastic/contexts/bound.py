"""A call that first keeps its process on the CPUs near its GPU.

    functions._bound_call makes it > payload/call > the rank: [here] binds, then calls

Runs in: ranks (call), agent (made).
Other end: devices/numa.py binds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..devices.numa import NumaOptions, _maybe_wrap_with_numa_binding
from ..terms import env

__all__ = ["BoundCall"]


class BoundCall:
    """`entrypoint`, bound. What is asked of it besides a call (a cell's names and sources) `entrypoint` answers.

    Args:
        entrypoint: What the rank does.
        numa_options: How it is bound.
        gpus_of_all: See RankSettings: in it, and not in the rank's own CUDA_VISIBLE_DEVICES, its GPU has its number
            and the others' shares are known.
    """

    def __init__(self, entrypoint: Callable[..., Any], numa_options: NumaOptions, gpus_of_all: str | None) -> None:
        self.entrypoint, self.numa_options, self.gpus_of_all = entrypoint, numa_options, gpus_of_all

    def __getattr__(self, name: str) -> Any:
        if name == "entrypoint" or (name.startswith("__") and name.endswith("__")):  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self.entrypoint, name)

    def __call__(self, local_rank: int, *args: Any) -> Any:
        own = os.environ.get(env.CUDA_VISIBLE_DEVICES)
        if self.gpus_of_all is not None:
            os.environ[env.CUDA_VISIBLE_DEVICES] = self.gpus_of_all

        def call() -> Any:
            if self.gpus_of_all is not None and own is not None:
                os.environ[env.CUDA_VISIBLE_DEVICES] = own
            return self.entrypoint(*args)

        return _maybe_wrap_with_numa_binding(call, gpu_index=local_rank, numa_options=self.numa_options)()
