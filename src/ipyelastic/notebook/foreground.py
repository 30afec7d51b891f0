"""A run that its cell (or script) waits for: its output is printed meanwhile, an interrupt stops its ranks.

    session, notebook_launcher > [here] > waiting, engines/run;   main thread: print what arrived, 50 times a second

Runs in: owner, the thread that launches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..engines.run import Rendezvous, Results, Run
from ..launcher.options import RunOptions
from ..view.text import PrefixedText
from .interrupts import Interrupts
from .waiting import PERIOD_S, Obedience, outcome_of

__all__ = ["run_in_foreground"]


def run_in_foreground(
    entrypoint: Callable[..., Any],
    args: Sequence[Any],
    options: RunOptions,
    text: PrefixedText,
    interrupts: Interrupts,
    *,
    shell: Any,
    is_live: bool,
    name: str,
    notes: Sequence[str] = (),
    rendezvous: Rendezvous = ("127.0.0.1", 0),
) -> Results[Any]:
    """Run to the end, printing what `text` makes of its output, and return the values by rank.

    Args:
        interrupts: Taken here; the caller gives them back once its cell is over.
        shell: For the looks of an error; None: there is none.
        is_live: A person watches: lines may be left out.

    An interrupt stops every rank, a second one kills them; then KeyboardInterrupt is raised.
    Raises what `Run.result` raises, dressed for IPython.
    """
    interrupts.take()
    try:
        run: Run[Any] = Run(
            entrypoint,
            args,
            options,
            sinks=[] if options.ui == "none" else [text],
            notes=notes,
            is_output_complete=not is_live,
            name=name,
            rendezvous=rendezvous,
        )
        obedience = Obedience(interrupts)
        while not run.wait(PERIOD_S):
            if obedience.obey(run, run.stop, run.kill):
                break
            _print(text.take())
        _print(text.close())
    finally:
        interrupts.over()
    return outcome_of(run, interrupts, shell)


def _print(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()
