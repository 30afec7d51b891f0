"""Measure everything that issue 7 asks for, each figure beside its rivals: a table and a picture in build/bench/.

    python tests/bench/bench.py [--quick] [--rivals PYTHON] [--rounds N]

The same as `make bench`. The report is printed and left in build/bench/bench.md, .json and .png. Not collected by
pytest. Rivals that the interpreter lacks are skipped and named.
Other end: first_cell.py (launches), heavy.py (arrays, lines, growth, first launches), goals.py (what is asked).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]

# ruff: noqa: E402  # the two folders above hold what is imported below
import first_cell
from figures import Figures
from goals import verdicts
from heavy import measure_fresh_kernels, measure_growth, measure_heavy, measure_idle
from machine import OtherWork
from picture import draw


def main() -> None:
    """Measure and write; what there is after each part, too: a run that is cut short leaves what it has measured."""
    given = first_cell.arguments()
    began, work, figures = time.monotonic(), OtherWork(), Figures(first_cell.GOALS_MS)
    turns = given.rounds or (2 if given.quick else 10)
    heavy = 1 if given.quick else max(2, turns // 3)

    def report() -> str:
        facts = {**work.facts(), "load after": f"{os.getloadavg()[0]:.2f}"}
        return write(figures, {**facts, "so far": f"{time.monotonic() - began:.0f} s"})

    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        folder = Path(name)
        first_cell.set_apart(folder)
        first_cell.measure_imports(turns, figures, folder)
        measure_fresh_kernels(heavy, figures, folder)
        kernels = first_cell.start_kernels(stack, folder, given.rivals)
        stack.callback(kernels["rivals"].run, "stop_rivals()")
        figures.facts.update(first_cell.wait_until_warm(kernels))
        work.sample()
        measure_idle(kernels, figures)
        report()
        todo = first_cell.probes(turns, given.quick)
        figures.order = [probe.tool for probe in todo]
        first_cell.measure(kernels, todo, turns, figures, work)
        report()
        first_cell.measure_page(kernels["torch"], turns, figures, folder)
        measure_growth(kernels["bare"], turns, figures)
        report()
        for _ in range(heavy):
            measure_heavy(kernels, figures)
            report()
        work.sample()
    print(report())


def write(figures: Figures, facts: dict[str, object]) -> str:
    """Put table, samples and picture in their place; returns the table."""
    text = "\n".join(["# What issue 7 asks for", "", *verdicts(figures), "", ""])
    named, figures.facts = figures.facts, {**facts, **figures.facts}
    text += figures.markdown(lambda tool: tool.startswith(first_cell.OURS))
    target = first_cell.ROOT / "build" / "bench"
    target.mkdir(parents=True, exist_ok=True)
    (target / "bench.md").write_text(text)
    (target / "bench.json").write_text(json.dumps(figures.as_json(), indent=1))
    draw(figures, target / "bench.png")
    figures.facts = named
    return text


if __name__ == "__main__":
    main()
