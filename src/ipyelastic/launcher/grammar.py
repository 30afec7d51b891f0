"""The words of `%%elastic_run`: every option once, with its spellings, its help and the values worth offering.

    the magic's line -> split_line -> (option words, code) -> new_parser -> options.parse_line
    OPTIONS -> the parser, its help, notebook/completion.py, notebook/config.py;   launcher/torchrun.py

Runs in: owner. What values mean and whether they can be taken is for checks.py and options.py.
"""

from __future__ import annotations

import argparse
import functools
import io
import re
import shlex
import signal
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ..contexts.settings import START_METHODS
from ..devices.numa import AffinityMode
from ..terms.errors import OptionError, nearest

__all__ = [
    "ENGINES",
    "NUMA_MODES",
    "OF_ONE_LINE",
    "OPTIONS",
    "UIS",
    "HelpFormat",
    "HelpWanted",
    "Option",
    "OptionParser",
    "SplitLine",
    "add_options",
    "new_parser",
    "option_of",
    "split_line",
    "with_dashes",
]

UIS = ("auto", "panel", "text", "none")
ENGINES = ("local", "here")
NUMA_MODES = tuple(mode.value for mode in AffinityMode)
OF_ONE_LINE = ("out", "is_background")
"""Fields that belong to a magic's line: no default can be saved for them, and the command line has no use for them."""

_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class HelpWanted(Exception):
    """`-h` or `--help` was given; the text is the help."""


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        field: RunOptions' field; for `out` and `is_background`, which belong to one line only, ParsedLine's.
        spellings: As on the magic's line, the first long one without dashes is its name elsewhere.
        group: Its heading in the help.
        help: One line; `%` doubled, as argparse has it.
        metavar: What stands for the value; None: it takes none.
        example: A value.
        words: Values worth offering.
        read: From text to what RunOptions takes; raises OptionError.
    """

    field: str
    spellings: tuple[str, ...]
    group: str
    help: str
    metavar: str | None = None
    example: str = ""
    words: Callable[[], Sequence[str]] = tuple
    read: Callable[[str], Any] = str

    @property
    def main_spellings(self) -> list[str]:
        """Those to be shown and offered: the short ones and the first long one. Others are torchrun's, Accelerate's."""
        short = [spelling for spelling in self.spellings if not spelling.startswith("--")]
        return [*short, f"--{self.name}"]

    @property
    def name(self) -> str:
        """Its name in `%elastic_config`, `launch()`'s with dashes: `start-method`."""
        return next(spelling for spelling in self.spellings if spelling.startswith("--")).removeprefix("--")

    def missing(self, spelling: str) -> str:
        """What to say of an option without its value."""
        return f"{spelling}: expected a value, for example {spelling} {self.example}"

    @property
    def is_saved(self) -> bool:
        """Whether a default can be saved for it."""
        return self.field not in OF_ONE_LINE


def _pair(entry: str) -> dict[str, str]:
    name, equals, value = entry.partition("=")
    if not equals or not name:
        raise OptionError(f"--env {entry!r}: expected NAME=VALUE")
    return {name: value}


def _whole_seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"seed={text!r}: expected a whole number") from None


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise OptionError(f"virtual_local_rank={text!r}: expected true or false{nearest(text, list(_SWITCH))}")
    return _SWITCH[text.lower()]


def _signal_names() -> list[str]:
    return [entry.name for entry in signal.Signals]


def _gpu_words() -> list[str]:
    from ..devices.gpus import visible_gpu_count

    return ["free", *map(str, range(visible_gpu_count()))]


_MOST, _GPUS, _OUTPUT, _RANKS, _END = (
    "the three most used",
    "GPUs and CPUs",
    "output",
    "what ranks are and get",
    "how a run ends",
)

OPTIONS = (
    Option("nproc", ("-n", "--nproc", "--nproc-per-node", "--num-processes"), _MOST,
           "how many ranks: a number, auto, gpu or cpu (default: the visible GPUs, else 1)", "N", "4",
           lambda: ("auto", "gpu", "cpu")),
    Option("gpus", ("--gpus",), _MOST,
           "which GPUs, one rank each unless -n says less: numbers within CUDA_VISIBLE_DEVICES, or free: those that"
           " nobody uses", "G", "0,2-3", _gpu_words),
    Option("out", ("-o", "--out"), _MOST, "store the values, a list by rank, under this name; with --bg the Run",
           "NAME", "losses"),
    Option("is_background", ("--bg",), _OUTPUT, "return the Run at once; it shows its output here"),
    Option("shown", ("--ranks", "--local-ranks-filter"), _OUTPUT, "whose output is shown, for example 0,2-3; all run",
           "R", "0,2-3"),
    Option("ui", ("--ui",), _OUTPUT, "where output is shown: auto (default), panel, text or none", "UI", "text",
           lambda: UIS),
    Option("log_dir", ("--log-dir",), _OUTPUT, "keep the log files below this folder", "D", "logs"),
    Option("env", ("--env",), _RANKS, "set an environment variable in every rank; may be repeated", "K=V", "A=1",
           read=_pair),
    Option("seed", ("--seed",), _RANKS, "seed random, numpy and torch of rank r with N + r", "N", "1",
           read=_whole_seed),
    Option("start_method", ("--start-method",), _RANKS, "forkserver (default), spawn or fork", "M", "spawn",
           lambda: START_METHODS),
    Option("engine", ("--engine",), _RANKS,
           "local (default), or here: one rank in this very process, for debugging", "E", "here", lambda: ENGINES),
    Option("numa", ("--numa", "--numa-binding"), _GPUS,
           "keep each rank on CPUs near its GPU: node, socket, exclusive or core-complex", "MODE", "node",
           lambda: NUMA_MODES),
    Option("virtual_local_rank", ("--virtual-local-rank",), _GPUS,
           "every rank sees its own GPU only, as number 0, and has LOCAL_RANK 0", example="true", read=_switch,
           words=lambda: ("true", "false")),
    Option("max_restarts", ("--max-restarts",), _END,
           "start all ranks again after a failure, K times at most (default 0)", "K", "3"),
    Option("timeout_s", ("--timeout",), _END, "end the run after S seconds, showing every rank's stacks", "S", "60"),
    Option("grace_s", ("--grace", "--shutdown-timeout"), _END,
           "seconds between asking a rank to end and killing it (default 5)", "S", "30"),
    Option("stop_signal", ("--stop-signal",), _END, "how ranks are asked to end (default SIGTERM)", "SIG", "SIGINT",
           _signal_names),
)  # fmt: skip


def option_of(name: str) -> Option | None:
    """The option of this name (`start-method`, `start_method`, `nproc-per-node`), or None."""
    spelling = "--" + name.replace("_", "-")
    return next((option for option in OPTIONS if spelling in option.spellings), None)


# ----------------------------------------------------------------------------------------------------------- the parser


class OptionParser(argparse.ArgumentParser):
    """Refuses with OptionError, in one line, and never ends the process; `options` are what it was given to add."""

    options: tuple[Option, ...] = ()

    def error(self, message: str) -> NoReturn:
        """See the class."""
        found = re.fullmatch(r"argument ([^:]+): (expected one argument|ignored explicit argument (.*))", message)
        if found is None:
            raise OptionError(message)
        # argparse names all spellings at once.
        spelling = found[1].split("/")[0]
        option = next((option for option in self.options if spelling in option.spellings), None)
        if option is not None and option.metavar is not None:
            raise OptionError(option.missing(spelling))
        if spelling == "--nnodes":
            raise OptionError("--nnodes: expected a value, for example --nnodes 1")
        raise OptionError(f"{spelling}: takes no value, not {found[3]}")


class _OneMachine(argparse.Action):
    """torchrun's `--standalone` and `--nnodes 1`: what there is anyway."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if self.nargs != 0 and values not in ("1", "1:1"):
            raise OptionError(f"{option_string} {values}: not yet (many machines); 1 is taken")


class _Help(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        raise HelpWanted(parser.format_help())


class HelpFormat(argparse.HelpFormatter):
    """Wide enough for a spelling and its words on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # `-n N, --nproc N, --nproc-per-node N` says the same letter three times.
        long = [spelling for spelling in action.option_strings if spelling.startswith("--")]
        spellings = ", ".join(
            [*(short for short in action.option_strings if short not in long), *long[: 2 if action.nargs == 0 else 1]]
        )
        return f"{spellings} {action.metavar}" if action.nargs != 0 and action.metavar else spellings

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)  # `core-complex` is one word


@functools.cache
def new_parser(prog: str) -> OptionParser:
    """The parser of the magics' lines; launcher/torchrun.py has the command line's, with the same options. Made once:
    it takes a millisecond, and keeps nothing."""
    code = "" if prog.startswith("%%") else " EXPRESSION"
    parser = OptionParser(
        prog=prog,
        usage=f"%(prog)s [-h] [-n N] [--gpus G] [-o NAME] [OPTION ...]{code}",
        add_help=False,
        allow_abbrev=False,
        epilog="torchrun's spellings are taken too: --nproc_per_node and so on, --standalone, --nnodes 1",
        formatter_class=HelpFormat,
    )
    add_options(parser, OPTIONS)
    parser.add_argument("--nnodes", action=_OneMachine, help=argparse.SUPPRESS, metavar="1")
    parser.add_argument("--standalone", action=_OneMachine, nargs=0, help=argparse.SUPPRESS)
    return parser


def add_options(parser: OptionParser, options: Sequence[Option]) -> None:
    """Add options in their groups, and `-h` to the first group."""
    groups: dict[str, Any] = {}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add(groups[option.group], option)
    next(iter(groups.values())).add_argument("-h", "--help", action=_Help, nargs=0, help="show this help")
    parser.options += tuple(options)


def _add(group: Any, option: Option) -> None:
    said = option.help
    if option.group == _MOST:
        said += f"; for example {option.spellings[0]} {option.example}"
    shared: dict[str, Any] = {"dest": option.field, "help": said, "default": None}
    if option.field == "virtual_local_rank":  # a saved default can be switched off for one run
        group.add_argument(*option.spellings, action=argparse.BooleanOptionalAction, **shared)
    elif option.metavar is None:
        group.add_argument(*option.spellings, action="store_true", **shared)
    else:
        group.add_argument(
            *option.spellings, metavar=option.metavar, action="append" if option.field == "env" else "store", **shared
        )


# ------------------------------------------------------------------------------------------------------------- the line


@dataclass(frozen=True)
class SplitLine:
    """A magic's line: the option words, unquoted; the raw code after them; the option whose value is still to come."""

    words: list[str]
    code: str
    pending: str = ""


def split_line(line: str, parser: argparse.ArgumentParser) -> SplitLine:
    """Part a line into leading options and the raw rest. Raises OptionError for a quotation that does not end."""
    takes_value = {option: action.nargs != 0 for action in parser._actions for option in action.option_strings}
    stream = io.StringIO(line)
    lexer = shlex.shlex(stream, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    pending = ""
    while True:
        before = stream.tell()
        try:
            word = lexer.get_token()
        except ValueError as error:
            if line[before:].lstrip().startswith("-") or pending:
                raise OptionError(f"{line.strip()!r}: {error}".replace("No closing", "no closing")) from error
            return SplitLine(words, line[before:].strip())
        if word is None or (not pending and word.startswith("#")):
            return SplitLine(words, "", pending)
        is_option = word.startswith("-") and len(word) > 1 and word != "-m"
        if not pending and not is_option:
            return SplitLine(words, line[before:].strip())
        if is_option and not pending:
            word = with_dashes(word)
        words.append(word)
        pending = word if not pending and "=" not in word and takes_value.get(word, False) else ""


def with_dashes(word: str) -> str:
    """torchrun takes `--nproc_per_node=2` for `--nproc-per-node=2`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word
