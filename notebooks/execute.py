"""Execute notebooks in real kernels and show what their cells print, as they print it.

    notebook file -> [here: nbclient] <-> kernel of this Python -> terminal, executed .ipynb and .html

Runs in: a process of its own, started by `make demo`, by tests/house, or by hand after a change of a notebook:

    .venv/bin/python notebooks/execute.py notebooks/*.ipynb --in-place

Ends with 1 when a cell fails that should not, or when one tagged `raises-exception` does not fail.
Other end: tests/house/test_stored_notebooks.py compares `digest` with the cells and stored outputs with today's.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from ipyelastic.terms import env

__all__ = ["main"]

CELL_TIMEOUT_S = 300
MEANT_TO_FAIL = "raises-exception"  # Jupyter's own tag: Run All goes on after such a cell
# nbconvert's own page without the scripts it would fetch: require.js, MathJax and Mermaid.
PAGE = """
{%- extends "lab/index.html.j2" -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class PrintingClient(NotebookClient):
    """Executes in a kernel of this very Python and prints every output the moment it arrives."""

    def create_kernel_manager(self) -> AsyncKernelManager:
        # No folder to look in leaves one kernel spec: the one for sys.executable. A `python3` kernel that the user
        # has installed somewhere is never taken by mistake.
        specs = KernelSpecManager(kernel_dirs=[])
        self.km = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=specs,
            # Sockets in a folder of ours: no port that others on this machine could reach.
            transport="ipc",
            ip=f"{os.environ['JUPYTER_RUNTIME_DIR']}/k",  # short: a socket's path has 107 bytes at most
        )
        return self.km

    def output(self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:
        content = msg["content"]
        if msg["msg_type"] == "stream":
            show(content["text"], end="")
        elif msg["msg_type"] == "error":
            show("\n".join(content["traceback"]))
        elif "text/plain" in content.get("data", {}) and WIDGET_VIEW not in content["data"]:
            count = content.get("execution_count")
            show((f"Out[{count}]: " if count else "") + content["data"]["text/plain"])
        return super().output(outs, msg, display_id, cell_index)


def show(text: str, end: str = "\n") -> None:
    """Print at once; colours only where a person reads."""
    print(text if sys.stdout.isatty() else COLOURS.sub("", text), end=end, flush=True)


def announce(cell: Any, cell_index: int) -> None:
    """Called by nbclient before each cell, markdown included: what is about to run."""
    if cell.cell_type == "code":
        show(f"\n--- {cell.source.strip().splitlines()[0]}" + (" (meant to fail)" if meant_to_fail(cell) else ""))
    elif title := next((line for line in cell.source.splitlines() if line.startswith("#")), ""):
        show(f"\n{title}")


def meant_to_fail(cell: Any) -> bool:
    return MEANT_TO_FAIL in cell.metadata.get("tags", [])


def settle_widgets(cell: Any) -> None:
    """Show what widgets became, and leave of one that is still alive the text that stands for it.

    Its kernel is about to end: a page that loads the notebook later would show an error in the widget's place.
    """
    for output in cell.outputs:
        data = output.get("data", {})
        if data.pop(WIDGET_VIEW, None) is not None or "text/html" in data:
            show(data.get("text/plain", ""))


def digest(notebook: Any) -> str:
    """Names the code cells: stored in the notebook, it says which sources the stored outputs are of."""
    sources = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(sources.encode()).hexdigest()


@contextlib.contextmanager
def nothing_of_the_user() -> Iterator[None]:
    """The kernel sees no profile, start-up file or history of the user, and no sign of a live front end."""
    for name in env.LIVE_FRONT_END:
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="execute-") as folder:
        os.environ.update(IPYTHONDIR=f"{folder}/ipython", JUPYTER_RUNTIME_DIR=f"{folder}/run")
        os.mkdir(f"{folder}/run", 0o700)
        yield


def execute(notebook: Any, folder: Path) -> str:
    """Run all cells with `folder` as the working directory.

    Returns:
        What went wrong, in one line; empty when nothing did. The outputs are in `notebook` either way.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    failed: set[int] = set()

    def note_end(cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        settle_widgets(cell)
        # The reply and not the outputs: IPython prints a UsageError as text.
        if execute_reply["content"]["status"] == "error":
            failed.add(cell_index)

    client = PrintingClient(
        notebook,
        store_widget_state=False,
        timeout=CELL_TIMEOUT_S,
        interrupt_on_timeout=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=announce,
        on_cell_executed=note_end,
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return f"a cell failed that should not: {error.ename}"
    except CellTimeoutError:
        return f"a cell took more than {CELL_TIMEOUT_S} s"
    except DeadKernelError:
        return "the kernel died"
    for index, cell in enumerate(notebook.cells):
        if meant_to_fail(cell) and index not in failed:
            return f"a cell did not fail that should: {cell.source.splitlines()[0]}"
    return ""


def as_html(notebook: Any) -> str:
    """The notebook as one page that fetches nothing."""
    from nbconvert.exporters import HTMLExporter  # after the run: it takes half a second to import

    html, _ = HTMLExporter(raw_template=PAGE).from_notebook_node(notebook)
    return str(html)


def execute_file(path: Path, to: Path | None) -> str:
    """Execute one notebook and leave the result in `to`, or in its own place when that is None and nothing went wrong.

    Returns:
        As `execute`.
    """
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    with nothing_of_the_user():
        problem = execute(notebook, path.resolve().parent)
    took_s = time.monotonic() - started

    # The kernel's version in the file would make every machine's run a change.
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["ipyelastic"] = {"executed": digest(notebook)}
    left = []
    if to is not None:
        to.mkdir(parents=True, exist_ok=True)
        left = [to / path.name, (to / path.name).with_suffix(".html")]
        nbformat.write(notebook, left[0])
        left[1].write_text(as_html(notebook), encoding="utf-8")
    elif not problem:
        left = [path]
        nbformat.write(notebook, path)
    show(f"\n{path.name}: {problem or 'every cell did what it should'}, {took_s:.1f} s")
    show("".join(f"  {each}\n" for each in left), end="")
    return problem


def main(arguments: list[str] | None = None) -> int:
    """Execute notebooks, one after the other; see the top of this file for the exit code."""
    parser = argparse.ArgumentParser(description="Execute notebooks in real kernels and show what they print.")
    parser.add_argument("notebooks", type=Path, nargs="+", metavar="NOTEBOOK")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", type=Path, metavar="FOLDER", help="leave the executed notebooks and their HTML here")
    where.add_argument("--in-place", action="store_true", help="store the outputs in the notebooks themselves")
    options = parser.parse_args(arguments)
    problems = [execute_file(path, options.to) for path in options.notebooks]
    return 1 if any(problems) else 0


if __name__ == "__main__":
    sys.exit(main())
