"""Measure the panel under a flood: ranks that write thousands of lines a second, in a real browser.

    python tests/bench/flood.py [--app lab|notebook] [--ranks 4] [--rate 10000] [--seconds 10]
                                [--mode plain|ansi|bars] [--throttle 8]

Printed as one JSON object: how long it took, what travelled, how the page's frames and clicks fared, what the kernel's
process used, how long after the ranks' end each rank's last line stood on the screen, and whether every byte is in the
log files. Needs what the browser tests need.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from playwright.sync_api import sync_playwright  # noqa: E402

from support.floods import flood_bytes  # noqa: E402
from support.jupyter import NotebookPage, launch_browser, started_jupyter  # noqa: E402

START = """
import json, os, threading, time
from support.floods import flood
from support.panel_cells import shown_run

began_cpu, began = time.process_time(), time.time()
panel, run = shown_run(flood, {rate}, {seconds}, {mode!r}, nproc={ranks})
def say_end():
    run.wait()
    ended = time.time()
    cpu = time.process_time() - began_cpu
    paths = [view.stdout_path for view in run.ranks]
    with open("ended.part", "w") as file:
        json.dump([ended, ended - began, cpu, run.status, paths], file)
    os.rename("ended.part", "ended.json")
threading.Thread(target=say_end, daemon=True).start()
panel
"""

WATCH = """(() => {
  const Socket = window.WebSocket;
  window.bench = {received: 0, messages: 0, frames: [], clicks: []};
  window.WebSocket = class extends Socket {
    constructor(...given) {
      super(...given);
      this.addEventListener('message', ({ data }) => {
        bench.messages++;
        bench.received += data.byteLength ?? data.size ?? data.length;
      });
    }
  };
  let last = performance.now();
  const frame = () => {
    const now = performance.now();
    bench.frames.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  document.addEventListener('pointerdown', (e) => bench.clicks.push(performance.now() - e.timeStamp), true);
})()"""

HAS_ENDS = """(ranks) => {
  const view = document.querySelector('.ie-panel')?.parentElement.ipyelastic;
  if (!view) return [];
  const has = (terminal, rank) => {
    const words = `DONE rank ${rank}`;
    const read = (data) => new TextDecoder().decode(data);
    if (!terminal?.isShown) return (terminal?.waiting ?? []).some((data) => read(data).includes(words));
    const { active } = terminal.xterm.buffer;
    for (let y = Math.max(0, active.length - 50); y < active.length; y++) {
      if (active.getLine(y).translateToString(true).includes(words)) return true;
    }
    return false;
  };
  return [...Array(ranks).keys()].filter((rank) => has(view.terminals.get(rank), rank));
}"""


def quantile(values: list[float], share: float) -> float | None:
    """The value below which this share of all lies, in whole milliseconds."""
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 1) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--app", default="lab", choices=["lab", "notebook"])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--mode", default="plain", choices=["plain", "ansi", "bars"])
    parser.add_argument("--throttle", type=float, default=1)
    parser.add_argument("--all", action="store_true", help="look at the All tab")
    parser.add_argument("--picture", default="")
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    start = START.format(rate=given.rate, seconds=given.seconds, mode=given.mode, ranks=given.ranks)
    with (
        tempfile.TemporaryDirectory() as folder,
        started_jupyter(given.app, Path(folder)) as jupyter,
        sync_playwright() as playwright,
    ):
        browser = launch_browser(playwright)
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        context.add_init_script(WATCH)
        page = NotebookPage.open(context, jupyter, jupyter.write("flood.ipynb", ["import support.panel_cells", start]))
        page.run_cell(0)
        page.page.wait_for_timeout(1500)
        if given.throttle > 1:
            context.new_cdp_session(page.page).send("Emulation.setCPUThrottlingRate", {"rate": given.throttle})
        page.page.evaluate("() => Object.assign(bench, {received: 0, messages: 0, frames: [], clicks: []})")
        page.run_cell(1)
        page.page.wait_for_selector(".ie-panel .ie-tab", timeout=60_000)
        page.page.evaluate("() => document.querySelector('.ie-body').scrollIntoView({block: 'end'})")
        if given.all:
            page.panel().get_by_role("tab", name="All ranks").click()
        said = jupyter.root / "ended.json"
        round_trips = []
        seen_at = None
        deadline = time.monotonic() + given.seconds * 4 + 60
        while time.monotonic() < deadline:
            before = time.monotonic()
            page.panel().locator(".ie-name").click(timeout=30_000)
            round_trips.append((time.monotonic() - before) * 1000)
            if len(page.page.evaluate(HAS_ENDS, given.ranks)) == given.ranks:
                seen_at = time.time()
                break
            page.page.wait_for_timeout(400 if not said.exists() else 20)
        ended, wall_s, cpu_s, status, paths = json.loads(said.read_text())
        if given.picture:
            page.page.screenshot(path=given.picture)
        found = page.page.evaluate("() => bench")
        logs = [Path(path).read_bytes() for path in paths]
        written = [flood_bytes(rank, int(given.rate * given.seconds), given.mode) for rank in range(given.ranks)]
        browser.close()
    print(
        json.dumps(
            {
                **vars(given),
                "status": status,
                "wall_s": round(wall_s, 2),
                "kernel_cpu_s": round(cpu_s, 2),
                "log_MB": round(sum(map(len, logs)) / 1e6, 2),
                "log_is_byte_exact": logs == written,
                "websocket_MB": round(found["received"] / 1e6, 2),
                "messages": found["messages"],
                "frame_p50_ms": quantile(found["frames"], 0.5),
                "frame_p95_ms": quantile(found["frames"], 0.95),
                "frame_max_ms": quantile(found["frames"], 1),
                "click_delay_p50_ms": quantile(found["clicks"], 0.5),
                "click_delay_max_ms": quantile(found["clicks"], 1),
                "last_line_after_end_s": None if seen_at is None else round(seen_at - ended, 2),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
