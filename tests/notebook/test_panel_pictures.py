"""Pictures on their way to a page: each once, whole, the newest few of a rank, bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipyelastic.notebook.panel_pictures import MOST_OF_A_RANK, PictureFeed
from support.pngs import png

SMALL = png(3, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "attempt_0" / "0").mkdir(parents=True)
    (tmp_path / "attempt_0" / "1").mkdir()
    return tmp_path


def save(folder: Path, rank: int, number: int, data: bytes = SMALL, attempt: int = 0) -> str:
    place = folder / f"attempt_{attempt}" / str(rank)
    place.mkdir(parents=True, exist_ok=True)
    (place / f"figure_{number}.png").write_bytes(data)
    return f"attempt_{attempt}/{rank}/figure_{number}.png"


def test_each_picture_comes_once_and_again_for_a_view_that_has_none(folder: Path) -> None:
    feed = PictureFeed()
    assert feed.take_new("", 0.0, is_over=False) == ([], [])
    first = save(folder, 1, 1)
    assert feed.take_new(str(folder), 0.5, is_over=False) == ([], [])  # once a second
    assert feed.take_new(str(folder), 1.0, is_over=False) == ([(1, first, 1)], [SMALL])
    second = save(folder, 0, 1)
    assert feed.take_new(str(folder), 2.0, is_over=False) == ([(0, second, 1)], [SMALL])
    assert feed.take_new(str(folder), 3.0, is_over=False) == ([], [])
    feed.forget()
    assert feed.take_new(str(folder), 3.0, is_over=True) == ([(0, second, 1), (1, first, 1)], [SMALL, SMALL])
    assert feed.take_new(str(folder), 4.0, is_over=True) == ([], [])


def test_a_picture_that_is_being_written_waits_and_at_the_end_is_named_only(folder: Path) -> None:
    feed = PictureFeed()
    save(folder, 0, 1, SMALL[:-5])
    assert feed.take_new(str(folder), 0.0, is_over=False) == ([], [])
    path = save(folder, 0, 1)
    assert feed.take_new(str(folder), 1.0, is_over=False) == ([(0, path, 1)], [SMALL])
    other = save(folder, 0, 2, b"<script>no picture</script>")
    assert feed.take_new(str(folder), 2.0, is_over=False) == ([], [])
    assert feed.take_new(str(folder), 2.0, is_over=True) == ([(0, other, 2)], [b""])


def test_of_many_the_newest_come_and_one_that_is_too_large_is_named_only(folder: Path) -> None:
    feed = PictureFeed()
    for number in range(1, 21):
        save(folder, 0, number)
    rows, _ = feed.take_new(str(folder), 0.0, is_over=False)
    assert [row[2] for row in rows] == [20] * MOST_OF_A_RANK
    path = save(folder, 1, 1, png(1100, 1000, 0))
    assert feed.take_new(str(folder), 1.0, is_over=False) == ([(1, path, 1)], [b""])


def test_many_large_ones_come_in_several_messages(folder: Path) -> None:
    feed = PictureFeed()
    large = png(1000, 1000, 0)
    for rank in range(3):
        for number in range(5):
            save(folder, rank, number, large)
    counts = []
    while (new := feed.take_new(str(folder), 0.0, is_over=True))[0]:
        counts.append(len(new[1]))
    assert (len(counts), sum(counts)) == (2, 15)


def test_those_of_a_new_attempt_are_new(folder: Path) -> None:
    feed = PictureFeed()
    save(folder, 0, 1)
    feed.take_new(str(folder), 0.0, is_over=False)
    path = save(folder, 0, 1, attempt=1)
    assert feed.take_new(str(folder), 1.0, is_over=False) == ([(0, path, 1)], [SMALL])
