"""Measure the first cell: launch -> first line -> values -> end, in real kernels, beside what others offer.

    python tests/bench/first_cell.py [--quick] [--rivals PYTHON] [--only PART]

Three kernels stand ready: `bare` (ours, nothing preloaded), `torch` (ours, torch preloaded) and `rivals` (theirs).
Each round measures every tool once, in a new order, so that whatever else the machine does meets all of them alike.
The report is printed and left in build/bench/first_cell.md and .json. Not collected by pytest.
Other end: cells/ (what the kernels run), figures.py (the tables), fresh.py (imports), machine.py (other people's work).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(HERE)]

# ruff: noqa: E402, I001  # the two folders above hold what is imported below
from figures import Figures
from fresh import import_times, load_times
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from machine import OtherWork
from support.kernels import Kernel

FIRST, DDP, RAISES, IMPORT = "Launch to first line", "A DDP step", "A rank raises while the others compute", "Import"
GROUP = "torch, gloo, all_reduce"
OURS = "ipyelastic"
COMPUTE_S = 2.0
GOALS_MS = {
    (FIRST, 2, "first line"): 3.0,
    (FIRST, 8, "first line"): 15.0,
    (FIRST, 2, "values back"): 8.0,
    (FIRST, 8, "values back"): 30.0,
    (RAISES, 2, "error"): 25.0,
    (RAISES, 8, "error"): 25.0,
    (IMPORT, 0, "import ipyelastic"): 40.0,
}


@dataclass(frozen=True)
class Probe:
    """One thing to measure: `call` is evaluated in `kernel` and gives `{figure: seconds}`; `count` times in all."""

    part: str
    tool: str
    ranks: int
    kernel: str
    call: str
    count: int
    needs: str = ""

    def is_due(self, turn: int, turns: int) -> bool:
        """Whether this round is one of the `count`, which are spread over all rounds."""
        return (turn + 1) * self.count // turns > turn * self.count // turns


def probes(turns: int, is_quick: bool) -> list[Probe]:
    """All there is to measure; slow rivals fewer times, or not at all."""
    few, fewest = (1, 1) if is_quick else (4, 2)
    found = []
    for n in (2, 8):
        ours = [("%%elastic_run", "cell"), ("launch()", "launch")]
        for kernel, label in (("bare", "nothing preloaded"), ("torch", "torch preloaded")):
            for what, name in ours:
                tool = f"{OURS} {what}, {label}"
                found.append(Probe(FIRST, tool, n, kernel, f"measure_{name}({n})", turns))
        found.append(Probe(FIRST, "bare python -c", n, "bare", f"measure_bare({n})", turns))
        found += [
            Probe(FIRST, "torch start_processes(spawn)", n, "rivals", f"measure_torch({n})", few if n == 8 else turns),
            Probe(FIRST, "Accelerate notebook_launcher", n, "rivals", f"measure_accelerate({n})", turns, "accelerate"),
            Probe(FIRST, "ipyparallel, warm engines", n, "rivals", f"measure_ipyparallel({n})", turns, "ipyparallel"),
            Probe(FIRST, "loky, warm", n, "rivals", f"measure_loky({n})", turns, "loky"),
            Probe(FIRST, "Ray, warm", n, "rivals", f"measure_ray({n})", turns, "ray"),
            Probe(
                FIRST,
                "torch elastic_launch(spawn)",
                n,
                "rivals",
                f"measure_elastic_launch({n})",
                fewest if n == 8 else few,
            ),
            Probe(FIRST, "torchrunx", n, "rivals", f"measure_torchrunx({n})", fewest if n == 8 else few, "torchrunx"),
        ]
        found += [
            Probe(RAISES, f"{OURS} %%elastic_run", n, "torch", f"measure_raise({n})", turns),
            Probe(
                RAISES,
                "Accelerate notebook_launcher",
                n,
                "rivals",
                f"raise_accelerate({n}, compute_s)",
                few,
                "accelerate",
            ),
            Probe(RAISES, "torch start_processes(spawn)", n, "rivals", f"raise_torch({n}, compute_s)", fewest),
            Probe(
                RAISES,
                "ipyparallel, warm engines",
                n,
                "rivals",
                f"raise_ipyparallel({n}, compute_s)",
                fewest,
                "ipyparallel",
            ),
            Probe(
                RAISES,
                "torchrunx",
                n,
                "rivals",
                f"raise_torchrunx({n}, compute_s)",
                1 if n == 8 else fewest,
                "torchrunx",
            ),
        ]
    found += [
        Probe(GROUP, f"{OURS} %%elastic_run, torch preloaded", 2, "torch", "measure_group(2)", turns),
        Probe(GROUP, "Accelerate notebook_launcher", 2, "rivals", "group_accelerate(2)", turns, "accelerate"),
        Probe(GROUP, "torch elastic_launch(spawn)", 2, "rivals", "group_torch(2)", few),
        Probe(DDP, f"{OURS} %%elastic_run, torch preloaded", 2, "torch", "measure_ddp(2)", turns),
        Probe(DDP, "Accelerate notebook_launcher", 2, "rivals", "ddp_accelerate(2)", turns, "accelerate"),
        Probe(DDP, "torch elastic_launch(spawn)", 2, "rivals", "ddp_torch(2)", few),
    ]
    if is_quick:
        # Starting eight engines alone takes a third of the time there is.
        left_out = ("torchrunx", "Ray, warm", "torch elastic_launch(spawn)", "ipyparallel, warm engines")
        found = [probe for probe in found if probe.tool not in left_out]
        found = [probe for probe in found if not (probe.ranks == 8 and probe.tool.startswith("torch "))]
        found = [probe for probe in found if probe.part != RAISES or probe.tool.startswith((OURS, "Accelerate"))]
    return found


# ----------------------------------------------------------------------------------------------------------- kernels


def start_kernels(stack: ExitStack, folder: Path, rivals_python: str) -> dict[str, Kernel]:
    """The three kernels, warmed up."""
    shutil.copy(HERE / "cells" / "rank_side.py", folder)
    # Rivals have a kernel of their own: what they import must be neither preloaded nor in the way here.
    kernels = {
        "bare": stack.enter_context(Kernel.start(folder)),
        "torch": stack.enter_context(Kernel.start(folder)),
        "rivals": stack.enter_context(start_with(rivals_python, folder)),
    }
    must(kernels["torch"], "import torch\nfrom torch import distributed, nn")
    for name in ("bare", "torch"):
        must(kernels[name], "%load_ext ipyelastic")
        must(kernels[name], (HERE / "cells" / "ours.py").read_text() + f"\ncompute_s = {COMPUTE_S}")
    must(kernels["rivals"], (HERE / "cells" / "rivals.py").read_text() + f"\ncompute_s = {COMPUTE_S}")
    return kernels


def start_with(python: str, folder: Path) -> Kernel:
    """A kernel of another interpreter (that of a venv which has the rivals)."""
    if python == sys.executable:
        return Kernel.start(folder)

    def kernel_spec(manager: KernelManager) -> KernelSpec:
        return KernelSpec(argv=[python, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python")

    former = KernelManager.kernel_spec
    KernelManager.kernel_spec = property(kernel_spec)  # type: ignore[assignment, method-assign]
    try:
        return Kernel.start(folder)
    finally:
        KernelManager.kernel_spec = former  # type: ignore[method-assign]


def must(kernel: Kernel, code: str) -> None:
    """Run a cell that may not fail."""
    result = kernel.run(code, timeout_s=120)
    assert result.ok, result.text


def wait_until_warm(kernels: dict[str, Kernel]) -> dict[str, object]:
    """Until torch's kernel has a current server with torch; what each current server has preloaded."""
    ask = "[row['preload'] for row in __import__('ipyelastic.forkserver.client', fromlist=['x']).servers().describe()"
    ask += " if row['role'] == 'current'][0]"
    deadline = time.monotonic() + 60
    while "torch" not in kernels["torch"].value(ask):
        assert time.monotonic() < deadline, "the warm server has not taken over within 60 s"
        time.sleep(0.2)
    bare = kernels["bare"].value(ask)
    assert bare == [], f"something was preloaded in the kernel that was to have nothing: {bare}"
    return {"preloaded, torch's kernel": kernels["torch"].value(ask), "preloaded, bare kernel": bare}


# --------------------------------------------------------------------------------------------------------- measuring


def measure(kernels: dict[str, Kernel], todo: list[Probe], turns: int, figures: Figures, work: OtherWork) -> None:
    """Every round, each probe that is due, in a new order; one that fails is not tried again."""
    missing = kernels["rivals"].value("missing")
    figures.remarks += [f"not installed: {name} ({why})" for name, why in missing.items()]
    todo = [probe for probe in todo if probe.needs not in missing]
    if "torch" in missing:
        todo = [probe for probe in todo if not probe.tool.startswith("torch ")]
    for probe in todo:  # warm-up: each tool's first time is not counted
        if probe.count >= turns and probe.part != RAISES:
            kernels[probe.kernel].run(probe.call, timeout_s=120)
    order = random.Random(0)
    for turn in range(turns):
        work.sample()
        order.shuffle(todo)
        for probe in list(todo):
            if not probe.is_due(turn, turns):
                continue
            time.sleep(0.05)
            result = kernels[probe.kernel].run(probe.call, timeout_s=120)
            if result.ok and result.value is not None:
                figures.add(probe.part, probe.tool, probe.ranks, eval(result.value, {}))
            else:
                todo.remove(probe)
                said = result.error_value.strip().splitlines() or ["no value came"]
                figures.remarks.append(f"{probe.tool}, {probe.ranks} ranks: {result.error_name}: {said[-1][:200]}")


def measure_page(kernel: Kernel, count: int, figures: Figures, folder: Path) -> None:
    """A cell with a rank that raises, as the page sees it: until the error's text has come over the wire."""
    cell = (HERE / "cells" / "ours.py").read_text().partition('RAISE = """')[2].partition('"""')[0]
    for n in (2, 8):
        for _ in range(count):
            gate = Path(tempfile.mkdtemp(dir=folder))
            must(kernel, f"gate = {str(gate)!r}")
            result = kernel.run(f"%%elastic_run -n {n}\n{cell}")
            ended = time.monotonic()
            assert not result.ok, "no error came"
            raised = float((gate / "raised").read_text())
            tool = f"{OURS} %%elastic_run, cell's end seen by the page"
            figures.add(RAISES, tool, n, {"error": ended - raised})


def measure_imports(count: int, figures: Figures, folder: Path) -> None:
    """Imports in fresh interpreters, `%load_ext` in fresh kernels."""
    samples, threads = import_times(count)
    for sample in samples:
        figures.add(IMPORT, OURS, 0, sample)
    figures.facts["threads before and after the imports"] = sorted(threads)
    for sample in load_times(min(count, 5), folder):
        figures.add(IMPORT, OURS, 0, sample)


def set_apart(folder: Path) -> None:
    """Log folders of the runs measured, and compiled files, are among our own."""
    os.environ["IPYELASTIC_RUN_ROOT"] = str(folder / "runs")
    (folder / "runs").mkdir()
    # As in an installed package: compiled files are there. Where Python may not write them, each import compiles.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")


def look_into_ranks(kernels: dict[str, Kernel], figures: Figures) -> None:
    """What a rank has imported that it should not."""
    for name in ("bare", "torch"):
        for method in ("forkserver", "spawn"):
            (wrong, total), _ = kernels[name].value(f"rank_modules(2, {method!r})")
            said = f"notebook, view, tail, ipywidgets, IPython: {wrong or 'none'}; {total} modules in all"
            figures.facts[f"modules in a rank ({name} kernel, {method})"] = said


# -------------------------------------------------------------------------------------------------------------- main


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds, slow rivals once or not at all")
    parser.add_argument("--rounds", type=int, help="samples of each figure (default 10)")
    parser.add_argument("--rivals", default=sys.executable, metavar="PYTHON", help="an interpreter that has the rivals")
    parser.add_argument("--only", default="", help="a pattern: `part: tool` that has it, and no imports")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    given = arguments()
    began, work, figures = time.monotonic(), OtherWork(), Figures(GOALS_MS)
    turns = given.rounds or (2 if given.quick else 10)
    todo = [probe for probe in probes(turns, given.quick) if re.search(given.only, f"{probe.part}: {probe.tool}")]
    with tempfile.TemporaryDirectory(prefix="first-cell-") as name, ExitStack() as stack:
        folder = Path(name)
        set_apart(folder)
        if not given.only:
            measure_imports(turns, figures, folder)
        kernels = start_kernels(stack, folder, given.rivals)
        stack.callback(kernels["rivals"].run, "stop_rivals()")
        if given.quick:
            figures.remarks.append("--quick leaves out torchrunx, ipyparallel, torch's elastic_launch and its 8 ranks")
        figures.order = [probe.tool for probe in todo]
        figures.facts.update(wait_until_warm(kernels))
        look_into_ranks(kernels, figures)
        measure(kernels, todo, turns, figures, work)
        if not given.only:
            measure_page(kernels["torch"], turns, figures, folder)
    import ipyelastic

    figures.facts["ipyelastic from"] = str(Path(ipyelastic.__file__).parent)
    figures.facts = {**work.facts(), "whole run": f"{time.monotonic() - began:.0f} s", **figures.facts}
    text = figures.markdown(lambda tool: tool.startswith(OURS))
    target = ROOT / "build" / "bench"
    target.mkdir(parents=True, exist_ok=True)
    (target / "first_cell.md").write_text(text)
    (target / "first_cell.json").write_text(json.dumps(figures.as_json(), indent=1))
    print(text)


if __name__ == "__main__":
    main()
