"""A kernel whose environment has no widgets: lines of text, and once the sentence that says what to install."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.kernels import Kernel
from support.no_widgets import hide_widgets

SAID = (
    "note: no panel, only lines of text: anywidget is not installed in the kernel's environment; "
    "run `%pip install ipywidgets anywidget`, then reload the page"
)


@pytest.fixture
def kernel(new_kernel: Callable[..., Kernel], tmp_path: Path) -> Kernel:
    """A page's kernel that finds neither ipywidgets nor anywidget."""
    started = new_kernel(env={"JPY_SESSION_NAME": "x.ipynb", "PYTHONPATH": hide_widgets(tmp_path / "hidden")})
    assert not started.run("import ipywidgets").ok
    assert started.run("%load_ext ipyelastic").text == ""
    return started


def test_a_cell_shows_lines_and_says_once_what_to_install(kernel: Kernel) -> None:
    assert kernel.run("%elastic_run -n 1 print('hello')").out == f"{SAID}\n[rank 0] hello\n"
    assert kernel.run("%elastic_run -n 1 print('again')").out == "[rank 0] again\n"


def test_a_run_in_the_background_says_it_too(kernel: Kernel) -> None:
    shown = kernel.run("run = %elastic_run -n 1 --bg print('hello')")
    first = next(message for message in shown.messages if message["msg_type"] == "display_data")
    assert SAID in first["content"]["data"]["text/plain"].splitlines()
    assert kernel.run("run.result()").ok


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%elastic_run -n 1 --ui panel 1", "UsageError: ui='panel': "),
        ("%elastic_panel", "UsageError: no panel here: "),
    ],
)
def test_who_asks_for_a_panel_is_told_what_to_install(kernel: Kernel, cell: str, words: str) -> None:
    result = kernel.run(cell)
    assert (result.out, result.traceback) == (words + SAID.partition("text: ")[2] + "\n", "")


def test_who_wants_text_is_told_nothing(kernel: Kernel) -> None:
    assert kernel.run("%elastic_run -n 1 --ui text print('hello')").out == "[rank 0] hello\n"
