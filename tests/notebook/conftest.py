"""Kernels that the tests of one file share: a start costs a second, a cell three hundredths of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.kernels import Kernel

Ranks = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def notebook_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder a file's shared kernel works in."""
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def module_kernel(notebook_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for all tests of a file that do not disturb each other; a file takes it as its `kernel`."""
    runs = tmp_path_factory.mktemp("kernel-runs")
    with Kernel.start(notebook_folder, env={"IPYELASTIC_RUN_ROOT": str(runs)}) as started:
        loaded = started.run("%load_ext ipyelastic")
        assert loaded.ok, loaded.text
        yield started


@pytest.fixture
def ranks(kernel: Kernel) -> Ranks:
    """`ranks(body, options="-n 1")`: run a cell that must succeed and return its values, by rank, as literals."""

    def run(body: str, options: str = "-n 1", timeout_s: float = 60.0) -> list[Any]:
        result = kernel.run(f"%%elastic_run {options} -o _got\n{body}", timeout_s)
        assert result.ok, result.text
        values = kernel.value("list(_got)")
        assert isinstance(values, list)
        return values

    return run
