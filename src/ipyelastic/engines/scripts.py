"""A script as something to launch: found, or refused with the nearest that there is, before anything is started.

    magic (`%elastic_run train.py`), launch("train.py")  >  [here]  >  payload/script.Script

Runs in: owner. Nothing of the script is executed or imported here.
Other end: payload/script.py runs it in a rank.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import invalidate_caches
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from ..launcher.options import RunOptions
from ..payload.script import Script
from ..terms.errors import OptionError, nearest
from .folder import working_folder

__all__ = ["find_script", "find_module", "looks_like_script", "check_script_options"]

_MOST_LOOKED_AT = 2000  # entries of a folder, when a name is to be suggested


def looks_like_script(word: str) -> bool:
    """Whether a word names something that Python runs: a .py or zip file, or a folder with a `__main__.py`."""
    return word.endswith((".py", ".pyz", ".zip")) or os.path.isfile(os.path.join(_expanded(word), "__main__.py"))


def find_script(target: str | os.PathLike[str], args: Sequence[Any] = ()) -> Script:
    """A script by its path, relative to the working directory; a leading `~` is the home folder.

    Raises OptionError, one line, when it is not there or nothing that Python runs.
    """
    shown = _expanded(os.fspath(target))
    try:
        path = os.path.abspath(shown)
    except FileNotFoundError:
        raise OptionError(f"{shown}: the working directory is gone; give a whole path") from None
    if os.path.isdir(path) and not os.path.isfile(os.path.join(path, "__main__.py")):
        raise OptionError(f"{shown}: this folder has no __main__.py; name a .py file in it")
    if not os.path.exists(path):
        raise OptionError(f"{shown}: no such file{_nearest_script(shown, path)}")
    if os.path.isfile(path):
        _check_file(shown, path)
    return Script(shown, _checked_args(args), path)


def find_module(name: str, args: Sequence[Any] = ()) -> Script:
    """A module as `python -m` takes it, found from the working directory first.

    Raises OptionError, one line, when there is none of that name. Packages above it are not imported: one that makes
    up its contents as it is imported is left for the rank to judge.
    """
    if not name:
        raise OptionError("-m: expected a module's name, such as pkg.train")
    if name.endswith(".py") or "/" in name:
        as_name = name.removesuffix(".py").replace("/", ".")
        raise OptionError(f"-m {name}: expected a module's name such as {as_name}; for a file leave out -m")
    if not all(part.isidentifier() for part in name.split(".")):
        raise OptionError(f"-m {name}: expected a module's name, such as pkg.train")
    invalidate_caches()
    folder = working_folder()
    if folder is None:
        raise OptionError(f"-m {name}: the working directory is gone")
    search: list[str] | None = [folder, *(entry for entry in sys.path if entry)]
    above = ""
    for part in name.split("."):
        spec = _spec(f"{above}.{part}" if above else part, search, is_top=not above)
        if spec is None:
            raise OptionError(f"-m {name}: no module {part}{f' in {above}' if above else ''}{_nearest(part, search)}")
        above = f"{above}.{part}" if above else part
        search = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if search is None and above != name:
            raise OptionError(f"-m {name}: {above} is a module, not a package")
    if search is not None and _spec(f"{name}.__main__", search, is_top=False) is None:
        raise OptionError(f"-m {name}: this package has no __main__.py; name a module in it{_modules_in(name, search)}")
    return Script(name, _checked_args(args))


def check_script_options(options: RunOptions) -> None:
    """Raises OptionError for options that do not go with a script."""
    if options.start_method == "fork":
        raise OptionError(
            "start_method='fork': a script would find this process's modules as they are now;"
            " expected forkserver or spawn"
        )
    if options.engine == "here":
        raise OptionError("engine='here' runs cells and functions; for a script in the notebook itself there is %run")


def _expanded(word: str) -> str:
    return os.path.expanduser(word) if word.startswith("~") else word


def _check_file(shown: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise OptionError(f"{shown}: {error.strerror}") from None
    import zipfile  # slow to import, and not needed before a script is launched

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "__main__.py" not in archive.namelist():
                raise OptionError(f"{shown}: this zip file has no __main__.py")


def _checked_args(args: Sequence[Any]) -> tuple[str, ...]:
    checked = []
    for value in args:
        if isinstance(value, bool) or not isinstance(value, (str, int, float, os.PathLike)):
            raise OptionError(f"args: {value!r}: expected text, a number or a path; a script gets nothing else")
        text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
        if "\0" in text:
            raise OptionError(f"args: {text!r}: no argument can hold a null character")
        checked.append(text)
    return tuple(checked)


def _spec(name: str, search: list[str] | None, is_top: bool) -> ModuleSpec | None:
    """What the import system would find, without importing anything; what is loaded in this process does not count."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            # Only the path's own finder is told where to look for a top-level name: others have their own list.
            spec = find(name, None if is_top and finder is not PathFinder else search) if find is not None else None
        except Exception:  # a finder somebody installed; the rank, which does import, will tell
            continue
        if spec is not None:
            found: ModuleSpec = spec
            return found
    return None


def _nearest_script(shown: str, path: str) -> str:
    """`, did you mean X?`: a file of that name up to two folders below, else one of a like name in that folder."""
    import difflib  # only when something is wrong already

    folder, name = os.path.split(path)
    found = _below(folder, name)
    if not found:
        stems = [entry.removesuffix(".py") for entry in _entries(folder) if entry.endswith(".py")]
        close = difflib.get_close_matches(name.removesuffix(".py"), stems, n=1)
        found = f"{close[0]}.py" if close else ""
    return f", did you mean {os.path.join(os.path.dirname(shown), found)}?" if found else ""


def _below(folder: str, name: str) -> str:
    inner = [entry for entry in _entries(folder) if entry not in _SKIPPED and not entry.startswith(".")]
    pairs = ((one, other) for one in inner for other in ["", *_entries(os.path.join(folder, one))])
    for one, other in itertools.islice(pairs, _MOST_LOOKED_AT):
        candidate = os.path.join(one, other, name)
        if os.path.isfile(os.path.join(folder, candidate)):
            return candidate
    return ""


_SKIPPED = frozenset(["node_modules", "__pycache__"])


def _entries(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as found:
            return sorted(entry.name for entry in itertools.islice(found, _MOST_LOOKED_AT))
    except OSError:
        return []


def _module_names(folders: list[str]) -> Iterator[str]:
    for folder in folders:
        for entry in _entries(folder):
            if entry.endswith(".py"):
                yield entry[:-3]
            elif entry.isidentifier() and any(name.endswith(".py") for name in _entries(os.path.join(folder, entry))):
                yield entry


def _nearest(part: str, search: list[str] | None) -> str:
    """The nearest name among those beside it: for a top-level name the working directory alone."""
    return nearest(part, sorted(set(_module_names((search or [])[:1]))))


def _modules_in(name: str, search: list[str]) -> str:
    names = sorted(set(_module_names(search)) - {"__init__"})
    return f", such as {name}.{names[0]}" if names else ""
