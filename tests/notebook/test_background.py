"""`--bg`, and `launch()` in a notebook: one output per run, updated where it stands, whatever runs meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.gates import Gate
from support.kernels import CellResult, Kernel
from support.left import is_running, marked_processes
from support.waiting import wait_until

HEAD = r"^run [0-9a-f]{8}, "


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


class Page:
    """What a front end shows of a kernel: every output by its display id, in its latest form."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.outputs: dict[str, str] = {}
        self.updates = 0
        self.of_cell: dict[str, str] = {}

    def run(self, code: str, timeout_s: float = 60.0) -> CellResult:
        """Run a cell and take in what it shows."""
        result = self.kernel.run(code, timeout_s)
        for message in result.messages:
            self.take(message)
        return result

    def take(self, message: dict[str, Any]) -> None:
        if message["msg_type"] not in ("display_data", "update_display_data"):
            return
        content = message["content"]
        key = content["transient"].get("display_id")
        if message["msg_type"] == "update_display_data":
            assert key in self.outputs, "an update of an output that is not there"
            self.updates += 1
        else:
            assert key not in self.outputs
        self.of_cell[key] = message["parent_header"]["msg_id"]
        self.outputs[key] = content["data"]["text/plain"]

    def run_until(self, is_so: Callable[[], bool], within_s: float = 30.0) -> None:
        """Take in what comes by itself, no cell running."""
        import queue

        def looked() -> bool:
            try:
                self.take(self.kernel.client.get_iopub_msg(timeout=0.05))
            except queue.Empty:
                pass
            return is_so()

        wait_until(looked, within_s)


@pytest.fixture
def page(kernel: Kernel) -> Page:
    """A new page: what earlier tests launched has ended and been shown."""
    ended = kernel.run("from ipyelastic.engines.run import live_runs\nfor one in live_runs(): one.wait()")
    assert ended.ok, ended.text
    return Page(kernel)


@pytest.fixture
def gate(kernel: Kernel, tmp_path: Path) -> Any:
    with Gate(tmp_path / "gate") as made:
        kernel.run(f"gate = {made.path!r}")
        yield made


def test_background_run_is_given_back_at_once_and_shows_itself(page: Page, gate: Gate) -> None:
    result = page.run("%%elastic_run --bg -n 2 -o run\nprint('up', rank)\nopen(gate).close()\nrank * 10")
    assert (result.ok, result.out, result.value) == (True, "", None)
    (output,) = page.outputs.values()
    assert re.match(HEAD + r"Cell In\[\d+\] on 2 ranks: (starting|running)", output)
    page.run_until(lambda: "[rank 0] up 0" in _only(page) and "[rank 1] up 1" in _only(page))
    assert re.match(HEAD + r"Cell In\[\d+\] on 2 ranks: running\n", _only(page))
    later = page.run("print('a later cell')")
    assert later.out == "a later cell\n"
    assert page.kernel.run("run").value.endswith("on 2 ranks, running>")
    gate.open()
    page.run_until(lambda: "succeeded after" in _only(page))
    assert page.run("run.result()").value == "[0: 0, 1: 10]"
    first, *lines = _only(page).splitlines()
    assert re.fullmatch(HEAD + r"Cell In\[\d+\] on 2 ranks: succeeded after \d+\.\d s", first)
    assert sorted(lines) == ["[rank 0] up 0", "[rank 1] up 1"]


def _only(page: Page) -> str:
    (output,) = page.outputs.values()
    return output


def test_last_state_comes_from_the_main_thread_too(page: Page) -> None:
    """What nbclient keeps: an update whose parent is the cell that runs at the time."""
    page.run("run = %elastic_run --bg -n 1 rank")
    page.kernel.run("run.wait()")
    sent = page.kernel.send("import threading\nthreading.Event().wait(0.01)")
    result = page.kernel.collect(sent)
    updates = [message for message in result.messages if message["msg_type"] == "update_display_data"]
    assert updates == []  # it had come after `run.wait()`, and comes once
    result = page.run("run = %elastic_run --bg -n 1 rank\nrun.wait()")
    last = [message for message in result.messages if message["msg_type"] == "update_display_data"][-1]
    assert "succeeded after" in last["content"]["data"]["text/plain"]


def test_several_runs_at_once_each_have_their_output(page: Page, gate: Gate) -> None:
    for number in range(3):
        page.run(f"run{number} = %elastic_run --bg -n 1 print('run {number}') or open(gate).close()")
    assert len(page.outputs) == 3
    page.run_until(lambda: all(f"[rank 0] run {n}" in text for n, text in enumerate(page.outputs.values())))
    gate.open()
    page.run("import concurrent.futures\nconcurrent.futures.wait([run0, run1, run2]) and None")
    for number, text in enumerate(page.outputs.values()):
        first, line = text.splitlines()
        assert (": succeeded after" in first, line) == (True, f"[rank 0] run {number}")


def test_what_is_printed_by_later_cells_is_theirs(page: Page, gate: Gate) -> None:
    page.run("%%elastic_run --bg -n 1 -o run\nopen(gate).close()\nfor n in range(200): print('rank line', n)")
    gate.open()
    result = page.run("for n in range(200): print('cell line', n)\nrun.wait() and None")
    assert result.out.splitlines() == [f"cell line {n}" for n in range(200)]
    _, *lines = _only(page).splitlines()
    assert lines == [f"[rank 0] rank line {n}" for n in range(200)]


def test_run_stands_under_the_cell_that_launched_it(page: Page, gate: Gate) -> None:
    sent = page.run("%%elastic_run --bg -n 1 -o run\nopen(gate).close()\nprint('late')")
    own = sent.messages[0]["parent_header"]["msg_id"]
    gate.open()
    page.run_until(lambda: "[rank 0] late" in _only(page))
    assert set(page.of_cell.values()) == {own}
    page.run("run.wait()")


def test_run_that_is_shown_here_is_not_shown_twice(page: Page) -> None:
    assert page.run("%%elastic_run --bg -n 1\n7").value is None
    assert page.run("_").value.startswith("<Run ")
    assert page.run("_.result()").value == "[0: 7]"
    assert page.run("__import__('ipyelastic').launch(lambda: 8, nproc=1)").value is None
    assert page.run("display(_)").messages


def test_failure_is_shown_in_the_output_and_raised_by_result(page: Page) -> None:
    assert page.run("%%elastic_run --bg -n 2 -o run\nprint('before')\n1 / (1 - rank)\nrun = 1").ok
    page.run("run.wait()")
    text = _only(page)
    assert re.match(HEAD + r"Cell In\[\d+\] on 2 ranks: failed after", text)
    failure = text.partition("\n\n")[2]
    assert re.fullmatch(
        r"rank 1 of 2 failed \(local_rank 1\)\n"
        r"  what    ZeroDivisionError: division by zero \(Cell In\[(\d+)\], line 3\)\n"
        r"(rank 0 was stopped because of it\n)?"
        r"\nTraceback \(most recent call last\):\n"
        r'  File "Cell In\[\1\]", line 3, in <module>\n'
        r"    1 / \(1 - rank\)\n"
        r"    ~~\^~~~~~~~~~~~\n"
        r"ZeroDivisionError: division by zero",
        failure,
    )
    raised = page.run("run.result()")
    assert raised.error_name == "ChildFailedError"
    assert raised.traceback.startswith("rank 1 of 2 failed (local_rank 1)\n")
    assert "----> 3 1 / (1 - rank)" in raised.traceback
    assert "engines" not in raised.traceback


def test_time_limit_is_told_first_then_where_the_ranks_were(page: Page) -> None:
    page.run("%%elastic_run --bg -n 2 --timeout 3 -o run\nimport threading\nthreading.Event().wait()")
    page.run("run.wait()")
    said, *ranks = _only(page).partition("\n\n")[2].split("\n\n")
    assert said == "RunTimedOut: the run was ended after its time limit of 3 s"
    assert [rank.splitlines()[0] for rank in ranks] == ["rank 0 was here:", "rank 1 was here:"]
    for rank in ranks:
        assert re.search(r'File "Cell In\[\d+\]", line 3 in <module>$', rank), rank
        assert "ipyelastic" not in rank


def test_interrupt_leaves_a_background_run_and_stop_ends_it(page: Page, gate: Gate) -> None:
    page.run("%%elastic_run --bg -n 1 -o run\nprint('up')\nopen(gate).close()")
    page.run_until(lambda: "[rank 0] up" in _only(page))
    sent = page.kernel.send("print('waiting')\nrun.result()")
    page.kernel.collect(sent, until="waiting")
    page.kernel.interrupt()
    interrupted = page.kernel.collect(sent)
    run_id = page.kernel.value("run.run_id")
    said = f"KeyboardInterrupt: run {run_id} goes on; %elastic_stop {run_id} ends it"
    assert (interrupted.error_name, interrupted.traceback) == ("KeyboardInterrupt", said)
    assert page.kernel.value("run.status") == "running"
    stopped = page.run("%elastic_stop")
    assert page.kernel.value("import pickle; str(pickle.loads(pickle.dumps(run.exception())))") == "the run was stopped"
    assert re.fullmatch(r"<Run \w+: .* on 1 rank, stopped, .* s>\n", stopped.out)
    assert page.run("run.result()").traceback == "RunStopped: the run was stopped"


def test_async_cell_awaits_a_run_and_goes_on_after_a_timeout(page: Page, gate: Gate) -> None:
    page.run("run = %elastic_run --bg -n 1 open(gate).close() or 4")
    page.run("import asyncio")
    result = page.run(
        "seen = []\nasync def other():\n    seen.append(1)\n"
        "task = asyncio.create_task(other())\n"
        "try:\n    await asyncio.wait_for(run, 0.05)\nexcept asyncio.TimeoutError:\n    seen.append('timeout')\nseen"
    )
    assert result.value == "[1, 'timeout']"
    assert page.run("try: await asyncio.to_thread(run.result, 0.01)\nexcept TimeoutError as e: print(e)").out.endswith(
        "has not ended within 0.01 s\n"
    )
    gate.open()
    assert page.run("await run").value == "[0: 4]"


def test_options_are_refused_and_ui_none_shows_nothing(page: Page) -> None:
    assert page.run("%%elastic_run --bg -n 0\n1").out == "UsageError: nproc=0: expected 1 to 1024 ranks\n"
    assert page.run("%%elastic_run --bg --engine here\n1").out == (
        "UsageError: engine='here' is one rank in this very process: leave out bg\n"
    )
    page.run("%%elastic_run --bg -n 1 --ui none -o run\nprint('silent')")
    assert page.run("run.result()").ok
    assert page.outputs == {}
    assert page.run("%%elastic_run -n 1 --ui none\nprint('silent')").out == ""


def test_names_and_notes_are_told_in_the_output(page: Page) -> None:
    page.run("rank = 5")
    page.run("run = %elastic_run --bg -n 1 rank")
    page.run("run.wait()\ndel rank")
    assert "note: rank is the rank's own here and hides the notebook's rank" in _only(page)


def test_launch_shows_as_a_background_run_without_the_extension(new_kernel: Callable[..., Kernel]) -> None:
    page = Page(new_kernel())
    page.run("from ipyelastic import launch")
    page.run("def work():\n    print('at work')\n    return 3")
    result = page.run("run = launch(work, nproc=2)\nrun.result()")
    assert (result.out, result.value) == ("", "[0: 3, 1: 3]")
    first, *lines = _only(page).splitlines()
    assert re.fullmatch(HEAD + r"work on 2 ranks: succeeded after \d+\.\d s", first)
    assert sorted(lines) == ["[rank 0] at work", "[rank 1] at work"]
    failed = page.run("launch(lambda: 1 / 0, nproc=1).result()")
    assert failed.traceback.startswith("rank 0 of 1 failed (local_rank 0)\n")


def test_every_line_is_there_where_nobody_watches(page: Page) -> None:
    page.run("%%elastic_run --bg -n 2 -o run\nfor n in range(5000): print('line', n)")
    page.run("run.wait()")
    _, *lines = _only(page).splitlines()
    for rank in (0, 1):
        own = [line for line in lines if line.startswith(f"[rank {rank}] ")]
        assert own == [f"[rank {rank}] line {n}" for n in range(5000)]


@pytest.mark.slow
def test_flood_in_a_live_page_is_the_newest_lines_and_few_small_updates(new_kernel: Callable[..., Kernel]) -> None:
    live = new_kernel(env={"JPY_SESSION_NAME": "x.ipynb"})
    live.run("%load_ext ipyelastic")
    page = Page(live)
    page.run("rank = 5")
    page.run(
        "%%elastic_run --bg -n 1 --ui text -o run\nrank\nfor n in range(100_000): print('line', n)\nprint('x' * 10_000)"
    )
    page.run_until(lambda: "succeeded after" in _only(page))
    first, note, missing, *lines = _only(page).splitlines()
    assert "succeeded" in first
    assert note == "note: rank is the rank's own here and hides the notebook's rank"
    words = re.fullmatch(r"\.\.\. ([\d,]+) earlier lines, see (.+)", missing)
    assert words is not None
    assert Path(words[2]) == Path(live.value("run.log_dir"))
    assert len(lines) == 60
    assert lines[-2:] == ["[rank 0] line 99999", "[rank 0] " + "x" * 488 + "..."]
    assert len(_only(page)) < 60 * 520
    assert page.updates < 100


# ------------------------------------------------------------------------------------------------------- the very end


def test_run_that_lives_at_the_kernels_end_is_named_and_ended(
    new_kernel: Callable[..., Kernel], tmp_path: Path
) -> None:
    kernel = new_kernel(tmp_path)
    kernel.run("%load_ext ipyelastic")
    kernel.run("%%elastic_run --bg -n 2 -o run\nimport signal\nprint('up')\nsignal.pause()")
    mark = kernel.owner_mark()
    name = kernel.run("[v.pid for v in run.ranks], run").value
    run = re.search(r"<Run .*>", name or "")
    assert run is not None
    kernel.client.shutdown()
    pid = kernel.pid
    wait_until(lambda: not is_running(pid), 30)
    wait_until(lambda: not marked_processes(mark), 10)
    last = (tmp_path / "kernel.err").read_text().splitlines()[-1]
    assert last == f"ipyelastic: {run[0]} has not ended; it ends with this process"


def test_extension_unloaded_ends_runs_and_leaves_no_hook(new_kernel: Callable[..., Kernel]) -> None:
    kernel = new_kernel()
    kernel.run("%load_ext ipyelastic")
    hooks = "sorted(str(c) for c in get_ipython().events.callbacks['post_run_cell'])"
    had = kernel.value(f"[h for h in {hooks} if 'ipyelastic' not in h and '_after_cell' not in h]")
    page = Page(kernel)
    page.run("%%elastic_run --bg -n 1 -o run\nimport signal\nprint('up')\nsignal.pause()")
    page.run_until(lambda: "[rank 0] up" in _only(page))
    page.run("%unload_ext ipyelastic")
    assert _only(page).endswith("\n\nRunStopped: the run was stopped: the extension was unloaded")
    assert kernel.run("run.wait(20), run.status").value == "(True, 'stopped')"
    assert kernel.run("run.result()").traceback == "RunStopped: the run was stopped: the extension was unloaded"
    assert kernel.value(hooks) == had
