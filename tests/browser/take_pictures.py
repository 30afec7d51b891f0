"""Take the pictures in notebooks/pictures/ anew, in JupyterLab; whoever does so looks at each.

    python tests/browser/take_pictures.py [FOLDER]

Runs in: a shell, by hand. Needs what the browser tests need, tqdm, numpy and matplotlib.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from playwright.sync_api import expect, sync_playwright  # noqa: E402

from support.jupyter import Jupyter, NotebookPage, launch_browser, started_jupyter  # noqa: E402

LOAD = "%load_ext ipyelastic"
RUN = """%%elastic_run --nproc 2
import time, math
from tqdm import tqdm
print(f"\\x1b[1mrank {rank} of {world_size}\\x1b[0m: 1347 images")
for step in tqdm(range(400), desc="epoch 1", ncols=70):
    time.sleep(0.02)
    sum(math.sqrt(n) for n in range(20000))
print("\\x1b[32mloss 0.131\\x1b[0m")
0.13 + rank / 100"""
FAIL = """%%elastic_run --nproc 2
import numpy as np
images = np.zeros((673, 64 - rank))
print("images of shape", images.shape)
hidden = images @ np.zeros((64, 48))
hidden.shape"""
TRAIN = "def train(epochs, lr=0.1):\n    print('training', epochs, lr)\n    return lr"
PLOT = """%%elastic_run --nproc 2 --bg
import matplotlib.pyplot as plt, numpy as np, time, sys
print(f"\\x1b[36mrank {rank}\\x1b[0m draws its loss")
print("learning rate is high", file=sys.stderr)
plt.figure(figsize=(5, 2.2))
plt.plot(np.exp(-np.arange(60) / (12 + 6 * rank)))
plt.show()
time.sleep(600)"""
SAVED = """%%elastic_run --nproc 2
print(f"hello from rank {rank} of {world_size}")
(rank + 1) * 100"""
MANY = """%%elastic_run --nproc 64
import time
print("rank", rank, "is ready")
if rank % 9: time.sleep(600)"""


def opened(context: Any, jupyter: Jupyter, name: str, *cells: str) -> NotebookPage:
    page = NotebookPage.open(context, jupyter, jupyter.write(f"{name}.ipynb", [LOAD, *cells]))
    page.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    page.run_all()
    return page


def shown(page: NotebookPage, words: str) -> None:
    expect(page.page.locator(".jp-Notebook")).to_contain_text(words, timeout=60_000)


def take(page: NotebookPage, folder: Path, name: str, clip: Any = None) -> None:
    page.page.wait_for_timeout(1500)  # the page settles: fonts, sizes, a first sample of usage
    page.page.screenshot(path=folder / f"{name}.png", clip=clip)
    print(folder / f"{name}.png", flush=True)


def main() -> None:
    """Take all."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else TESTS.parent / "notebooks" / "pictures")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    with (
        tempfile.TemporaryDirectory() as work,
        started_jupyter("lab", Path(work)) as jupyter,
        sync_playwright() as playwright,
    ):
        browser = launch_browser(playwright)

        def context() -> Any:
            return browser.new_context(viewport={"width": 1000, "height": 760})

        # The two on README's first screen are without menus: it has to hold more than pictures.
        page = opened(context(), jupyter, "run", RUN)
        page.page.wait_for_function(
            """() => {
                const view = document.querySelector('.ie-panel')?.parentElement.ipyelastic;
                const line = view?.terminals?.get(0)?.xterm?.buffer.active.getLine(1);
                return /[3-9]\\d%/.test(line?.translateToString() ?? '');
            }""",
            timeout=60_000,
        )
        take(page, folder, "run", {"x": 40, "y": 95, "width": 920, "height": 465})
        page.shut_down()

        page = opened(context(), jupyter, "failure", FAIL)
        shown(page, "the run above says more")
        take(page, folder, "failure", {"x": 40, "y": 95, "width": 920, "height": 598})
        page.shut_down()

        page = opened(context(), jupyter, "form", TRAIN, "%elastic_panel train")
        shown(page, "not started")
        take(page, folder, "form")
        page.shut_down()

        page = opened(context(), jupyter, "saved", SAVED)
        shown(page, "[0: 100, 1: 200]")
        page.save()
        page.shut_down()
        page.page.reload()  # no kernel any more: what is seen is what the file holds
        shown(page, "hello from rank 1 of 2")
        take(page, folder, "saved")

        page = opened(context(), jupyter, "dark", PLOT)
        page.page.evaluate(
            "() => { window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}) }"
        )
        expect(page.page.locator(".ie-pictures img")).to_have_count(1, timeout=60_000)
        page.page.evaluate("() => document.querySelector('.ie-pictures').scrollIntoView({block: 'end'})")
        take(page, folder, "dark")
        page.shut_down()

        page = opened(context(), jupyter, "many", MANY)
        page.page.evaluate(
            "() => { window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'}) }"
        )
        page.page.wait_for_selector(".ie-panel[data-status=running], .jp-OutputArea h5", timeout=60_000)
        take(page, folder, "many")
        page.shut_down()
        browser.close()


if __name__ == "__main__":
    main()
