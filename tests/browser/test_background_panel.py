"""Runs that no cell waits for, in a real page: a panel with live buttons while cells go on, static HTML in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from support.gates import Gate
from support.left import is_running
from support.waiting import wait_until

pytestmark = pytest.mark.slow

LOAD = "%load_ext ipyelastic\nfrom ipyelastic import launch\nimport os\nfrom support.gates import wait_at"
MOST_MS = 60_000


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Holds ranks that wait at it; opened at the end at the latest."""
    with Gate(tmp_path / "gate") as made:
        yield made


@pytest.fixture
def other_gate(tmp_path: Path) -> Iterator[Gate]:
    """Holds a cell."""
    with Gate(tmp_path / "other") as made:
        yield made


def work(gate: Gate) -> str:
    """A function that says its pid, waits and ends."""
    return (
        "def work():\n    print('pid', os.getpid(), flush=True)\n"
        f"    wait_at({gate.path!r})\n    print('went on', flush=True)\n    return 7"
    )


def below(page: Any, cell: int) -> Any:
    return page.page.locator(".jp-Notebook .jp-Cell").nth(cell).locator(".jp-OutputArea").first


def pid_of_rank_0(page: Any, index: int = 0) -> int:
    found: list[str] = []

    def has() -> bool:
        page.page.wait_for_timeout(50)  # lets the page's events in
        found[:] = [line for line in page.screen(0, index) if line.startswith("pid ")]
        return bool(found)

    wait_until(has, 60, "the pid of rank 0")
    return int(found[-1].split()[1])


@pytest.mark.parametrize(
    "start", ["run = launch(work, nproc=2)", "run = %elastic_run --bg -n 2 work()"], ids=["launch", "bg"]
)
def test_a_run_in_the_background_has_a_panel_and_cells_go_on(
    open_notebook: Callable[..., Any], gate: Gate, start: str
) -> None:
    page = open_notebook([LOAD, work(gate), start, "print('a later', 'cell')"])
    page.run_all()
    expect(below(page, 3)).to_contain_text("a later cell", timeout=MOST_MS)
    pid = pid_of_rank_0(page)
    page.button("Restart").click()
    wait_until(lambda: page.page.wait_for_timeout(50) or pid_of_rank_0(page) != pid, 60, "the new run")
    assert not is_running(pid)
    gate.open()
    expect(below(page, 2)).to_contain_text("succeeded", timeout=MOST_MS)
    expect(page.page.locator(".ie-panel")).to_have_count(0, timeout=MOST_MS)
    page.save()
    (output,) = page.jupyter.saved(page.name).cells[2].outputs
    assert sorted(output.data) == ["text/html", "text/plain"]
    assert "went on" in output.data["text/html"]
    assert "succeeded" in output.data["text/plain"]


def test_the_static_page_comes_while_the_kernel_is_busy_with_another_cell(
    open_notebook: Callable[..., Any], gate: Gate, other_gate: Gate
) -> None:
    busy = f"print('now', 'busy', flush=True)\nwait_at({other_gate.path!r})\nprint('busy no', 'more')"
    page = open_notebook([LOAD, work(gate), "run = launch(work, nproc=1)", busy])
    for cell in range(3):
        page.run_cell(cell)
    pid_of_rank_0(page)
    page.run_cell(3)
    expect(below(page, 3)).to_contain_text("now busy", timeout=MOST_MS)
    gate.open()
    expect(below(page, 2)).to_contain_text("succeeded", timeout=MOST_MS)
    expect(page.page.locator(".ie-panel")).to_have_count(0, timeout=MOST_MS)
    assert "busy no more" not in page.text_of(3)
    page.save()
    (output,) = page.jupyter.saved(page.name).cells[2].outputs
    assert "went on" in output.data["text/html"]
    other_gate.open()
    expect(below(page, 3)).to_contain_text("busy no more", timeout=MOST_MS)


def test_stop_works_while_a_cell_waits_for_the_result(open_notebook: Callable[..., Any], gate: Gate) -> None:
    page = open_notebook([LOAD, work(gate), "run = launch(work, nproc=2)", "run.result()", "print('never', 'seen')"])
    page.run_all()
    pid = pid_of_rank_0(page)
    page.button("Stop").click()
    wait_until(lambda: not is_running(pid), 30, "rank 0 to go")
    expect(below(page, 3)).to_contain_text("RunStopped", timeout=MOST_MS)
    expect(below(page, 2)).to_contain_text("stopped", timeout=MOST_MS)
    assert "never seen" not in page.text_of(4)


def test_stop_works_while_another_cell_blocks(
    open_notebook: Callable[..., Any], gate: Gate, other_gate: Gate, kernel_version: tuple[int, ...]
) -> None:
    if kernel_version < (7,):
        pytest.skip("ipykernel 6 has no subshells: a message waits until the other cell is over")
    busy = f"print('now', 'busy', flush=True)\nwait_at({other_gate.path!r})"
    page = open_notebook([LOAD, work(gate), "run = launch(work, nproc=2)", busy])
    for cell in range(3):
        page.run_cell(cell)
    pid = pid_of_rank_0(page)
    page.run_cell(3)
    expect(below(page, 3)).to_contain_text("now busy", timeout=MOST_MS)
    page.button("Stop").click()
    wait_until(lambda: not is_running(pid), 30, "rank 0 to go")
    expect(below(page, 2)).to_contain_text("stopped", timeout=MOST_MS)


def test_a_run_started_as_text_is_shown_with_what_it_wrote_and_live(
    open_notebook: Callable[..., Any], gate: Gate
) -> None:
    body = f"""
def work():
    for n in range(300):
        print("line", n)
    print("\\x1b[32m50%", end="\\r", flush=True)
    wait_at({gate.path!r})
    print("100%", flush=True)
"""
    text = "run = launch(work, nproc=2, ui='text')\nwhile not run.ranks[0].tail(1) == ['50%']: pass"
    page = open_notebook([LOAD, body, text, "display(run)", "%elastic_panel {run.run_id}", "run", "run"])
    for cell in range(5):
        page.run_cell(cell)
    for index in (0, 1):
        page.wait_for_line(0, "50%", index)
        assert page.screen(0, index) == [*(f"line {n}" for n in range(300)), "50%"]
    assert "line 299" in page.text_of(2)
    assert page.page.locator(".ie-panel").count() == 2
    gate.open()
    for cell in (3, 4):
        expect(below(page, cell)).to_contain_text("succeeded", timeout=MOST_MS)
    expect(page.page.locator(".ie-panel")).to_have_count(0, timeout=MOST_MS)
    page.run_cell(5)
    expect(below(page, 5)).to_contain_text("succeeded", timeout=MOST_MS)
    page.save()
    cells = page.jupyter.saved(page.name).cells
    for cell in (3, 4, 5):
        (output,) = cells[cell].outputs
        assert "line 299" in output.data["text/html"]
        assert "100%" in output.data["text/html"]


def test_a_page_loaded_again_after_the_cell_has_live_buttons_and_the_right_saved_form(
    open_notebook: Callable[..., Any], gate: Gate
) -> None:
    page = open_notebook([LOAD, work(gate), "run = launch(work, nproc=2)"])
    page.run_all()
    pid = pid_of_rank_0(page)
    page.save()
    page.reload()
    assert pid_of_rank_0(page) == pid
    expect(page.button("Stop")).to_be_enabled(timeout=MOST_MS)
    page.button("Stop").click()
    wait_until(lambda: not is_running(pid), 30, "rank 0 to go")
    expect(below(page, 2)).to_contain_text("stopped", timeout=MOST_MS)
    expect(page.page.locator(".ie-panel")).to_have_count(0, timeout=MOST_MS)
    page.save()
    (output,) = page.jupyter.saved(page.name).cells[2].outputs
    assert sorted(output.data) == ["text/html", "text/plain"]
    assert "stopped" in output.data["text/plain"]


def test_a_failure_in_the_background_stands_in_the_saved_page_once(open_notebook: Callable[..., Any]) -> None:
    body = "def work():\n    if os.environ['RANK'] == '1':\n        1 / 0"
    page = open_notebook([LOAD, body, "run = launch(work, nproc=2)", "run.wait() and None"])
    page.run_all()
    expect(below(page, 2)).to_contain_text("ZeroDivisionError: division by zero", timeout=MOST_MS)
    expect(page.page.locator(".ie-panel")).to_have_count(0, timeout=MOST_MS)
    page.save()
    (output,) = page.jupyter.saved(page.name).cells[2].outputs
    assert output.data["text/html"].count("Traceback (most recent call last)") == 1


def test_pictures_stand_in_their_ranks_tab_while_it_runs_and_in_the_saved_page(
    open_notebook: Callable[..., Any], gate: Gate
) -> None:
    body = f"""
from support.pngs import png
def work():
    from IPython.display import Image, display
    rank = int(os.environ["RANK"])
    display(Image(data=png(40 + rank, 30)))
    folder = os.path.dirname(os.environ["TORCHELASTIC_ERROR_FILE"])
    with open(os.path.join(folder, "figure_9.png"), "w") as file:
        file.write("<svg onload='window.hacked = 1'></svg>")
    print("saved", flush=True)
    wait_at({gate.path!r})
"""
    page = open_notebook([LOAD, body, "run = launch(work, nproc=2)"])
    page.run_all()
    page.wait_for_line(0, "saved")
    pictures = page.panel().locator(".ie-pictures img")
    expect(pictures).to_have_count(1, timeout=MOST_MS)
    expect(page.panel().get_by_role("img", name="image_1.png of rank 0")).to_be_visible()
    width = "([img]) => img?.naturalWidth"
    wait_until(lambda: page.page.wait_for_timeout(20) or pictures.evaluate_all(width) == 40, 60)
    page.panel().get_by_role("tab", name="Rank 1").click()
    wait_until(lambda: page.page.wait_for_timeout(20) or pictures.evaluate_all(width) == 41, 60)
    page.panel().get_by_role("tab", name="All ranks").click()
    expect(pictures).to_have_count(2)
    gate.open()
    expect(page.page.locator(".ie-panel")).to_have_count(0, timeout=MOST_MS)
    page.save()
    (output,) = page.jupyter.saved(page.name).cells[2].outputs
    assert output.data["text/html"].count('src="data:image/png;base64,') == 2
    assert page.page.evaluate("() => window.hacked ?? null") is None


def test_a_run_that_nobody_holds_is_not_kept_by_its_panel(open_notebook: Callable[..., Any]) -> None:
    page = open_notebook(
        [
            LOAD + "\nimport gc, weakref",
            "run = launch(lambda: list(range(1000)), nproc=1)\nkept = weakref.ref(run)",
            "run = launch(lambda: 1, nproc=1)",  # the newest one is known to %elastic_status
            "gc.collect()\nprint('kept:', kept())",
        ]
    )
    for cell in (0, 1, 2):
        page.run_cell(cell)
        if cell:
            expect(below(page, cell)).to_contain_text("succeeded", timeout=MOST_MS)
            expect(page.page.locator(".ie-panel")).to_have_count(0, timeout=MOST_MS)

    def is_gone() -> bool:
        page.run_cell(3)
        page.page.wait_for_timeout(200)
        return "kept: None" in page.text_of(3)

    wait_until(is_gone, 60, "the run to be let go")
