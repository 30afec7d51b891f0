"""The second notebook does what it says, in a real kernel. test_stored_notebooks.py looks at its outputs."""

from __future__ import annotations

import re

import nbformat
import pytest


@pytest.fixture(scope="module")
def text_of(execution, printed):
    """What the cell with these words printed."""
    executed = nbformat.read(execution("everyday").folder / "everyday.ipynb", as_version=4)

    def text(words):
        (cell,) = [cell for cell in executed.cells if cell.cell_type == "code" and words in cell.source]
        return printed(cell)

    return text


@pytest.mark.slow
def test_settings_hold_for_the_cells_that_follow(text_of):
    assert text_of("draws").splitlines() == ["[0: 'rank 0 of 2 draws 3', 1: 'rank 1 of 2 draws 2']"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["careful", "bold"])
def test_background_runs_are_saved_as_they_ended(text_of, name):
    first, *lines = text_of(f"{name} = %elastic_run --bg").splitlines()
    assert re.fullmatch(r"run \w{8}, Cell In\[\d+\] on 2 ranks: succeeded after \d+\.\d s", first)
    assert sorted(re.sub(r"[+-]\d+\.\d+", "x", line) for line in lines) == [
        "[rank 0] rank 0 starts at x",
        "[rank 1] rank 1 starts at x",
    ]


@pytest.mark.slow
def test_the_script_counts_and_its_mistake_shows_its_own_line(text_of):
    counted = re.findall(r"(\d+) primes from", text_of("--upto 1000"))
    assert sum(map(int, counted)) == 168
    failed = text_of("--upto 1 ")
    assert "rank 0 of 2 failed" in failed
    assert re.search(r"---> 11 +print.*share\[0\]", failed)
    assert "runpy" not in failed


@pytest.mark.slow
def test_each_rank_says_where_its_figure_is(text_of):
    found = re.findall(
        r"\[rank (\d)\] Figure\(\d+x\d+\) saved as \S+/attempt_0/(\d)/figure_1\.png", text_of("plt.show()")
    )
    assert sorted(found) == [("0", "0"), ("1", "1")]


@pytest.mark.slow
def test_what_goes_wrong_is_said_in_a_line(text_of):
    assert text_of("--nprocs").strip() == "UsageError: --nprocs: no such option, did you mean --nproc?"
    assert "lock (_thread.lock), used in Cell In[" in text_of("threading.Lock()")
