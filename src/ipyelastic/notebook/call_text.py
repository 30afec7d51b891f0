"""Read the arguments of a call as a person types them into a field: literals, and names of the notebook.

    panel_form's "Arguments" -> [here] -> args, kwargs

Runs in: owner. Nothing is evaluated: neither calls nor operators nor attributes, so typing starts nothing.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..terms.errors import OptionError, nearest

__all__ = ["read_call"]

_EXPECTED = "expected literals and names of the notebook, such as cfg, 3, lr=1e-3"


def read_call(
    text: str, names: Mapping[str, Any], function: Callable[..., Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read `cfg, 3, lr=1e-3` and check that the function can be called so.

    Args:
        text: Arguments as between a call's parentheses; lists, tuples, sets and dicts may hold names too.
        names: The notebook's.
        function: What is to be called.

    Returns:
        Positional and keyword arguments.

    Raises:
        OptionError: One line: what cannot be read, which name there is not, which argument is missing or too many.
    """
    try:
        call = ast.parse(f"f({text}\n)", mode="eval").body
    except (SyntaxError, ValueError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error)
        raise OptionError(f"arguments: {text.strip()!r}: {why}; {_EXPECTED}") from None
    # `1) + f(2` is a sentence too, but no list of arguments.
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise OptionError(f"arguments: {text.strip()!r}: {_EXPECTED}")
    args = tuple(_value(node, names) for node in call.args)
    kwargs: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise OptionError(f"arguments: '**{ast.unparse(keyword.value)}': write the arguments out")
        kwargs[keyword.arg] = _value(keyword.value, names)
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(function, "__name__", "the function")
        raise OptionError(f"arguments: {name}{_signature(function)}: {error}") from None
    except ValueError:
        pass  # a builtin without a signature: the ranks will say
    return args, kwargs


def _signature(function: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(function))
    except ValueError:
        return ""


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        if node.id not in names:
            known = [name for name in names if not name.startswith("_")]
            raise OptionError(f"arguments: {node.id}: no such name in the notebook{nearest(node.id, known)}")
        return names[node.id]
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        values = [_value(element, names) for element in node.elts]
        return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](values)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {
            _value(key, names): _value(value, names) for key, value in zip(node.keys, node.values, strict=True) if key
        }
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise OptionError(f"arguments: {ast.unparse(node)!r}: {_EXPECTED}") from None
