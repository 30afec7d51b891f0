"""Samples of one benchmark run, and the tables made of them.

first_cell.py -> Figures.add -> [here] -> text, build/bench/first_cell.md and .json
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Figures", "Row", "shown"]

_UNITS = {"lines/s": "1/s", "copies": "copies", "% of a core": "%"}
"""Of figures that are no times; the others are seconds, and shown in ms."""


@dataclass
class Row:
    """One figure of one tool at one number of ranks; `samples` in seconds, or in the figure's own unit."""

    part: str
    tool: str
    ranks: int
    figure: str
    samples: list[float] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """What `scaled` is in."""
        return _UNITS.get(self.figure, "ms")

    @property
    def scaled(self) -> list[float]:
        """The samples in `unit`."""
        return [sample * (1000 if self.unit == "ms" else 1) for sample in self.samples]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.scaled)

    @property
    def spread(self) -> str:
        """`min..max`."""
        return f"{shown(min(self.scaled))}..{shown(max(self.scaled))}"


@dataclass
class Figures:
    """All rows of a run, with goals (`(part, ranks, figure) -> ms`), remarks and facts beside them.

    `order`: tools as the tables have them.
    """

    goals_ms: dict[tuple[str, int, str], float]
    order: list[str] = field(default_factory=list)
    rows: dict[tuple[str, str, int, str], Row] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    def add(self, part: str, tool: str, ranks: int, figures: dict[str, float]) -> None:
        """Take one sample of each figure."""
        for figure, seconds in figures.items():
            key = (part, tool, ranks, figure)
            self.rows.setdefault(key, Row(*key)).samples.append(seconds)

    def markdown(self, is_ours: Callable[[str], bool]) -> str:
        """The whole report."""
        lines = ["# Every figure", ""]
        lines += [f"- {name}: {value}" for name, value in self.facts.items()]
        for part in dict.fromkeys(row.part for row in self.rows.values()):
            lines += ["", f"## {part}", "", *self._table(part, is_ours)]
            lines += self._ratios(part, is_ours)
        if self.remarks:
            lines += ["", "## Remarks", "", *(f"- {remark}" for remark in self.remarks)]
        return "\n".join(lines) + "\n"

    def _table(self, part: str, is_ours: Callable[[str], bool]) -> list[str]:
        lines = ["| tool | ranks | figure | median, ms | min..max | n | goal |", "|---|--:|---|--:|--:|--:|---|"]
        for row in self._sorted(part):
            goal = self.goals_ms.get((part, row.ranks, row.figure)) if is_ours(row.tool) else None
            verdict = "" if goal is None else f"{goal:g}: {'held' if row.median <= goal else 'MISSED'}"
            cells = [row.tool, str(row.ranks), row.figure, shown(row.median), row.spread, str(len(row.samples))]
            lines.append("| " + " | ".join([*cells, verdict]) + " |")
        return lines

    def _ratios(self, part: str, is_ours: Callable[[str], bool]) -> list[str]:
        """A table: for each way of ours, how many times as long each rival takes."""
        rows = self._sorted(part)
        rivals = list(dict.fromkeys(row.tool for row in rows if not is_ours(row.tool)))
        if not rivals:
            return []
        lines = ["", "How many times as long as ours:", "", f"| ours | ranks | figure | {' | '.join(rivals)} |"]
        lines.append("|---|--:|---|" + "--:|" * len(rivals))
        for ours in (row for row in rows if is_ours(row.tool)):
            theirs = (self.rows.get((part, rival, ours.ranks, ours.figure)) for rival in rivals)
            ratios = ["" if row is None else f"{shown(row.median / ours.median)}x" for row in theirs]
            lines.append("| " + " | ".join([ours.tool, str(ours.ranks), ours.figure, *ratios]) + " |")
        return lines

    def _sorted(self, part: str) -> list[Row]:
        rows = [row for row in self.rows.values() if row.part == part]
        tools = [*self.order, *(row.tool for row in rows)]
        figures = list(dict.fromkeys(row.figure for row in rows))
        return sorted(rows, key=lambda row: (figures.index(row.figure), row.ranks, tools.index(row.tool)))

    def as_json(self) -> dict[str, object]:
        """The same, with every sample."""
        rows = [{**vars(row), "unit": row.unit, "median": round(row.median, 4)} for row in self.rows.values()]
        return {"facts": self.facts, "rows": rows, "remarks": self.remarks}


def shown(value: float) -> str:
    """A number as the tables have it."""
    return f"{value:.3f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
