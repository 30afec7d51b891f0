"""What `ipyelastic doctor` found, one fact each, and how it is told: as text or as JSON.

    machine.py, packages.py, trials.py > [here] > doctor.py

Runs in: owner (a shell's process).
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "State", "as_json", "as_text"]

State = Literal["ok", "note", "do"]
"""Fine; worth knowing, and nobody need act; something needs doing."""

_WIDTH = 100
_SIGNS: dict[State, str] = {"ok": "ok  ", "note": "note", "do": "DO  "}


@dataclass(frozen=True)
class Finding:
    """One fact. `name` stays the same from version to version; `do` says what to do, empty for `ok`."""

    section: str
    name: str
    state: State
    text: str
    do: str = ""


def as_text(findings: Sequence[Finding], head: str) -> str:
    """Sections with their facts, then what needs doing once more."""
    lines = [head]
    section = ""
    for found in findings:
        if found.section != section:
            section = found.section
            lines += ["", section]
        lines += _wrapped(f"  {_SIGNS[found.state]}  ", found.text)
        if found.do:
            lines += _wrapped("        -> ", found.do)
    wanting = [found for found in findings if found.state == "do"]
    lines.append("")
    if not wanting:
        lines.append("nothing needs doing")
    else:
        lines.append("needs doing:" if len(wanting) > 1 else "one thing needs doing:")
        for found in wanting:
            lines += _wrapped("  - ", f"{found.text}: {found.do}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding], version: str) -> str:
    """`{"version", "is_well", "findings": [{section, name, state, text, do}]}`."""
    told = {
        "version": version,
        "is_well": all(found.state != "do" for found in findings),
        "findings": [dataclasses.asdict(found) for found in findings],
    }
    return json.dumps(told, indent=1, ensure_ascii=False)


def _wrapped(lead: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_on_hyphens=False,
        break_long_words=False,
    )
