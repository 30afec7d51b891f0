"""How things travel that neither pickle nor cloudpickle carries whole: they are taken apart here, and put together.

    pickling._Pickler, family.reduce_for_child (a rank's children)  >  [here]  >  the pickle's stream, made again there

What comes from a module that the other end imports goes by name as before; this is for what a notebook defines.

Runs in: owner and ranks, and ranks' children.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cloudpickle.cloudpickle as machinery

from . import identity

__all__ = ["reduced", "class_reduced", "new_class", "shell_reduced"]

Reduced = tuple[Any, ...]

_CACHE = type(functools.lru_cache(lambda: None))


def reduced(obj: Any) -> Any:
    """What `reducer_override` is to return for this object; None: nothing special."""
    reduce = _BY_TYPE.get(type(obj))
    if reduce is not None:
        return reduce(obj)
    if isinstance(obj, BaseException) and type(obj).__reduce__ is BaseException.__reduce__:
        return _reduced_exception(obj)
    return None


# ------------------------------------------------------------------------------------------------------------ functions


def _reduced_cache(cached: Any) -> Any:
    """A cached function goes by name; one of a notebook has none that the other end could look up."""
    if machinery._should_pickle_by_reference(cached.__wrapped__):
        return None
    parameters = cached.cache_parameters()
    return _new_cache, (cached.__wrapped__, parameters["maxsize"], parameters["typed"])


def _new_cache(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize=maxsize, typed=typed)(function)


_DISPATCHERS_OWN = ("register", "dispatch", "registry", "_clear_cache")


def _reduced_function(function: Any) -> Any:
    """A `functools.singledispatch` function holds weak references; its implementations may call it themselves."""
    attributes = vars(function)
    if not all(name in attributes for name in _DISPATCHERS_OWN) or machinery._should_pickle_by_reference(function):
        return None
    rest = {name: value for name, value in attributes.items() if name not in _DISPATCHERS_OWN}
    rest |= {name: getattr(function, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(function, name)}
    state = dict(function.registry), rest
    return _new_dispatcher, (function.__name__,), state, None, None, _fill_dispatcher


def _new_dispatcher(name: str) -> Any:
    def default(*args: Any) -> Any:
        raise NotImplementedError

    default.__name__ = name  # what it calls itself when it is called without arguments
    return functools.singledispatch(default)


def _fill_dispatcher(function: Any, state: tuple[dict[type, Any], dict[str, Any]]) -> None:
    implementations, attributes = state
    for cls, implementation in implementations.items():
        function.register(cls, implementation)
    for name, value in attributes.items():
        setattr(function, name, value)


def _reduced_property(cached: Any) -> Any:
    """Up to Python 3.11 a `functools.cached_property` has a lock, which stays."""
    state = {name: value for name, value in vars(cached).items() if name != "lock"}
    return _new_property, ("lock" in vars(cached),), state


def _new_property(has_lock: bool) -> Any:
    made: Any = functools.cached_property.__new__(functools.cached_property)
    if has_lock:
        made.lock = threading.RLock()
    return made


def shell_reduced(obj: Any) -> Any:
    """IPython's own names in a notebook's function: `get_ipython`, which `!cmd` stands for, `exit` and the shell.

    Owner only. A rank has its own of each. None: it is none of them.
    """
    if type(obj) is types.MethodType:
        if obj.__func__.__name__ == "get_ipython" and _is_shell(obj.__self__):
            return _same, (_rank_shell(),)
    elif _is_shell(obj):
        return _rank_shell(), ()
    elif type(obj).__name__ in ("ExitAutocall", "ZMQExitAutocall"):
        return _same, (sys.exit,)
    return None


def _is_shell(obj: Any) -> bool:
    if not type(obj).__name__.endswith("InteractiveShell"):
        return False
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is obj


def _rank_shell() -> Any:
    from .body import RankShell  # most calls name no shell

    return RankShell


def _same(value: Any) -> Any:
    return value


# ----------------------------------------------------------------------------------------------------------- exceptions


def _reduced_exception(error: BaseException) -> Any:
    """Without this an exception is made anew as `cls(*args)`, which fails where `__init__` takes other arguments."""
    return _new_exception, (type(error), error.args), vars(error) or None


def _new_exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    error = cls.__new__(cls, *args)
    # What Python's own classes keep beside `args` (a SystemExit's code, a UnicodeDecodeError's bytes) only their
    # `__init__` sets; it had these very arguments.
    own = next(base for base in cls.__mro__ if base.__module__ == "builtins" and "__init__" in vars(base))
    with contextlib.suppress(TypeError, ValueError):  # it never had them: the user's `__init__` did not call it
        own.__init__(error, *args)  # type: ignore[misc]  # not a class of the user's
    error.args = args
    return error


# ---------------------------------------------------------------------------------------------------------------- types


def _reduced_type_word(word: Any) -> Any:
    """`NewType`, `ParamSpec`, `TypeVarTuple`: pickle writes their names, which the rank's `__main__` does not have."""
    found = machinery._lookup_module_and_qualname(word, name=word.__name__)
    if found is not None and not machinery._is_registered_pickle_by_value(found[0]):
        return None
    state = dict(getattr(word, "__dict__", ()))
    if not state:  # made in C since Python 3.12
        return type(word), (word.__name__,)
    return _blank, (type(word),), state, None, None, _set_state


def _blank(cls: type) -> Any:
    return object.__new__(cls)


def _set_state(made: Any, state: dict[str, Any]) -> None:
    vars(made).update(state)  # not setattr: some of them refuse it


def class_reduced(cls: Any, by_cloudpickle: Any) -> Any:
    """cloudpickle's reduction of a class by value, with a maker that can build more classes than its own.

    Args:
        by_cloudpickle: What its `reducer_override` returned; what is no reduction by value is returned as it is.
    """
    if not (isinstance(by_cloudpickle, tuple) and len(by_cloudpickle) == 6):
        return by_cloudpickle
    make, args, *rest = by_cloudpickle
    if make is machinery._make_skeleton_class:
        if typing.is_typeddict(cls):
            # Only this one way leads to one; what cloudpickle would set on it afterwards is all there then.
            keys = {name: getattr(cls, name) for name in ("__required_keys__", "__optional_keys__", "__total__")}
            names = (cls.__name__, cls.__qualname__, cls.__module__, cls.__doc__)
            return _new_typed_dict, (names, dict(cls.__annotations__), keys)
        return (new_class, args, *rest)
    if make is machinery._make_skeleton_enum and not issubclass(cls, enum.Flag):
        members = {name: _member_state(cls.__members__[name]) for name in args[3]}
        if any(member.is_odd for member in members.values()):
            parts = {name: (member.data, member.attributes) for name, member in members.items()}
            return (_new_enum, (*args, cls._member_type_, parts), *rest)
    return by_cloudpickle


def _new_typed_dict(names: tuple[str, str, str, str | None], annotations: dict[str, Any], keys: dict[str, Any]) -> Any:
    make: Any = typing.TypedDict  # in its form as a function, which type checkers want literal
    made = make(names[0], annotations)
    made.__name__, made.__qualname__, made.__module__, made.__doc__ = names
    for name, value in keys.items():
        setattr(made, name, value)
    return made


def new_class(constructor: Any, name: str, bases: tuple[type, ...], namespace: Any, class_id: str, extra: Any) -> Any:
    try:
        return machinery._make_skeleton_class(constructor, name, bases, namespace, class_id, extra)
    except TypeError:
        # `class Child(Base, key=1)`: keywords are for the class statement, which was at home. What they led to is in
        # the class's state.
        with _without_subclass_hooks(bases):
            base = next(one for one in constructor.__mro__ if "__new__" in vars(one) and one.__module__ != "__main__")
            made = base.__new__(constructor, name, types.resolve_bases(bases), dict(namespace))
        return identity.same_or_tracked(class_id, made)


_hooks_lock = threading.Lock()


@contextlib.contextmanager
def _without_subclass_hooks(bases: tuple[type, ...]) -> Iterator[None]:
    """Take `__init_subclass__` of these classes, and of those above them, off for the moment."""
    classes = {one for base in bases for one in getattr(base, "__mro__", ()) if one.__module__ == "__main__"}
    with _hooks_lock:
        hooks = [(one, vars(one)["__init_subclass__"]) for one in classes if "__init_subclass__" in vars(one)]
        try:
            for one, _ in hooks:
                setattr(one, "__init_subclass__", classmethod(lambda cls, **_: None))  # noqa: B010  # a special name
            yield
        finally:
            for one, hook in hooks:
                setattr(one, "__init_subclass__", hook)  # noqa: B010


_MEMBERS_OWN = ("_value_", "_name_", "__objclass__", "_sort_order_")


class _Member(typing.NamedTuple):
    """What an enum's own `__new__` or `__init__` made of a member, beside its value."""

    data: tuple[Any, ...]  # as an instance of the type that is mixed in; empty: there is none
    attributes: dict[str, Any]
    is_odd: bool


def _member_state(member: Any) -> _Member:
    attributes = {name: value for name, value in vars(member).items() if name not in _MEMBERS_OWN}
    take = getattr(type(member)._member_type_, "__getnewargs__", None)
    if take is None:  # no type, or one that is not Python's
        return _Member((), attributes, bool(attributes) and type(member)._member_type_ is object)
    data = take(member)
    return _Member(data, attributes, bool(attributes) or data != (member.value,))


def _new_enum(
    bases: tuple[Any, ...],
    name: str,
    qualname: str,
    values: Mapping[str, Any],
    module: str,
    class_id: str,
    extra: Any,
    data_type: Any,
    members: Mapping[str, tuple[tuple[Any, ...], dict[str, Any]]],
) -> Any:
    """As cloudpickle makes one, but members are given what they had: the enum's own code, which follows, made it."""
    names = iter(values)

    def make_member(cls: Any, *_: Any) -> Any:
        member = next(names)
        data, attributes = members[member]
        made = data_type.__new__(cls, *data)
        made._value_ = values[member]
        vars(made).update(attributes)
        return made

    metaclass = type(bases[-1])
    namespace: Any = metaclass.__prepare__(name, bases)
    namespace["__new__"] = make_member
    for member, value in values.items():
        namespace[member] = value
    made = metaclass.__new__(metaclass, name, bases, namespace)
    made.__module__, made.__qualname__ = module, qualname
    return identity.same_or_tracked(class_id, made)


_BY_TYPE: dict[type, Callable[[Any], Any]] = {
    _CACHE: _reduced_cache,
    types.FunctionType: _reduced_function,
    functools.cached_property: _reduced_property,
    typing.NewType: _reduced_type_word,
    typing.ParamSpec: _reduced_type_word,
}
if hasattr(typing, "TypeVarTuple"):
    _BY_TYPE[typing.TypeVarTuple] = _reduced_type_word
