"""The command line of `ipyelastic run`: the magic's options and torchrun's, their `PET_*` defaults, then what to run.

    words of the shell -> [here] parse_command -> Command(RunOptions, JobOptions, target)  >  cli/run.py

Runs in: owner. Nothing is looked up on the machine here: cli/run.py finds the script.
Source: torchrun's public help (torch 2.13) for names, defaults and meaning. A unique beginning of an option's name is
taken for it, as torchrun does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..process.signals import DEFAULT_SIGNALS, signal_number
from ..terms import env
from ..terms.errors import OptionError
from ..terms.std import Std
from .checks import one_of
from .grammar import OF_ONE_LINE, OPTIONS, HelpFormat, Option, OptionParser, add_options, with_dashes
from .options import RunOptions, read_values, refuse_unknown

__all__ = ["Command", "JobOptions", "TORCHRUN_OPTIONS", "command_parser", "parse_command"]

_GRACE_S = 30.0  # torchrun's; the magic's 5 s suit a person who waits before a cell
_RUN_FIELDS = frozenset(entry.name for entry in dataclasses.fields(RunOptions))
_SWITCH_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class JobOptions:
    """What torchrun's command line says beyond RunOptions.

    Attributes:
        nnodes: The least and the most machines of the job.
        is_standalone: A job of its own on this machine, whatever is said about a rendezvous.
        rdzv_backend, rdzv_endpoint, rdzv_id, rdzv_conf, node_rank, local_addr: How several machines find each other.
        master_addr, master_port: Where ranks find each other; empty and None: not given.
        role: ROLE_NAME of the ranks.
        redirects, tee: Streams that go to files and are not shown, and streams that are both.
        stdout_needles, stderr_needles: Lines with one of them are copied into `filtered_stdout.log` and so on.
        signals: What ends the run, joined by commas.
        is_module, is_program: The target is a module's name; a program that is run as it is.
        is_path: It is a script in a warm process, as it is anyway.
        monitor_interval: Seconds between looks at the ranks of several machines; on one machine none are needed.
        event_log_handler, logs_specs: Names of plug-ins; for several machines.
    """

    nnodes: tuple[int, int] = (1, 1)
    is_standalone: bool = False
    rdzv_backend: str = "static"
    rdzv_endpoint: str = ""
    rdzv_id: str = ""
    rdzv_conf: Mapping[str, str] = dataclasses.field(default_factory=dict)
    node_rank: int = 0
    local_addr: str = ""
    master_addr: str = ""
    master_port: int | None = None
    role: str = "default"
    redirects: Std | Mapping[int, Std] = Std.NONE
    tee: Std | Mapping[int, Std] = Std.NONE
    stdout_needles: tuple[str, ...] = ()
    stderr_needles: tuple[str, ...] = ()
    signals: str = ""
    is_module: bool = False
    is_program: bool = False
    is_path: bool = False
    monitor_interval: float = 0.1
    event_log_handler: str = "null"
    logs_specs: str = ""

    def __post_init__(self) -> None:
        if self.is_module and (self.is_program or self.is_path):
            raise OptionError(f"-m and {'--no-python' if self.is_program else '--run-path'}: give one of them")
        if self.nnodes[1] == 1 and self.node_rank != 0:
            raise OptionError(f"--node-rank {self.node_rank}: expected 0 where there is one machine (--nnodes)")

    @property
    def is_one_machine(self) -> bool:
        """Whether nobody else takes part."""
        return self.is_standalone or self.nnodes == (1, 1)


@dataclass(frozen=True)
class Command:
    """A whole command line: options, the job, and the target with its arguments."""

    options: RunOptions
    job: JobOptions
    target: str
    args: tuple[str, ...] = ()


def parse_command(words: Sequence[str], environ: Mapping[str, str], prog: str = "ipyelastic run") -> Command:
    """Read a command line.

    Args:
        words: What follows `ipyelastic run`.
        environ: Where the `PET_*` defaults are.
        prog: What the help calls it.

    Raises:
        OptionError: One line that names the value and what would be taken.
        HelpWanted: `-h` was given.
    """
    parser = command_parser(prog)
    own, rest = split_words(words, parser)
    refuse_unknown(own, parser)
    given = {**_pet_defaults(parser, environ), **read_values(parser.parse_args(own), parser.options)}
    if not rest:
        raise OptionError(f"nothing to run: give a script, -m MODULE or --no-python PROGRAM ({prog} -h for help)")
    options = RunOptions(**{"grace_s": _GRACE_S, **{name: given[name] for name in _RUN_FIELDS & given.keys()}})
    job = JobOptions(**{name: value for name, value in given.items() if name not in _RUN_FIELDS})
    return Command(options, job, rest[0], tuple(rest[1:]))


def command_parser(prog: str) -> OptionParser:
    """The parser of the words before the target."""
    parser = OptionParser(
        prog=prog,
        usage="%(prog)s [-h] [-n N] [--max-restarts K] [OPTION ...] [-m] SCRIPT|MODULE|PROGRAM [ARG ...]",
        add_help=False,
        allow_abbrev=False,
        epilog="torchrun's options, its spellings with _ and its PET_* variables are taken. The exit code is that of "
        "the first rank that failed (128 + n for signal n); 2: wrong usage; 124: the time limit; 128 + n: ended by "
        "signal n (130: Ctrl-C).",
        formatter_class=HelpFormat,
    )
    add_options(parser, (*_ours(), *TORCHRUN_OPTIONS))
    return parser


def split_words(words: Sequence[str], parser: OptionParser) -> tuple[list[str], list[str]]:
    """Part `words` into options, spelt in full, and the target with its arguments, which stay as they are."""
    takes_value = {name: action.nargs != 0 for action in parser._actions for name in action.option_strings}
    own: list[str] = []
    left = list(words)
    while left and left[0].startswith("-") and left[0] not in ("-", "--"):
        word = _in_full(with_dashes(left.pop(0)), takes_value)
        own.append(word)
        if takes_value.get(word, False) and left:  # `--nproc=2` and `-n2` have theirs
            own.append(left.pop(0))
    return own, left[1:] if left[:1] == ["--"] else left


def _in_full(word: str, known: Mapping[str, Any]) -> str:
    name, equals, value = word.partition("=")
    if not name.startswith("--") or name in known:
        return word
    found = sorted(full for full in known if full.startswith(name))
    if len(found) > 1:
        raise OptionError(f"{name}: {one_of(found)}?")
    return (found[0] if found else name) + equals + value


def _pet_defaults(parser: OptionParser, environ: Mapping[str, str]) -> dict[str, Any]:
    """What `PET_*` variables say, read as the options they stand for."""
    given: dict[str, Any] = {}
    for option in parser.options:
        for spelling in option.spellings:
            name = env.TORCHRUN_DEFAULT_PREFIX + spelling.lstrip("-").replace("-", "_").upper()
            text = environ.get(name, "")
            if not text or not spelling.startswith("--"):
                continue
            try:
                given[option.field] = _switch(text) if option.metavar is None else option.read(text)
                if option.field in _RUN_FIELDS:
                    RunOptions(**{option.field: given[option.field]})
            except OptionError as error:
                raise OptionError(f"{name}={text}: {error}") from None
    return given


# ---------------------------------------------------------------------------------------------------------- the options


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH_WORDS:
        raise OptionError("expected 0 or 1")
    return _SWITCH_WORDS[text.lower()]


def _nnodes(text: str) -> tuple[int, int]:
    least, colon, most = text.partition(":")
    if not least.isdecimal() or (colon and not most.isdecimal()):
        raise OptionError(f"--nnodes {text}: expected a number of machines, or MIN:MAX")
    numbers = int(least), int(most or least)
    if not 1 <= numbers[0] <= numbers[1]:
        raise OptionError(f"--nnodes {text}: expected 1 <= MIN <= MAX")
    return numbers


def _std(spelling: str) -> Any:
    def read(text: str) -> Std | dict[int, Std]:
        try:
            return Std.from_str(text)
        except ValueError:
            raise OptionError(
                f"{spelling} {text}: expected 0 (none), 1 (stdout), 2 (stderr) or 3 (both), or by rank, such as 0:1,1:3"
            ) from None

    return read


def _needles(text: str) -> tuple[str, ...]:
    r"""`apple,orange`; two commas are one that belongs to the word."""
    parts = text.replace(",,", "\0").split(",")
    return tuple(part.replace("\0", ",") for part in parts if part)


def _conf(text: str) -> dict[str, str]:
    pairs = [entry.partition("=") for entry in text.split(",") if entry.strip()]
    if any(not equals or not name.strip() for name, equals, _ in pairs):
        raise OptionError(f"--rdzv-conf {text}: expected NAME=VALUE, several joined by commas")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _whole(spelling: str, most: int) -> Any:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and int(text) <= most):
            raise OptionError(f"{spelling} {text}: expected a number from 0 to {most}")
        return int(text)

    return read


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise OptionError(f"--monitor-interval {text}: expected seconds, more than 0")
    return seconds


def _signals(text: str) -> str:
    for name in text.split(","):
        if name.strip():
            signal_number(name.strip())
    return text


_JOB, _SHOWN, _MACHINES = "what is run, and as what", "torchrun's options for output", "several machines"


def _ours() -> list[Option]:
    """The magic's options that have a meaning in a shell."""
    said = {"grace_s": f"seconds between asking a rank to end and killing it (default {_GRACE_S:g})"}
    said["ui"] = "where output is shown: text (default) or none"
    groups = {"max_restarts": OPTIONS[0].group}  # beside the number of ranks
    return [
        dataclasses.replace(
            option, help=said.get(option.field, option.help), group=groups.get(option.field, option.group)
        )
        for option in OPTIONS
        if option.field not in (*OF_ONE_LINE, "engine")
    ]


TORCHRUN_OPTIONS = (
    Option("is_module", ("-m", "--module"), _JOB, "the target is a module's name, as in python -m"),
    Option("is_program", ("--no-python",), _JOB, "the target is a program, run as it is, without Python"),
    Option("is_path", ("--run-path",), _JOB, "a script runs in a warm process, which it does anyway"),
    Option("role", ("--role",), _JOB, "ROLE_NAME of the ranks (default default)", "NAME", "trainer"),
    Option("master_addr", ("--master-addr",), _JOB, "MASTER_ADDR of the ranks (default 127.0.0.1)", "HOST",
           "127.0.0.1"),
    Option("master_port", ("--master-port",), _JOB, "MASTER_PORT of the ranks (default: one that is free)", "PORT",
           "29500", read=_whole("--master-port", 65535)),
    Option("signals", ("--signals-to-handle",), _JOB,
           f"signals that end the run and reach every rank (default {DEFAULT_SIGNALS})", "SIGS", "SIGTERM,SIGINT",
           read=_signals),
    Option("redirects", ("-r", "--redirects"), _SHOWN,
           "streams that are written to files and not shown: 1 stdout, 2 stderr, 3 both; by rank 0:1,1:3", "STD", "3",
           read=_std("-r")),
    Option("tee", ("-t", "--tee"), _SHOWN, "streams that are written to files and shown, as all are by default", "STD",
           "3", read=_std("-t")),
    Option("stdout_needles", ("--duplicate-stdout-filters",), _SHOWN,
           "copy lines with one of these words into filtered_stdout.log; ,, stands for a comma", "W,W", "loss,error",
           read=_needles),
    Option("stderr_needles", ("--duplicate-stderr-filters",), _SHOWN, "likewise for stderr", "W,W", "error",
           read=_needles),
    Option("nnodes", ("--nnodes",), _MACHINES, "how many machines, or MIN:MAX (default 1)", "N", "2", read=_nnodes),
    Option("is_standalone", ("--standalone",), _MACHINES, "one machine, whatever else is said of a rendezvous"),
    Option("rdzv_backend", ("--rdzv-backend",), _MACHINES, "how machines find each other: c10d, static, etcd-v2",
           "NAME", "c10d"),
    Option("rdzv_endpoint", ("--rdzv-endpoint",), _MACHINES, "where they do", "HOST:PORT", "node0:29400"),
    Option("rdzv_id", ("--rdzv-id",), _MACHINES, "the job's name, the same on all machines", "ID", "job7"),
    Option("rdzv_conf", ("--rdzv-conf",), _MACHINES, "more for the rendezvous", "K=V,...", "timeout=60", read=_conf),
    Option("node_rank", ("--node-rank",), _MACHINES, "this machine's number, for --rdzv-backend static", "R", "0",
           read=_whole("--node-rank", 1 << 20)),
    Option("local_addr", ("--local-addr",), _MACHINES, "this machine's address", "HOST", "10.0.0.1"),
    Option("monitor_interval", ("--monitor-interval",), _MACHINES,
           "seconds between looks for machines that want to join; a rank's end is heard of at once", "S", "0.1",
           read=_interval),
    Option("event_log_handler", ("--event-log-handler",), _MACHINES, "where events are recorded (default null)",
           "NAME", "console"),
    Option("logs_specs", ("--logs-specs",), _MACHINES, "a plug-in of the group torchrun.logs_specs", "NAME", "default"),
)  # fmt: skip
