"""A cell's text as a call: compiled here, with the notebook names it uses, to run in every rank.

    magic > [here] > payload/body.CellBody > engines/run

Runs in: owner (kernel). Nothing of the cell is executed here.
Other end: payload/body.py runs what is built here.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any, NamedTuple

from ..payload.body import CellBody
from ..terms.errors import OptionError

__all__ = ["build_body", "cell_number", "GIVEN"]

GIVEN = ("rank", "local_rank", "world_size")
"""Names every rank gets from us."""

_READS = frozenset({"LOAD_NAME", "LOAD_GLOBAL"})
_WRITES = frozenset({"STORE_NAME", "STORE_GLOBAL"})
_MAGIC_CALLS = ("run_line_magic", "run_cell_magic")


def build_body(
    shell: Any,
    head: str | None,
    text: str,
    names: Mapping[str, Any],
    *,
    keeps_silenced: bool = False,
    number: int | None = None,
    is_here: bool = False,
) -> tuple[CellBody, list[str]]:
    """Compile a cell's body and gather what it uses.

    Args:
        shell: The IPython shell whose notebook this is.
        head: The magic's own line, which counts as line 1; None: there is none (line magic).
        text: The body.
        names: What it may use: the notebook's names, and over them the locals of a function around the magic.
        keeps_silenced: The value comes back although a semicolon keeps it from being shown (`-o NAME`).
        number: The cell's; None: the cell that is running.
        is_here: The body runs in the notebook itself, where magics work.

    Returns:
        The body as a callable, and notes for the person.

    Raises:
        SyntaxError: With the cell's own name and line.
        OptionError: The body is blank, holds a magic (the text names it and its line) or letters no source may hold.
    """
    raw = text if head is None else f"{head}\n{text}"
    if not text.strip():
        raise OptionError("nothing to run: the cell holds nothing below its first line")
    _refuse_letters(raw)
    filename = shell.compile.cache(raw, cell_number(shell) if number is None else number, raw_code=raw)
    label = " ".join(shell.compile.format_code_name(filename) or (filename,))
    key = (text, filename, head is None, keeps_silenced, is_here, shell.compile.flags)
    is_plain = _is_plain(shell)
    reading = _read.get(key) if is_plain else None
    if reading is None:
        reading = _reading(shell, text, filename, head is None, keeps_silenced, is_here)
        if is_plain and reading.is_for_any_state:
            _read[key] = reading
            if len(_read) > _MOST_READ:
                del _read[next(iter(_read))]
    code, last, reads = reading.code, reading.last, reading.reads
    notes = []
    captured, uses = {}, {}
    for name, line in reads.items():
        if name not in names or _is_shells_own(shell, name, names[name]):
            continue
        if name in GIVEN:
            notes.append(f"{name} is the rank's own here and hides the notebook's {name}")
            continue
        captured[name] = names[name]
        uses[name] = f"{label}, line {line}"
    body = CellBody(code, last, captured, uses, (filename,), reading.writes, name=label)
    return body, notes


class _Reading(NamedTuple):
    """What a text says, whatever the notebook's names are bound to."""

    code: CodeType | None
    last: CodeType | None
    reads: Mapping[str, int]
    writes: frozenset[str]
    is_for_any_state: bool


_MOST_READ = 32
_read: dict[tuple[Any, ...], _Reading] = {}
"""Cells are run again and again; one that stayed the same is not read again."""


def _is_plain(shell: Any) -> bool:
    """Whether nobody has added to what IPython does with a cell's text."""
    manager = shell.input_transformer_manager
    transforms = (
        *manager.cleanup_transforms,
        *manager.line_transforms,
        *manager.token_transformers,
        *shell.input_transformers_post,
    )
    return all(getattr(one, "__module__", "").startswith("IPython.") for one in transforms)


def _reading(shell: Any, text: str, filename: str, is_line: bool, keeps_silenced: bool, is_here: bool) -> _Reading:
    tree, is_for_any_state = _parse(shell, text, filename, lines_before=0 if is_line else 1)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if not is_here:
        _refuse_magics(calls)
    reads = _names_in_texts(calls) | _names_in_commands(calls)
    flags = shell.compile.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and (keeps_silenced or not _is_silenced(text)):
        expression = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]  # an Expr has one
        last = compile(expression, filename, "eval", flags, dont_inherit=True)
    code = compile(tree, filename, "exec", flags, dont_inherit=True) if tree.body else None
    writes: set[str] = set()
    for part in (code, last):
        if part is not None:
            _gather(part, reads, writes)
    return _Reading(code, last, reads, frozenset(writes), is_for_any_state)


def _refuse_letters(raw: str) -> None:
    """NUL, which Python refuses without a line, and halves of surrogate pairs, which no file name can be made of."""
    for number, line in enumerate(raw.split("\n"), start=1):
        bad = re.search("[\0\ud800-\udfff]", line)
        if bad:
            raise OptionError(f"line {number}: {bad[0]!r} cannot stand in a program")


def cell_number(shell: Any) -> int:
    """The number of the cell that is running: that of the nearest frame whose file is a cell.

    `execution_count` is already the next cell's in newer IPythons.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        named = shell.compile.format_code_name(frame.f_code.co_filename)
        number = re.fullmatch(r"In\[(\d+)\]", named[1]) if named else None
        if number:
            return int(number[1])
        frame = frame.f_back
    return int(shell.execution_count)


def _parse(shell: Any, text: str, filename: str, lines_before: int) -> tuple[ast.Module, bool]:
    """The text's tree, and whether it would be the same at any other time: what IPython makes of a single line
    depends on the notebook's names (`ls` may be one)."""
    # IPython's transformation drops blank lines at the top; the tracebacks must count them.
    stripped = text.lstrip("\n")
    blank = len(text) - len(stripped)
    shift = lines_before + blank
    try:
        transformed = shell.transform_cell(stripped)
        return ast.parse("\n" * shift + transformed, filename), len(transformed.splitlines()) > 1
    except SyntaxError as error:
        if error.filename != filename:  # raised by a transformer, which counts from the body's first line
            error.filename = filename
            if error.lineno is not None:
                error.lineno += shift
        raise


def _refuse_magics(calls: Sequence[ast.Call]) -> None:
    for node in calls:
        is_magic = (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in _MAGIC_CALLS
            and isinstance(node.func.value, ast.Call)
            and isinstance(node.func.value.func, ast.Name)
            and node.func.value.func.id == "get_ipython"
        )
        if is_magic:
            assert isinstance(node.func, ast.Attribute)
            name = str(node.args[0].value) if isinstance(node.args[0], ast.Constant) else "?"
            sign = "%%" if node.func.attr == "run_cell_magic" else "%"
            if name in ("pinfo", "pinfo2"):
                raise OptionError(f"line {node.lineno}: ? looks things up in the notebook; it has no place in a rank")
            raise OptionError(
                f"line {node.lineno}: {sign}{name} works in the notebook only, not inside a rank;"
                " move it to a cell of its own"
            )


def _names_in_commands(calls: Sequence[ast.Call]) -> dict[str, int]:
    """Names that `!cmd` uses as `{name}` or `$name`, with their line: they stand in text, not in the bytecode."""
    names: dict[str, int] = {}
    for node in calls:
        if not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr not in ("system", "getoutput") or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        command = str(node.args[0].value)
        for found in re.finditer(r"\$(\w+)|\{([^{}]+)\}", command):
            for name in re.findall(r"[^\W\d]\w*", found[1] or found[2]):
                names.setdefault(name, node.lineno)
    return names


_QUOTED = {  # (the call, what in its text is a name of the program's)
    "query": r"@([^\W\d]\w*)",  # pandas
    "eval": r"@([^\W\d]\w*)",
    "sql": r"\b(?:from|join)\s+([^\W\d]\w*)",  # polars, duckdb
}


def _names_in_texts(calls: Sequence[ast.Call]) -> dict[str, int]:
    """Names that stand in texts only: `eval("x + 1")`, `frame.query("a > @x")`, `sql("select * from x")`."""
    names: dict[str, int] = {}
    for node in calls:
        if not (node.args and isinstance(node.args[0], ast.Constant)):
            continue
        text, function = node.args[0].value, node.func
        if not isinstance(text, str):
            continue
        found: list[str] = []
        if isinstance(function, ast.Name) and function.id in ("eval", "exec"):
            with contextlib.suppress(SyntaxError, ValueError):
                found = [one.id for one in ast.walk(ast.parse(text.strip())) if isinstance(one, ast.Name)]
        elif isinstance(function, ast.Attribute) and function.attr in _QUOTED:
            found = re.findall(_QUOTED[function.attr], text, re.IGNORECASE)
        for name in found:
            names.setdefault(name, node.lineno)
    return names


def _is_silenced(text: str) -> bool:
    """Whether the last thing in the body but comments and blanks is a semicolon."""
    if ";" not in text:
        return False
    last = ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.OP:
                last = token.string
            elif token.type not in _BLANK:
                last = ""
    except (tokenize.TokenError, SyntaxError, IndentationError):
        pass  # `!cmd` is no Python; what was read so far decides
    return last == ";"


_BLANK = frozenset(
    [tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT]
)


def _gather(code: CodeType, reads: dict[str, int], writes: set[str]) -> None:
    """Names a code object and those inside it read from and write to the module's namespace, with the first line."""
    for instruction, line in _lined(code):
        if instruction.opname in _READS:
            reads.setdefault(instruction.argval, line)
        elif instruction.opname in _WRITES:
            writes.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _gather(constant, reads, writes if constant.co_name != "<module>" else set())


def _lined(code: CodeType) -> Iterator[tuple[dis.Instruction, int]]:
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        starts = instruction.starts_line
        if starts is not None and not isinstance(starts, bool):
            line = starts
        position = getattr(instruction, "positions", None)
        yield instruction, (position.lineno if position is not None and position.lineno else line)


def _is_shells_own(shell: Any, name: str, value: object) -> bool:
    """Whether a name is one that IPython put there itself (get_ipython, exit, its `open`)."""
    hidden = shell.user_ns_hidden
    return name in hidden and hidden[name] is value and not name.startswith("_")
