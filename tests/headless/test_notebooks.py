"""nbclient, `jupyter nbconvert --execute` and papermill: the executed notebook holds the whole text, in order."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from .conftest import Ended, Runs, plain

pytestmark = pytest.mark.slow

Execute = Callable[[Path], Ended]

_CLIENT = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read("in.ipynb", 4)
try:
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
finally:
    nbformat.write(notebook, "out.ipynb")
"""

_COMMANDS = {
    "nbclient": ["-c", _CLIENT],
    "nbconvert": ["-m", "nbconvert", "--to", "notebook", "--execute", "in.ipynb", "--output", "out.ipynb"],
    "papermill": ["-m", "papermill", "in.ipynb", "out.ipynb", "-k", "python3", "--no-progress-bar"],
}


@pytest.fixture(params=list(_COMMANDS))
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def execute(way: str, runs: Runs, tmp_path: Path) -> Callable[[list[str]], tuple[Ended, Any]]:
    """`execute(cells)`: how the program ended, and the notebook that it left (None when it left none)."""

    def run(cells: list[str]) -> tuple[Ended, Any]:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "in.ipynb")
        ended = runs(_COMMANDS[way])
        out = tmp_path / "out.ipynb"
        if not out.exists():
            return ended, None
        executed = nbformat.read(out, as_version=4)
        return ended, [cell for cell in executed.cells if cell.source in cells]

    return run


def texts(cell: Any) -> list[str]:
    """Every output of a cell as text; stream messages that follow each other as one."""
    found: list[str] = []
    former = ""
    for output in cell.outputs:
        is_stream, former = output.output_type == former == "stream", output.output_type
        if is_stream:
            found[-1] += output.text
        elif output.output_type == "stream":
            found.append(output.text)
        elif output.output_type == "error":
            found.append(plain("\n".join(output.traceback)))
        else:
            assert set(output.data) == {"text/plain"}, "no widgets, no HTML"
            found.append(output.data["text/plain"])
    return found


def test_executed_notebook_holds_all_output_in_order_and_final_states(execute: Any) -> None:
    ended, cells = execute(
        [
            "%load_ext ipyelastic",
            "%%elastic_run -n 2\nfor n in range(5000): print('line', n)\nrank",
            "%%elastic_run --bg -n 2 -o run\nfor n in range(5000): print('behind', n)\nrank + 10",
            "print('meanwhile')",
            "run.result()",
            "from ipyelastic import launch\nlaunch(lambda: print('launched'), nproc=1).result()",
        ]
    )
    assert ended.returncode == 0, ended.err
    stream, value = texts(cells[1])
    assert value == "[0: 0, 1: 1]"
    for rank in (0, 1):
        own = [line for line in stream.splitlines() if line.startswith(f"[rank {rank}]")]
        assert own == [f"[rank {rank}] line {n}" for n in range(5000)]
    (shown,) = texts(cells[2])
    first, *lines = shown.splitlines()
    assert re.fullmatch(r"run \w{8}, Cell In\[3\] on 2 ranks: succeeded after \d+\.\d s", first)
    for rank in (0, 1):
        own = [line for line in lines if line.startswith(f"[rank {rank}]")]
        assert own == [f"[rank {rank}] behind {n}" for n in range(5000)]
    assert len(lines) == 10_000
    assert texts(cells[3]) == ["meanwhile\n"]
    assert texts(cells[4]) == ["[0: 10, 1: 11]"]
    launched, value = texts(cells[5])
    assert launched.splitlines()[1:] == ["[rank 0] launched"]
    assert value == "[0: None]"


def test_run_that_ended_between_cells_is_final_in_the_notebook(execute: Any) -> None:
    """No cell waits for it: the update that nbclient keeps is the one after a later cell."""
    ended, cells = execute(
        [
            "%load_ext ipyelastic",
            "%%elastic_run --bg -n 1 -o run\nprint('all by itself')",
            "import threading\nwhile not run.done(): threading.Event().wait(0.005)",
        ]
    )
    assert ended.returncode == 0, ended.err
    (shown,) = texts(cells[1])
    assert re.fullmatch(r"run \w{8}, .* on 1 rank: succeeded after \d+\.\d s\n\[rank 0\] all by itself", shown)


def test_failing_cell_fails_the_program_and_later_cells_do_not_run(execute: Any, tmp_path: Path) -> None:
    ended, cells = execute(
        ["%load_ext ipyelastic", "%%elastic_run -n 2\nprint('up')\n1 / (1 - rank)", "open('later', 'w').close()"]
    )
    assert ended.returncode != 0
    assert "ZeroDivisionError: division by zero" in ended.err
    if cells is not None:
        *_, error = texts(cells[1])
        assert error.startswith("rank 1 of 2 failed (local_rank 1)\n")
        assert cells[2].outputs == []
    assert not (tmp_path / "later").exists()


def test_failure_of_a_background_run_stands_in_its_output_and_fails_where_it_is_asked(execute: Any) -> None:
    ended, cells = execute(
        ["%load_ext ipyelastic", "%%elastic_run --bg -n 1 -o run\nprint('up')\n1 / 0", "run.result()"]
    )
    assert ended.returncode != 0
    if cells is not None:
        (shown,) = texts(cells[1])
        assert "failed after" in shown.splitlines()[0]
        assert shown.endswith("ZeroDivisionError: division by zero")
        *_, error = texts(cells[2])
        assert error.startswith("rank 0 of 1 failed (local_rank 0)\n")


def test_run_that_lives_at_the_notebooks_end_shows_what_it_had_and_is_ended(execute: Any, tmp_path: Path) -> None:
    ended, cells = execute(
        [
            "%load_ext ipyelastic",
            "%%elastic_run --bg -n 1 -o run\nimport os, signal\nprint('up')\nsignal.pause()",
            "import pathlib, threading\nwhile not run.ranks[0].tail(): threading.Event().wait(0.005)\n"
            "pathlib.Path('pid').write_text(str(run.ranks[0].pid)) and None",
        ]
    )
    assert ended.returncode == 0, ended.err
    (shown,) = texts(cells[1])
    assert re.fullmatch(r"run \w{8}, .* on 1 rank: running\n\[rank 0\] up", shown)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
    assert re.search(r"ipyelastic: <Run \w+: .*, running> has not ended; it ends with this process\n", ended.err)
