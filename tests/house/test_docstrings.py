"""Each public name says what it takes, gives and raises: `?` is what a person has to go by. Examples are run."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import doctest
import enum
import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import ipyelastic
import ipyelastic.compat
from ipyelastic.agent.attempts import Attempt
from ipyelastic.cli.main import main
from ipyelastic.engines.rank_view import RankView
from ipyelastic.launcher.grammar import new_parser
from ipyelastic.launcher.options import RunOptions
from ipyelastic.launcher.torchrun import command_parser
from ipyelastic.terms import errors, events, failure
from ipyelastic.view.board import Board, BoardSnapshot, RankSnapshot

# What a person gets from the public names without importing it.
REACHED = [Attempt, RankView, RunOptions, Board, BoardSnapshot, RankSnapshot]
IN_SECONDS = re.compile(r"timeout|interval|grace|duration|elapsed|(^|_)after$|(^|_)period$")


def documented(value):
    return (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__.startswith("ipyelastic")


@functools.cache
def compat_names():
    """`{dotted name: function or class}` of ours that compat offers; what it hands on from torch is torch's to say."""
    found = {}
    for entry in pkgutil.walk_packages(ipyelastic.compat.__path__, "ipyelastic.compat."):
        if "._" in entry.name:
            continue
        module = importlib.import_module(entry.name)
        for name in vars(module).get("__all__", ()):
            if not name.startswith("_") and documented(value := vars(module).get(name)):
                found[f"{entry.name}.{name}"] = value
    return found


@functools.cache
def public_names():
    found = {f"ipyelastic.{name}": getattr(ipyelastic, name) for name in ipyelastic.__all__}
    found |= {value.__qualname__: value for value in REACHED}
    for module in (errors, events, failure):
        found |= {name: value for name in module.__all__ if documented(value := getattr(module, name))}
    return {**compat_names(), **found}


def own_members(kind):
    """`(name, function or property)` of the public ones that our classes define; the standard library's are its."""
    for owner in kind.__mro__:
        if not owner.__module__.startswith("ipyelastic"):
            continue
        for name, value in vars(owner).items():
            plain = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
            if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)):
                yield f"{owner.__qualname__}.{name}", plain


@functools.cache
def everything():
    """All public functions, classes, methods and properties by name."""
    found = dict(public_names())
    for value in public_names().values():
        if inspect.isclass(value):
            found.update(own_members(value))
    return found


def text_of(value):
    """What `?` shows in words: of a class its constructor's too."""
    text = value.__doc__ or ""
    if inspect.isclass(value) and inspect.isfunction(vars(value).get("__init__")):
        text += value.__init__.__doc__ or ""
    return text


def is_ours(function):
    """Whether it was written in one of our files: typing and dataclasses write constructors."""
    return inspect.isfunction(function) and "/ipyelastic/" in function.__code__.co_filename


def parameters(value):
    if inspect.isclass(value):
        if dataclasses.is_dataclass(value):
            return [entry.name for entry in dataclasses.fields(value)]
        if not is_ours(vars(value).get("__init__")):
            return list(getattr(value, "_fields", ()))
        value = value.__init__
    if not inspect.isfunction(value):
        return []
    names = list(inspect.signature(value).parameters)
    return [name for name in names if name not in ("self", "cls", "_") and not name.startswith("__")]


def test_the_names_are_found():
    assert set(compat_names()) >= {
        "ipyelastic.compat.multiprocessing.start_processes",
        "ipyelastic.compat.launcher.api.elastic_launch",
        "ipyelastic.compat.rendezvous.api.RendezvousHandler",
        "ipyelastic.compat.timer.api.expires",
    }
    assert {"ipyelastic.launch", "Run.result", "RankView.tail", "ChildFailedError.get_first_failure"} <= set(
        everything()
    )
    assert len(everything()) > 300


def test_each_has_a_docstring_of_its_own():
    generated = re.compile(r"^\w+\(.*\)( -> None)?$|^An enumeration\.|^Alias for field|^partial\(")
    without = [
        name
        for name, value in everything().items()
        if (len((value.__doc__ or "").split()) < 2 and name not in _ANSWERS) or generated.match(value.__doc__ or "")
    ]
    assert without == []


# Handlers whose whole answer is their own name.
_ANSWERS = ("StaticTCPRendezvous.get_backend", "StandaloneRendezvous.get_backend")


def test_each_names_its_parameters_and_fields():
    missing = {
        name: left
        for name, value in everything().items()
        if (left := [each for each in parameters(value) if not re.search(rf"\b{each}\b", text_of(value))])
    }
    assert missing == {}


def test_members_of_enumerations_are_told():
    kinds = [value for value in public_names().values() if inspect.isclass(value) and issubclass(value, enum.Enum)]
    assert len(kinds) >= 5
    missing = {
        kind.__qualname__: left
        for kind in kinds
        if (left := [name for name in kind.__members__ if not re.search(rf"\b{name}\b", kind.__doc__)])
    }
    assert missing == {}


def test_attributes_of_exceptions_are_told():
    missing = {}
    for name, kind in public_names().items():
        if inspect.isclass(kind) and issubclass(kind, BaseException) and "__init__" in vars(kind):
            source = ast.parse(textwrap.dedent(inspect.getsource(kind.__init__)))
            fields = {
                node.attr
                for node in ast.walk(source)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and not node.attr.startswith("_")
            }
            missing[name] = [field for field in sorted(fields) if not re.search(rf"\b{field}\b", kind.__doc__)]
    assert "ipyelastic.RunTimedOut" in missing
    assert {name: left for name, left in missing.items() if left} == {}


def raised(function):
    """Names of the exceptions that a function's own body raises."""
    found = set()

    def look(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
                continue
            if isinstance(child, ast.Raise) and child.exc is not None:
                made = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
                found.add(ast.unparse(made).rpartition(".")[2])
            look(child)

    look(ast.parse(textwrap.dedent(inspect.getsource(function))).body[0])
    return {name for name in found if name[:1].isupper()}


def test_each_says_what_it_raises():
    missing, told = {}, 0
    for name, value in everything().items():
        text, functions = text_of(value), [value]
        if inspect.isclass(value):
            functions = [vars(value).get(each) for each in ("__init__", "__post_init__")]
        elif isinstance(value, property):
            functions = [value.fget]
        for function in functions:
            names = raised(inspect.unwrap(function)) if is_ours(function) else set()
            told += len(names)
            missing[name] = [each for each in names if each not in text]
    assert told > 30
    assert {name: left for name, left in missing.items() if left} == {}


def test_each_says_that_its_times_are_seconds():
    without = [
        name
        for name, value in everything().items()
        if any(IN_SECONDS.search(each) for each in parameters(value))
        if not re.search(r"\b[Ss]econds?\b|\btimedelta\b|\bSee [A-Z]|See `", text_of(value))
    ]
    assert without == []


def test_each_name_of_torchs_names_its_source():
    source = re.compile(r"^Source: (torch 2\.13\b|https://)", re.MULTILINE)
    assert [name for name, value in compat_names().items() if not source.search(inspect.getdoc(value))] == []


def test_named_pages_are_those_that_there_are():
    pages = {
        page
        for value in everything().values()
        for page in re.findall(r"https://\S+?(?=[.,;)]*(?:\s|$))", value.__doc__ or "")
    }
    elastic = "agent control_plane errors events metrics multiprocessing numa rendezvous run subprocess_handler timer"
    known = {f"https://docs.pytorch.org/docs/stable/elastic/{page}.html" for page in elastic.split()}
    known |= {
        "https://docs.pytorch.org/docs/stable/multiprocessing.html",
        "https://docs.python.org/3/library/importlib.metadata.html",
        "https://huggingface.co/docs/accelerate/basic_tutorials/notebook",
    }
    assert pages == known


@pytest.mark.parametrize(
    "parser", [new_parser("%%elastic_run"), command_parser("ipyelastic run")], ids=["magic", "run"]
)
def test_help_tells_each_option_its_unit_and_its_words(parser):
    options = {spelling: option for option in parser.options for spelling in option.spellings}
    told = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    assert len(told) > 15
    for action in told:
        name = action.option_strings[-1]
        assert len(action.help.split()) >= 3, name
        if action.metavar == "S":
            assert "seconds" in action.help, name
        is_told = name in options and options[name].field in _OF_FEW_WORDS and "%" in parser.prog
        words = options[name].words() if is_told else ()
        assert [word for word in words if word not in action.help] == [], name


_OF_FEW_WORDS = ("nproc", "ui", "start_method", "engine", "numa")  # on a command line not all of ui's words are taken


@pytest.mark.parametrize("words", [["-h"], ["doctor", "-h"], ["run", "-h"]])
def test_each_command_has_a_help_with_an_example_or_its_exit_codes(words, capsys):
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: ipyelastic {'doctor ' if words[0] == 'doctor' else 'run '}")
    assert "for example" in text or "exit code" in text


def with_examples():
    root = Path(ipyelastic.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield ".".join(path.relative_to(root.parent).with_suffix("").parts)


@pytest.mark.parametrize("name", list(with_examples()))
def test_examples_do_what_they_say(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0
    assert outcome.attempted > 0
