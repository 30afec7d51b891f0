"""The figures as one picture: each figure of the issue beside its rivals, and the growth with the number of ranks.

Runs in: the benchmark's process.
"""

from __future__ import annotations

from pathlib import Path

from figures import Figures, Row
from goals import GOALS, GROWTH

__all__ = ["draw"]


def draw(figures: Figures, path: Path) -> None:
    """Write a PNG: bars with logarithmic lengths, ours darker, a line where the goal is."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    wanted = dict.fromkeys((goal.part, goal.ranks, goal.figure) for goal in GOALS)
    limits = {(goal.part, goal.ranks, goal.figure): goal.at_most for goal in GOALS if goal.at_most is not None}
    groups = [(key, _rows(figures, *key)) for key in wanted]
    groups = [(key, rows) for key, rows in groups if rows]
    heights = [len(rows) + 1.2 for _, rows in groups]
    figure, axes = pyplot.subplots(
        len(groups) + 1, 1, figsize=(11, 0.26 * sum(heights) + 5), gridspec_kw={"height_ratios": [*heights, 12]}
    )
    for axis, (key, rows) in zip(axes, groups, strict=False):
        part, ranks, what = key
        places = range(len(rows))
        colours = ["#1f5fa8" if row.tool.startswith(("ipyelastic", "the kernel")) else "#b9c2cc" for row in rows]
        low = [row.median - min(row.scaled) for row in rows]
        high = [max(row.scaled) - row.median for row in rows]
        axis.barh(places, [row.median for row in rows], color=colours, xerr=[low, high], ecolor="#555555", height=0.7)
        axis.set_xscale("log")
        axis.set_xlim(left=max(min(row.median for row in rows), 0.001) / 4)
        axis.set_yticks(places, [row.tool for row in rows], fontsize=7)
        axis.tick_params(axis="x", labelsize=7)
        axis.invert_yaxis()
        axis.set_title(f"{part}: {what}, {ranks or 1} ranks ({rows[0].unit})", fontsize=8, loc="left")
        if key in limits:
            axis.axvline(limits[key], color="#c0392b", linewidth=1)
    _draw_growth(figures, axes[-1])
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _rows(figures: Figures, part: str, ranks: int, what: str) -> list[Row]:
    return sorted(
        (row for row in figures.rows.values() if (row.part, row.ranks, row.figure) == (part, ranks, what)),
        key=lambda row: row.median,
    )


def _draw_growth(figures: Figures, axis: object) -> None:
    for what in ("first line", "values back", "run ended"):
        rows = sorted(
            (row for row in figures.rows.values() if (row.part, row.figure) == (GROWTH, what)),
            key=lambda row: row.ranks,
        )
        if rows:
            sizes, costs = [row.ranks for row in rows], [row.median / row.ranks for row in rows]
            axis.plot(sizes, costs, marker="o", label=f"{what} / ranks")  # type: ignore[attr-defined]
    axis.set_xscale("log", base=2)  # type: ignore[attr-defined]
    axis.set_title("Growth: ms per rank, by ranks", fontsize=8, loc="left")  # type: ignore[attr-defined]
    if axis.lines:  # type: ignore[attr-defined]
        axis.legend(fontsize=7)  # type: ignore[attr-defined]
    axis.set_ylim(bottom=0)  # type: ignore[attr-defined]
