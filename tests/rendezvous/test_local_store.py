"""The in-process table: torch's Store methods, with waits that end when the key comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from ipyelastic.rendezvous.local_store import LocalStore
from ipyelastic.terms.errors import IpyelasticError, StoreTimeoutError

SOON = timedelta(milliseconds=20)


def test_values_are_bytes_whatever_they_were_set_as() -> None:
    store = LocalStore()
    store.set("text", "ü")
    store.set("bytes", b"\xff\x00")
    store.set("array", bytearray(b"x"))
    assert store.multi_get(["text", "bytes", "array"]) == ["ü".encode(), b"\xff\x00", b"x"]
    store.multi_set(["text", "new"], ["1", b"2"])
    assert (store.get("text"), store.get("new"), store.num_keys()) == (b"1", b"2", 4)


def test_counter_counts_for_many_threads() -> None:
    store = LocalStore()
    threads = [threading.Thread(target=lambda: [store.add("n", 1) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("n") == b"4000"
    assert store.add("n", -4001) == -1


@pytest.mark.parametrize(
    "wait",
    [
        lambda store: store.wait(["a", "b"]),
        lambda store: store.wait(["a", "b"], timedelta(seconds=60)),
        lambda store: store.get("b"),
        lambda store: store.multi_get(["a", "b"]),
    ],
)
@pytest.mark.parametrize(
    "come",
    [
        lambda store: (store.set("a", "1"), store.set("b", "1")),
        lambda store: store.multi_set(["a", "b"], ["1", "1"]),
        lambda store: (store.add("a", 1), store.add("b", 1)),
        lambda store: (store.compare_set("a", "", "1"), store.compare_set("b", "", "1")),
    ],
)
def test_who_waits_is_woken_by_who_sets(
    wait: Callable[[LocalStore], object], come: Callable[[LocalStore], object]
) -> None:
    store = LocalStore(timedelta(seconds=60))
    ended = threading.Event()
    waiting = threading.Thread(target=lambda: (wait(store), ended.set()))
    waiting.start()
    assert not ended.is_set()
    come(store)
    assert ended.wait(20)  # the store's own limit is far behind
    waiting.join()


def test_what_is_not_there_in_time_is_named() -> None:
    store = LocalStore(SOON)
    store.set("a", "1")
    with pytest.raises(StoreTimeoutError, match=r"^not set within 0\.02 s: b, c$") as raised:
        store.multi_get(["a", "b", "c"])
    assert raised.value.keys == ["b", "c"]
    assert isinstance(raised.value, (IpyelasticError, RuntimeError, TimeoutError))
    for wait in (lambda: store.get("b"), lambda: store.wait(["b"]), lambda: LocalStore().wait(["b"], SOON)):
        with pytest.raises(StoreTimeoutError):
            wait()


def test_timeout_is_that_of_the_last_set_and_zero_is_none() -> None:
    store = LocalStore()
    assert store.timeout == timedelta(minutes=5)
    store.set_timeout(SOON)
    assert store.timeout == SOON
    with pytest.raises(StoreTimeoutError):
        store.get("a")
    store.set_timeout(timedelta(0))
    setter = threading.Timer(0.05, store.set, ("a", "1"))  # later than the limit before
    setter.start()
    assert store.get("a") == b"1"
    setter.join()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda s: s.set("a", 5), TypeError, "value 5: expected str or bytes, not int"),
        (lambda s: s.set(5, "a"), TypeError, "key 5: expected str, not int"),
        (lambda s: s.get(5), TypeError, "key 5: expected str, not int"),
        (lambda s: s.wait("abc"), TypeError, "keys='abc': expected a list of keys"),
        (lambda s: s.wait(["a"], 3), TypeError, "timeout=3: expected a timedelta, not int"),
        (lambda s: s.set_timeout(3), TypeError, "timeout=3: expected a timedelta, not int"),
        (
            lambda s: s.set_timeout(timedelta(seconds=-1)),
            ValueError,
            "timeout=datetime.timedelta(days=-1, seconds=86399): expected zero (no limit) or more",
        ),
    ],
)
def test_bad_arguments_are_named(call: Callable[[Any], object], error: type[Exception], text: str) -> None:
    store = LocalStore()
    with pytest.raises(error) as raised:
        call(store)
    assert str(raised.value) == text
    assert store.num_keys() == 0


def test_nothing_is_set_when_one_value_is_bad() -> None:
    store = LocalStore()
    with pytest.raises(ValueError):
        store.multi_set(["a", "b"], ["1"])
    with pytest.raises(TypeError):
        store.multi_set(["a", "b"], ["1", 2])  # type: ignore[list-item]
    assert store.num_keys() == 0


CALLS: list[Callable[[Any], object]] = [
    lambda s: s.get("none"),
    lambda s: s.set("a", "b"),
    lambda s: s.set("a", b"b\xff"),
    lambda s: s.get("a"),
    lambda s: s.add("c", 2),
    lambda s: s.add("c", -5),
    lambda s: s.get("c"),
    lambda s: s.add("a", 1),
    lambda s: s.set("n", "9"),
    lambda s: s.add("n", 1),
    lambda s: s.add("n", "1"),
    lambda s: s.wait(["a", "c"]),
    lambda s: s.wait(["q"]),
    lambda s: s.wait(["q"], timedelta(milliseconds=5)),
    lambda s: s.wait([]),
    lambda s: s.wait("a"),
    lambda s: s.multi_get(["a", "c"]),
    lambda s: s.multi_get(["a", "zz"]),
    lambda s: s.multi_get([]),
    lambda s: s.multi_set(["x", "y"], ["1", "2"]),
    lambda s: s.check(["a"]),
    lambda s: s.check(["a", "zz"]),
    lambda s: s.check([]),
    lambda s: s.compare_set("k", "", "v1"),
    lambda s: s.compare_set("k", "v1", "v2"),
    lambda s: s.compare_set("k", "nope", "v3"),
    lambda s: s.compare_set("k", "", "v3"),
    lambda s: s.compare_set("k2", "exp", "v3"),
    lambda s: s.check(["k2"]),
    lambda s: s.num_keys(),
    lambda s: s.delete_key("k"),
    lambda s: s.delete_key("k"),
    lambda s: s.num_keys(),
    lambda s: s.set("o", 5),
    lambda s: s.set(5, "o"),
    lambda s: s.set("o", bytearray(b"x")),
    lambda s: s.get("o"),
    lambda s: s.set_timeout(3),
    lambda s: s.wait(["a"], 3),
    lambda s: s.timeout,
]


def outcomes(store: Any) -> list[object]:
    found: list[object] = []
    for call in CALLS:
        try:
            found.append(call(store))
        except (RuntimeError, ValueError, TypeError) as error:
            kinds = (TypeError, ValueError, RuntimeError)
            found.append(next(kind for kind in kinds if isinstance(error, kind)))
    return found


@pytest.mark.torch
def test_outcomes_equal_torchs_store() -> None:
    from torch.distributed import HashStore

    theirs = HashStore()
    theirs.set_timeout(SOON)
    ours = outcomes(LocalStore(SOON))
    assert ours == outcomes(theirs)
    assert sum(outcome is RuntimeError for outcome in ours) == 4
