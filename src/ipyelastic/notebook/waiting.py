"""A cell that waits for its run: what an interrupt does meanwhile, and how the cell ends.

    foreground (printed lines), panel_run (the panel) > [here] > engines/run

Runs in: owner, the thread that waits.
Other end: interrupts.py counts; traceback.py gives errors their looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..engines.run import Results, Run
from ..terms.errors import RunStopped
from .interrupts import Interrupts
from .traceback import dress

__all__ = ["PERIOD_S", "Obedience", "outcome_of"]

PERIOD_S = 0.02  # between two looks while the cell waits; the run's end does not wait for it
_PATIENCE_S = 1.0  # beyond the grace, before an interrupted cell leaves the notebook's own code (`__reduce__`) behind


class Obedience:
    """Obeys the interrupts of one waiting cell: the first stops the ranks, the second kills them."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._obeyed = 0
        self._patient_until = 0.0

    def obey(self, run: Run[Any], stop: Callable[[], object], kill: Callable[[], object]) -> bool:
        """Do what is due; whether to leave the run alone, because only the user's own code here still holds it up."""
        if self._interrupts.count > self._obeyed:
            self._obeyed += 1
            if self._obeyed == 1:
                stop()
                is_started = run.ranks[0].pid is not None
                self._patient_until = time.monotonic() + run.options.grace_s * is_started + _PATIENCE_S
            elif self._obeyed == 2:
                kill()
        is_impatient = self._obeyed > 1 or time.monotonic() > self._patient_until
        return bool(self._obeyed and run.busy_with and is_impatient)


def outcome_of(run: Run[Any], interrupts: Interrupts, shell: Any, *, is_shown: bool = False) -> Results[Any]:
    """The values of a run that was waited for, by rank; the run keeps nothing of its call.

    Args:
        run: Mostly one that has ended.
        interrupts: Those that came meanwhile.
        shell: Whose looks an error gets; None: there is none.
        is_shown: Whether a panel has said why the run failed: its error says where to look, in one line.

    Raises what `Run.result` raises, and KeyboardInterrupt after interrupts.
    """
    if not run.done():
        run.kill()
        said = f"all {run.nproc} ranks were stopped; {run.busy_with} still waits in an object's own code"
        said += " (__reduce__, __setstate__), in a thread that goes when it returns"
        raise dress(KeyboardInterrupt(said), shell, run.nproc)
    error = run.exception()
    run.forget_call()  # what the cell used is the notebook's again, to be kept or deleted
    if interrupts.count and (error is None or isinstance(error, RunStopped)):
        raise dress(KeyboardInterrupt(f"all {run.nproc} ranks were stopped"), shell, run.nproc)
    if error is not None:
        # Not chained to anything here: the frames of this file say nothing to the person.
        raise dress(error, shell, run.nproc, is_shown=is_shown).with_traceback(None)
    return run.result()
