"""What every test gets: a check that nothing is left behind, and real kernels to run cells in."""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support.kernels import Kernel
from support.left import Census

faulthandler.enable()


@pytest.fixture(autouse=True)
def run_root(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Log folders of the tests' runs stay among the tests' own folders."""
    root = tmp_path_factory.mktemp("runs")
    monkeypatch.setenv("IPYELASTIC_RUN_ROOT", str(root))
    return root


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: the children, threads and descriptors there were before it, no more.

    The fork servers of this very process are stopped first: they are kept between launches on purpose.
    """
    # With a kernel the runs are the kernel's; jupyter_client keeps an event loop's descriptors here for good.
    with_fds = not {"kernel", "new_kernel"} & set(request.fixturenames)
    before = Census.take(with_fds)
    yield
    client = sys.modules.get("ipyelastic.forkserver.client")
    if client is not None and client._servers is not None:
        client._servers.stop()
        client._servers = None
    living = sys.modules.get("ipyelastic.engines.living")
    if living is not None:
        living._failures.clear()  # runs that a test let fail: pytest's end is not the place to tell of them
    gc.collect()
    Census.take_until(lambda now: not now.more_than(before), within_s=10, with_fds=with_fds)
    more = Census.take(with_fds).more_than(before)
    assert not more, f"left behind: {more}"


@pytest.fixture
def kernel(tmp_path: Path, run_root: Path) -> Iterator[Kernel]:
    """A real kernel in an empty folder, with the extension loaded."""
    with Kernel.start(tmp_path) as started:
        started.run("%load_ext ipyelastic")
        yield started


@pytest.fixture
def new_kernel(tmp_path: Path, run_root: Path) -> Iterator[Callable[..., Kernel]]:
    """Starts kernels, as many as wanted, without the extension; all are ended after the test."""
    started: list[Kernel] = []

    def start(folder: Path | None = None, **options: Any) -> Kernel:
        one = Kernel.start(folder or tmp_path, **options)
        started.append(one)
        return one

    yield start
    for one in started:
        one.shutdown()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("torch") is not None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import torch  # noqa: F401

                gc.freeze()  # or each collection below walks all of torch
        except ImportError:
            if os.environ.get("IPYELASTIC_REQUIRE_TORCH"):
                pytest.fail("torch is not installed, and this is CI")
            pytest.skip("needs torch")


def pytest_sessionfinish(session: pytest.Session) -> None:
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            print(f"thread still alive: {thread.name}", file=sys.stderr)
