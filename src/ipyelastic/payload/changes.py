"""What has changed between the circumstances that a spare was told ahead and those of its call.

    owner: changes(guess, given) --with the call--> rank: changed(guess, ...) -> given

Runs in: owner and ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .circumstances import Circumstances

__all__ = ["changed", "changes"]


def changes(before: Circumstances, now: Circumstances) -> dict[str, Any]:
    """What makes `now` of `before`; of the ranks' own variables those that differ only, None for one that is gone."""
    found: dict[str, Any] = {name: value for name, value in now.items() if before.get(name) != value}
    if "envs" in found and before["envs"].keys() == now["envs"].keys():
        found["envs"] = {rank: _difference(before["envs"][rank], own) for rank, own in now["envs"].items()}
    return found


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str | None]:
    gone = dict.fromkeys(before.keys() - now.keys())
    return gone | {name: text for name, text in now.items() if before.get(name) != text}


def changed(before: Circumstances, found: Mapping[str, Any]) -> Circumstances:
    """The circumstances that `changes` was given as `now`."""
    envs = found.get("envs", before["envs"])
    if envs is not before["envs"] and before["envs"].keys() == envs.keys():
        merged = {rank: {**before["envs"][rank], **own} for rank, own in envs.items()}
        envs = {rank: {name: text for name, text in own.items() if text is not None} for rank, own in merged.items()}
    return cast("Circumstances", {**before, **found, "envs": envs})
