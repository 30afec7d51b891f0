"""What the panel and the page say to each other: every message, by name.

    panel_view -> comm -> page: Bundle, Whole, Output, StateChanged, UsageChanged, PicturesSaved, Final
    page -> comm -> panel_view: BundleWanted, Ready, Bye, Show, Ack

Other end: src/frontend/link.js and loader.js use the same words; change them together.
Output travels as binary buffers, one for each rank of `ranks` and in its order: UTF-8 with the rank's own escape
sequences, as its terminal is to get it.
"""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = [
    "Ack",
    "Bundle",
    "Bye",
    "FailureWords",
    "Final",
    "Output",
    "PictureRow",
    "PicturesSaved",
    "RankWords",
    "Ready",
    "RunState",
    "Show",
    "StateChanged",
    "UsageChanged",
    "UsageRow",
    "Whole",
]

UsageRow = tuple[int, float, int, float | None, int | None]
"""rank, CPU in percent of one core, resident bytes, GPU in percent, GPU memory in bytes"""


PictureRow = tuple[int, str, int]
"""rank, path below the log folder, how many pictures that rank has saved so far"""


class RankWords(TypedDict):
    """One rank on its tab."""

    state: str
    exitcode: int | None
    pid: int | None


class FailureWords(TypedDict):
    """What went wrong; `rank` None: no rank's doing."""

    rank: int | None
    words: str
    traceback: str
    last: str


class RunState(TypedDict):
    """Everything but output and usage; the page counts `elapsed_s` and `grace_left_s` on while `is_live`."""

    epoch: int
    run_id: str
    name: str
    status: str
    sign: str
    detail: str
    announcement: str
    is_live: bool
    elapsed_s: float | None
    grace_left_s: float | None
    first: int
    ranks: list[RankWords]
    notes: list[str]
    failure: FailureWords | None


class Bundle(TypedDict):
    """The front end itself, as one buffer."""

    kind: Literal["bundle"]


class Whole(TypedDict):
    """All there is, for the one view that asked (`view`), or for all (`*`); output follows from `seq` on."""

    kind: Literal["whole"]
    view: str
    seq: int
    ranks: list[int]
    state: RunState
    usage: list[list[UsageRow]]


class Output(TypedDict):
    """One tick's new output. `seq` counts by one; a view that misses a number asks for the whole."""

    kind: Literal["output"]
    seq: int
    ranks: list[int]


class StateChanged(TypedDict):
    """Something of the state is new."""

    kind: Literal["state"]
    state: RunState


class UsageChanged(TypedDict):
    """One sample for each rank."""

    kind: Literal["usage"]
    samples: list[UsageRow]


class PicturesSaved(TypedDict):
    """Pictures, a buffer for each: a PNG, or empty where it is too large or none. One known already changes nothing."""

    kind: Literal["pictures"]
    pictures: list[PictureRow]


class Final(TypedDict):
    """The static page, for notebooks in which the widget with model id `box` still stands."""

    kind: Literal["final"]
    box: str
    html: str
    plain: str


class Ready(TypedDict):
    """A view is there and has nothing yet."""

    kind: Literal["ready"]
    view: str


class Bye(TypedDict):
    """A view was closed."""

    kind: Literal["bye"]
    view: str


class Show(TypedDict):
    """What a view shows: these ranks, or all (None)."""

    kind: Literal["show"]
    view: str
    ranks: list[int] | None


class Ack(TypedDict):
    """A view has drawn everything up to `seq`."""

    kind: Literal["ack"]
    view: str
    seq: int
