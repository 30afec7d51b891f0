"""The table of a rendezvous of one agent: torch's Store methods in this very process, no server, no thread.

    standalone.py, static.py (one node) > [LocalStore] > agent: role infos, ranks, exit barrier

Runs in: agent. Thread-safe: who waits is woken by who sets.
Source: torch 2.13's HashStore; outcomes compared with it in tests/rendezvous/test_local_store.py.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta

from ..terms.errors import StoreTimeoutError

__all__ = ["LocalStore"]


class LocalStore:
    """Bytes by key. `get`, `multi_get` and `wait` wait until the keys are there.

    Args:
        timeout: How long they wait; zero is without limit.

    Keys are text; values are bytes or text, which is encoded as UTF-8. Anything else is a TypeError.
    """

    def __init__(self, timeout: timedelta = timedelta(minutes=5)) -> None:
        self._changed = threading.Condition()
        self._values: dict[str, bytes] = {}
        self.set_timeout(timeout)

    @property
    def timeout(self) -> timedelta:
        """How long a call waits when it is not told."""
        return self._timeout

    def set_timeout(self, timeout: timedelta) -> None:
        """How long calls wait from now on when they are not told; zero is without limit."""
        self._timeout = _duration(timeout)

    def set(self, key: str, value: str | bytes | bytearray) -> None:
        """Set `key`, whatever it was."""
        self.multi_set([key], [value])

    def get(self, key: str) -> bytes:
        """The value of `key`. Raises StoreTimeoutError when it does not come in time."""
        return self.multi_get([key])[0]

    def add(self, key: str, amount: int, /) -> int:
        """Add to the counter `key`, which begins at 0; its new value. Raises ValueError when it is no number."""
        with self._changed:
            value = int(self._values.get(_key(key), b"0")) + amount
            self._values[key] = str(value).encode()
            self._changed.notify_all()
            return value

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None, /) -> None:
        """Wait until all `keys` are set.

        Raises StoreTimeoutError after `timeout` (None: the store's own), which names those that are not.
        """
        with self._changed:
            self._wait(_keys(keys), timeout)

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """The values of `keys`, all of one moment. Raises StoreTimeoutError when one does not come in time."""
        with self._changed:
            self._wait(_keys(keys), None)
            return [self._values[key] for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes | bytearray]) -> None:
        """Set all `keys` at once. Raises ValueError when there are not as many values."""
        new = dict(zip(_keys(keys), [_value(value) for value in values], strict=True))
        with self._changed:
            self._values.update(new)
            self._changed.notify_all()

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all `keys` are set."""
        with self._changed:
            return not self._missing(_keys(keys))

    def compare_set(
        self, key: str, expected_value: str | bytes | bytearray, desired_value: str | bytes | bytearray
    ) -> bytes:
        """Set `key` to `desired_value` if it is `expected_value`, or not there and that is empty.

        Returns the value afterwards; `expected_value` when the key is not there and stays so.
        """
        expected, desired = _value(expected_value), _value(desired_value)
        with self._changed:
            if self._values.get(_key(key), b"") == expected:
                self._values[key] = desired
                self._changed.notify_all()
            return self._values.get(key, expected)

    def delete_key(self, key: str) -> bool:
        """Remove `key`; whether it was there."""
        with self._changed:
            return self._values.pop(_key(key), None) is not None

    def num_keys(self) -> int:
        """How many keys are set."""
        with self._changed:
            return len(self._values)

    def _missing(self, keys: Sequence[str]) -> list[str]:
        return [key for key in keys if key not in self._values]

    def _wait(self, keys: Sequence[str], timeout: timedelta | None) -> None:
        limit = self._timeout if timeout is None else _duration(timeout)
        in_time = self._changed.wait_for(lambda: not self._missing(keys), limit.total_seconds() or None)
        if not in_time:
            missing = self._missing(keys)
            raise StoreTimeoutError(f"not set within {limit.total_seconds():g} s: {', '.join(missing)}", missing)


def _key(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"key {key!r}: expected str, not {type(key).__name__}")
    return key


def _keys(keys: Sequence[str]) -> Sequence[str]:
    if isinstance(keys, (str, bytes)):
        raise TypeError(f"keys={keys!r}: expected a list of keys")
    return [_key(key) for key in keys]


def _value(value: str | bytes | bytearray) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise TypeError(f"value {value!r}: expected str or bytes, not {type(value).__name__}")


def _duration(timeout: timedelta) -> timedelta:
    if not isinstance(timeout, timedelta):
        raise TypeError(f"timeout={timeout!r}: expected a timedelta, not {type(timeout).__name__}")
    if timeout < timedelta(0):
        raise ValueError(f"timeout={timeout!r}: expected zero (no limit) or more")
    return timeout
