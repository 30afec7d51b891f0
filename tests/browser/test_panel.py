"""The panel in a real browser, in JupyterLab and in Notebook 7."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from support.gates import Gate
from support.waiting import wait_until

WORK = """
import os, sys
from support.panel_cells import shown_run
rank = lambda: int(os.environ["RANK"])
def meet(path):
    with open(path, "rb"):
        pass
"""


@pytest.fixture
def gate(tmp_path):
    """Holds ranks that call `meet(GATE)`; opened at the end at the latest."""
    with Gate(tmp_path / "gate") as made:
        yield made


def opened(open_notebook, body, shown, gate=None, **options):
    """A notebook with what ranks do in its first cell and what is shown in its second, both run."""
    head = WORK + (f"GATE = {gate.path!r}\n" if gate else "")
    page = open_notebook([head + body, shown], **options)
    page.run_all()
    expect(page.panel()).to_be_visible(timeout=60_000)
    page.wait_for_kernel()  # until then the page moves the focus by itself
    return page


def status(page, word, index=0):
    expect(page.panel(index).locator(".ie-status")).to_contain_text(word, timeout=60_000)


def colour_at(page, rank, text):
    """Foreground of the first character of a text in a terminal: `[is from the palette, number]`."""
    return page.page.evaluate(
        """([rank, text]) => {
            const view = document.querySelector('.ie-panel').parentElement.ipyelastic;
            const buffer = view.terminals.get(rank).xterm.buffer.active;
            for (let y = 0; y < buffer.length; y++) {
                const line = buffer.getLine(y), x = line.translateToString(true).indexOf(text);
                if (x >= 0) return [line.getCell(x).isFgPalette(), line.getCell(x).getFgColor()];
            }
        }""",
        [rank, text],
    )


def test_a_terminal_shows_colours_progress_bars_and_which_stream_it_was(open_notebook):
    page = opened(
        open_notebook,
        """
def work():
    print("\\x1b[32mgreen\\x1b[0m and plain")
    for step in range(1, 11):
        print(f"\\r{step * 10:3}%|" + "#" * step, end="", flush=True)
    print()
    print("up\\nhere\\x1b[1A\\rover\\n")
    sys.stdout.flush()
    print("warned \\x1b[35mmagenta\\x1b[0m again", file=sys.stderr)
""",
        "panel, run = shown_run(work); panel",
    )
    status(page, "succeeded")
    page.wait_for_line(0, "warned magenta again")
    assert page.screen(0) == ["green and plain", "100%|##########", "over", "here", "warned magenta again"]
    assert colour_at(page, 0, "green") == [True, 2]
    assert colour_at(page, 0, "and plain")[0] is False
    assert colour_at(page, 0, "warned") == [True, 52]
    assert colour_at(page, 0, "magenta") == [True, 5]
    assert colour_at(page, 0, "again") == [True, 52]


HOSTILE = r"""
def work():
    if rank() == 1:
        print("well", flush=True)
        return
    out = sys.stdout.buffer
    out.write(b"y" * (1 << 20) + b"\n")
    out.write(b"<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><b>bold</b>\n")
    out.write(b"\x1b]0;hacked title\x07\x1b]2;hacked title\x1b\\\x1b]52;c;aGFja2Vk\x07after osc\n")
    out.write(b"\x1b]8;;https://example.invalid/hacked\x07a link\x1b]8;;\x07\n")
    out.write(b"\x1b]4;1;#00ff00\x07\x1b]10;#123456\x07\x1b[3;0t\x1b[8;5;5t\x1b[?1000h\x1b[?1003h\x1b[6n\x1b[c")
    out.write(b"\x00\x00nul\x00 \xff\xfe\xc3( invalid\n")
    out.write(b"\x1b]0;never ended")
    out.flush()
    meet(GATE)
    print("a warning after it", file=sys.stderr)
"""


def test_hostile_output_changes_nothing_but_its_own_terminal(open_notebook, gate):
    page = opened(open_notebook, HOSTILE, "panel, run = shown_run(work); panel", gate, permissions=["clipboard-read"])
    title = page.page.title()
    page.wait_for_line(0, "a link")
    gate.open()
    status(page, "succeeded")
    page.wait_for_line(0, "a warning after it")
    page.panel().get_by_role("tab", name="All ranks").click()
    page.wait_for_line("all", "1 │ well")
    page.panel().get_by_role("tab", name="Rank 1").click()
    page.wait_for_line(1, "well")
    assert page.screen(1) == ["well"]
    found = page.page.evaluate(
        """async () => {
            const panel = document.querySelector('.ie-panel');
            const view = panel.parentElement.ipyelastic;
            const xterm = view.terminals.get(0).xterm;
            return {
                hacked: window.hacked ?? null,
                elements: panel.querySelectorAll('script, img, b, a, iframe').length,
                size: xterm.cols >= 101,
                mouse: xterm.modes.mouseTrackingMode,
                clipboard: (await navigator.clipboard.readText().catch(() => '')).includes('hacked'),
            };
        }"""
    )
    assert found == {"hacked": None, "elements": 0, "size": True, "mouse": "none", "clipboard": False}
    assert page.page.title() == title
    notebooks_own = "pageerror: Cannot read properties of undefined (reading 'schema')"  # Notebook 7.6, at its start
    assert [line for line in page.console if line.startswith("pageerror") and line != notebooks_own] == []
    text = "\n".join(line.rstrip() for line in page.screen(0))
    assert "hacked title" not in text
    assert "never ended" not in text
    for words in (
        "<script>window.hacked = 1</script>",
        "\nafter osc\n",
        "\na link\n",
        "nul \ufffd\ufffd\ufffd( invalid",
    ):
        assert words in text


def test_two_views_show_the_same_and_one_may_be_closed(open_notebook, gate):
    body = """
def work():
    print("one", flush=True)
    meet(GATE)
    print("two", flush=True)
"""
    page = opened(
        open_notebook,
        body,
        "from IPython.display import display\npanel, run = shown_run(work); display(panel, panel)",
        gate,
    )
    for index in (0, 1):
        page.wait_for_line(0, "one", index)
    # The reader closes the first view.
    page.page.evaluate("() => document.querySelectorAll('.ie-panel')[0].parentElement.ipyelastic.close()")
    gate.open()
    status(page, "succeeded", 1)
    page.wait_for_line(0, "two", 1)
    assert page.screen(0, 1) == ["one", "two"]


def test_a_page_loaded_again_in_mid_run_has_its_scrollback_live_buttons_and_the_right_saved_form(open_notebook, gate):
    body = """
def work():
    for n in range(300):
        print("line", n)
    sys.stdout.flush()
    meet(GATE)
    print("after the reload", flush=True)
"""
    page = opened(open_notebook, body, "panel, run = shown_run(work); panel", gate)
    page.wait_for_line(0, "line 299")
    page.save()
    page.reload()
    page.wait_for_line(0, "line 299")
    assert page.screen(0) == [f"line {n}" for n in range(300)]
    expect(page.button("Stop")).to_be_enabled(timeout=60_000)
    gate.open()
    status(page, "succeeded")
    page.wait_for_line(0, "after the reload")
    # As notebook/session.py does at a cell's end; the display id is unknown to this page.
    page.page.evaluate(
        """() => { const panel = [...window.jupyterapp.shell.widgets('main')].find(w => w.sessionContext);
        const code = "panel.finish('<p>the static page</p>', 'plain')";
        panel.sessionContext.session.kernel.requestExecute({code}) }"""
    )
    cell = page.page.locator(".jp-Notebook .jp-Cell").nth(1)
    expect(cell.locator(".jp-OutputArea")).to_contain_text("the static page", timeout=60_000)
    page.save()
    (output,) = page.jupyter.saved(page.name).cells[1].outputs
    assert output.data == {"text/html": "<p>the static page</p>", "text/plain": "plain"}


def test_stop_asks_and_shows_the_grace_and_kill_ends_it(open_notebook, gate):
    body = """
def work():
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    meet(GATE)
"""
    page = opened(open_notebook, body, "panel, run = shown_run(work, grace=600); panel", gate)
    page.wait_for_line(0, "deaf")
    expect(page.button("Start")).to_be_disabled()
    page.button("Stop").click()
    status(page, "stopping")
    expect(page.panel().locator(".ie-grace")).to_have_text(re.compile(r"asked to end, killed in 59\d\.\d s"))
    expect(page.button("Stop")).to_be_disabled()
    page.button("Kill").click()
    status(page, "stopped")
    expect(page.panel().get_by_role("tab", name="Rank 1: stopped by us")).to_be_visible()
    expect(page.button("Kill")).to_be_disabled()
    expect(page.button("Start")).to_be_enabled()


def test_restart_runs_it_again_in_the_same_panel(open_notebook, gate):
    body = """
def work():
    print("pid", os.getpid(), flush=True)
    meet(GATE)
"""
    page = opened(open_notebook, body, "panel, run = shown_run(work); panel", gate)
    first = []
    wait_until(lambda: page.page.wait_for_timeout(50) or first.extend(page.screen(0)) or first, within_s=60)
    page.button("Restart").click()

    def second():
        page.page.wait_for_timeout(50)
        return page.screen(0) and page.screen(0) != first[:1] and page.screen(0)

    wait_until(second, within_s=60)
    (line,) = page.screen(0)
    assert line.startswith("pid ")
    gate.open()
    status(page, "succeeded")


def test_the_first_failing_ranks_tab_opens_with_its_traceback(open_notebook, gate):
    body = """
def work():
    print("rank", rank(), "was here", flush=True)
    if rank() == 2:
        raise ValueError("loss is <b>nan</b>")
    meet(GATE)
"""
    page = opened(open_notebook, body, "panel, run = shown_run(work, nproc=4); panel", gate)
    status(page, "failed")
    failure = page.panel().locator(".ie-failure")
    expect(failure).to_contain_text("rank 2 of 4 failed (local_rank 2)")
    expect(failure).to_contain_text("ValueError: loss is <b>nan</b>")
    expect(failure).to_contain_text('raise ValueError("loss is <b>nan</b>")')
    assert failure.locator("b").count() == 0
    expect(page.panel().get_by_role("tab", selected=True)).to_have_attribute(
        "aria-label", "Rank 2: failed, exit code 1"
    )
    page.wait_for_line(2, "rank 2 was here")


def test_tabs_are_reached_by_keyboard_and_tell_of_new_output(open_notebook, gate):
    body = """
def work():
    if rank() == 1:
        meet(GATE)
    for n in range(100):
        print("rank", rank(), "line", n)
"""
    page = opened(open_notebook, body, "panel, run = shown_run(work); panel", gate)
    page.wait_for_line(0, "rank 0 line 99")
    tabs = page.panel().get_by_role("tab")
    expect(tabs).to_have_count(3)
    gate.open()
    expect(page.panel().get_by_role("tab", name="Rank 1: done, new output")).to_be_visible(timeout=60_000)
    page.panel().get_by_role("tab", selected=True).focus()
    page.page.keyboard.press("ArrowRight")
    expect(page.panel().get_by_role("tab", selected=True)).to_have_attribute("aria-label", "Rank 1: done")
    page.wait_for_line(1, "rank 1 line 99")
    page.page.keyboard.press("Home")
    expect(page.panel().get_by_role("tab", selected=True)).to_have_attribute("aria-label", re.compile("^All ranks"))
    page.panel().get_by_label("Show only lines that contain this text").fill("line 99")
    page.wait_for_line("all", "1 │ rank 1 line 99")
    assert sorted(page.screen("all")) == ["0 │ rank 0 line 99", "1 │ rank 1 line 99"]
    # Nor does the notebook take Enter, which is its own shortcut, from a button.
    page.button("Start").focus()
    page.page.keyboard.press("Enter")
    expect(page.panel().get_by_role("tab", name="Rank 0: done, new output")).to_be_visible(timeout=60_000)


def test_following_stops_when_the_reader_scrolls_up_and_comes_back(open_notebook, gate):
    body = """
def work():
    for n in range(200):
        print("line", n)
    sys.stdout.flush()
    meet(GATE)
    print("last", flush=True)
"""
    page = opened(open_notebook, body, "panel, run = shown_run(work, nproc=1); panel", gate)
    page.wait_for_line(0, "line 199")
    follow = page.panel().get_by_role("button", name="Follow")
    expect(follow).to_be_hidden()
    page.panel().locator(".ie-terminal:visible .xterm-helper-textarea").focus()
    page.page.keyboard.press("PageUp")
    expect(follow).to_be_visible()
    view = "document.querySelector('.ie-panel').parentElement.ipyelastic"
    where = f"() => {view}.terminals.get(0).xterm.buffer.active.viewportY"
    before = page.page.evaluate(where)
    gate.open()
    page.wait_for_line(0, "last")
    assert page.page.evaluate(where) == before
    follow.click()
    expect(follow).to_be_hidden()
    assert page.page.evaluate(where) > before


def test_64_ranks_stand_in_groups_and_have_terminals_only_when_shown(open_notebook):
    body = """
def work():
    print("rank", rank(), flush=True)
    if rank() == 40:
        sys.exit(3)
"""
    page = opened(open_notebook, body, "panel, run = shown_run(work, nproc=64, grace=600); panel")
    status(page, "failed")
    expect(page.panel().get_by_role("tab")).to_have_count(65)
    expect(page.panel().get_by_role("tab", selected=True)).to_have_attribute(
        "aria-label", re.compile("^Rank 40: failed")
    )
    assert page.page.locator(".ie-panel .xterm").count() <= 2  # the first one's, then the failed one's
    page.panel().get_by_role("tab", name="Rank 17:").click()
    expect(page.panel().get_by_role("tab", selected=True)).to_have_attribute("aria-label", re.compile("^Rank 17:"))
    assert page.page.locator(".ie-panel .xterm").count() <= 3
    # Rows of sixteen, in two groups of eight: a rank is found by where it stands.
    rows = page.page.evaluate(
        """() => {
            const rows = new Map();
            for (const tab of document.querySelectorAll('.ie-tab')) {
                const { top } = tab.getBoundingClientRect();
                rows.set(top, [...(rows.get(top) ?? []), tab.querySelector('.ie-label').textContent]);
            }
            return [...rows.values()];
        }"""
    )
    assert rows == [["All"], *([str(rank) for rank in range(first, first + 16)] for first in range(0, 64, 16))]
    assert page.page.locator(".ie-tabs").evaluate("el => el.clientHeight") < 160
    page.panel().get_by_role("tab", selected=True).press("End")
    expect(page.panel().get_by_role("tab", selected=True)).to_have_attribute("aria-label", re.compile("^Rank 63:"))


def test_two_panels_load_the_front_end_once(open_notebook):
    body = """
def work():
    print("ready", flush=True)
"""
    page = opened(
        open_notebook,
        body,
        "from IPython.display import display\nfor _ in range(2):\n    panel, run = shown_run(work)\n    display(panel)",
    )
    for index in (0, 1):
        page.wait_for_line(0, "ready", index)
    views = "[...document.querySelectorAll('.ie-panel')].map(el => el.parentElement.ipyelastic)"
    assert page.page.evaluate(f"() => new Set({views}.map(view => view.constructor)).size") == 1
    assert page.page.locator("#ipyelastic-style").count() == 1


def test_the_form_checks_what_is_typed_and_runs_the_function(open_notebook):
    page = opened(
        open_notebook,
        """
from ipyelastic.notebook.panel_form import Form
rate = 0.5
def other(): pass
def train(name, *, lr=1.0):
    print(name, lr, os.environ["WORLD_SIZE"], flush=True)
""",
        "form = Form(get_ipython().user_ns); form",
    )
    status(page, "idle")
    assert page.page.get_by_label("Function", exact=True).evaluate("el => [...el.options].map(o => o.textContent)") == [
        "rank",
        "meet",
        "other",
        "train",
    ]
    arguments, options = page.page.get_by_label("Arguments", exact=True), page.page.get_by_label("Options", exact=True)
    failure = page.panel().locator(".ie-failure")
    arguments.fill("'name', lr=rte")
    page.button("Start").click()
    expect(failure).to_have_text(
        "not started: arguments: rte: no such name in the notebook, did you mean rate?", use_inner_text=True
    )
    arguments.fill("'digits', lr=rate")
    options.fill("--seeed 1")
    page.button("Start").click()
    expect(failure).to_contain_text("--seeed: no such option")
    options.fill("--seed 1")
    page.page.get_by_label("Ranks", exact=True).fill("3")
    page.button("Start").click()
    status(page, "succeeded")
    page.wait_for_line(0, "digits 0.5 3")
    expect(page.panel().get_by_role("tab")).to_have_count(4)
    expect(failure).to_be_hidden()
