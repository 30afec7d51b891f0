"""The static page: what it says, that nothing in it can act, that it is bounded, and that it can be read anywhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import bleach
import pytest

from ipyelastic.terms.events import OutputChunk, RunEnded, RunNote, StackDump, Stream, WorkerEnded, WorkerStarted
from ipyelastic.terms.failure import ExceptionRecord, FrameRecord, ProcessFailure
from ipyelastic.view.board import Board
from ipyelastic.view.heading import Heading
from ipyelastic.view.html import MOST_BYTES, html
from ipyelastic.view.plain import plain

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100
HOSTILE = (
    '<script>window.pwned=1</script><img src=x onerror="pwned=1"></pre></code></details><!-- <style>*{} \''
    " $x^2$ \\(y\\) &amp; \x00\x07\x1b]52;c;aGk=\x07\x1b[2J\x9b5m \udcff \u202eevil\u202c \u2066 a" + "\u0301" * 300
)


def failed(
    local_rank: int, exitcode: int = 1, *, at_ns: int = 5, text: str = "", message: str = "bad"
) -> ProcessFailure:
    failure = ProcessFailure(local_rank, 100 + local_rank, exitcode, "")
    failure.timestamp_ns = at_ns
    if text:
        frame = FrameRecord("/tmp/1.py", 3, "step", "step()", "Cell In[7]")
        failure.exception = ExceptionRecord("ValueError", "builtins", message, (frame,), text=text)
    return failure


def stopped(local_rank: int) -> ProcessFailure:
    failure = failed(local_rank, -15, at_ns=9)
    failure.is_stopped = True
    return failure


def wrote(board: Board, rank: int, text: str, stream: Stream = "stdout") -> None:
    board(OutputChunk(rank, stream, text, f"/logs/{rank}/{stream}.log"))


def board_of_four() -> Board:
    """Rank 2 failed first, rank 3 after it; the others were stopped."""
    board = Board(4)
    for rank in range(4):
        board(WorkerStarted(rank, rank, 100 + rank))
        wrote(board, rank, f"hello from {rank}\n")
    wrote(board, 2, "\x1b[31mlast words\x1b[0m\n", "stderr")
    board(WorkerEnded(2, 2, 102, 1, failed(2, text="Traceback of two\nValueError: bad")))
    board(WorkerEnded(3, 3, 103, 1, failed(3, at_ns=7, text="Traceback of three\nValueError: bad")))
    for rank in (0, 1):
        board(WorkerEnded(rank, rank, 100 + rank, -15, stopped(rank)))
    board(RunNote("2 GPUs were found"))
    board(RunEnded("failed", 41.23))
    return board


class Page(HTMLParser):
    """A page taken apart: its elements, its attributes, what is unfolded, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.styles: list[str] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.outside: list[str] = []
        self.unfolded = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name == "src"]
        self.styles += [value or "" for name, value in attrs if name == "style"]
        self.unfolded += tag == "details" and "open" in dict(attrs)
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)
        if not {"pre", "code"} & set(self.open):
            self.outside.append(data)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in "".join(self.pieces).splitlines() if line.strip()]


def test_failed_run_says_first_why_it_failed() -> None:
    page = Page(html(board_of_four(), Heading("train", "4f21c0de", "/logs", max_restarts=2)))
    assert page.lines == [
        "✗ failed train",
        "4 ranks: 2 failed, 2 stopped · 41.2 s · attempt 1 of 3 · run 4f21c0de · logs /logs",
        "■ rank 0 ■ rank 1 ✗ rank 2 ✗ rank 3",
        "rank 2 of 4 failed (local_rank 2, attempt 1 of 3)",
        "what ValueError: bad (Cell In[7], line 3)",
        "rank 3 also failed: ValueError: bad (Cell In[7], line 3)",
        "ranks 0-1 were stopped because of it",
        "Traceback of rank 2:",
        "Traceback of two",
        "ValueError: bad",
        "✗ rank 2 failed, exit code 1 · 2 lines",
        "  hello from 2",
        "┃ last words┃ written to stderrstdout: /logs/2/stdout.logstderr: /logs/2/stderr.log",
        "✗ rank 3 failed, exit code 1 · 1 line",
        "hello from 3Traceback of rank 3:",
        "Traceback of three",
        "ValueError: badstdout: /logs/3/stdout.log",
        "■ rank 0 stopped, SIGTERM · 1 line",
        "hello from 0stdout: /logs/0/stdout.log",
        "■ rank 1 stopped, SIGTERM · 1 line",
        "hello from 1stdout: /logs/1/stdout.log",
        "note: 2 GPUs were found",
    ]
    assert page.unfolded == 1


def test_run_that_ended_well_says_the_little_it_wrote_and_silent_ranks_share_a_line() -> None:
    board = Board(4)
    for rank in range(4):
        board(WorkerStarted(rank, rank, rank + 1))
        board(WorkerEnded(rank, rank, rank + 1, 0))
    wrote(board, 1, "a\nb\n")
    board(RunEnded("succeeded", 3600.0))
    page = Page(html(board, Heading("train")))
    assert page.lines == [
        "✓ succeeded train",
        "4 ranks · 1 h 00 min",
        "✓ rank 0 ✓ rank 1 ✓ rank 2 ✓ rank 3",
        "✓ rank 1 succeeded · 2 lines",
        "a",
        "bstdout: /logs/1/stdout.log",
        "ranks 0, 2-3 wrote nothing",
    ]
    assert page.unfolded == 1


def test_much_output_of_a_run_that_ended_well_is_folded() -> None:
    for lines, unfolded in ((15, 2), (16, 0)):
        board = Board(2)
        for rank in range(2):
            board(WorkerStarted(rank, rank, rank + 1))
            wrote(board, rank, "line\n" * lines)
            board(WorkerEnded(rank, rank, rank + 1, 0))
        board(RunEnded("succeeded", 1.0))
        assert Page(html(board, Heading("train"))).unfolded == unfolded


def test_run_that_goes_on_says_for_how_long_and_only_output_is_unfolded() -> None:
    board = Board(1)
    board(WorkerStarted(0, 0, 1))
    wrote(board, 0, "step 1\n")
    page = Page(html(board, Heading("train", elapsed_s=5)))
    assert page.lines == ["● running train", "1 rank · 5.0 s", "● rank 0 running · 1 line",
                          "step 1stdout: /logs/0/stdout.log"]  # fmt: skip
    assert page.unfolded == 1


def test_end_that_no_rank_explains_is_told_with_the_stacks_of_the_ranks() -> None:
    board = Board(2)
    for rank in range(2):
        board(WorkerStarted(rank, rank, 100 + rank))
        board(WorkerEnded(rank, rank, 100 + rank, -15, stopped(rank)))
    board(StackDump(1, 'Current thread 0x1:\n  File "train.py", line 3 in step\n'))
    board(RunEnded("stopped", 5.0))
    lines = Page(html(board, Heading("train", error="the run was ended after its time limit of 5 s"))).lines
    assert lines[3:5] == [
        "the run was ended after its time limit of 5 s",
        "rank 0 of 2 was stopped (local_rank 0)",
    ]
    assert lines[-5:] == [
        "■ rank 1 stopped, SIGTERM",
        "Python stacks of rank 1:",
        "Current thread 0x1:",
        '  File "train.py", line 3 in step',
        "rank 0 wrote nothing",
    ]


def test_many_ranks_that_ended_well_share_one_row() -> None:
    board = Board(64)
    for rank in range(64):
        board(WorkerStarted(rank, rank, 100 + rank))
        wrote(board, rank, "x\n")
        is_bad = rank == 37
        board(WorkerEnded(rank, rank, 100 + rank, 1 if is_bad else 0, failed(37, text="T") if is_bad else None))
    board(RunEnded("failed", 1.0))
    page = Page(html(board, Heading("train")))
    assert page.lines[2].startswith("ranks ✓ 0 ✓ 1 ")
    assert "✗ 37 ✓ 38" in page.lines[2]
    assert "output of ranks 0-36, 38-63 (63 succeeded)" in page.lines
    assert page.tags.count("details") == 65
    assert page.unfolded == 1


# ------------------------------------------------------------------------------------------------------------ hostility


def hostile_board(ranks: int = 2) -> Board:
    board = Board(ranks)
    flood = (
        HOSTILE
        + "\n"
        + "x" * ((2 << 20) // ranks)
        + "\n"
        + "".join(f"\x1b[38;5;{n % 256}m<" for n in range(10_000 // ranks))
        + "\n"
    )
    for rank in range(ranks):
        board(WorkerStarted(rank, rank, 1))
        board(OutputChunk(rank, "stdout", flood * 3 + HOSTILE, HOSTILE))
        board(OutputChunk(rank, "stderr", (HOSTILE + "\n") * 300, HOSTILE))
        failure = failed(rank, text=HOSTILE * 2000, message=HOSTILE)
        failure.host = HOSTILE
        board(WorkerEnded(rank, rank, 1, 1, failure))
        board(StackDump(rank, HOSTILE * 100))
        board(RunNote(HOSTILE))
    board(RunEnded("failed", 1.0))
    return board


HEADING = Heading(HOSTILE, HOSTILE, HOSTILE, error=HOSTILE)
ALLOWED = {"div", "p", "h5", "span", "b", "br", "code", "pre", "details", "summary", "img"}


def test_nothing_foreign_acts() -> None:
    text = html(hostile_board(), HEADING, {0: [(HOSTILE, PNG), (HOSTILE, b"<svg onload=pwned()>")]})
    page = Page(text)
    assert set(page.tags) <= ALLOWED
    assert page.attributes <= {"style", "open", "title", "dir", "src", "alt"}
    assert page.sources == ["data:image/png;base64," + page.sources[0].partition(",")[2]]
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", page.sources[0].partition(",")[2])
    assert not any(re.search(r"url|expression|@|/\*|\\", style) for style in page.styles)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    text.encode()
    assert "<script>window.pwned=1</script>" in "".join(page.pieces)  # it is all there to be read
    assert "\\u202eevil\\u202c" in "".join(page.pieces)
    assert "\u0301" * 5 not in text


def test_no_foreign_word_stands_where_mathjax_looks() -> None:
    page = Page(html(hostile_board(), HEADING))
    assert "$" not in "".join(page.outside)
    assert "\\" not in "".join(page.outside)


def test_page_is_bounded_whatever_64_ranks_write() -> None:
    images = {rank: [(HOSTILE, PNG[:8] + bytes(200_000))] * 3 for rank in range(64)}
    text = html(hostile_board(64), HEADING, images)
    assert MOST_BYTES // 2 < len(text.encode()) <= MOST_BYTES
    Page(text)


def test_page_of_very_many_ranks_is_bounded() -> None:
    board = Board(2000)
    for rank in range(2000):
        board(OutputChunk(rank, "stdout", "some line of text\n" * 50, "p" * 4000))
    text = html(board, Heading("train"))
    assert len(text.encode()) <= MOST_BYTES
    assert "1872 more ranks: see the log files" in text


def test_ranks_that_wrote_little_keep_it_and_those_that_wrote_much_keep_their_end() -> None:
    board = Board(64)
    for rank in range(64):
        wrote(board, rank, "short\n" if rank % 2 else "".join(f"{n:04} {'y' * 400}\n" for n in range(300)))
    text = html(board, Heading("train"))
    assert len(text.encode()) <= MOST_BYTES
    assert text.count(">short</pre>") == 32
    assert text.count("0299 ") == 32
    assert text.count("... earlier lines are in the log files") == 32
    assert "0000 y" not in text


def test_last_200_lines_are_kept_where_there_is_room() -> None:
    board = Board(1)
    wrote(board, 0, "".join(f"line {n}\n" for n in range(500)))
    text = html(board, Heading("train"))
    assert "line 299\n" not in text
    assert [f"line {n}" in text for n in (300, 499)] == [True, True]
    assert "last 200 lines" in text


# --------------------------------------------------------------------------------------------------------------- images


def test_images_are_drawn_as_long_as_there_is_room_and_else_named() -> None:
    board = Board(2)
    wrote(board, 0, "x\n")
    large = PNG[:8] + bytes(300 << 10)
    text = html(board, Heading("train"), {1: [("/logs/1/loss.png", PNG), ("/logs/1/big.png", large), ("a.txt", b"no")]})
    page = Page(text)
    assert page.tags.count("img") == 1
    assert 'alt="/logs/1/loss.png"' in text
    assert "image /logs/1/big.png: 300.0 KiB, too large to be kept in the notebook" in "".join(page.pieces)
    assert "image a.txt: not a PNG file" in "".join(page.pieces)


# ------------------------------------------------------------------------------------------------------------ renderers


def test_page_without_styles_says_the_same() -> None:
    text = html(board_of_four(), Heading("train"))
    bare = bleach.clean(text, tags=ALLOWED, attributes={"details": ["open"]}, strip=True)
    assert "style" not in bare
    assert Page(bare).lines == Page(text).lines


_KEPT_BY_JUPYTERLAB = (  # of the colours; by a probe of JupyterLab 4.6.6 with an untrusted notebook
    r"#[0-9a-f]{6}|rgba\(128,128,128,0\.35\)|none"
)


def test_what_jupyterlab_leaves_of_an_untrusted_pages_colours_fits_together() -> None:
    """It drops `var()` and `color-mix()`; what is left must be the whole dark block or nothing."""
    page = Page(html(board_of_four(), Heading("train")))
    for style in page.styles:
        held: dict[str, str] = {}
        for declaration in style.split(";"):
            name, _, value = declaration.partition(":")
            if name in ("color", "background", "background-color") and not re.fullmatch(_KEPT_BY_JUPYTERLAB, value):
                # Its filter has no anchors: a mixture that names a colour would pass in `color` and `background-color`.
                assert name == "background" or "transparent" not in value
                continue
            held[name] = value
        if "white-space" in held:
            assert (held["background-color"], held["color"]) == ("#1e1e1e", "#d4d4d4")


# ----------------------------------------------------------------------------------------------------------------- text


def test_plain_text_says_it_in_a_few_lines() -> None:
    assert (
        plain(board_of_four(), Heading("train", "4f21c0de", "/logs"))
        == """\
✗ train failed · 4 ranks: 2 failed, 2 stopped · 41.2 s
run 4f21c0de, logs /logs
rank 2 of 4 failed (local_rank 2)
  what    ValueError: bad (Cell In[7], line 3)
rank 3 also failed: ValueError: bad (Cell In[7], line 3)
ranks 0-1 were stopped because of it

Traceback of two
ValueError: bad

■ rank 0 stopped, SIGTERM
    hello from 0
■ rank 1 stopped, SIGTERM
    hello from 1
✗ rank 2 failed, exit code 1
    hello from 2
    last words
✗ rank 3 failed, exit code 1
    hello from 3
note: 2 GPUs were found"""
    )


def test_plain_text_is_bounded_and_inert() -> None:
    text = plain(hostile_board(100), HEADING)
    assert len(text.encode()) < 128 << 10
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)


@pytest.mark.parametrize("status", ["starting", "running", "succeeded", "failed", "stopped"])
def test_every_status_has_its_sign(status: str) -> None:
    board = Board(1)
    board(RunEnded(status, 1.0))  # type: ignore[arg-type]
    signs = {"starting": "○", "running": "●", "succeeded": "✓", "failed": "✗", "stopped": "■"}
    assert Page(html(board, Heading("f"))).lines[0] == f"{signs[status]} {status} f"
    assert plain(board, Heading("f")).startswith(f"{signs[status]} f {status} · 1 rank")
