"""The text of cells travels to `linecache` of the ranks; files that ranks can read themselves do not."""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipyelastic.payload import sources


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    before, labels = dict(linecache.cache), dict(sources._labels)
    yield
    linecache.cache.clear()
    linecache.cache.update(before)
    sources._labels.clear()
    sources._labels.update(labels)


def put(name: str, text: str) -> None:
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)


def test_text_in_memory_is_collected() -> None:
    put("<cell 1>", "a = 1\nb = 2")
    assert sources.collect(["<cell 1>", "<never>"]) == {"<cell 1>": ("a = 1\nb = 2", "")}


def test_file_that_exists_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("x = 1\n")
    assert linecache.getline(str(path), 1) == "x = 1\n"
    assert sources.collect([str(path)]) == {}


def test_installed_text_is_found_and_never_dropped() -> None:
    sources.install({"/tmp/ipykernel_1/2.py": ("one\ntwo\n", "Cell In[7]"), "<other>": ("x", "")})
    linecache.checkcache()
    assert linecache.getline("/tmp/ipykernel_1/2.py", 2) == "two\n"
    assert sources.label_of("/tmp/ipykernel_1/2.py") == "Cell In[7]"
    assert (sources.label_of("<other>"), sources.label_of("never")) == ("", "")


def test_what_is_installed_can_be_collected_again() -> None:
    given = {"<cell>": ("def f():\n    pass\n", "")}
    sources.install(given)
    assert sources.collect(given) == given
