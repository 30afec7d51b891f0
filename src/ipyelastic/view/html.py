"""A run as one static page for the saved notebook: HTML that needs no kernel, no script and no style sheet.

    Board + Heading + images -> [here] -> text/html in place of the panel

It is read in JupyterLab and Notebook 7 (trusted or not), in nbconvert's HTML, and where every style is stripped: plain
elements carry the structure, signs and words the states, and colours only help. There are no ids, classes, scripts,
event attributes or links. The heading is an h5 because JupyterLab lists those down to h4 in its table of contents.

Runs in: owner. Pure functions over what the board holds.
Other end: view/plain.py is the text/plain beside it; view/report.py has the failure's words, view/colours.py the
colours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .amounts import counted
from .board import Board, BoardSnapshot, RankSnapshot
from .heading import SIGNS, Heading, end_words, facts, failure_words, first_failure
from .inert import inert_name, inert_words
from .rank_page import BORDER, ImageAllowance, RankPage, bounded, byte_size, preformatted
from .report import ranges
from .stacks import traceback_text

__all__ = ["MOST_BYTES", "html"]

MOST_BYTES = 1 << 20
"""A page's size in UTF-8."""

_MOST_IMAGE_BYTES = MOST_BYTES // 2
_MOST_RANKS = 128  # with a chip, and lines of their own
_MOST_APART = 8  # ranks that each have a row of their own; of more, those that ended well share one
_MOST_NOTES = 20
_MOST_LINES_UNFOLDED = 30
_MOST_TRACEBACK_BYTES = 48 << 10

# White has a contrast of 5 or more on each.
_SOLID = {
    "failed": "#b3261e",
    "succeeded": "#1a7f37",
    "stopped": "#57606a",
    "running": "#0a5cc2",
    "starting": "#57606a",
}
_SIGN_COLOURS = {"succeeded": "#1a8a34", "running": "#266bd9"}


def html(board: Board, heading: Heading, images: Mapping[int, Sequence[tuple[str, bytes]]] | None = None) -> str:
    """Draw the page.

    Args:
        board: Read once; a run that goes on is shown as it is now.
        heading: What the board does not know.
        images: `{rank: [(path, PNG)]}`. Each is drawn that has at most 256 KiB, as long as all have at most half of
            the page; of the others their paths are.

    Returns:
        One `<div>` of at most `MOST_BYTES`. Where that does not hold the last 200 lines of each rank, the oldest go,
        from those that wrote most. Nothing foreign stands in it unescaped, and nothing in it refers to anything
        outside.

    Runs in: owner, any thread.
    """
    snapshot = board.snapshot()
    root = first_failure(snapshot)
    top = _title(snapshot, heading) + _chips(snapshot) + _failure(snapshot, heading, root)
    end = _notes(snapshot.notes)
    images = images or {}
    listed = _listed(snapshot, root, images)
    pages = [RankPage.of(board, rank, is_root=rank is root) for rank in listed]
    left = MOST_BYTES - byte_size(top) - byte_size(end) - sum(page.fixed for page in pages) - 8192
    room = ImageAllowance(min(_MOST_IMAGE_BYTES, left // 2))
    for page in pages:
        page.images = room.draw(images.get(page.rank.rank, ()))
    silent = [page.rank.rank for page in pages if page.is_silent]
    pages = [page for page in pages if not page.is_silent]
    _unfold(pages, root)
    _share(pages, left - sum(byte_size(image) for page in pages for image in page.images))
    after = [f"{_named(silent)} wrote nothing"] if silent and snapshot.status not in ("starting", "running") else []
    if len(snapshot.ranks) > len(listed):
        after.append(f"{counted(len(snapshot.ranks) - len(listed), 'more rank')}: see the log files")
    rest = "".join(f'<p style="margin:0.4em 0">{line}</p>\n' for line in after)
    return f'<div dir="ltr" style="line-height:1.5">{top}{_rows(pages)}{rest}{end}</div>'


def _title(snapshot: BoardSnapshot, heading: Heading) -> str:
    pill = (
        f'<span style="background-color:{_SOLID[snapshot.status]};color:#ffffff;padding:0.1em 0.55em;'
        f'border-radius:0.4em">{SIGNS[snapshot.status]} {snapshot.status}</span>'
    )
    line = " · ".join(facts(snapshot, heading))
    if heading.run_id:
        line += f" · run {inert_name(heading.run_id, 100)}"
    if heading.log_dir:
        line += f" · logs {inert_name(heading.log_dir, 500)}"
    return (
        f'<h5 style="margin:0 0 0.35em;font-size:1em;font-weight:600;font-style:normal">{pill} '
        f'{inert_name(heading.name)}</h5>\n<p style="margin:0 0 0.5em;font-size:0.92em;opacity:0.8">{line}</p>\n'
    )


def _chips(snapshot: BoardSnapshot) -> str:
    if len(snapshot.ranks) == 1:
        return ""
    is_few = len(snapshot.ranks) <= _MOST_APART
    chips = []
    for rank in snapshot.ranks[:_MOST_RANKS]:
        style = "display:inline-block;padding:0 0.5em;margin:0 0.15em 0.3em 0;font-size:0.9em;border-radius:0.4em;"
        sign = SIGNS[rank.state]
        if rank.state == "failed":
            style += f"border:1px solid {_SOLID['failed']};background-color:{_SOLID['failed']};color:#ffffff"
        else:
            style += f"border:1px solid {BORDER}"
        if colour := _SIGN_COLOURS.get(rank.state):
            sign = f'<b style="color:color-mix(in srgb,currentColor 20%,{colour})">{sign}</b>'
        words = f"rank {rank.rank}" if is_few else str(rank.rank)
        chips.append(f'<span style="{style}" title="rank {rank.rank} {end_words(rank)}">{sign} {words}</span>')
    if len(snapshot.ranks) > _MOST_RANKS:
        chips.append(f"and {counted(len(snapshot.ranks) - _MOST_RANKS, 'more rank')}")
    lead = "" if is_few else "ranks "
    return f'<p style="margin:0 0 0.3em">{lead}{" ".join(chips)}</p>\n'


def _failure(snapshot: BoardSnapshot, heading: Heading, root: RankSnapshot | None) -> str:
    """What happened, what is likely, what to do; then the traceback of the root cause."""
    parts = [
        f'<p style="margin:0.2em 0">{inert_words(line, 500)}</p>\n' for line in heading.error.splitlines()[:5] if line
    ]
    for line in failure_words(snapshot, heading).splitlines()[:_MOST_NOTES]:
        if line.startswith("  "):  # a row of `describe`
            name, words = line[2:9].strip(), line[10:]
            label = f'<b style="display:inline-block;min-width:3.8em">{name}</b>'
            parts.append(f'<p style="margin:0.1em 0">{label} {inert_words(words, 1000)}</p>\n')
        else:
            weight = "600" if len(parts) == 0 else "normal"
            parts.append(f'<p style="margin:0.2em 0;font-weight:{weight}">{inert_words(line, 500)}</p>\n')
    if not parts:
        return ""
    if root is not None and root.failure is not None:
        text = traceback_text(root.failure)
        label = "Traceback" if root.failure.exception is not None else "Python stacks"
        if text:
            parts.append(f'<p style="margin:0.5em 0 0.2em">{label} of rank {root.rank}:</p>\n')
            parts.append(preformatted(bounded(text, _MOST_TRACEBACK_BYTES)))
    edge = _SOLID["failed" if snapshot.status == "failed" else "stopped"]
    return f'<div style="border-left:3px solid {edge};padding:0 0 0 0.8em;margin:0.5em 0">{"".join(parts)}</div>\n'


def _listed(
    snapshot: BoardSnapshot, root: RankSnapshot | None, images: Mapping[int, Sequence[tuple[str, bytes]]]
) -> list[RankSnapshot]:
    """The ranks to show, the root cause first, then others that failed, then those with images, then the rest."""

    def order(rank: RankSnapshot) -> tuple[bool, bool, bool, int]:
        return (rank is not root, rank.state != "failed", not images.get(rank.rank), rank.rank)

    return sorted(snapshot.ranks, key=order)[:_MOST_RANKS]


def _unfold(pages: Sequence[RankPage], root: RankSnapshot | None) -> None:
    with_images = [page for page in pages if page.images]
    # What a person would have read as printed lines without scrolling is not folded away. (A failure comes first.)
    is_short = root is None and sum(len(page.lines) for page in pages) <= _MOST_LINES_UNFOLDED
    for page in pages:
        is_only = len(pages) == 1 and page.rank.rank == 0
        page.is_open = page.rank is root or is_only or is_short or (page in with_images and len(with_images) <= 4)


def _share(pages: Sequence[RankPage], left: int) -> None:
    """Give each what it needs, and those that need more than the rest an equal part of what is left."""
    for done, page in enumerate(sorted(pages, key=lambda page: page.need)):
        page.allowance = max(0, min(page.need, left // (len(pages) - done)))
        left -= page.allowance


def _rows(pages: Sequence[RankPage]) -> str:
    apart = [page for page in pages if page.is_open or page.rank.state == "failed" or len(pages) <= _MOST_APART]
    apart = [page for at, page in enumerate(apart) if page.is_open or at < _MOST_APART]
    rest = sorted((page for page in pages if page not in apart), key=lambda page: page.rank.rank)
    drawn = "".join(page.draw() for page in apart)
    if not rest:
        return drawn
    states = Counter(page.rank.state for page in rest)
    about = ", ".join(f"{count} {state}" for state, count in states.items())
    return (
        f'{drawn}<details style="margin:0.3em 0"><summary style="cursor:pointer">output of '
        f"{_named([page.rank.rank for page in rest])} ({about})</summary>\n"
        f"{''.join(page.draw() for page in rest)}</details>\n"
    )


def _notes(notes: Sequence[str]) -> str:
    lines = [f"note: {inert_words(note, 500)}" for note in notes[:_MOST_NOTES]]
    if len(notes) > _MOST_NOTES:
        lines.append(f"{counted(len(notes) - _MOST_NOTES, 'more note')} left out")
    return "".join(f'<p style="margin:0.3em 0;font-size:0.92em">{line}</p>\n' for line in lines)


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'' if len(ranks) == 1 else 's'} {ranges(ranks)}"
