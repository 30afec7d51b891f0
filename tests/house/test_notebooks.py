"""The quickstart does what it says, in a real kernel."""

from __future__ import annotations

import re

import nbformat
import pytest


@pytest.fixture(scope="module")
def executed(quickstart):
    return nbformat.read(quickstart.folder / "quickstart.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell_with(notebook, words):
    (cell,) = [cell for cell in code_cells(notebook) if words in cell.source]
    return cell


def error_of(cell):
    (error,) = [output for output in cell.outputs if output.output_type == "error"]
    return error


@pytest.mark.slow
def test_each_rank_prints_and_returns(quickstart, executed):
    hello = cell_with(executed, "hello from rank")
    streams = "".join(output.text for output in hello.outputs if output.output_type == "stream")
    assert sorted(streams.splitlines()) == [
        "[rank 0] hello from rank 0 of 2",
        "[rank 1] hello from rank 1 of 2",
    ]
    assert hello.outputs[-1].data["text/plain"] == "[0: 100, 1: 200]"
    assert cell_with(executed, "sum(_)").outputs[0].data["text/plain"] == "300"
    # What the cells printed was printed by the script as well, while they ran.
    assert {"[rank 0] hello from rank 0 of 2", "[rank 1] hello from rank 1 of 2"} <= set(quickstart.text.splitlines())


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns(executed, printed):
    rounds = cell_with(executed, "in range(2, 6)")
    scores = [float(score) for score in re.findall(r"after round \d: accuracy (\S+)", printed(rounds))]
    assert len(scores) == 5
    assert scores[-1] > scores[0] > 0.8
    together, alone = map(float, re.findall(r": +(0\.\d+)", printed(cell_with(executed, "one process:"))))
    assert together == scores[-1]
    assert together > 0.93
    assert abs(together - alone) < 0.03


@pytest.mark.slow
def test_stderr_is_marked(executed, printed):
    text = printed(cell_with(executed, "stderr is marked"))
    for rank in range(2):
        assert f"[rank {rank} stderr] stderr is marked, and comes back too" in text.splitlines()


@pytest.mark.slow
def test_the_mistake_names_its_rank_and_its_line(executed, printed):
    cell = cell_with(executed, "images[:, 1:]")
    error = error_of(cell)
    text = printed(cell)
    assert error.ename == "ChildFailedError"
    assert "rank 1" in text
    assert "ValueError" in text
    # The magic's line is line 1.
    fault = "hidden, odds = forward(weights, images)"
    line = 1 + cell.source.splitlines().index(fault)
    assert f"Cell In[{cell.execution_count}], line {line}" in text
    assert f"----> {line} {fault}" in text


@pytest.mark.slow
def test_the_notebook_goes_on_after_a_failure(executed, printed):
    after = code_cells(executed)[code_cells(executed).index(cell_with(executed, "images[:, 1:]")) + 1 :]
    assert len(after) == 3
    assert all(output.output_type != "error" for cell in after for output in cell.outputs)
    correct, seen = map(int, re.search(r"(\d+) of (\d+) digits", printed(after[1])).groups())
    assert seen == 450
    assert correct / seen > 0.93
    assert printed(after[2])  # %elastic_status has something to say


@pytest.mark.slow
def test_the_saved_page_fetches_nothing(quickstart):
    page = (quickstart.folder / "quickstart.html").read_text(encoding="utf-8")
    assert "hello from rank 0 of 2" in page
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>", page) == []
    assert re.findall(r"""(?:import|url)\s*\(?\s*["']?(?:https?:)?//[^\s"')]+""", page) == []
