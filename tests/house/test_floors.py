"""Imports point to lower floors only, and rooms keep to their shape: STYLE.md's section "Rooms", enforced."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

# `>` in STYLE.md's drawing is a new line here. Rooms of one line do not know each other.
FLOORS = [
    ["__main__"],
    ["notebook", "cli"],
    ["engines", "compat"],
    ["launcher"],
    ["agent"],
    ["contexts"],
    ["forkserver"],
    ["worker"],
    ["payload", "output", "failures", "process", "rendezvous", "view", "devices", "telemetry", "timer"],
    ["terms"],
]
HEIGHT = {room: len(FLOORS) - floor for floor, rooms in enumerate(FLOORS) for room in rooms}
NO_NAMES = {"utils", "helpers", "core", "common", "misc"}


def room_of(name):
    """`ipyelastic.output.tail` -> `output`; the top module itself is the roof, the empty string."""
    return name.partition(".")[2].partition(".")[0]


def imports_of(module, modules):
    """Dotted names of our modules that a file imports anywhere in it: functions and TYPE_CHECKING blocks too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            # `from .output import tail` names a module, `from .output.tail import follow` a name in one.
            names = [full if (full := f"{base}.{alias.name}") in modules else base for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "ipyelastic":
                yield name, node.lineno


def test_every_room_has_a_floor(modules):
    unknown = sorted({room_of(name) for name in modules} - HEIGHT.keys() - {""})
    assert unknown == []


def test_imports_point_to_lower_floors_only(modules):
    wrong = []
    for module in modules.values():
        if module.name == "ipyelastic":
            continue  # the roof names what every floor offers
        for name, line in imports_of(module, modules):
            here, there = room_of(module.name), room_of(name)
            if here != there and HEIGHT.get(there, 99) >= HEIGHT[here]:
                wrong.append(f"{module.path.name}:{line}: {module.name} imports {name}")
    assert wrong == []


def test_no_two_modules_import_each_other(modules):
    graph = {
        module.name: {name for name, _ in imports_of(module, modules) if name != module.name}
        for module in modules.values()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" > ".join(error.args[1])) from None


def test_every_import_of_ours_names_a_module_that_exists(modules):
    missing = [
        f"{module.name}:{line}: {name}"
        for module in modules.values()
        for name, line in imports_of(module, modules)
        if name not in modules
    ]
    assert missing == []


def test_a_module_is_named_for_what_it_is(modules):
    parts = {name: set(name.split(".")) for name in modules}
    assert [name for name, words in parts.items() if words & NO_NAMES and room_of(name) != "compat"] == []
    assert [name for name, words in parts.items() if "api" in words and room_of(name) != "compat"] == []


def test_an_inner_init_is_one_docstring(modules):
    # A rank that imports `output.redirect` must not pay for the tailer beside it.
    more = [
        module.name
        for module in modules.values()
        if module.is_package and module.name != "ipyelastic" and room_of(module.name) != "compat"
        if not (len(module.tree.body) == 1 and ast.get_docstring(module.tree))
    ]
    assert more == []
