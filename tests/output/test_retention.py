"""Which log folders a sweep takes away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipyelastic.output import retention


def make(root: Path, name: str, started: str) -> Path:
    """An owner's folder with one run of long ago in it."""
    run = root / name / "run"
    run.mkdir(parents=True)
    (root / name / ".ipyelastic-owner").write_text(started)
    os.utime(run, (0, 0))
    return root / name


@pytest.mark.parametrize(
    ("started", "is_left"),
    [
        ("", True),  # the folder was made a moment ago, by another thread of this very process
        ("1", False),  # an owner with our pid, before us
    ],
)
def test_sweep_leaves_a_folder_that_is_being_made(run_root: Path, started: str, is_left: bool) -> None:
    folder = make(run_root, f"{os.getpid()}-made", started)
    assert retention.sweep() == (not is_left)
    assert folder.exists() == is_left


def test_sweep_leaves_the_folder_of_a_living_owner(run_root: Path) -> None:
    folder = Path(retention.owner_folder())
    (folder / "run").mkdir()
    os.utime(folder / "run", (0, 0))
    assert (retention.sweep(), (folder / "run").exists()) == (0, True)
