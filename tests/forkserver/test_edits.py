"""Every way in which a preloaded file is edited is heard of; what cannot be heard of is always looked at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipyelastic.forkserver import edits
from ipyelastic.forkserver.edits import Edits


def _exchange(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("copy"))
    folder.rename(folder.with_name("former"))
    folder.with_name("copy").rename(folder)


_HOW: dict[str, Callable[[Path], object]] = {
    "written in place": lambda path: path.write_text("value = 2\n"),
    "a line more": lambda path: subprocess.run(["sh", "-c", f"echo '# more' >> {path}"], check=True),
    "mapped and written by another process": lambda path: subprocess.run(
        [sys.executable, "-c", f"import os; fd = os.open({str(path)!r}, os.O_RDWR); os.pwrite(fd, b'#', 0)"], check=True
    ),
    "another in its place": lambda path: (
        path.with_suffix(".new").write_text("value = 3\n"),
        os.replace(path.with_suffix(".new"), path),
    ),
    "touched": lambda path: os.utime(path, (1, 1)),
    "removed": os.unlink,
    "removed, with its folder": lambda path: shutil.rmtree(path.parent),
    "a folder above it is another": lambda path: _exchange(path.parents[1]),
    "a folder above all is another": lambda path: _exchange(path.parents[2]),
    "the package as a whole is another": lambda path: _exchange(path.parent),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of a package that nobody has touched for a while."""
    folder = tmp_path / "venv" / "site" / "package"
    folder.mkdir(parents=True)
    made = folder / "module.py"
    made.write_text("value = 1\n")
    return made


@pytest.fixture
def watched(path: Path) -> Iterator[Edits]:
    """Edits of that file."""
    made = Edits([str(path)], [str(path.parents[1])])
    yield made
    made.close()


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
@pytest.mark.parametrize("how", _HOW)
def test_an_edit_is_heard_of_once(watched: Edits, path: Path, how: str) -> None:
    assert (watched.may_be, watched.may_be) == (False, False)
    _HOW[how](path)
    assert watched.may_be
    assert watched.may_be == ("above" in how)  # what is heard there is of the folder that was; it is looked at for good


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_reading_and_compiling_is_none(watched: Edits, path: Path) -> None:
    path.read_text()
    cache = path.parent / "__pycache__"
    cache.mkdir()
    assert watched.may_be  # a folder more: it is looked at once
    (cache / "module.cpython-311.pyc").write_bytes(b"compiled")
    assert not watched.may_be


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_a_link_that_leads_elsewhere_is_seen(path: Path, tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.symlink_to(path.parents[2])
    watched = Edits([str(current / "site" / "package" / "module.py")], [str(current / "site")])
    assert not watched.may_be
    shutil.copytree(path.parents[2], tmp_path / "next")
    current.unlink()
    current.symlink_to(tmp_path / "next")
    assert watched.may_be
    watched.close()


@pytest.mark.parametrize("what", ["a link", "another name", "a linked folder", "a folder that is gone", "nothing"])
def test_what_cannot_be_heard_of_is_always_looked_at(path: Path, tmp_path: Path, what: str) -> None:
    link, linked = path.with_name("link.py"), path.parents[1] / "linked"
    link.symlink_to(path)
    linked.symlink_to(path.parent)
    paths = {
        "a link": [str(path), str(link)],
        "another name": [str(path)],
        "a linked folder": [str(linked / "module.py")],
        "a folder that is gone": ["/gone/module.py"],
        "nothing": [],
    }[what]
    if what == "another name":
        os.link(path, tmp_path / "cache.py")
    made = Edits(paths, [str(path.parents[1])])
    assert (made.fd, made.may_be, made.may_be) == (-1, True, True)


def test_a_folder_that_others_may_change_unheard_is_always_looked_at(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(edits, "_LOCAL", frozenset([0x6969]))  # as if only NFS were to be trusted
    assert Edits([str(path)]).may_be
    assert len(os.listdir("/proc/self/fd")) == before


def test_after_its_end_the_answer_is_maybe(path: Path) -> None:
    made = Edits([str(path)])
    made.close()
    made.close()
    assert made.may_be
