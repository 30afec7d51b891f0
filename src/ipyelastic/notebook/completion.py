"""What Tab offers on the lines of our magics: options, their values, run ids, ranks, names.

    IPython's completer, for each Tab > [here], one matcher of its `custom_matchers` > launcher/grammar

Runs in: owner (kernel or terminal IPython), main thread. On any other line it offers nothing and hides nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from ..engines.run import last_run, live_runs
from ..launcher import defaults
from ..launcher.grammar import OPTIONS, Option, new_parser, option_of, split_line
from ..terms.errors import OptionError

__all__ = ["add_to", "remove_from"]

_MAGIC = re.compile(
    r"^(?P<before>\s*(?:[^=%'\"#]+=\s*)?)(?P<sign>%%?)elastic_"
    r"(?P<name>run|config|stop|logs|status|panel)[ \t](?P<line>.*)$"
)


class _Offer:
    """Words for the text `fragment` before the cursor; `is_all`: nobody else's words are wanted beside them.

    `kind` is what a page shows beside them.
    """

    def __init__(self, fragment: str, words: Iterable[str], is_all: bool = True, kind: str = "magic") -> None:
        self.fragment, self.is_all, self.kind = fragment, is_all, kind
        self.words = [word for word in words if word.lower().startswith(fragment.lower())]


def add_to(shell: Any) -> None:
    """Offer completions in this shell; twice is once. Shells whose completer takes no matchers go without."""
    matchers = _matchers_of(shell)
    if matchers is None:
        return
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:  # IPython before 8.6
        return

    @context_matcher(identifier=_IDENTIFIER)
    def elastic_matcher(context: Any) -> dict[str, Any]:
        offer = _offer(shell, context.full_text, context.cursor_line, context.text_until_cursor)
        if offer is None:
            return {"completions": []}
        return {
            "completions": [SimpleCompletion(word, type=offer.kind) for word in offer.words],
            "matched_fragment": offer.fragment,
            "suppress": offer.is_all,
            "ordered": True,
        }

    remove_from(shell)
    matchers.append(elastic_matcher)


def remove_from(shell: Any) -> None:
    """Take back what `add_to` did."""
    matchers = _matchers_of(shell) or []
    for matcher in [matcher for matcher in matchers if getattr(matcher, "matcher_identifier", "") == _IDENTIFIER]:
        matchers.remove(matcher)


_IDENTIFIER = "ipyelastic.elastic_matcher"


def _matchers_of(shell: Any) -> Any:
    return getattr(getattr(shell, "Completer", None), "custom_matchers", None)


def _offer(shell: Any, cell: str, line_number: int, until_cursor: str) -> _Offer | None:
    found = _MAGIC.match(until_cursor)
    if found is None:
        return None
    is_cell_magic = found["sign"] == "%%"
    if is_cell_magic and (line_number > 0 or found["name"] != "run" or found["before"].strip()):
        return None
    if not is_cell_magic and line_number > 0 and cell.lstrip().startswith("%%elastic_run"):
        return None  # a body: magics have no place in it
    line = found["line"]
    fragment = re.search(r"\S*$", line)
    assert fragment is not None
    before, typed = line[: fragment.start()], fragment[0]
    if found["name"] == "run":
        return _for_run(shell, before, typed, is_cell_magic)
    if found["name"] == "panel":
        return None if before.strip() else _Offer(typed, _for_panel(shell))
    return _FOR_OTHERS[found["name"]](before, typed)


# --------------------------------------------------------------------------------------------------------- %elastic_run


def _for_run(shell: Any, before: str, typed: str, is_cell_magic: bool) -> _Offer | None:
    prog = "%%elastic_run" if is_cell_magic else "%elastic_run"
    parser = new_parser(prog)
    try:
        parted = split_line(before, parser)
    except OptionError:  # inside a quotation
        return None
    if parted.code:
        return None if is_cell_magic else _names(shell, typed)
    if parted.pending:
        return _values(_spelt(parted.pending), typed)
    spelling, equals, text = typed.partition("=")
    if typed.startswith("-") and equals:
        return _values(_spelt(spelling), text)
    if typed.startswith("-") or is_cell_magic:
        return _Offer(typed, _spellings(typed))
    return _names(shell, typed) if typed else _Offer("", [*_spellings(""), *_user_names(shell)])


def _spellings(typed: str) -> list[str]:
    """The main spellings; the others only to someone who has begun to type one."""
    main = [option.main_spellings for option in OPTIONS]
    offered = [spelling for spellings in main for spelling in spellings]
    offered += ["-h", "--help"]
    if len(typed) > 2:
        offered += [other for option in OPTIONS for other in option.spellings if other not in option.main_spellings]
    if typed.startswith("--no"):
        offered.append("--no-virtual-local-rank")
    return offered


def _spelt(spelling: str) -> Option | None:
    return next((option for option in OPTIONS if spelling in option.spellings), None)


def _values(option: Option | None, typed: str) -> _Offer | None:
    if option is None or (option.metavar is None and option.field != "virtual_local_rank"):
        return None
    if option.field == "log_dir":
        return _Offer(typed, _folders(typed))
    if option.field == "gpus" and "," in typed:  # `0,` and on: the last number
        typed = typed.rpartition(",")[2]
        return _Offer(typed, [word for word in option.words() if word != "free"])
    return _Offer(typed, option.words())


def _folders(typed: str) -> list[str]:
    parent, slash, _ = typed.rpartition("/")
    try:
        entries = sorted(os.scandir(os.path.expanduser(parent + slash) or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    return [f"{parent}{slash}{entry.name}/" for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _names(shell: Any, typed: str) -> _Offer | None:
    """The notebook's names, and Python's. What follows a dot only when jedi does not do it: it does it better."""
    token = re.search(r"[\w.]*$", typed)
    assert token is not None
    completer = shell.Completer
    if "." in token[0]:
        words = [] if completer.use_jedi else completer.attr_matches(token[0])
    else:
        words = completer.global_matches(token[0])
    return _Offer(token[0], words, is_all=False, kind="variable")


def _user_names(shell: Any) -> list[str]:
    hidden = shell.user_ns_hidden
    return sorted(name for name in shell.user_ns if not name.startswith("_") and name not in hidden)


# ---------------------------------------------------------------------------------------------------------- the others


def _for_config(before: str, typed: str) -> _Offer | None:
    names = [option.name for option in OPTIONS if option.is_saved]
    if before.split()[:1] == ["--reset"]:
        rows = defaults.saved()
        saved = [row for row in rows if row.layer == "notebook"]
        named = {option.field: option.name for option in OPTIONS}
        return _Offer(typed, [named[row.field] + (f".{row.variable}" if row.variable else "") for row in saved])
    name, equals, text = typed.partition("=")
    if equals:
        option = option_of(name)
        return None if option is None else _values(option, text)
    words = [f"{name}=" if name != "env" else "env." for name in names]
    if "_" in typed:  # launch()'s spelling
        words = [word.replace("-", "_") for word in words]
    return _Offer(typed, [*words, *([] if before.strip() else ["--reset"])])


def _for_stop(before: str, typed: str) -> _Offer | None:
    return None if before.strip() else _Offer(typed, [*(run.run_id for run in live_runs()), "all"])


def _for_panel(shell: Any) -> list[str]:
    try:
        from .panel_form import functions_of
    except ImportError:  # no widgets: the magic will say so
        return []
    return [*functions_of(shell.user_ns), *(run.run_id for run in live_runs())]


def _for_logs(before: str, typed: str) -> _Offer | None:
    run = last_run()
    if run is None or before.strip():
        return None
    return _Offer(typed, map(str, range(run.nproc)))


def _for_status(before: str, typed: str) -> _Offer | None:
    return None if before.strip() else _Offer(typed, ["--help"])


_FOR_OTHERS: dict[str, Callable[[str, str], _Offer | None]] = {
    "config": _for_config,
    "stop": _for_stop,
    "logs": _for_logs,
    "status": _for_status,
}
