"""`torch.distributed.elastic.utils.data.cycling_iterator`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

__all__ = ["CyclingIterator"]

T = TypeVar("T")


class CyclingIterator(Iterator[T]):
    """The items of all epochs, one epoch after another.

    Args:
        n: How many epochs there are, those before `start_epoch` included.
        generator_fn: Called with an epoch's number when it begins; its items.
        start_epoch: The first one.

    Example:
        >>> list(CyclingIterator(3, lambda epoch: iter([epoch, 10 * epoch]), start_epoch=1))
        [1, 10, 2, 20]

    Source: torch 2.13, `torch.distributed.elastic.utils.data`.
    """

    def __init__(self, n: int, generator_fn: Callable[[int], Iterator[T]], start_epoch: int = 0) -> None:
        self._n = n
        self._epoch = start_epoch
        self._generator_fn = generator_fn
        self._iter: Iterator[T] = iter(generator_fn(start_epoch) if start_epoch < n else ())

    def __iter__(self) -> CyclingIterator[T]:
        return self

    def __next__(self) -> T:
        while True:
            try:
                return next(self._iter)
            except StopIteration:
                if self._epoch + 1 >= self._n:
                    raise
                self._epoch += 1
                self._iter = iter(self._generator_fn(self._epoch))
