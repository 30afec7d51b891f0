"""A pretended machine with GPUs, and saved defaults that do not outlive their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipyelastic.launcher import defaults
from support.gpus import GpuMachine, pretended


@pytest.fixture
def gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., GpuMachine]]:
    """`gpu_machine(4)`: this process finds so many GPUs from then on."""
    with pretended(tmp_path / "machine", monkeypatch) as put:
        yield put


@pytest.fixture(autouse=True)
def no_saved_defaults() -> Iterator[None]:
    """Each test begins and ends without any."""
    yield
    for layer in defaults.LAYERS:
        defaults.take_back(layer)
