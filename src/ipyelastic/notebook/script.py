"""A script's command line in a magic's line: `train.py --lr {lr}`, `-m pkg.train --epochs 3`.

    magic > [here] words, as a shell would split them > engines/scripts > payload/script.Script

Runs in: owner (kernel).
"""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from ..engines.scripts import check_script_options, find_module, find_script, looks_like_script
from ..launcher.options import ParsedLine
from ..payload.script import Script
from ..terms.errors import OptionError

__all__ = ["is_script", "script_of"]


_OPERATORS = frozenset([">", ">>", "<", "|", "&", "&&", "||", ";", "2>&1", "2>", "&>", "1>"])


def is_script(code: str, names: Mapping[str, Any]) -> bool:
    """Whether what follows the options is a script's command line rather than an expression."""
    try:
        first = _words(code, most=1)[0]
    except (OptionError, IndexError):
        return False
    if first == "-m":
        return True
    return looks_like_script(first) and not (first.isidentifier() and first in names)


def script_of(parsed: ParsedLine, expand: Callable[[str], str]) -> Script:
    """The script that a line names, with its arguments.

    Quotes are a shell's, and so is a leading `~`; `expand` replaces `{name}` and `$name` word by word; patterns such as
    `*.txt` stay as they are, and so does a word with `{"` or `{'` in it: JSON. Raises OptionError, one line.
    """
    check_script_options(parsed.options)
    if parsed.out is not None and not parsed.is_background:  # with --bg it names the run
        raise OptionError(f"-o {parsed.out}: a script has no values; have it write a file, or run a function")
    words = [word if re.search(r"\{\s*[\"']", word) else expand(word) for word in _words(parsed.code)]
    args = [os.path.expanduser(word) if word.startswith("~") else word for word in words]
    if args[0] == "-m":
        return find_module("".join(args[1:2]), args[2:])
    return find_script(words[0], args[1:])


def _words(code: str, most: int | None = None) -> list[str]:
    stream = io.StringIO(code)
    lexer = shlex.shlex(stream, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    while most is None or len(words) < most:
        before = stream.tell()
        try:
            word = lexer.get_token()
        except ValueError as error:
            raise OptionError(f"{code!r}: {error}".replace("No closing", "no closing")) from error
        if word is None or code[before:].lstrip().startswith("#"):
            break
        if word == code[before : stream.tell()].strip() and word in _OPERATORS:
            raise OptionError(f"{word!r}: there is no shell here; in quotes it goes to the script")
        words.append(word)
    return words
