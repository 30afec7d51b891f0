"""The packages that ipyelastic needs and those it meets: versions against the floors, the kernel's known faults.

    doctor > [here]

Runs in: owner (a shell's process). Nothing is imported: versions come from what pip wrote.
Other end: pyproject.toml's `dependencies` are the floors; tests/bench/kernel_versions.py tries the kernels.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

from .findings import Finding

__all__ = ["look"]

_US = "ipyelastic"
_KNOWN_KERNELS = (  # (versions, how they begin), what was seen of them; the first that fits
    ("7.0.", "do", "loses a cell's idle message when a thread prints meanwhile: the page waits for ever"),
    ("7.1.", "note", "can stop reading messages for good after an interrupt in mid-message; seldom"),
    ("7.2.", "note", "can stop reading messages for good after an interrupt in mid-message; seldom"),
    ("7.3.", "note", "can stop reading messages for good after an interrupt in mid-message; seldom"),
    ("6.29.", "ok", "known to work"),
    ("6.30.", "ok", "known to work"),
    ("6.31.", "ok", "known to work"),
    ("7.4.", "ok", "known to work"),
)
_PAGES = (("jupyterlab", "4.1"), ("notebook", "7.1"), ("nbclassic", ""))
_PANEL = ("ipywidgets", "anywidget")


def look() -> list[Finding]:
    """What is installed beside us."""
    return [*_needed(), _kernel(), _front_end(), *_pages()]


def _needed() -> list[Finding]:
    try:
        wanted = requires(_US) or []
    except PackageNotFoundError:
        text = "ipyelastic is imported from a folder that pip knows nothing of: versions cannot be compared"
        return [Finding("packages", _US, "note", text, "pip install . in its folder")]
    found = []
    for text in wanted:
        if "extra ==" in text:
            continue
        name, condition = _parted(text)
        if name != "ipykernel":  # it has lines of its own
            found.append(_one(name, condition))
    return found


def _parted(requirement: str) -> tuple[str, str]:
    """`ipykernel!=7.0.*,>=6.29` -> its name and the rest."""
    end = next((at for at, letter in enumerate(requirement) if letter in "<>=!~ ;["), len(requirement))
    return requirement[:end], requirement[end:].strip()


def _one(name: str, condition: str) -> Finding:
    install = f'pip install "{name}{condition}"'
    try:
        have = version(name)
    except PackageNotFoundError:
        return Finding("packages", name, "do", f"{name} is not installed", install)
    if not _fits(have, condition):
        return Finding("packages", name, "do", f"{name} {have}: expected {condition}", install)
    return Finding("packages", name, "ok", f"{name} {have} ({condition})")


def _fits(have: str, condition: str) -> bool:
    """Whether a version keeps a condition; true where nobody can tell."""
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
        from packaging.version import InvalidVersion
    except ImportError:  # ipykernel brings it, and may be what is missing
        return True
    try:
        return SpecifierSet(condition).contains(have, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return True


def _kernel() -> Finding:
    section, name = "notebook", "ipykernel"
    install = 'pip install "ipykernel>=7.4"'
    try:
        have = version(name)
    except PackageNotFoundError:
        return Finding(section, name, "do", "ipykernel is not installed: no notebook runs in this Python", install)
    if not _fits(have, ">=6.29"):
        return Finding(section, name, "do", f"ipykernel {have}: expected 6.29 or newer", install)
    for beginning, state, what in _KNOWN_KERNELS:
        if have.startswith(beginning):
            do = "" if state == "ok" else install
            return Finding(section, name, state, f"ipykernel {have}: {what}", do)  # type: ignore[arg-type]  # a State
    return Finding(section, name, "note", f"ipykernel {have}: newer than those that were tried", "")


def _front_end() -> Finding:
    section, name = "notebook", "panel"
    missing = [package for package in _PANEL if importlib.util.find_spec(package) is None]
    if missing:
        text = f"no panel under cells, text instead: {' and '.join(missing)} not installed"
        return Finding(section, name, "do", text, f"pip install {' '.join(missing)}")
    static = Path(sys.modules[_US].__file__ or "").with_name("notebook") / "static"
    if not all((static / file).is_file() for file in ("panel.js", "loader.js")):
        text = f"the panel's front end is not built in {static}: cells show text"
        return Finding(section, name, "do", text, "pip install . again; in a checkout: python src/frontend/bundle.py")
    versions = ", ".join(f"{package} {version(package)}" for package in _PANEL)
    return Finding(section, name, "ok", f"the panel: its front end is built; {versions}")


def _pages() -> list[Finding]:
    found = []
    for name, floor in _PAGES:
        try:
            have = version(name)
        except PackageNotFoundError:
            continue
        if floor and not _fits(have, f">={floor}"):
            text, do = f"{name} {have}: {floor} is the oldest that was tried", f'pip install "{name}>={floor}"'
            found.append(Finding("notebook", name, "note", text, do))
        elif name == "nbclassic":
            text = f"nbclassic {have}: the panel was not tried in it; cells show text with --ui text"
            found.append(Finding("notebook", name, "note", text))
        else:
            found.append(Finding("notebook", name, "ok", f"{name} {have}"))
    if not found:
        text = "no JupyterLab or Notebook in this Python: its kernel may serve a page from elsewhere"
        found.append(Finding("notebook", "page", "note", text, "pip install jupyterlab, if none does"))
    elif any(one.name in ("jupyterlab", "notebook") for one in found) and not _has_widget_manager():
        text = "JupyterLab's part of ipywidgets (jupyterlab_widgets) is not installed: the panel cannot be drawn"
        found.append(Finding("notebook", "jupyterlab_widgets", "do", text, "pip install jupyterlab_widgets"))
    return found


def _has_widget_manager() -> bool:
    try:
        distribution("jupyterlab_widgets")
    except PackageNotFoundError:
        return False
    return True
