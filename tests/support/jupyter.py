"""A real Jupyter server and a real browser: notebooks opened, run and looked at as a person does.

Only 127.0.0.1 is used, with a free port, an empty token and folders of the test's own; a browser of the machine, else
the one that Playwright installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from .waiting import wait_until

__all__ = ["Jupyter", "NotebookPage", "find_browser", "launch_browser", "started_jupyter"]

APPS = {"lab": "jupyterlab", "notebook": "notebook"}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = (
    "no browser for tests/browser: install chromium or google-chrome (Debian: apt-get install chromium), "
    "or run `python -m playwright install chromium`"
)
_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_PANEL = "[...window.jupyterapp.shell.widgets('main')].find(w => w.sessionContext && w.content?.widgets)"


def find_browser(playwright: Any) -> str | None:
    """Where a browser of the machine is, else Playwright's own; None without any."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None and Path(playwright.chromium.executable_path).is_file():
        return str(playwright.chromium.executable_path)
    return found


def launch_browser(playwright: Any) -> Any:
    """A browser of the machine, else Playwright's own. Raises RuntimeError, with what to install, without any."""
    found = find_browser(playwright)
    if found is None:
        raise RuntimeError(NO_BROWSER)
    return playwright.chromium.launch(executable_path=found, args=_FLAGS)


@dataclass
class Jupyter:
    """One server."""

    app: str
    url: str
    root: Path

    def write(self, name: str, cells: Sequence[str], kernel: str = "python3") -> str:
        """Put a notebook into the server's folder; its name."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
        nbformat.write(notebook, self.root / name)
        return name

    def saved(self, name: str) -> Any:
        """The notebook as it is on disk."""
        return nbformat.read(self.root / name, as_version=4)

    def address(self, name: str) -> str:
        """Where a person opens the notebook."""
        return f"{self.url}/lab/tree/{name}?reset" if self.app == "lab" else f"{self.url}/notebooks/{name}"


@contextlib.contextmanager
def started_jupyter(app: str, folder: Path, python: str = sys.executable) -> Iterator[Jupyter]:
    """A server of JupyterLab (`lab`) or Notebook 7 (`notebook`), ended with all its kernels."""
    root = folder / "notebooks"
    root.mkdir(parents=True, exist_ok=True)
    _write_settings(folder / "settings")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = dict(
        os.environ,
        JUPYTER_PREFER_ENV_PATH="1",
        JUPYTER_CONFIG_DIR=str(folder / "config"),
        JUPYTER_DATA_DIR=str(folder / "data"),
        JUPYTER_RUNTIME_DIR=str(folder / "runtime"),
        JUPYTERLAB_SETTINGS_DIR=str(folder / "settings"),
        JUPYTERLAB_WORKSPACES_DIR=str(folder / "workspaces"),
        IPYTHONDIR=str(folder / "ipython"),
        IPYELASTIC_RUN_ROOT=str(folder / "runs"),
    )
    (folder / "runs").mkdir(exist_ok=True)
    log = folder / "server.log"
    with open(log, "wb") as said:
        server = subprocess.Popen(
            [
                python, "-m", APPS[app], "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
                "--IdentityProvider.token=", f"--ServerApp.root_dir={root}", "--expose-app-in-browser",
            ],
            env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        if server.poll() is not None:
            raise AssertionError(f"the server ended with {server.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(f"{url}/api/status", timeout=2):
                return True
        except OSError:
            return False

    try:
        wait_until(answers, within_s=120, what=f"{app} does not answer, see {log}")
        yield Jupyter(app, url, root)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _write_settings(folder: Path) -> None:
    quiet = folder / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True, exist_ok=True)
    (quiet / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )


@dataclass
class NotebookPage:
    """One notebook on one page."""

    page: Any
    jupyter: Jupyter
    name: str
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, context: Any, jupyter: Jupyter, name: str) -> NotebookPage:
        """Open it and wait for its kernel."""
        opened = cls(context.new_page(), jupyter, name)
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("console", lambda message: opened.console.append(f"{message.type}: {message.text}"))
        opened.page.on("pageerror", lambda error: opened.console.append(f"pageerror: {error}"))
        opened.page.goto(jupyter.address(name))
        opened.wait_for_kernel()
        return opened

    def wait_for_kernel(self, status: str = "idle") -> None:
        """Wait until the page knows its kernel to be in this state."""
        self.page.wait_for_function(
            f"status => window.jupyterapp && {_PANEL}?.sessionContext.session?.kernel?.status === status",
            arg=status,
            timeout=60_000,
        )

    def reload(self) -> None:
        """As a person who presses F5; the kernel goes on."""
        self.page.reload()
        self.page.wait_for_function(
            f"() => window.jupyterapp && {_PANEL}?.sessionContext.session?.kernel?.connectionStatus === 'connected'",
            timeout=60_000,
        )

    def command(self, name: str) -> None:
        """Run one of the application's commands; does not wait for it."""
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name) }", name)

    def run_cell(self, index: int) -> None:
        """Run one cell; does not wait for its end."""
        self.page.evaluate(
            f"""index => {{ const panel = {_PANEL}; panel.content.activeCellIndex = index; panel.content.deselectAll();
                window.jupyterapp.commands.execute('notebook:run-cell') }}""",
            index,
        )

    def run_all(self) -> None:
        """Run all cells; does not wait."""
        self.command("notebook:run-all-cells")

    def save(self) -> None:
        """Save the notebook, and wait until it is."""
        self.page.evaluate(f"() => {_PANEL}.context.save()")

    def shut_down(self) -> None:
        """End the notebook's kernel."""
        self.page.evaluate(f"() => {_PANEL}?.sessionContext.shutdown()")

    def text_of(self, cell: int) -> str:
        """What a person reads below a cell."""
        return str(self.page.locator(".jp-Notebook .jp-Cell").nth(cell).locator(".jp-OutputArea").first.inner_text())

    # ------------------------------------------------------------------------------------------------ panels

    def panel(self, index: int = 0) -> Any:
        """The locator of a panel."""
        return self.page.locator(".ie-panel").nth(index)

    def button(self, name: str, index: int = 0) -> Any:
        """One of a panel's buttons (their icon is part of the name that a page computes)."""
        return self.page.locator(".ipyelastic-bar").nth(index).get_by_role("button", name=re.compile(rf"\b{name}$"))

    def screen(self, rank: int | str, index: int = 0) -> list[str]:
        """The lines of a terminal, scrollback included, without empty ones at the end; None yet: []."""
        lines = self.page.evaluate(
            """([rank, index]) => {
                const view = document.querySelectorAll('.ie-panel')[index]?.parentElement.ipyelastic;
                const xterm = (rank === 'all' ? view?.all.terminal : view?.terminals.get(rank))?.xterm;
                if (!xterm) return [];
                const { active } = xterm.buffer;
                return [...Array(active.length).keys()].map(row => active.getLine(row).translateToString(true));
            }""",
            [rank, index],
        )
        while lines and not lines[-1]:
            lines.pop()
        return list(lines)

    def wait_for_line(self, rank: int | str, line: str, index: int = 0, within_s: float = 60) -> None:
        """Wait until a terminal has this very line."""

        def has() -> bool:
            self.page.wait_for_timeout(50)  # lets the page's events in; sync Playwright has no other way
            return line in self.screen(rank, index)

        try:
            wait_until(has, within_s=within_s)
        except AssertionError:
            raise AssertionError(
                f"no line {line!r} in {self.screen(rank, index)[-20:]}; page said {self.console[-5:]}"
            ) from None

    def outside_requests(self) -> list[str]:
        """Requests that went anywhere but to the server."""
        ours = re.compile(rf"(blob:)?{re.escape(self.jupyter.url)}/|data:|(blob:)?about:")
        return [url for url in self.requests if not ours.match(url)]
