"""`compat.utils.store` over any store with torch's methods: ours, and torch's where it is installed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from ipyelastic.compat.utils import store as compat
from ipyelastic.rendezvous.local_store import LocalStore


def _torchs() -> Any:
    import torch.distributed

    return torch.distributed.HashStore()


class Own:
    """One agent's view of the store: its timeout is its own, as over a network."""

    def __init__(self, store: Any) -> None:
        self._store, self.timeout = store, timedelta(seconds=77)

    def set_timeout(self, timeout: timedelta) -> None:
        self.timeout = timeout

    def wait(self, keys: list[str]) -> None:
        self._store.wait(keys, self.timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


STORES = [pytest.param(LocalStore, id="ours"), pytest.param(_torchs, marks=pytest.mark.torch, id="torch")]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    one = request.param()
    one.set_timeout(timedelta(seconds=77))
    return one


def _by_rank(world_size: int, call: Callable[[int], Any]) -> list[Any]:
    """What `call(rank)` returned or raised, each in a thread of its own, all at once."""
    outcomes: list[Any] = [None] * world_size

    def run(rank: int) -> None:
        try:
            outcomes[rank] = call(rank)
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return outcomes


def test_a_timeout_holds_within_its_block_and_not_after_it(store: Any) -> None:
    with compat.store_timeout(store, 5):
        assert store.timeout == timedelta(seconds=5)
        with compat.store_timeout(store, 0.5):
            assert store.timeout == timedelta(seconds=0.5)
        assert store.timeout == timedelta(seconds=5)
    assert store.timeout == timedelta(seconds=77)
    with pytest.raises(KeyError), compat.store_timeout(store, 5):
        raise KeyError
    assert store.timeout == timedelta(seconds=77)


def test_everybody_has_everybodys_data(store: Any) -> None:
    outcomes = _by_rank(4, lambda rank: compat.synchronize(Own(store), f"data {rank}".encode(), rank, 4, "key", 30))
    assert outcomes == [[b"data 0", b"data 1", b"data 2", b"data 3"]] * 4


def test_data_that_was_stored_is_read_by_its_number(store: Any) -> None:
    for number in range(3):
        store.set(f"prefix{number}", f"value {number}")
    values = [b"value 0", b"value 1", b"value 2"]
    assert _by_rank(3, lambda rank: compat.get_all(Own(store), rank, "prefix", 3)) == [values] * 3
    # The keys are torch's, so that torch's agents and ours may meet.
    assert int(store.get("prefix/finished/num_members")) == 3
    assert store.get("prefix/finished/last_member") == b"<val_ignored>"


def test_data_that_does_not_come_raises_the_stores_own_error(store: Any) -> None:
    with pytest.raises(Exception) as caught:  # each store has its own class
        store.wait(["never"], timedelta(seconds=0.01))
    with pytest.raises(type(caught.value)):
        compat.synchronize(store, b"alone", 0, 2, "key", 0.05)
    assert store.timeout == timedelta(seconds=77)


def test_a_barrier_opens_when_the_last_one_is_there(store: Any) -> None:
    assert _by_rank(5, lambda rank: compat.barrier(Own(store), 5, "here", 30)) == [None] * 5
    assert _by_rank(2, lambda rank: compat.barrier(Own(store), 2, "there", 30, rank=rank)) == [None] * 2
    assert int(store.get("here/num_members")) == 5


def test_a_barrier_without_ranks_only_times_out(store: Any) -> None:
    with pytest.raises(Exception) as caught:  # each store has its own class
        compat.barrier(store, 2, "key", 0.05)
    assert "missing_ranks" not in str(caught.value)
    assert store.timeout == timedelta(seconds=77)


@pytest.mark.slow
def test_a_barrier_names_who_is_missing(store: Any) -> None:
    def come(rank: int) -> None:
        if rank != 2:
            compat.barrier(Own(store), 4, "key", 0.2, rank, lambda each: f"host {each}", trace_timeout=20)

    outcomes = _by_rank(4, come)
    assert str(outcomes[0]) == (
        "Timed out waiting on barrier on rank 0, for key prefix: key "
        "(world_size=4, missing_ranks=[host 2], timeout=0.2)"
    )
    assert [isinstance(outcome, type(outcomes[0])) for outcome in outcomes] == [True, True, False, True]
