"""Random numbers of a rank's own: repeatable with a seed, fresh without.

Runs in: ranks, before the user's code is loaded.
"""

from __future__ import annotations

import os
import random
import sys
import types

from ..terms import env
from .at_import import when_imported

__all__ = ["seed_all"]


def seed_all(seed: int | None, local_rank: int) -> None:
    """Seed `random`, numpy and torch, the latter two when they are imported.

    Args:
        seed: Each rank's is this plus its rank; None: from the system (a fork would share its parent's state).
        local_rank: Stands for the rank when the environment does not name it.
    """
    if seed is None:
        random.seed()
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is not None:
            numpy_random.seed()
        generator = getattr(sys.modules.get("torch"), "default_generator", None)
        if generator is not None:
            generator.seed()  # the CPU's: what a process of its own would have seeded by itself
        return
    own = seed + int(os.environ.get(env.RANK, local_rank))
    random.seed(own)

    def seed_numpy(module: types.ModuleType) -> None:
        module.seed(own % (1 << 32))

    def seed_torch(module: types.ModuleType) -> None:
        module.manual_seed(own % (1 << 32))

    when_imported({"numpy.random": seed_numpy, "torch": seed_torch})
