"""The magics: `%%elastic_run`, `%elastic_run`, `%elastic_config`, `%elastic_status`, `%elastic_stop`, `%elastic_logs`.

    the notebook's cell > [here] > cell (compile, capture) > session (run, show) > the cell's value

Runs in: owner (kernel or terminal IPython).
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
    output_can_be_silenced,
)
from IPython.utils.text import DollarFormatter

from ..engines.here import check_here
from ..engines.results import Quiet, Results
from ..engines.run import Run, last_run, live_runs
from ..forkserver.client import servers
from ..launcher import defaults
from ..launcher.grammar import option_of
from ..launcher.options import HelpWanted, ParsedLine, RunOptions, new_parser, parse_line
from ..payload.body import CellBody
from ..payload.script import Script
from ..terms.errors import OptionError
from . import completion
from .cell import build_body, cell_number
from .config import CONFIG_HELP, AdministratorDefaults, obey, take_administrators
from .here import HereCells
from .script import is_script, script_of
from .session import Rebuild, Session
from .traceback import forgets_frames, syntax_failure

__all__ = ["ElasticMagics", "load", "unload_ipython_extension"]

_HELP = """Run this cell in N fresh processes; the value is a list of the last expression's values, by rank.

Names from the notebook are there, as they are now; `rank`, `local_rank` and `world_size` are set. What the cell assigns
stays in the ranks. A failing rank's traceback is shown with this cell's lines; an interrupt stops every rank.

%elastic_run -n 2 train(cfg) takes an expression; %elastic_run -n 2 train.py --lr {lr}, or -m pkg.train, a script, which
every rank runs as python would.

--engine here runs a cell as the only rank, in the notebook itself: its failure has real frames for %debug, breakpoint()
and input() work. The notebook's names are put back at its end (after a failure: when the next %elastic_run begins);
objects that it changes in place stay changed.

"""


@magics_class
class ElasticMagics(AdministratorDefaults, Magics):  # type: ignore[misc]  # IPython is not typed for us
    """The magics of one shell."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell=shell, parent=shell)
        self.session = Session(shell)
        self.here = HereCells(shell)

    @no_var_expand
    @needs_local_scope
    @output_can_be_silenced
    @line_cell_magic
    @forgets_frames
    def elastic_run(
        self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None
    ) -> Results[Any] | Run[Any] | None:
        """Run code in several ranks; `_HELP` and the options are what `?` shows, see below the class.

        Args:
            line: What follows the magic's name: options, then (one %) an expression or a script.
            cell: The lines below it; None: one %.
            local_ns: Of the function that holds the magic.

        Returns:
            Values by rank; with --bg the Run; None after -h.

        Raises:
            UsageError: A line that cannot be obeyed, for an OptionError.
            ChildFailedError, RunStopped, ServerError, UnpicklableError: As `Run.result()`.
            KeyboardInterrupt: After an interrupt, once all ranks are gone.
        """
        prog = "%elastic_run" if cell is None else "%%elastic_run"
        self.here.put_back()
        # The locals of a function that holds the magic go before the notebook's names.
        names = {**self.shell.user_ns, **(local_ns or {})}
        try:
            if cell is not None and line.rstrip().endswith("\\"):
                raise OptionError("\\ at the end of the %%elastic_run line: options stand on one line, code below it")
            parsed = parse_line(line, prog, expand=functools.partial(_expanded, names))
            if cell is None and not parsed.code:
                raise OptionError(
                    "nothing to run on this line: add an expression,"
                    " or write %%elastic_run, two %, for the lines below it"
                )
            if cell is not None and is_script(parsed.code, names):
                raise OptionError(f"{parsed.code}: a script is run by %elastic_run, one %, with no code below it")
            if cell is not None and parsed.code:
                raise OptionError(
                    f"{parsed.code!r}: code goes below the %%elastic_run line, options on it{_meant(parsed.code)}"
                )
            build = functools.partial(self._built, parsed, line, cell, local_ns, cell_number(self.shell))
            body, notes = build()
            is_here = parsed.options.engine == "here"
            if is_here:
                check_here(parsed.options, parsed.is_background)
        except HelpWanted as help_text:
            print(_HELP + str(help_text))
            return None
        except SyntaxError as error:
            raise syntax_failure(error, self.shell) from None
        except OptionError as error:
            raise UsageError(str(error)) from None
        if parsed.is_background:
            run = self._start(body, parsed.options, notes, build)
            if parsed.out is not None:
                self.shell.user_ns[parsed.out] = run
            return run
        if is_here and isinstance(body, CellBody):
            results = self.here.run(body, parsed.options, notes)
        else:
            results = self._run(body, parsed.options, notes, build)
        if parsed.out is not None:
            self.shell.user_ns[parsed.out] = results
        return Quiet(results) if all(value is None for value in results) else results

    def _built(
        self, parsed: ParsedLine, line: str, cell: str | None, local_ns: Mapping[str, Any] | None, number: int
    ) -> tuple[CellBody | Script, list[str]]:
        """What is to run, with the notebook's values of this moment, and notes for the person."""
        names = {**self.shell.user_ns, **(local_ns or {})}
        if cell is None and is_script(parsed.code, names):
            return script_of(parsed, functools.partial(_expanded, {**os.environ, **names})), []
        head = None if cell is None else f"%%elastic_run {line}".rstrip()
        text = parsed.code if cell is None else cell
        is_kept, is_here = parsed.out is not None, parsed.options.engine == "here"
        return build_body(self.shell, head, text, names, keeps_silenced=is_kept, number=number, is_here=is_here)

    def _run(self, body: CellBody | Script, options: RunOptions, notes: list[str], build: Rebuild) -> Results[Any]:
        try:
            return self.session.run(body, options, notes, build)
        except OptionError as error:  # what only the machine can refuse: nproc="gpu" without one
            raise UsageError(str(error)) from None

    def _start(self, body: CellBody | Script, options: RunOptions, notes: list[str], build: Rebuild) -> Run[Any]:
        try:
            return self.session.start(body, options, notes, build)
        except OptionError as error:
            raise UsageError(str(error)) from None

    @no_var_expand
    @line_magic("%elastic_run")  # what IPython looks for when `%%elastic_run` stands below a cell's first line
    def elastic_run_too_late(self, line: str) -> None:
        """Belongs on the first line of a cell."""
        raise UsageError(
            "%%elastic_run belongs on the first line of its cell: not even a comment may stand above it"
            " (%elastic_run, with one %, takes an expression on any line)"
        )

    @no_var_expand
    @needs_local_scope
    @line_magic
    def elastic_config(self, line: str, local_ns: Mapping[str, Any] | None = None) -> None:
        """Save, show and take back this notebook's default options; CONFIG_HELP is what `?` shows."""
        if _is_help(line):
            return print(CONFIG_HELP)
        names = {**self.shell.user_ns, **(local_ns or {})}
        try:
            text = obey(line, functools.partial(_expanded, names))
        except OptionError as error:
            raise UsageError(str(error)) from None
        if text:
            print(text)

    @line_magic
    def elastic_panel(self, line: str) -> None:
        """Show a run's panel again, or a form that runs a function of the notebook: `%elastic_panel [RUN|FUNCTION]`.

        %elastic_panel              a form: choose a function of the notebook, ranks, GPUs, arguments; Start, Stop, Kill
        %elastic_panel train        the form for the function `train`
        %elastic_panel 1f2e3d4c     the panel of the run of that id (after a reload of the page, say)
        """
        if _is_help(line):
            return print(inspect.getdoc(self.elastic_panel))
        try:
            self.session.show_panel(line.strip())
        except OptionError as error:
            raise UsageError(str(error)) from None

    @line_magic
    def elastic_status(self, line: str) -> None:
        """List live runs and the last one, ended or not, with their ranks; then the fork servers and their memory.

        %elastic_status             a line per run: its id, what it runs, on how many ranks, how it stands; a line per
                                    rank: its state, pid and exit code (negative: the signal that ended it)

        `ipyelastic.last_run()` is the last of them as an object: `.ranks`, `.results`, `.log_dir`, `.stop()`.
        """
        if _is_help(line):
            return print(inspect.getdoc(self.elastic_status))
        runs = live_runs()
        newest = last_run()
        if newest is not None and newest not in runs:
            runs = [*runs, newest]
        for run in runs:
            print(run)
            for view in run.ranks:
                print(f"  {view!r}")
        if not runs:
            print("no run yet")
        for row in servers().describe():
            preload = ", ".join(row["preload"]) or "nothing preloaded"
            ready = f", {row['spares']} rank{'s' if row['spares'] > 1 else ''} ready" if row["spares"] else ""
            cost = f"{row['pss_mb'] / 1.048576:.0f} MiB"
            print(f"fork server {row['pid']} ({row['role']}): {preload}{ready}; {cost}, {row['runs']} runs")
        for name, why in servers().refused.items():
            print(f"not preloaded: {name} ({why})")

    @line_magic
    def elastic_stop(self, line: str) -> None:
        """Stop a run by its id, or all: `%elastic_stop [RUN|all]`.

        %elastic_stop 1f2e3d4c      stop the run of that id (%elastic_status lists them)
        %elastic_stop               stop all runs

        Every rank is asked to end, by SIGTERM or its run's --stop-signal, and killed after --grace seconds. The magic
        returns when all are gone.
        """
        if _is_help(line):
            return print(inspect.getdoc(self.elastic_stop))
        wanted = line.strip() or "all"
        runs = [run for run in live_runs() if wanted in ("all", run.run_id)]
        if not runs and wanted != "all":
            raise UsageError(f"{wanted}: no run of that id is alive; %elastic_status lists them")
        for run in runs:
            run.stop()
        for run in runs:
            run.wait()
            print(run)
        if not runs:
            print("no run is alive")

    @line_magic
    def elastic_logs(self, line: str) -> None:
        """Show the last lines of a rank of the last run and where its log files are: `%elastic_logs [RANK]`.

        %elastic_logs 3             of rank 3: 50 lines, its failure if it failed, then the files of stdout and stderr
        %elastic_logs               of rank 0
        """
        if _is_help(line):
            return print(inspect.getdoc(self.elastic_logs))
        run: Run[Any] | None = last_run()
        if self.here.is_newest():
            return print("the last run was a cell in this very process: its output stands under that cell")
        if run is None:
            raise UsageError("no run yet")
        text = line.strip() or "0"
        if not text.isdigit() or int(text) >= run.nproc:
            raise UsageError(f"{text}: expected a rank from 0 to {run.nproc - 1}")
        if run.options.engine == "here":
            return print(f"{run!r} ran in this very process: its output stands in the cell\nits folder: {run.log_dir}")
        view = run.ranks[int(text)]
        print("\n".join(view.tail(50)) or f"rank {view.rank} printed nothing")
        failure = run.board.snapshot().ranks[view.rank].failure
        if failure is not None:
            raised = failure.exception
            words = raised.text.rstrip() if raised is not None else ""
            from ..view.report import describe  # where a run has failed

            print(words or describe(failure, rank=view.rank, world_size=run.nproc, has_magics=True))
        print(f"stdout: {view.stdout_path}\nstderr: {view.stderr_path}")


ElasticMagics.elastic_run.__doc__ = _HELP + new_parser("%%elastic_run").format_help()
ElasticMagics.elastic_config.__doc__ = CONFIG_HELP


def _meant(text: str) -> str:
    """For a line that holds `2` or `nproc=2`, what its writer had in mind."""
    if re.fullmatch(r"\d+", text):
        return f", did you mean --nproc {text}?"
    found = re.fullmatch(r"([\w-]+)=(\S+)", text)
    option = option_of(found[1]) if found else None
    return f", did you mean --{option.name} {found[2]}?" if found and option else ""


def _is_help(line: str) -> bool:
    return line.strip() in ("-h", "--help")


def _expanded(names: Mapping[str, Any], word: str) -> str:
    """`{n}` and `$n` in an option, as IPython expands them in other magics' lines; what cannot be, stays."""
    if "{" not in word and "$" not in word:
        return word
    try:
        return str(DollarFormatter().vformat(word, (), dict(names)))
    except Exception:
        return word


_magics: dict[int, ElasticMagics] = {}


def load(shell: Any) -> None:
    """The rest of `%load_ext ipyelastic`. Loading twice changes nothing."""
    if id(shell) in _magics:
        return
    magics = ElasticMagics(shell)
    magics.session.open()
    shell.register_magics(magics)
    completion.add_to(shell)
    _magics[id(shell)] = magics
    for refused in take_administrators(magics):
        print(f"ipyelastic: {refused}", file=sys.stderr)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext ipyelastic` calls: runs are stopped, servers ended, the magics and saved defaults gone.

    Args:
        shell: IPython's shell. One in which nothing is loaded is left as it is.
    """
    magics = _magics.pop(id(shell), None)
    if magics is None:
        return
    magics.here.put_back()
    magics.session.close()
    completion.remove_from(shell)
    for layer in defaults.LAYERS:
        defaults.take_back(layer)
    for kind, names in ElasticMagics.magics.items():
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
