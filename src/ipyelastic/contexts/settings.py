"""What ranks get besides torch's arguments: our own settings of a context.

Runs in: agent.
Other end: functions.py and commands.py read them; agent/local.py and engines/local.py fill them in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..terms.events import Sink
from ..terms.policy import Policy

__all__ = ["RankSettings", "START_METHODS"]

START_METHODS = ("forkserver", "spawn", "fork")


@dataclass(frozen=True)
class RankSettings:
    """What ranks get besides torch's arguments.

    `base_env`: the environment under `envs` (None: the owner's). `policy`: see forkserver.group.Policy. `seed`: ranks
    seed `random`, numpy and torch with it plus their rank. `num_threads`: for BLAS and OpenMP libraries loaded before
    the fork. `global_ranks`: `{local: global}` for events. `sink`: takes events, from the waiting thread.
    `attempt`: its number, for events.
    `signals`: those that raise SignalException in the main thread while the context lives, names joined by commas;
    None: as TORCHELASTIC_SIGNALS_TO_HANDLE says. `is_torchs`: the caller uses torch's names and wants torch's rules:
    `sys.exit(0)` is no value, and only failures that nobody asked for are listed.
    `gpus_of_all`: CUDA_VISIBLE_DEVICES as a whole where each rank's own has its GPU only (virtual local ranks): NUMA
    binding counts in it. `logs_failure`: how the first failed program ended is logged as an error, as torch has it;
    False: whoever waits for the job tells it.
    """

    base_env: Mapping[str, str] | None = None
    policy: Policy = field(default_factory=Policy)
    seed: int | None = None
    num_threads: int | None = None
    global_ranks: Mapping[int, int] | None = None
    sink: Sink | None = None
    attempt: int = 0
    gpus_of_all: str | None = None
    signals: str | None = ""
    is_torchs: bool = False
    logs_failure: bool = True
