"""The panel notebook, executed without a page, shows the panels as they end up in a saved notebook."""

from __future__ import annotations

import re

import nbformat
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cell_with(execution):
    executed = nbformat.read(execution("panel").folder / "panel.ipynb", as_version=4)

    def found(words):
        (cell,) = [cell for cell in executed.cells if cell.cell_type == "code" and words in cell.source]
        return cell

    return found


def page_of(cell):
    (page,) = [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]
    return page


def test_a_panel_that_has_ended_is_a_page_with_all_lines(cell_with):
    page = page_of(cell_with("-o quarters"))
    assert sorted(set(re.findall(r"slice +(\d+) of 16: \d\.\d{6}", page)), key=int) == [str(n) for n in range(16)]
    assert "<script" not in page


def test_a_panel_of_a_failure_begins_with_it(cell_with):
    page = page_of(cell_with("-2 * rank"))
    assert page.index("rank 1 of 2 failed") < page.index("ValueError: math domain error") < page.index("wrote nothing")


def test_the_form_is_a_line_of_text_without_a_page(cell_with, printed):
    assert printed(cell_with("%elastic_panel slices")).strip() == (
        "form: slices on 2 ranks, with Start, Stop, Kill and Restart;"
        " run the cell in JupyterLab or Notebook 7 to use it"
    )


@pytest.mark.parametrize(("name", "count"), [("coarse", 4), ("fine", 8)])
def test_two_runs_at_once_keep_their_lines_apart(cell_with, name, count):
    page = page_of(cell_with(f"{name} = %elastic_run --bg"))
    assert "succeeded" in page.partition("2 ranks")[0]
    for rank, lines in enumerate(re.split(r"<details", page)[1:]):
        assert re.findall(r"slice +(\d+) of (\d+): \d", lines) == [
            (str(number), str(count)) for number in range(rank, count, 2)
        ]


def test_a_stopped_run_says_so(cell_with, printed):
    assert printed(cell_with("endless.stop()")).strip() == "'stopped'"
    assert "stopped" in page_of(cell_with("endless = %elastic_run")).partition("2 ranks")[0]


def test_a_restarted_run_returns_the_same(cell_with, printed):
    assert printed(cell_with("coarse.restart()")).splitlines()[-1] == "True"
