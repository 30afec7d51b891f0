"""A cell that blocks in the pump's loop: comms of ours answered at once, everything else in its place afterwards."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from support.front_end import FrontEnd
from support.gates import Gate
from support.kernels import Kernel

SETUP = """
import contextvars, logging, os, signal, sys, threading, time
from comm import create_comm
from ipyelastic.notebook import kernel as k
from ipyelastic.notebook.kernel import Pump, can_pump, is_kernel, keep_on_subshell, kernel_version, obstacle, ours

shell = get_ipython()
order, handled_by, latencies, done = [], set(), [], threading.Event()

def hear(message):
    data = message["content"]["data"]
    latencies.append(time.time() - data["sent"])
    order.append(data["say"])
    handled_by.add(threading.current_thread() is threading.main_thread())
    if data["say"] == "stop":
        done.set()
    if data["say"] == "answer":
        mine.send("answered")
        print("printed by the callback", flush=True)

mine = create_comm(target_name="ipyelastic.test", comm_id="mine-TEST")
mine.on_msg(hear)
ours(mine)
other = create_comm(target_name="somebody.else", comm_id="other-TEST")
other.on_msg(hear)

def block():
    done.clear()
    with Pump(shell) as pump:
        print("blocked", flush=True)
        while not done.wait(0.02):
            pump.turn()
    order.append("unblocked")
"""


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


class Page(FrontEnd):
    """A front end whose notebook has a comm of ours and one of somebody else's."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.test = uuid.uuid4().hex
        self.cell(SETUP.replace("TEST", self.test))

    def cell(self, code: str) -> str:
        """Run a cell that must succeed; what it printed."""
        sent = self.run(code)
        self.until_idle(sent)
        assert self.error(sent) is None, self.of(sent)
        return self.printed(sent)

    def value(self, expression: str) -> Any:
        """An expression that has a literal as its value."""
        return ast.literal_eval(self.cell(f"print(repr({expression}), end='')"))

    def version(self) -> tuple[int, int]:
        """The kernel's ipykernel, major and minor."""
        major, minor, *_ = self.value("kernel_version()").split(".")
        return int(major), int(minor)

    def blocked(self, code: str = "block()") -> str:
        """Run a cell, and return when it blocks."""
        before = self.printed().count("blocked")
        sent = self.run(code)
        self.until(lambda: self.printed().count("blocked") > before, what="the cell blocks")
        return sent

    def say(self, word: str, comm: str = "mine", subshell: str | None = None) -> str:
        """Say a word on one of the comms."""
        return self.tell(f"{comm}-{self.test}", {"say": word, "sent": time.time()}, subshell)


@pytest.fixture
def page(kernel: Kernel) -> Iterator[Page]:
    opened = Page(kernel)
    yield opened
    opened.close()


@pytest.fixture
def new_page(new_kernel: Callable[..., Kernel]) -> Iterator[Callable[[], tuple[Kernel, Page]]]:
    opened: list[Page] = []

    def start() -> tuple[Kernel, Page]:
        kernel = new_kernel()
        opened.append(Page(kernel))
        return kernel, opened[-1]

    yield start
    for page in opened:
        page.close()


def subshell_of(page: Page) -> str:
    """A new subshell; without subshells there is nothing to test."""
    if page.version() < (7, 0):
        pytest.skip("ipykernel 6 has no subshells")
    return page.new_subshell()


# ------------------------------------------------------------------ at once


def test_message_of_ours_is_handled_while_the_cell_blocks(page: Page) -> None:
    cell = page.blocked("block()\nprint(order, handled_by)")
    click = page.say("click")
    page.until_idle(click)
    assert page.states(click) == ["busy", "idle"]
    # Pages show the last status they heard, and the cell is still running.
    page.until(lambda: page.states(cell) == ["busy", "busy"], what="the cell says again that it is busy")
    stop = page.say("stop")
    page.until_idle(cell, stop)
    assert "['click', 'stop', 'unblocked'] {True}" in page.printed(cell)


def test_click_is_handled_within_a_turn_or_two(page: Page) -> None:
    cell = page.blocked()
    for _ in range(40):
        page.until_idle(page.say("click"))
    page.say("stop")
    page.until_idle(cell)
    assert page.value("order") == ["click"] * 40 + ["stop", "unblocked"]
    milliseconds = sorted(round(took * 1e3, 1) for took in page.value("latencies"))
    print(
        f"click: median {milliseconds[20]} ms, most {milliseconds[-1]} ms, ipykernel {page.value('kernel_version()')}"
    )


def test_what_a_callback_sends_is_because_of_the_message_and_what_it_prints_is_the_cells(page: Page) -> None:
    cell = page.blocked()
    asked = page.say("answer")
    page.until_idle(asked)
    page.say("stop")
    page.until_idle(cell)
    assert [m["content"]["data"] for m in page.of(asked) if m["msg_type"] == "comm_msg"] == ["answered"]
    assert "printed by the callback" in page.printed(cell)
    # Afterwards the cell's own words are the cell's again.
    later = page.blocked("block()\nmine.send('later')\nprint('end')")
    page.until_idle(page.say("click"))
    page.say("stop")
    page.until_idle(later)
    assert [m["content"]["data"] for m in page.of(later) if m["msg_type"] == "comm_msg"] == ["later"]
    assert "end" in page.printed(later)


def test_widgets_of_ours_are_clicked_and_echoed_while_the_cell_blocks(page: Page) -> None:
    made = page.cell(
        "import ipywidgets\nbutton, text = ipywidgets.Button(), ipywidgets.Text()\n"
        "for widget in (button, text): ours(widget.comm)\n"
        "text.observe(lambda change: order.append(change.new), 'value')\nbutton.on_click(lambda _: done.set())\n"
        "print(button.comm.comm_id, text.comm.comm_id)"
    )
    button, text = made.split()
    cell = page.blocked()
    typed = page.tell(text, {"method": "update", "state": {"value": "typed"}, "buffer_paths": []})
    page.until_idle(typed)
    # The page knows its own echo by the parent; without it, it takes no later value of ours.
    assert [m["content"]["data"]["method"] for m in page.of(typed) if m["msg_type"] == "comm_msg"] == ["echo_update"]
    page.tell(button, {"method": "custom", "content": {"event": "click"}})
    page.until_idle(cell)
    assert page.value("order") == ["typed", "unblocked"]


def test_reloaded_page_gets_the_widgets_states_while_the_cell_blocks(page: Page) -> None:
    page.cell("import ipywidgets\nbutton = ipywidgets.Button(description='Stop')")
    cell = page.blocked()
    comm, opened = page.open("jupyter.widget.control", version="1.0.0")
    page.until_idle(opened)
    asked = page.tell(comm, {"method": "request_states"})
    page.until_idle(asked)
    (answer,) = [m["content"]["data"] for m in page.of(asked) if m["msg_type"] == "comm_msg"]
    assert answer["method"] == "update_states"
    assert "Stop" in [state["state"].get("description") for state in answer["states"].values()]
    page.say("stop")
    page.until_idle(cell)


@pytest.mark.parametrize("kind", ["kernel_info", "comm_info"])
def test_reloaded_page_learns_what_there_is_while_the_cell_blocks(page: Page, kernel: Kernel, kind: str) -> None:
    """JupyterLab draws no widget before it has had both; each page gets its own reply."""
    has_subshells = page.version() >= (7, 0)
    cell = page.blocked("block()\nmine.send('later')\nprint('end')")
    page.say("theirs", comm="other")
    queued = page.run("order.append('queued')")
    reloaded = FrontEnd(kernel, is_ready=False)
    try:
        asked = [(each, each.send(f"{kind}_request", {"target_name": "ipyelastic.test"})) for each in (reloaded, page)]
        for each, request in asked:
            content = each.reply(request)
            if kind == "kernel_info":
                assert content["implementation"] == "ipython"
                assert ("kernel subshells" in content.get("supported_features", [])) == has_subshells
            else:
                assert content["comms"][f"mine-{page.test}"] == {"target_name": "ipyelastic.test"}
                assert f"other-{page.test}" not in content["comms"]
            page.until_idle(request)
            assert page.states(request) == ["busy", "idle"]
        page.until(lambda: page.states(cell)[-2:] == ["busy", "busy"], what="the cell says again that it is busy")
    finally:
        reloaded.close()
    page.until_idle(page.say("stop"), cell, queued)
    # What the cell says afterwards is its own.
    assert [m["content"]["data"] for m in page.of(cell) if m["msg_type"] == "comm_msg"] == ["later"]
    assert "end" in page.printed(cell)
    assert page.value("order") == ["stop", "unblocked", "theirs", "queued"]


def test_a_kernel_whose_answer_takes_a_wait_gives_it_after_the_cell(page: Page) -> None:
    page.cell(
        "import asyncio\nhandlers = shell.kernel.shell_handlers\nplain = handlers['kernel_info_request']\n"
        "async def slow(*given):\n    await asyncio.sleep(0)\n    order.append('answer')\n    await plain(*given)\n"
        "handlers['kernel_info_request'] = slow"
    )
    cell = page.blocked()
    asked = page.send("kernel_info_request", {})
    page.until_idle(page.say("click"))
    page.say("stop")
    page.until_idle(cell)
    assert page.reply(asked)["status"] == "ok"
    page.cell("handlers['kernel_info_request'] = plain")
    assert page.value("order") == ["click", "stop", "unblocked", "answer"]


def test_no_cell_events_are_raised_in_the_middle_of_a_cell(page: Page) -> None:
    """`post_execute` is where the inline backend shows and closes the cell's figures."""
    cell = page.blocked(
        "seen = []\ndef fired(): seen.append(1)\n"
        "shell.events.register('post_execute', fired)\n"
        "block()\nprint('events', len(seen))\n"
        "shell.events.unregister('post_execute', fired)"
    )
    page.until_idle(page.say("click"))
    page.say("stop")
    page.until_idle(cell)
    assert "events 0" in page.printed(cell)


def test_a_callback_that_raises_harms_nobody(page: Page) -> None:
    cell = page.blocked("block()\nprint(order)")
    bad = page.tell(f"mine-{page.test}", "not what hear() takes")
    page.until_idle(bad)
    page.until_idle(page.say("stop"), cell)
    assert "['stop', 'unblocked']" in page.printed(cell)


def test_an_async_cell_pumps_too(page: Page) -> None:
    cell = page.blocked("import asyncio\nawait asyncio.sleep(0)\nblock()\nprint(order)")
    page.until_idle(page.say("click"))
    page.say("stop")
    page.until_idle(cell)
    assert "['click', 'stop', 'unblocked']" in page.printed(cell)


def test_message_that_came_before_the_cell_is_found(page: Page, tmp_path: Path) -> None:
    if page.version() >= (7, 0):
        pytest.skip("ipykernel 7 has made a task of it by then; there the subshell and the early look help")
    with Gate(tmp_path / "gate") as gate:
        first = page.blocked(f"print('blocked', flush=True)\nopen({gate.path!r}, 'rb').close()")
        second, other, stop = page.run("block()"), page.say("theirs", comm="other"), page.say("stop")
        third = page.run("order.append('third')")
        gate.open()
        page.until_idle(first, second, other, stop, third)
    assert page.value("order") == ["stop", "unblocked", "theirs", "third"]


# ------------------------------------------------------------------ in order


def test_run_all_keeps_its_order_among_two_hundred_messages(page: Page) -> None:
    first = page.blocked("block(); order.append('first')")
    cells = []
    for number in range(200):
        page.say(str(number))
        if number % 40 == 20:
            cells.append(page.run(f"order.append('cell {number}')"))
    page.say("stop")
    last = page.run("print(order)")
    page.until_idle(first, *cells, last)
    words = [*map(str, range(200)), "stop", "unblocked", "first", *[f"cell {n}" for n in (20, 60, 100, 140, 180)]]
    assert ast.literal_eval(page.printed(last)) == words


def test_somebody_elses_comm_waits_until_the_cell_has_ended(page: Page) -> None:
    cell = page.blocked()
    page.say("one", comm="other")
    second = page.run("order.append('cell 2')")
    page.say("two", comm="other")
    page.until_idle(page.say("click"))
    third = page.run("order.append('cell 3')")
    page.say("stop")
    page.until_idle(cell, second, third)
    assert page.value("order") == ["click", "stop", "unblocked", "one", "cell 2", "two", "cell 3"]


def test_two_blocking_cells_in_a_row(page: Page) -> None:
    first = page.blocked()
    second = page.run("block(); order.append('second')")
    page.until_idle(page.say("a"))
    page.say("stop")
    page.until_idle(first)
    page.until(lambda: page.printed(second), what="the second blocks")
    page.until_idle(page.say("b"))
    page.say("stop")
    page.until_idle(second)
    assert page.value("order") == ["a", "stop", "unblocked", "b", "stop", "unblocked", "second"]


@pytest.mark.parametrize("how", ["raises", "is interrupted"])
def test_a_cell_that_fails_aborts_what_was_queued(page: Page, kernel: Kernel, how: str) -> None:
    cell = page.blocked("block()\n1 / 0")
    queued = []
    for number in range(5):
        page.until_idle(page.say(str(number)))
        queued.append(page.run(f"order.append('cell {number}')"))
    page.say("before", comm="other")
    if how == "raises":
        page.say("stop")
    else:
        page.until_idle(page.say("after the cells"))  # so all of them have been read
        kernel.interrupt()
    page.until_idle(cell, *queued)
    assert page.error(cell) == ("ZeroDivisionError" if how == "raises" else "KeyboardInterrupt")
    assert [page.reply(each)["status"] for each in queued] == ["aborted"] * 5
    order = page.value("order")
    assert order[:5] == list(map(str, range(5)))
    assert "before" in order
    assert not [word for word in order if word.startswith("cell")]


def test_messages_sent_with_the_last_breath_are_handled(page: Page) -> None:
    """Ours, cells and theirs, sent without a pause around the cell's end, ten times."""
    if (7, 0) <= page.version() < (7, 4):
        pytest.skip("ipykernel 7.0-7.3 lose requests that come while a reply is sent, without us too")
    for turn in range(10):
        page.cell("order.clear()")
        cell = page.blocked()
        page.say("stop")
        sent = [page.say("ours"), page.run("order.append('cell')"), page.say("theirs", comm="other")]
        page.until_idle(cell, *sent)
        order = page.value("order")
        assert sorted(order) == sorted(["stop", "ours", "unblocked", "cell", "theirs"]), turn
        assert order.index("cell") < order.index("theirs"), turn


def test_unsigned_message_is_not_obeyed(page: Page) -> None:
    cell = page.blocked()
    page.forge(f"mine-{page.test}", {"say": "stop", "sent": time.time()})
    page.until_idle(page.say("click"))
    page.say("stop")
    page.until_idle(cell)
    assert page.value("order") == ["click", "stop", "unblocked"]


# ------------------------------------------------------------------ interrupts

TRACED = """
files = ("notebook/kernel.py", "zmqstream.py", "session.py", "sugar/socket.py", "held_interrupts.py", "ioloop.py")

def interrupted_at(line, function):
    '''Call a function, with a SIGINT at its line'th line in these files; returns whether it had so many.'''
    count = 0
    def trace(frame, event, arg):
        nonlocal count
        if not frame.f_code.co_filename.endswith(files):
            return None
        if event == "line":
            count += 1
            if count == line:
                os.kill(os.getpid(), signal.SIGINT)
        return trace
    former = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        interrupts.append(line)
    finally:
        sys.settrace(former)
    return count >= line

def block_with_interrupts():
    line, goes_on = 0, True
    with Pump(shell) as pump:
        print("blocked", flush=True)
        while goes_on:
            line += 1
            before = len(order)
            print(f"<{line}>", flush=True)
            stream = k._main_stream(shell.kernel)
            while not stream.socket.poll(10):
                pass
            goes_on = interrupted_at(line, pump.turn)
            while len(order) == before:
                pump.turn()
                time.sleep(0.001)

def come_and_go():
    with Pump(shell) as pump:
        pump.turn()

def come_and_go_with_interrupts():
    line = 1
    while interrupted_at(line, come_and_go):
        line += 1

interrupts = []
"""


@pytest.mark.slow
def test_interrupt_at_any_line_of_a_turn_loses_no_message(page: Page) -> None:
    page.cell(TRACED)
    cell = page.run("block_with_interrupts()")
    queued = 0
    for line in range(1, 1000):
        page.until(lambda mark=f"<{line}>": mark in page.printed(cell) or page.states(cell)[-1:] == ["idle"], 60)
        if f"<{line}>" not in page.printed(cell):
            break
        if line % 50 == 0:
            page.run(f"order.append('cell {line}')")
            queued += 1
        page.say(str(line))
    page.until_idle(cell, within_s=60)
    assert page.error(cell) is None, page.of(cell)
    lines = page.value("len([word for word in order if 'cell' not in word])")
    assert lines > 100
    assert queued >= 2
    expected = [*map(str, range(1, lines + 1)), *[f"cell {n}" for n in range(50, lines + 1, 50)]]
    assert page.value("order") == expected
    assert page.value("interrupts") == list(range(1, lines))  # each came through; the last line was not reached


def test_interrupt_at_any_line_of_coming_and_going_leaves_the_kernel_well(page: Page) -> None:
    page.cell(TRACED)
    page.cell("before = k._main_stream(shell.kernel)._recv_callback, signal.getsignal(signal.SIGINT)")
    page.cell("come_and_go_with_interrupts()")
    lines = page.value("interrupts")
    assert lines == list(range(1, len(lines) + 1))
    assert len(lines) > 50
    assert page.value("signal.getsignal(signal.SIGINT) is before[1]") is True
    # What an interrupted exit left there only passes messages on.
    cell = page.blocked()
    page.say("theirs", comm="other")
    page.until_idle(page.say("click"))
    page.say("stop")
    page.until_idle(cell)
    assert page.value("order") == ["click", "stop", "unblocked", "theirs"]


HANGS = """
from ipyelastic.notebook import held_interrupts

def hang(message):
    print("hangs", flush=True)
    with open(GATE, "rb"):
        pass

mine.on_msg(hang)
pump = Pump(shell)

def tell_when_noted():
    while pump._interrupts._noted is None:
        time.sleep(0.005)
    print("noted", flush=True)

context = contextvars.copy_context()
threading.Thread(target=context.run, args=(tell_when_noted,), daemon=True).start()
held_interrupts._LONGEST_S, former = 0.0, held_interrupts._LONGEST_S
try:
    with pump:
        print("blocked", flush=True)
        while True:
            pump.turn()
finally:
    held_interrupts._LONGEST_S = former
"""


def test_a_hanging_callback_can_be_interrupted(page: Page, kernel: Kernel, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        cell = page.blocked(HANGS.replace("GATE", repr(gate.path)))
        page.say("hang")
        page.until_printed("hangs")
        kernel.interrupt()  # kept for the turn's end
        page.until_printed("noted")
        kernel.interrupt()  # one that comes a second later goes through; here, any later one
        page.until_idle(cell)
        assert page.error(cell) == "KeyboardInterrupt"
    assert page.value("1 + 1") == 2


def test_everything_taken_is_given_back(page: Page) -> None:
    page.cell("before = k._main_stream(shell.kernel)._recv_callback, signal.getsignal(signal.SIGINT)")
    cell = page.blocked()
    page.until_idle(page.say("click"))
    page.say("stop")
    page.until_idle(cell)
    now = "(k._main_stream(shell.kernel)._recv_callback, signal.getsignal(signal.SIGINT))"
    assert page.value(f"[a is b for a, b in zip(before, {now})]") == [True, True]


# ------------------------------------------------------------------ without

BROKEN = """
records = []
class Keep(logging.Handler):
    def emit(self, record): records.append(record.getMessage())
logging.getLogger("ipyelastic").addHandler(Keep())
"""


@pytest.mark.parametrize("what", ["reading", "publishing", "parent"])
def test_a_pump_that_fails_says_so_once_and_loses_nothing(
    new_page: Callable[[], tuple[Kernel, Page]], what: str
) -> None:
    _, page = new_page()
    page.cell(BROKEN)
    page.cell(
        {
            "reading": "k._MOST_PER_TURN = 'many'",
            "publishing": (
                "publish = shell.kernel._publish_status\n"
                "def broken(status, channel, parent=None):\n"
                "    if parent and parent['header']['msg_type'] == 'comm_msg': raise OSError('broken')\n"
                "    publish(status, channel, parent)\n"
                "shell.kernel._publish_status = broken"
            ),
            "parent": "def broken(*_): raise OSError('broken')\nk._set_parent = broken",
        }[what]
    )
    cell = page.blocked(BOUNDED)
    page.say("one")
    queued = page.run("order.append('cell')")
    page.say("two")
    page.say("theirs", comm="other")
    page.until_idle(cell, queued)
    assert page.error(cell) is None, page.of(cell)
    if what == "publishing":
        page.cell("shell.kernel._publish_status = publish")
    words = page.value("order")
    assert sorted(words) == sorted(["one", "ended", "cell", "two", "theirs"])
    assert words.index("one") < words.index("two")
    assert page.value("len(records)") == 1
    said = page.value("records[0]")
    assert "buttons wait until the cell ends, interrupt the kernel instead: reading ahead in ipykernel" in said
    # From then on there is no pump, and no second word about it.
    assert page.cell("with Pump(shell) as pump: print(pump.turn(), can_pump(shell))").split() == ["0", "False"]
    assert page.value("len(records)") == 1


# Blocks until the pump has given up, turned for good measure.
BOUNDED = """
with Pump(shell) as pump:
    print("blocked", flush=True)
    while pump.obstacle is None:
        pump.turn()
        time.sleep(0.01)
    for _ in range(10):
        pump.turn()
order.append("ended")
"""


def test_another_ipykernel_is_no_harm(new_page: Callable[[], tuple[Kernel, Page]]) -> None:
    _, page = new_page()
    page.cell(BROKEN)
    page.cell("def elsewhere(kernel): raise AttributeError('no stream here')\nk._main_stream = elsewhere")
    page.cell("with Pump(shell) as pump: assert pump.turn() == 0\nwith Pump(shell) as pump: assert pump.turn() == 0")
    version = page.value("kernel_version()")
    why = f"ipykernel {version} is made differently: no stream here"
    assert page.value("obstacle(shell)") == why
    assert page.value("records") == [f"buttons wait until the cell ends, interrupt the kernel instead: {why}"]


def test_a_thread_does_not_pump(page: Page) -> None:
    page.cell(
        "def look():\n    global seen\n"
        "    with Pump(shell) as pump: seen = pump.turn(), pump.obstacle, is_kernel(shell)\n"
        "thread = threading.Thread(target=look); thread.start(); thread.join()"
    )
    assert page.value("seen") == (0, "this is not the kernel's main thread and event loop", True)


def test_a_terminal_has_no_kernel_to_pump(tmp_path: Path) -> None:
    code = (
        "from ipyelastic.notebook.kernel import *\n"
        "with Pump(get_ipython()) as pump: print([pump.turn(), pump.obstacle, is_kernel(get_ipython()),"
        " can_pump(get_ipython()), kernel_version()])"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", f"--ipython-dir={tmp_path}", "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "[0, 'there is no kernel', False, False, None]"), (
        ended.stderr
    )


@pytest.mark.slow
def test_nbclient_runs_cells_that_pump(tmp_path: Path) -> None:
    pump = "with Pump(get_ipython()) as pump:\n    for _ in range(3): print(pump.turn(), pump.obstacle)"
    cells = ["from ipyelastic.notebook.kernel import Pump", pump, "print('after')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [cell.outputs[0].text for cell in notebook.cells[1:]] == ["0 None\n" * 3, "after\n"]


# ------------------------------------------------------------------ subshells


def test_subshell_the_page_asks_for_is_kept(page: Page) -> None:
    subshell = subshell_of(page)
    page.cell("keep_on_subshell(mine)")
    # The cell sends on the comm: 7.4 would now answer it in the shell that this cell blocks. No pump here.
    cell = page.blocked("mine.send('shown')\nprint('blocked', flush=True)\ndone.clear()\nprint(done.wait(60))")
    page.say("stop", subshell=subshell)
    page.until_idle(cell)
    assert "True" in page.printed(cell)
    assert page.value("handled_by") == {False}


def test_subshell_and_pump_both_answer(page: Page) -> None:
    subshell = subshell_of(page)
    page.cell("keep_on_subshell(mine)")
    cell = page.blocked()
    page.until_idle(page.say("there", subshell=subshell))
    page.until_idle(page.say("here"))
    page.say("stop", subshell=subshell)
    page.until_idle(cell)
    assert page.value("order") == ["there", "here", "stop", "unblocked"]
    assert page.value("handled_by") == {False, True}


def test_early_look_does_not_wait_for_another_cell(page: Page) -> None:
    early = "def early(data):\n    seen.append(data['say'])\n    if data['say'] == 'now': done.set()\n    else: 1 / 0\n"
    has_it = page.cell(f"seen = []\n{early}print(keep_on_subshell(mine, early), end='')")
    assert has_it == str(page.version() >= (7, 4))
    if page.version() < (7, 4):
        return
    cell = page.blocked("print('blocked', flush=True)\ndone.clear()\nprint(done.wait(60))")
    page.say("raises")
    page.say("now")
    page.until_idle(cell)
    assert "True" in page.printed(cell)
    assert page.value("(seen, order)") == (["raises", "now"], ["raises", "now"])


# ------------------------------------------------------------------ endings


@pytest.mark.slow
@pytest.mark.parametrize("now", [False, True], ids=["asked", "killed"])
def test_kernel_restarts_in_the_middle_of_a_block(new_page: Callable[[], tuple[Kernel, Page]], now: bool) -> None:
    kernel, page = new_page()
    page.blocked()
    page.say("click")
    pid = kernel.pid
    kernel.manager.restart_kernel(now=now, stderr=subprocess.DEVNULL)
    assert kernel.pid != pid
    again = Page(kernel)
    try:
        cell = again.blocked()
        again.until_idle(again.say("click"))
        again.say("stop")
        again.until_idle(cell)
        assert again.value("order") == ["click", "stop", "unblocked"]
    finally:
        again.close()
