"""A cell that waits for its run, in a real page: buttons work, Run All keeps its order, and static HTML stays."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.left import is_running
from support.waiting import wait_until

pytestmark = pytest.mark.slow


def seen(page: Any, words: str, cell: int, within_s: float = 60) -> None:
    """Wait until a cell's output has these words."""

    def has() -> bool:
        page.page.wait_for_timeout(20)  # lets the page's events in; sync Playwright has no other way
        return words in page.text_of(cell)

    wait_until(has, within_s, f"{words!r} below cell {cell}; it shows {page.text_of(cell)!r}")


LOAD = "%load_ext ipyelastic"


def waits(folder: Path) -> str:
    """A cell whose ranks say who they are and wait."""
    return (
        f"%%elastic_run -n 2\nimport os, time\nprint('ready')\n"
        f"open(f'{folder}/new-{{rank}}', 'w').write(str(os.getpid()))\n"
        f"os.rename(f'{folder}/new-{{rank}}', f'{folder}/pid-{{rank}}')\ntime.sleep(600)"
    )


def rank_pids(page: Any, folder: Path) -> list[int]:
    page.wait_for_line(0, "ready")
    paths = [folder / f"pid-{rank}" for rank in range(2)]
    wait_until(lambda: all(path.exists() for path in paths), 20, "both ranks")
    return [int(path.read_text()) for path in paths]


def test_stop_ends_the_ranks_while_the_cell_blocks_and_what_is_queued_is_not_run(
    open_notebook: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_notebook([LOAD, waits(tmp_path), "print('never ' + 'seen')"])
    page.run_all()
    pids = rank_pids(page, tmp_path)
    began = time.monotonic()
    page.button("Stop").click()
    wait_until(lambda: not any(map(is_running, pids)), 10, "the ranks to go")
    print(f"Stop click to ranks gone: {(time.monotonic() - began) * 1000:.0f} ms")
    seen(page, "RunStopped", 1)
    assert "stopped" in page.text_of(1)
    assert "never seen" not in page.text_of(2)


def test_run_all_keeps_its_order_and_the_page_keeps_the_run(open_notebook: Callable[..., Any]) -> None:
    cells = [
        LOAD,
        "seen = []",
        "%%elastic_run -n 2\nprint('hello from', rank)\nrank * 10",
        "got = _\nprint('then', got)",
    ]
    page = open_notebook(cells)
    page.run_all()
    seen(page, "then [0: 0, 1: 10]", 3)
    assert "succeeded" in page.text_of(2)
    assert "hello from 1" in page.text_of(2)
    page.save()
    outputs = page.jupyter.saved(page.name).cells[2].outputs
    kinds = [sorted(output.data) for output in outputs if output.output_type == "display_data"]
    assert kinds == [["text/html", "text/plain"]]
    assert "hello from 1" in outputs[0].data["text/html"]


def test_an_interrupt_stops_every_rank(open_notebook: Callable[..., Any], tmp_path: Path) -> None:
    page = open_notebook([LOAD, waits(tmp_path), "print('never ' + 'seen')"])
    page.run_all()
    pids = rank_pids(page, tmp_path)
    page.command("notebook:interrupt-kernel")
    wait_until(lambda: not any(map(is_running, pids)), 20, "the ranks to go")
    seen(page, "KeyboardInterrupt", 1)
    assert "never seen" not in page.text_of(2)


def test_a_failure_is_short_in_the_cell_and_whole_in_the_panel(open_notebook: Callable[..., Any]) -> None:
    page = open_notebook([LOAD, "%%elastic_run -n 2\nprint('before')\nif rank:\n    1 / 0"])
    page.run_all()
    seen(page, "rank 1 of 2 failed", 1)
    seen(page, "the run above says more", 1)
    page.wait_for_kernel()
    page.save()
    shown, raised = page.jupyter.saved(page.name).cells[1].outputs
    assert shown.data["text/html"].count("Traceback (most recent call last)") == 1
    assert "line 4, in &lt;module&gt;" in shown.data["text/html"]
    assert raised.output_type == "error"
    (line,) = raised.traceback
    assert re.fullmatch(
        r"ChildFailedError: rank 1 of 2 failed \(local_rank 1\): ZeroDivisionError: division by zero "
        r"\(Cell In\[2\], line 4\); the run above says more",
        line,
    )


def test_restart_while_the_cell_blocks_gives_the_new_runs_values(
    open_notebook: Callable[..., Any], tmp_path: Any
) -> None:
    flag = tmp_path / "flag"
    body = (
        f"%%elastic_run -n 2\nimport os, time\nprint('ready')\n"
        f"while not os.path.exists({str(flag)!r}): time.sleep(0.01)\n'done'"
    )
    page = open_notebook([LOAD, body])
    page.run_all()
    page.wait_for_line(0, "ready")
    page.button("Restart").click()
    seen(page, "running", 1)
    flag.touch()
    seen(page, "[0: 'done', 1: 'done']", 1)


def test_a_kernel_restart_in_mid_run_leaves_no_rank(open_notebook: Callable[..., Any], tmp_path: Path) -> None:
    page = open_notebook([LOAD, waits(tmp_path)])
    page.run_all()
    pids = rank_pids(page, tmp_path)
    # evaluate() waits for the promise: the new kernel is there.
    page.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    wait_until(lambda: not any(map(is_running, pids)), 30, "the ranks to go")
    page.wait_for_kernel()
