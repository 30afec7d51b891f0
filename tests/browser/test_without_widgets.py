"""Pages without a panel: the kernel has no widgets, or the page cannot draw them. Text stands in its place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from support.gates import Gate
from support.jupyter import Jupyter, started_jupyter
from support.no_widgets import hide_widgets, without_widgets_on_pages

pytestmark = pytest.mark.slow

MOST_MS = 60_000
TESTS = str(Path(__file__).resolve().parents[1])


@pytest.fixture(scope="module", params=["kernel", "page"])
def without(request: pytest.FixtureRequest) -> str:
    """Who has no widgets."""
    return str(request.param)


@pytest.fixture(scope="module")
def jupyter(without: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """JupyterLab whose kernels cannot import widgets, or whose pages cannot draw them."""
    folder = tmp_path_factory.mktemp(f"no-widgets-{without}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")])))
        if without == "kernel":
            patch.setenv("PYTHONPATH", hide_widgets(folder / "hidden"))
        else:
            without_widgets_on_pages(folder / "config")
        with started_jupyter("lab", folder) as started:
            yield started


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Holds ranks that wait at it; opened at the end at the latest."""
    with Gate(tmp_path / "gate") as made:
        yield made


def below(page: Any, cell: int) -> Any:
    return page.page.locator(".jp-Notebook .jp-Cell").nth(cell).locator(".jp-OutputArea").first


def test_a_run_is_shown_as_text_and_stays_so_in_the_saved_page(
    open_notebook: Callable[..., Any], gate: Gate, without: str
) -> None:
    cells = [
        "%load_ext ipyelastic\nfrom support.gates import wait_at",
        f"%%elastic_run -n 2\nprint('here is', rank)\nwait_at({gate.path!r})\nprint('and out again')\nrank * 10",
    ]
    page = open_notebook(cells)
    page.run_all()
    shown = below(page, 1)
    if without == "kernel":
        expect(shown).to_contain_text("run `%pip install ipywidgets anywidget`, then reload the page", timeout=MOST_MS)
        expect(shown).to_contain_text("[rank 1] here is 1", timeout=MOST_MS)
    else:
        expect(shown).to_contain_text("pip install ipywidgets anywidget there, then reload the page", timeout=MOST_MS)
    expect(page.page.locator(".ie-panel")).to_have_count(0)
    page.save()  # in mid-run: what a page shows that nobody's kernel speaks to any more
    assert "Error displaying widget" not in page.text_of(1)
    gate.open()
    expect(shown).to_contain_text("and out again", timeout=MOST_MS)
    expect(shown).to_contain_text("[0: 0, 1: 10]", timeout=MOST_MS)
    page.save()
    page.reload()
    expect(below(page, 1)).to_contain_text("here is 1", timeout=MOST_MS)
    expect(below(page, 1)).to_contain_text("[0: 0, 1: 10]", timeout=MOST_MS)
    assert "Error" not in page.text_of(1)
