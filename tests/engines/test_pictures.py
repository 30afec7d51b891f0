"""Pictures that ranks saved are found for the page that stays."""

from __future__ import annotations

from pathlib import Path

from ipyelastic import launch
from ipyelastic.engines.pictures import pictures_of
from support import oddities


def test_pictures_of_the_last_attempt_come_by_rank_in_the_order_of_saving(tmp_path: Path) -> None:
    for attempt, rank, name, content in (
        (0, 0, "figure_1.png", b"old"),
        (1, 0, "figure_10.png", b"one"),
        (1, 0, "image_2.png", b"two"),
        (1, 3, "figure_1.png", b"three"),
        (1, 2, "stdout.log", b"text"),
    ):
        folder = tmp_path / f"attempt_{attempt}" / str(rank)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    found = pictures_of(str(tmp_path))
    assert {rank: [(Path(path).name, data) for path, data in pictures] for rank, pictures in found.items()} == {
        0: [("figure_10.png", b"one"), ("image_2.png", b"two")],
        3: [("figure_1.png", b"three")],
    }


def test_a_run_without_pictures_or_without_a_folder_has_none(tmp_path: Path) -> None:
    run = launch(oddities.write_much, nproc=1, ui="none", log_dir=str(tmp_path))
    run.result(20)
    assert pictures_of(run.log_dir) == {}
    assert pictures_of(str(tmp_path / "gone")) == {}
