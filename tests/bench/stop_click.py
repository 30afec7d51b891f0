"""Measure a Stop: from the click, as the page has it, to the end of the last rank, as waitpid has it.

    python tests/bench/stop_click.py [--app lab|notebook] [--ranks 4] [--rounds 10] [--bg]

The cell blocks while the button is clicked (with `--bg` no cell runs). Both ends are on this machine's wall clock:
`performance.timeOrigin + event.timeStamp` in the page, `ended` of each rank in run.json, in whole milliseconds.
Printed as one JSON object. Needs what the browser tests need.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from playwright.sync_api import sync_playwright  # noqa: E402

from support.jupyter import NotebookPage, launch_browser, started_jupyter  # noqa: E402
from support.waiting import wait_until  # noqa: E402

WATCH = """() => {
  window.clicked = [];
  document.addEventListener('click', (event) => {
    if (event.target.closest('.ipyelastic-bar')) clicked.push(performance.timeOrigin + event.timeStamp);
  }, true);
}"""


def ended_ms(folder: Path) -> list[float]:
    """When each rank of the run in this folder ended, in milliseconds since 1970; empty before the end."""
    for path in folder.glob("**/run.json"):
        run: dict[str, Any] = json.loads(path.read_text())
        if run["ended"]:
            return [datetime.fromisoformat(rank["ended"]).timestamp() * 1000 for rank in run["ranks"]]
    return []


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--app", default="lab", choices=["lab", "notebook"])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--bg", action="store_true")
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    took: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        started_jupyter(given.app, Path(folder)) as jupyter,
        sync_playwright() as playwright,
    ):
        browser = launch_browser(playwright)
        logs = [Path(folder) / "logs" / str(number) for number in range(given.rounds)]
        options = f"-n {given.ranks}" + (" --bg" if given.bg else "")
        cells = [
            f"%%elastic_run {options} --log-dir {log}\nimport time\nprint('ready', flush=True)\ntime.sleep(600)"
            for log in logs
        ]
        name = jupyter.write("stop.ipynb", ["%load_ext ipyelastic", *cells])
        page = NotebookPage.open(browser.new_context(viewport={"width": 1200, "height": 900}), jupyter, name)
        page.page.evaluate(WATCH)
        page.run_cell(0)
        for number, log in enumerate(logs, 1):
            page.run_cell(number)
            page.wait_for_line(0, "ready")
            page.button("Stop").click()
            ends: list[float] = []
            wait_until(lambda log=log, ends=ends: ends.extend(ended_ms(log)) or ends, 60)  # type: ignore[misc]
            took.append(max(ends) - page.page.evaluate("() => clicked.at(-1)"))
            wait_until(lambda: page.page.wait_for_timeout(20) or not page.panel().count(), 60)
        browser.close()
    print(
        json.dumps(
            {
                **vars(given),
                "click_to_ranks_gone_ms": [round(one) for one in took],
                "median_ms": round(statistics.median(took)),
                "most_ms": round(max(took)),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
