"""Every notebook does what it says, in a real kernel, and its stored outputs are of its cells and of today.

After a change: `.venv/bin/python notebooks/execute.py notebooks/*.ipynb --in-place`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
TORCH = {"ddp", "from_torchrun"}
EACH = [pytest.param(name, marks=[pytest.mark.torch] if name in TORCH else []) for name in NAMES]

# What differs from run to run, and from one machine to another.
LOOSE = [
    (r"/[\w.+-]+(?:/[\w.+-]*)*", "PATH"),
    (r"0x[0-9a-f]+", "HEX"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{8}\b", "ID"),
    (r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?", "N"),
    (r"[MGK]iB", "iB"),
    (r"\s+", " "),
]
# Lines that are there or not: whether a peer had ended by itself, what the machine was doing, which server is warm.
PASSING = re.compile(
    r"rank \d+ (?:was stopped|also failed)|\s*likely |\s*do  |fork server|[■✓] rank \d|.*\d ranks: \d|\s*File PATH"
    r"|\s*[\^~ ]+$"
)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def lasting(text):
    """The lines of an output that must come again, in any order: ranks write when they like."""
    lines = []
    for line in text.splitlines():
        if PASSING.match(line):
            continue
        for pattern, word in LOOSE:
            line = re.sub(pattern, word, line)
        lines.append(line.strip())
    return sorted(filter(None, lines))


def stored(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def test_there_are_notebooks():
    assert {"quickstart", "everyday", "panel", "failures", *TORCH} <= set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_every_cell_does_what_it_should(name, execution):
    ended = execution(name)
    assert ended.returncode == 0, ended.text
    assert f"{name}.ipynb: every cell did what it should" in ended.text


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_are_of_the_cells_as_they_are(name):
    notebook = stored(name)
    sources = "\n\n".join(cell.source for cell in code_cells(notebook))
    assert notebook.metadata["ipyelastic"]["executed"] == hashlib.sha256(sources.encode()).hexdigest()
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_stored_outputs_are_what_comes_out_today(name, execution, printed):
    today = nbformat.read(execution(name).folder / f"{name}.ipynb", as_version=4)
    for then, now in zip(code_cells(stored(name)), code_cells(today), strict=True):
        lines = [lasting(printed(cell)) for cell in (then, now)]
        if "raises-exception" in then.metadata.get("tags", []):
            # A rank that is stopped because of another one may have written something, or nothing yet.
            lines = [[line for line in each if not line.startswith("[rank ")] for each in lines]
        assert lines[0] == lines[1], then.source


@pytest.mark.parametrize("name", NAMES)
def test_a_page_that_has_no_widgets_shows_words_in_their_place(name):
    notebook = stored(name)
    assert "widgets" not in notebook.metadata
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {"text/plain": ""})
            assert "application/vnd.jupyter.widget-view+json" not in data
            assert "text/plain" in data
            assert "children=" not in data["text/plain"]


@pytest.mark.parametrize("name", sorted(set(NAMES) - TORCH))
def test_a_notebook_for_everybody_needs_no_torch(name):
    imports = re.compile(r"^\s*(import|from) torch", re.MULTILINE)
    assert [cell.source for cell in code_cells(stored(name)) if imports.search(cell.source)] == []


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_links_of_a_notebook_are_there(name):
    text = "\n".join(cell.source for cell in stored(name).cells if cell.cell_type == "markdown")
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in linked if not (NOTEBOOKS / link.partition("#")[0]).exists()] == []
