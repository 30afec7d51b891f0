"""Saved defaults: `%elastic_config nproc=4 env.A=1`, and an administrator's `c.ElasticMagics.nproc = 4`.

    magic > [here] check > launcher/defaults, layer "notebook"
    IPython's config files > [here] check > layer "administrator"

Runs in: owner (kernel or terminal IPython), main thread.
Other end: launcher/grammar.py has the names and reads the texts; RunOptions checks the values, as it does for a run.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from traitlets import Any as AnyValue
from traitlets.config import Configurable

from ..launcher import defaults
from ..launcher.checks import ranges_text
from ..launcher.grammar import OPTIONS, Option, option_of
from ..launcher.options import RunOptions
from ..terms.errors import OptionError, nearest

__all__ = ["CONFIG_HELP", "AdministratorDefaults", "obey", "take_administrators"]

SAVED = tuple(option for option in OPTIONS if option.is_saved)

CONFIG_HELP = """Save options for all runs of this notebook, `launch()`'s too; what a run gives itself wins.

    %elastic_config nproc=4 gpus=0-3 env.A=1    save (env.NAME: one variable of the ranks' environment)
    %elastic_config                             show what is saved, and by whom
    %elastic_config nproc=                      take one back
    %elastic_config --reset [NAME ...]          take these back, or all

names:
""" + "\n".join(f"  {option.name:20}{option.help}" for option in SAVED)


def _setting(name: str) -> AnyValue:
    option = option_of(name)
    assert option is not None
    # Any: traitlets would refuse a bad value by not making the magics at all; here it is named and left out.
    # `c.ElasticMagics.env.update({"A": "1"})` is added to what is there: traitlets adds to a dict, not to None.
    return AnyValue({} if name == "env" else None, allow_none=True, help=option.help).tag(config=True)


class AdministratorDefaults(Configurable):
    """What `c.ElasticMagics` of ipython_config.py or ipython_kernel_config.py may set; None, and no `env`: not set."""

    nproc = _setting("nproc")
    gpus = _setting("gpus")
    ranks = _setting("ranks")
    ui = _setting("ui")
    log_dir = _setting("log_dir")
    env = _setting("env")
    seed = _setting("seed")
    start_method = _setting("start_method")
    engine = _setting("engine")
    numa = _setting("numa")
    virtual_local_rank = _setting("virtual_local_rank")
    timeout = _setting("timeout")
    max_restarts = _setting("max_restarts")
    grace = _setting("grace")
    stop_signal = _setting("stop_signal")


def take_administrators(settings: AdministratorDefaults) -> list[str]:
    """Put what the config files say into its layer; returns a sentence for each setting that cannot be taken."""
    refused = []
    for option in SAVED:
        name = option.name.replace("-", "_")
        value = getattr(settings, name)
        if value is None or value == {}:
            continue
        try:
            _keep("administrator", {option.field: _checked(option, value)})
        except OptionError as error:
            refused.append(f"c.ElasticMagics.{name} = {value!r} is left out: {error}")
    return refused


def obey(line: str, expand: Callable[[str], str]) -> str:
    """Do what `%elastic_config` was asked for; returns what to print.

    Args:
        line: The magic's line.
        expand: Replaces variables in values, those of `env` left out.

    Raises:
        OptionError: Nothing of the line was obeyed; one line that names the value and what would be taken.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise OptionError(f"{line.strip()!r}: {error}".replace("No closing", "no closing")) from error
    if not words:
        return _shown()
    if words[0] == "--reset":
        _take_back([_named(word.lstrip("-")) for word in words[1:]])
        return ""
    new: dict[str, Any] = {}
    gone: list[tuple[Option, str]] = []
    for word in words:
        name, equals, text = word.lstrip("-").partition("=")
        option, variable = _named(name)
        if not equals:
            raise OptionError(f"{name}: expected NAME=VALUE, for example {name}={option.example}")
        if not text:
            gone.append((option, variable))
        elif option.field == "env":
            value = {variable: text} if variable else option.read(text)
            new["env"] = {**new.get("env", {}), **_checked(option, value)}
        else:
            new[option.field] = _checked(option, expand(text))
    _keep("notebook", new)
    if gone:
        _take_back(gone)
    return ""


def _named(name: str) -> tuple[Option, str]:
    """The option of a name, and for `env.A` its variable."""
    first, dot, variable = name.partition(".")
    option = option_of(first)
    if option is not None and dot and option.field != "env":
        raise OptionError(f"{name}: only env has parts, for example env.A=1")
    if option is not None and dot and not variable:
        raise OptionError(f"{name}: expected a variable's name, for example env.A=1")
    if option is None:
        known = [option.name for option in SAVED]
        raise OptionError(f"{name}: no such option{nearest(first.replace('_', '-'), known)}")
    if not option.is_saved:
        raise OptionError(f"{name}: given with each run; no default can be saved for it")
    return option, variable


def _checked(option: Option, value: Any) -> Any:
    """A text as the magic's line would read it, any other value as `launch()` would take it."""
    if option.field == "env" and isinstance(value, (list, tuple)):
        value = {name: text for entry in value for name, text in option.read(str(entry)).items()}
    given = option.read(value) if isinstance(value, str) else value
    return getattr(RunOptions(**{option.field: given}), option.field)


def _keep(layer: str, new: Mapping[str, Any]) -> None:
    """Save values that a run could be started with, beside the layer's others."""
    had = defaults.of_layer(layer)
    environment = {**had.get("env", {}), **new.get("env", {})}
    RunOptions(**{**had, **new, "env": environment})
    defaults.save(layer, new)


def _take_back(named: Sequence[tuple[Option, str]]) -> None:
    if not named:
        defaults.take_back("notebook")
    for option, variable in named:
        defaults.take_back("notebook", option.field, variable)


def _shown() -> str:
    rows = sorted((_spelt(row), row.layer) for row in defaults.saved())
    if not rows:
        return "no defaults are saved; for example: %elastic_config nproc=4 env.A=1"
    quoted = [(shlex.quote(text), layer) for text, layer in rows]
    width = max(len(text) for text, _ in quoted)
    return "\n".join(f"{text:{width}}   {layer}" for text, layer in quoted)


def _spelt(row: defaults.SavedDefault) -> str:
    """As it would be typed: `stop-signal=SIGINT`."""
    option = next(option for option in SAVED if option.field == row.field)
    if row.field == "env":
        return f"env.{row.variable}={row.value}"
    if row.field == "stop_signal":
        value = signal.Signals(row.value).name
    elif row.field == "shown" or isinstance(row.value, tuple):
        value = ranges_text(sorted(row.value) if row.field == "shown" else row.value)
    elif isinstance(row.value, bool):
        value = str(row.value).lower()
    elif isinstance(row.value, float):
        value = f"{row.value:g}"
    else:
        value = str(row.value)
    return f"{option.name}={value}"
