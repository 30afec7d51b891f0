"""Which of a rank's standard streams is meant, and how a person spells that.

    "3" or "0:1,12:2"  ->  Std or {rank: Std}  ->  one Std per rank

Runs in: owner and agent. Torch's `Std` and `to_map`; torch's name, values and spelling.
Other end: output/logs.py turns the flags into files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntFlag

__all__ = ["Std", "to_map"]

_ONE = r"[0-3]"
_EACH = r"\d+:[0-3](?:,\d+:[0-3])*"


class Std(IntFlag):
    """Standard streams of a worker: `NONE` 0, `OUT` 1, `ERR` 2, `ALL` 3.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """

    NONE = 0
    OUT = 1
    ERR = 2
    ALL = OUT | ERR

    @classmethod
    def from_str(cls, vm: str) -> Std | dict[int, Std]:
        """Read one digit for all ranks, or `rank:digit` pairs joined by commas.

        Args:
            vm: `"0"` .. `"3"`, or for example `"0:1,10:3"`. A rank named twice keeps its last value.

        Returns:
            One flag, or `{rank: flag}`.

        Raises:
            ValueError: Anything else; the message quotes both accepted patterns.

        Source: torch 2.13; ranks of two digits and a trailing newline differ on purpose (SEEDS section 18, 15).
        """
        if isinstance(vm, str):
            if re.fullmatch(_ONE, vm, re.ASCII):
                return cls(int(vm))
            if re.fullmatch(_EACH, vm, re.ASCII):
                return {int(rank): cls(int(flag)) for rank, flag in (pair.split(":") for pair in vm.split(","))}
        raise ValueError(f"{vm!r} does not match: <{_ONE}> (one flag for all ranks) or <{_EACH}> (rank:flag pairs)")


def to_map(val_or_map: Std | Mapping[int, Std], local_world_size: int) -> dict[int, Std]:
    """Spread one flag over ranks `0..local_world_size-1`, or fill a mapping up with `Std.NONE`.

    Args:
        val_or_map: A flag, or `{local rank: flag}`; ranks outside the range are dropped.
        local_world_size: How many ranks.

    Returns:
        `{local rank: flag}` of every rank.

    Raises:
        AttributeError: Neither flag nor mapping, as torch has it.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """
    if isinstance(val_or_map, Std):
        return dict.fromkeys(range(local_world_size), val_or_map)
    if not isinstance(val_or_map, Mapping):
        raise AttributeError(f"expected Std or a mapping of rank to Std, got {val_or_map!r}")
    return {rank: val_or_map.get(rank, Std.NONE) for rank in range(local_world_size)}
