"""The tour of failures shows each of them as it promises to."""

from __future__ import annotations

import nbformat
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cells(execution):
    executed = nbformat.read(execution("failures").folder / "failures.ipynb", as_version=4)
    return [cell for cell in executed.cells if cell.cell_type == "code"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("learning_rate(rank)", ["ValueError: rank 1 has no learning rate", "KeyError: 'lr'", "direct cause"]),
        ("careless", ["crashed with SIGSEGV", "line 5 in careless", "do      read its last lines (%elastic_logs 1)"]),
        ("RLIMIT_AS", ["what    MemoryError (Cell In[", "----> 5 batch = bytearray(4 << 30)"]),
        ("SIGKILL", ["[rank 1] working", "killed by SIGKILL after", "GiB were in use"]),
        ("--timeout 3", ["after its time limit of 3 s", "rank 0 was here:", "line 6 in meet"]),
        ("%elastic_run lock.acquire", ["UnpicklableError: lock (_thread.lock), used in Cell In["]),
        ("sys.exit", ["[rank 1 stderr] no data for me", "it exited with code 1 and left no traceback"]),
    ],
)
def test_a_failure_says_what_it_was(cells, printed, source, words):
    (cell,) = [cell for cell in cells if source in cell.source and "raises-exception" in cell.metadata.get("tags", [])]
    text = printed(cell)
    assert [word for word in words if word not in text] == []


def test_the_notebook_goes_on_after_all_of_them(cells, printed):
    assert printed(cells[-1]).splitlines() == ["[0: 'rank 0 is well', 1: 'rank 1 is well']"]
