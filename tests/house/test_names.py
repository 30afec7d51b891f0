"""What we export is there, documented and lazy; an import changes nothing; environment variables have one home."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap

import pytest

import ipyelastic
from ipyelastic.terms import env


def in_fresh_interpreter(code):
    """Run code with every warning an error; what it printed, by lines."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split("\n")[:-1]


@pytest.mark.parametrize("name", ipyelastic.__all__)
def test_exported_name_can_be_had_and_says_what_it_is(name):
    value = getattr(ipyelastic, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)
    assert value.__doc__, f"{name} has only the docstring of its base"


def test_every_exported_name_is_listed_and_lazy():
    assert set(ipyelastic.__all__) <= set(dir(ipyelastic))
    lines = in_fresh_interpreter("""
        import ipyelastic
        print([name for name in ipyelastic.__all__ if name in vars(ipyelastic)])
    """)
    assert lines == ["['load_ipython_extension']"]  # it starts a server before it loads the rest


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ipyelastic' has no attribute 'lunch'"):
        ipyelastic.lunch


def test_importing_us_starts_nothing_and_loads_nothing_large():
    lines = in_fresh_interpreter("""
        import logging, os, signal, sys, threading

        handled = [number for number in range(1, 65) if number not in (32, 33)]
        before = [signal.getsignal(number) for number in handled], dict(os.environ), logging.root.handlers[:]
        import ipyelastic

        print(threading.active_count())
        print(before == ([signal.getsignal(number) for number in handled], dict(os.environ), logging.root.handlers))
        large = ["torch", "ray", "IPython", "ipykernel", "ipywidgets", "cloudpickle", "numpy", "psutil"]
        print([name for name in large if name in sys.modules])
        print([name for name in sys.modules if name.startswith("ipyelastic.")])
    """)
    assert lines == ["1", "True", "[]", "[]"]


def test_every_module_opens_with_a_docstring(modules):
    assert [name for name, module in modules.items() if not ast.get_docstring(module.tree)] == []


def public_definitions(tree):
    """Functions and classes without a leading underscore, and aliases: `Sink = Callable[...]`."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name


def listed_names(tree):
    """The literal `__all__` of a module; None without one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return ast.literal_eval(node.value)
    return None


def test_a_module_with_public_names_lists_them(modules):
    without = [
        name
        for name, module in modules.items()
        if any(True for _ in public_definitions(module.tree)) and listed_names(module.tree) is None
    ]
    assert without == []


def test_listed_names_exist(modules):
    missing = [
        f"{module}.{name}"
        for module, parsed in modules.items()
        for name in listed_names(parsed.tree) or []
        if not hasattr(importlib.import_module(module), name)
    ]
    assert missing == []


def environment_names():
    """Every value in terms/env.py that names a variable."""
    for name, value in vars(env).items():
        if name.isupper() and not name.startswith("_"):
            yield from [value] if isinstance(value, str) else value


def test_each_environment_name_has_one_spelling():
    names = list(environment_names())
    assert len(names) > 20
    assert sorted(set(names)) == sorted(names)


def test_environment_names_are_spelt_in_terms_env_only(modules):
    names = set(environment_names())
    of_ours = re.compile(r"(IPYELASTIC|TORCHELASTIC)_[A-Z_]+")
    elsewhere = []
    for module in modules.values():
        if module.name == "ipyelastic.terms.env":
            continue
        # `metavar="RANK"` is a word in a help text.
        words = [
            keyword.value
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == "metavar"
        ]
        # Torch exports some of them under their own names.
        for node in module.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                words += ast.walk(node)
        elsewhere += [
            f"{module.path.name}:{node.lineno}: {node.value}"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in words
            if node.value in names or of_ours.fullmatch(node.value)
        ]
    assert elsewhere == []
