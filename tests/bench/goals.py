"""What issue 7 asks of the figures, and whether they held: the first table of the report, and its picture.

    first_cell.py, heavy.py -> Figures -> [here] -> rows of the table -> picture.py

Runs in: the benchmark's process.
"""

from __future__ import annotations

from dataclasses import dataclass

from figures import Figures, Row, shown

__all__ = ["Goal", "GOALS", "verdicts"]


@dataclass(frozen=True)
class Goal:
    """One line of the issue's table.

    `at_most`: in the row's unit. `rival`, `times`: ours is to be at most `times` the rival's; with `is_least`, at
    least. A goal with neither is only reported.
    """

    what: str
    part: str
    tool: str
    ranks: int
    figure: str
    at_most: float | None = None
    rival: str = ""
    times: float = 0.0
    is_least: bool = False

    def line(self, figures: Figures) -> tuple[str, Row | None, Row | None, str]:
        """`(what, ours, the rival's, verdict)`; the verdict is empty where there is nothing to judge."""
        ours = figures.rows.get((self.part, self.tool, self.ranks, self.figure))
        theirs = figures.rows.get((self.part, self.rival, self.ranks, self.figure)) if self.rival else None
        if ours is None:
            return self.what, None, theirs, "not measured"
        if self.at_most is not None:
            held = ours.median <= self.at_most
            return self.what, ours, theirs, f"<= {self.at_most:g} {ours.unit}: {'held' if held else 'MISSED'}"
        if not self.times:
            return self.what, ours, theirs, ""
        if theirs is None:
            return self.what, ours, None, "the rival was not measured"
        ratio = ours.median / theirs.median
        held = ratio >= self.times if self.is_least else ratio <= self.times
        sign = ">=" if self.is_least else "<="
        return self.what, ours, theirs, f"{sign} {self.times:.3g} x, is {ratio:.3g} x: {'held' if held else 'MISSED'}"


FIRST, RAISES, IMPORT = "Launch to first line", "A rank raises while the others compute", "Import"
GROUP, STOP, ARRAY, RESULT = "torch, gloo, all_reduce", "Stop", "512 MiB array to each rank", "512 MiB from each rank"
PRINT, IDLE, FRESH = "Printing 1,000,000 lines", "Idle with a warm server", "The first launch of a kernel"
GROWTH = "Growth"
CELL, LAUNCH = "ipyelastic %%elastic_run, nothing preloaded", "ipyelastic launch(), nothing preloaded"
CELL_TORCH = "ipyelastic %%elastic_run, torch preloaded"
OURS = "ipyelastic"
PARALLEL = "ipyparallel, warm engines"
ACCELERATE = "Accelerate notebook_launcher"

GOALS = [
    Goal("first line, 2 ranks", FIRST, LAUNCH, 2, "first line", 3.0),
    Goal("first line, 2 ranks, cell", FIRST, CELL, 2, "first line", 3.0),
    Goal("first line, 2 ranks", FIRST, LAUNCH, 2, "first line", None, PARALLEL, 0.75),
    Goal("first line, 8 ranks", FIRST, LAUNCH, 8, "first line", 15.0),
    Goal("first line, 2 ranks, torch preloaded", FIRST, CELL_TORCH, 2, "first line"),
    Goal("first line, 8 ranks, torch preloaded", FIRST, CELL_TORCH, 8, "first line"),
    Goal("values back, 2 ranks", FIRST, LAUNCH, 2, "values back", 8.0),
    Goal("values back, 8 ranks", FIRST, LAUNCH, 8, "values back", 30.0),
    Goal("run ended, 2 ranks", FIRST, LAUNCH, 2, "run ended"),
    Goal("run ended, 8 ranks", FIRST, LAUNCH, 8, "run ended"),
    Goal("gloo all_reduce, values back, 2 ranks", GROUP, CELL_TORCH, 2, "values back", None, ACCELERATE, 0.4),
    Goal("the same", GROUP, CELL_TORCH, 2, "values back", None, "torch elastic_launch(spawn)", 1 / 20),
    Goal("first launch, torch in the notebook", FRESH, OURS, 2, "torch", None, "bare python -c import torch", 1.2),
    Goal("first launch, torch in the cell only", FRESH, OURS, 2, "torch in the cell"),
    Goal("first launch without torch", FRESH, OURS, 2, "no torch", 150.0),
    Goal("rank raises -> error in the cell, 2 ranks", RAISES, "ipyelastic %%elastic_run", 2, "error", 25.0),
    Goal("rank raises -> error in the cell, 8 ranks", RAISES, "ipyelastic %%elastic_run", 8, "error", 25.0),
    Goal("Stop -> all ranks gone, 2 ranks", STOP, OURS, 2, "ranks gone", 20.0),
    Goal("Stop -> all ranks gone, 8 ranks", STOP, OURS, 8, "ranks gone", 20.0),
    Goal("512 MiB to 8 ranks, every page read", ARRAY, OURS, 8, "every page read", None, "loky", 0.5),
    Goal("its memory in the ranks", ARRAY, OURS, 8, "copies", 1.15),
    Goal("512 MiB from each of 2 ranks", RESULT, OURS, 2, "values back", None, "pipe", 1 / 3),
    Goal("the same, every page read", RESULT, OURS, 2, "every page read", None, "pipe", 0.0),
    Goal("print, 1 M lines", PRINT, OURS, 1, "lines/s", None, "redirect to a file, line-buffered", 0.95, True),
    Goal("kernel's CPU while idle", IDLE, "the kernel", 0, "% of a core", 0.1),
    Goal("import ipyelastic", IMPORT, OURS, 0, "import ipyelastic", 40.0),
    Goal("%load_ext ipyelastic", IMPORT, OURS, 0, "%load_ext ipyelastic", 150.0),
]


def verdicts(figures: Figures) -> list[str]:
    """The first table."""
    lines = ["| figure | ours | min..max | n | rival | the rival's | goal |", "|---|--:|--:|--:|---|--:|---|"]
    for goal in GOALS:
        what, ours, theirs, verdict = goal.line(figures)
        mine = (
            ["", "", ""] if ours is None else [f"{shown(ours.median)} {ours.unit}", ours.spread, str(len(ours.samples))]
        )
        rival = ["", ""] if theirs is None else [theirs.tool, f"{shown(theirs.median)} {theirs.unit}"]
        lines.append("| " + " | ".join([what, *mine, *rival, verdict]) + " |")
    return lines
