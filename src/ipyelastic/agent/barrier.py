"""What agents do with their common store: hand values around, and wait for one another.

    agent/simple > [here] > rendezvous' store

Runs in: agent. Callers say `barrier.barrier(...)` on this module: a name replaced through compat.utils.store is
replaced for them.
Source: torch 2.13's `elastic.utils.store`: the same keys, so that torch's agents and ours may meet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

__all__ = ["barrier", "get_all", "store_timeout", "synchronize"]

_MEMBERS, _LAST, _TRACE = "/num_members", "/last_member", "/TRACE"
_TRACE_DONE = "/TRACING_GATE"


@contextlib.contextmanager
def store_timeout(store: Any, timeout: float) -> Iterator[None]:
    """Have the store wait `timeout` seconds at most, and as long as before afterwards.

    Args:
        store: Of torch, or LocalStore.
        timeout: Seconds.

    Source: torch 2.13, `torch.distributed.elastic.utils.store`.
    """
    before = store.timeout
    store.set_timeout(timedelta(seconds=timeout))
    try:
        yield
    finally:
        store.set_timeout(before)


def get_all(store: Any, rank: int, prefix: str, world_size: int) -> list[bytes]:
    """The values of `prefix0` .. `prefix<world_size-1>`; waits until all are set.

    Rank 0, which may host the store, returns when every rank has them.

    Args:
        store: Of torch, or LocalStore.
        rank: Of the caller.
        prefix: Of the keys.
        world_size: How many ranks call this.

    Returns:
        The values by rank.

    Raises:
        Exception: The store's own timeout error.

    Source: torch 2.13, `torch.distributed.elastic.utils.store`.
    """
    values: list[bytes] = store.multi_get([f"{prefix}{index}" for index in range(world_size)])
    last = _enter(store, world_size, f"{prefix}/finished")
    if rank == 0:
        store.wait([last])
    return values


def synchronize(
    store: Any, data: bytes, rank: int, world_size: int, key_prefix: str, timeout: float = 300
) -> list[bytes]:
    """Every rank's `data`, by rank. Once per `key_prefix`: what is stored stays.

    Args:
        store: Of torch, or LocalStore.
        data: The caller's.
        rank: Of the caller.
        world_size: How many ranks call this.
        key_prefix: Of the keys.
        timeout: Seconds to wait for the others.

    Raises:
        Exception: The store's own timeout error.

    Source: torch 2.13, `torch.distributed.elastic.utils.store`.
    """
    with store_timeout(store, timeout):
        store.set(f"{key_prefix}{rank}", data)
        return get_all(store, rank, key_prefix, world_size)


def barrier(
    store: Any,
    world_size: int,
    key_prefix: str,
    barrier_timeout: float = 300,
    rank: int | None = None,
    rank_tracing_decoder: Callable[[int], str] | None = None,
    trace_timeout: float = 10,
) -> None:
    """Wait until `world_size` callers are here. Once per `key_prefix`.

    Args:
        store: Of torch, or LocalStore.
        world_size: How many callers there are.
        key_prefix: Of the keys.
        barrier_timeout: Seconds.
        rank: Of the caller; with it an expiry names the ranks that are missing.
        rank_tracing_decoder: What to call a missing rank; None: by its number.
        trace_timeout: Seconds that rank 0 looks for them.

    Raises:
        Exception: The store's own timeout error, with the missing ranks when `rank` was given.

    Source: torch 2.13, `torch.distributed.elastic.utils.store`.
    """
    assert rank is None or rank_tracing_decoder is None or callable(rank_tracing_decoder)
    with store_timeout(store, barrier_timeout):
        last = _enter(store, world_size, key_prefix)
        try:
            store.wait([last])
        except Exception as error:  # the store's own class: torch's, or ours
            missing = None if rank is None else _missing(store, rank, world_size, key_prefix, trace_timeout)
            if missing is None:
                raise
            decode = rank_tracing_decoder or str
            names = ", ".join(decode(one) for one in missing)
            raise type(error)(
                f"Timed out waiting on barrier on rank {rank}, for key prefix: {key_prefix}"
                f" (world_size={world_size}, missing_ranks=[{names}], timeout={barrier_timeout})"
            ) from None


def _enter(store: Any, world_size: int, key_prefix: str) -> str:
    """Count the caller; the key that the last one sets."""
    last = f"{key_prefix}{_LAST}"
    if store.add(f"{key_prefix}{_MEMBERS}", 1) == world_size:
        store.set(last, "<val_ignored>")
    return last


def _missing(store: Any, rank: int, world_size: int, key_prefix: str, trace_timeout: float) -> Iterable[int] | None:
    """For rank 0: who has not come; the others wait until it has looked, and say nothing."""
    with contextlib.suppress(Exception), store_timeout(store, trace_timeout):
        if rank != 0:
            store.set(f"{key_prefix}{rank}{_TRACE}", "<val_ignored>")
            store.wait([f"{key_prefix}{_TRACE_DONE}"])
            return None
        missing = []
        for other in range(1, world_size):
            try:
                with store_timeout(store, trace_timeout / world_size):
                    store.wait([f"{key_prefix}{other}{_TRACE}"])
            except Exception:
                missing.append(other)
        store.set(f"{key_prefix}{_TRACE_DONE}", "<val_ignored>")
        return missing
    return None
