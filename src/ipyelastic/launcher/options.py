"""The options of a run: one frozen set, one parser for the magic and the command line.

    "%%elastic_run --nproc 2 --env A=1"  ->  parse_line  ->  RunOptions  ->  engines/run
    launch(f, nproc=2, env={"A": "1"})   ->  RunOptions.from_keywords  -----^
    what neither gives                   ->  defaults.py, the saved defaults

Runs in: owner. Every value is checked here, at the door; nothing is started by a set of options that cannot be run.
"""

from __future__ import annotations

import dataclasses
import functools
import keyword
import signal
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..contexts.settings import START_METHODS
from ..process.signals import signal_number
from ..terms import env
from ..terms.errors import OptionError, nearest
from .checks import (
    NPROC_WORDS,
    Gpus,
    Nproc,
    check_word,
    checked_env,
    checked_gpus,
    checked_log_dir,
    checked_nproc,
    checked_ranks,
    checked_restarts,
    checked_seconds,
    checked_seed,
    checked_switch,
    ranges_text,
)
from .defaults import merged
from .gpu_choice import GpuChoice, choose_gpus
from .grammar import (
    ENGINES,
    NUMA_MODES,
    OF_ONE_LINE,
    OPTIONS,
    UIS,
    HelpWanted,
    Option,
    OptionParser,
    new_parser,
    option_of,
    split_line,
)

__all__ = [
    "RunOptions",
    "parse_line",
    "new_parser",
    "HelpWanted",
    "ParsedLine",
    "field_of_keyword",
    "read_values",
    "refuse_unknown",
]

_RENAMED = {"timeout": "timeout_s", "grace": "grace_s", "ranks": "shown"}


@dataclass(frozen=True)
class RunOptions:
    """How a run is to be run.

    Attributes:
        nproc: Ranks on this machine: a number, `"gpu"`, `"cpu"`, `"auto"`; None: one per GPU of `gpus`, else per
            visible GPU, else 1.
        timeout_s: The run's time limit in seconds; None for none.
        start_method: `"forkserver"`, `"spawn"` or `"fork"`.
        env: Laid over the owner's environment in every rank.
        seed: `random`, numpy and torch of rank r are seeded with `seed + r`.
        log_dir: Where log files stay; None: a folder of ours that goes with this process.
        grace_s: Seconds between asking a rank to end and killing it.
        stop_signal: How it is asked, a signal's number.
        shown: Ranks whose output is shown; None: all.
        ui: Where output is shown: `"auto"` (what fits the place), `"panel"`, `"text"` (prefixed lines) or `"none"`.
        engine: `"local"`: fresh processes on this machine; `"here"`: one rank in this very process, for debugging.
        gpus: GPUs that ranks see, as numbers within this process's CUDA_VISIBLE_DEVICES (`"0,2-3"` or `[0, 2, 3]`);
            `"free"`: those on which nobody computes; None: all, or those that no other run of ours has.
        numa: Which CPUs near its GPU a rank is kept on: `"node"`, `"socket"`, `"exclusive"`, `"core-complex"`.
        virtual_local_rank: Every rank has LOCAL_RANK=0 and sees its own GPU only, as torchrun's option of that name.
        max_restarts: How often all ranks are started again after one has failed, before the run counts as failed.

    Raises:
        OptionError: A value that cannot be taken; the text names it and what would be taken.
    """

    nproc: Nproc = None
    timeout_s: float | None = None
    start_method: str = "forkserver"
    env: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    log_dir: str | None = None
    grace_s: float = 5.0
    stop_signal: int = int(signal.SIGTERM)
    shown: frozenset[int] | None = None
    ui: str = "auto"
    engine: str = "local"
    gpus: Gpus = None
    numa: str | None = None
    virtual_local_rank: bool = False
    max_restarts: int = 0

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("nproc", checked_nproc(self.nproc))
        check_word("start_method", self.start_method, START_METHODS, {})
        check_word("ui", self.ui, UIS, {})
        check_word("engine", self.engine, ENGINES, {"ray": "many machines are not there yet"})
        put("timeout_s", checked_seconds("timeout", self.timeout_s, is_zero_fine=False))
        if self.grace_s is None:
            raise OptionError("grace=None: expected seconds, 0 or more")
        put("grace_s", checked_seconds("grace", self.grace_s, is_zero_fine=True))
        put("env", checked_env(self.env))
        put("stop_signal", signal_number(self.stop_signal))
        put("seed", checked_seed(self.seed))
        put("log_dir", checked_log_dir(self.log_dir))
        if self.shown is not None:
            put("shown", checked_ranks(self.shown))
        put("gpus", checked_gpus(self.gpus))
        if self.numa is not None:
            check_word("numa", self.numa, NUMA_MODES, {})
        put("virtual_local_rank", checked_switch("virtual_local_rank", self.virtual_local_rank))
        put("max_restarts", checked_restarts(self.max_restarts))
        if self.gpus is not None and env.CUDA_VISIBLE_DEVICES in self.env:
            raise OptionError(
                f"gpus and env {env.CUDA_VISIBLE_DEVICES} both say which GPUs ranks see: give one of them"
            )

    @classmethod
    def from_keywords(cls, **keywords: Any) -> RunOptions:
        """Options from `launch()`'s keywords, over the saved defaults; `nproc=None` means that it is not given.

        Raises OptionError for an unknown one, naming the nearest.
        """
        given = {field_of_keyword(name): value for name, value in keywords.items()}
        if given.get("nproc", 0) is None:
            del given["nproc"]
        return _fitted(_made(merged(given)), given)

    def choose_nproc(self) -> tuple[int, str]:
        """How many ranks it will be, and a sentence on how that was chosen (empty when a number was given)."""
        choice = self.choose_gpus()
        return choice.nproc, choice.why

    def choose_gpus(self) -> GpuChoice:
        """How many ranks, and which GPUs they would get now (see gpu_choice).

        Raises OptionError when that is not possible, and for a rank to be shown that there will not be.
        """
        choice = choose_gpus(self.nproc, self.gpus, self.env)
        if any(rank >= choice.nproc for rank in self.shown or ()):
            ranks = ranges_text(sorted(self.shown or ()))
            raise OptionError(f"--ranks {ranks}: expected ranks from 0 to {choice.nproc - 1}")
        return choice


_PLAIN = frozenset([bool, float, int, str, type(None)])


def _made(fields: Mapping[str, Any]) -> RunOptions:
    """Those options. Most launches of a notebook have the same few, which are checked once."""
    is_always_the_same = all(type(value) in _PLAIN and name != "log_dir" for name, value in fields.items())
    return _made_once(**fields) if is_always_the_same else RunOptions(**fields)  # a log_dir is one of the folder of now


@functools.lru_cache(maxsize=64, typed=True)
def _made_once(**fields: Any) -> RunOptions:
    return RunOptions(**fields)


def _fitted(options: RunOptions, given: Mapping[str, Any]) -> RunOptions:
    """The options with saved `ranks` that this run does not have left out; all are shown when none is left."""
    if options.shown is None or "shown" in given:
        return options
    try:
        nproc = options.nproc
        if not isinstance(nproc, int):
            nproc = choose_gpus(options.nproc, options.gpus, options.env).nproc
    except OptionError:
        return options  # the run will say it
    shown = frozenset(rank for rank in options.shown if rank < nproc)
    return dataclasses.replace(options, shown=shown or None)


def field_of_keyword(name: str) -> str:
    """RunOptions' field for a keyword of `launch()`. Raises OptionError for an unknown one, naming the nearest."""
    field_name, known = _RENAMED.get(name, name), RunOptions.__dataclass_fields__
    if field_name not in known:
        raise OptionError(f"{name}=: no such option{nearest(name, sorted({*known, *_RENAMED}))}")
    return field_name


@dataclass(frozen=True)
class ParsedLine:
    """A magic's line: the options, the variable for the values (or None), and the code after the options."""

    options: RunOptions
    out: str | None
    code: str
    is_background: bool = False


def parse_line(
    line: str, prog: str, defaults: Mapping[str, Any] | None = None, expand: Callable[[str], str] | None = None
) -> ParsedLine:
    """Read a magic's line.

    Args:
        line: Options, then (for the line magic) code, which is taken as it stands.
        prog: What the help calls it.
        defaults: RunOptions fields used where the line gives none; None: the saved defaults.
        expand: Replaces variables (`$name`, `{name}`) in option values; in those of `--env` (often JSON, or meant for a
            shell) it does not.

    Raises:
        OptionError: One line that names the value and what would be taken.
        HelpWanted: `-h` was given.
    """
    if "$" in line or "{" in line:
        found, code = _read_line(line, prog, expand)
    else:
        found, code = _known_line(line, prog)
    given = {name: value for name, value in read_values(found, OPTIONS).items() if name not in OF_ONE_LINE}
    if found.out is not None and (not found.out.isidentifier() or keyword.iskeyword(found.out)):
        raise OptionError(f"-o {found.out!r}: expected a variable's name")
    options = _fitted(_made(merged(given, defaults)), given)
    return ParsedLine(options, found.out, code, bool(found.is_background))


def _read_line(line: str, prog: str, expand: Callable[[str], str] | None) -> tuple[Namespace, str]:
    """The texts of a line's options, and what follows them."""
    parser = new_parser(prog)
    parted = split_line(line, parser)
    words = parted.words
    if expand is not None:
        words = [
            word if "--env" in (word.partition("=")[0], previous) else expand(word)
            for previous, word in zip(["", *words], words, strict=False)
        ]
    refuse_unknown(words, parser)
    option = option_of(parted.pending.lstrip("-")) if parted.pending.startswith("--") else None
    if option is not None:
        raise OptionError(option.missing(parted.pending))
    return parser.parse_args(words), parted.code


@functools.lru_cache(maxsize=64)
def _known_line(line: str, prog: str) -> tuple[Namespace, str]:
    """The same for a line without variables: notebooks have few different ones, and each is written many times."""
    return _read_line(line, prog, None)


def refuse_unknown(words: Sequence[str], parser: OptionParser) -> None:
    """Raises OptionError for an option that the parser does not have, naming the nearest."""
    known = [option for action in parser._actions for option in action.option_strings]
    for word in words:
        name = word.partition("=")[0]
        if word.startswith("-") and name not in known and not _is_number(word) and not _is_short(word, known):
            raise OptionError(f"{name if name.isprintable() else repr(name)}: no such option{nearest(name, known)}")


def read_values(found: Namespace, options: Sequence[Option]) -> dict[str, Any]:
    """`{field: value}` of those options that were given, read from their texts."""
    given: dict[str, Any] = {}
    for option in options:
        value = getattr(found, option.field)
        if value == [] or (option.field == "env" and [] in (value or [])):  # argparse takes `--ui=--` for no value
            raise OptionError(option.missing(option.spellings[0]))
        if value is None:
            continue
        if option.field == "env":
            given["env"] = {name: text for entry in value for name, text in option.read(entry).items()}
        else:
            given[option.field] = option.read(value) if isinstance(value, str) else value
    return given


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_short(word: str, known: Sequence[str]) -> bool:
    """Whether a value is glued to a short option: `-n2`, `-ovalues`; not so `-nproc` and mpirun's `-np`."""
    is_meant_long = word[:2] == "-n" and word[2:3].isalpha() and word[2:] not in NPROC_WORDS
    return len(word) > 2 and word[1] != "-" and word[:2] in known and not is_meant_long
