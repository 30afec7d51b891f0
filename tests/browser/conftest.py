"""One server of each kind and one browser for each file of browser tests; a fresh browser context for each test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")

from support.jupyter import APPS, Jupyter, NotebookPage, launch_browser, started_jupyter  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """The server, its kernels and the browser outlive a test on purpose; the file's end ends them."""


@pytest.fixture(scope="module")  # no longer: its event loop counts as running, and asyncio.run() refuses beside it
def browser() -> Iterator[Any]:
    """A real browser."""
    with playwright.sync_playwright() as started:
        opened = launch_browser(started)
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=list(APPS))
def jupyter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """JupyterLab, then Notebook 7."""
    # The kernels import the tests' support as the tests do.
    before = os.environ.get("PYTHONPATH")
    tests = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, before]))
    try:
        with started_jupyter(request.param, tmp_path_factory.mktemp(request.param), sys.executable) as started:
            yield started
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture
def kernel_version() -> tuple[int, ...]:
    """ipykernel's, of this environment: (7, 4, 0)."""
    return tuple(int(part) for part in metadata.version("ipykernel").split(".")[:3])


@pytest.fixture
def open_notebook(
    jupyter: Jupyter, browser: Any, request: pytest.FixtureRequest
) -> Iterator[Callable[..., NotebookPage]]:
    """Write a notebook of these cells and open it; `width`, `height` and the like go to the browser's context."""
    contexts: list[Any] = []
    pages: list[NotebookPage] = []

    def open_one(cells: Sequence[str], **options: Any) -> NotebookPage:
        name = f"{request.node.originalname}-{len(contexts)}.ipynb"
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 1000}, **options})
        contexts.append(context)
        pages.append(NotebookPage.open(context, jupyter, jupyter.write(name, cells)))
        return pages[-1]

    yield open_one
    outside = [url for page in pages for url in page.outside_requests()]
    for page in pages:
        page.shut_down()
    for context in contexts:
        context.close()
    assert outside == [], "the page asked somebody else than its server"
