"""TailLog copies real files in its real thread; small programs are run against torch's and ours, and compared."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.output import tail_log
from ipyelastic.output.tail_log import TailLog, tail_logfile
from support.waiting import wait_until


class Stream(io.StringIO):
    """A destination that wakes whoever waits for its text, and counts flushes."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self.flushed = ""

    def write(self, text: str) -> int:
        with self._changed:
            count = super().write(text)
            self._changed.notify_all()
        return count

    def flush(self) -> None:
        self.flushed = self.getvalue()

    def wait_for(self, text: str, within_s: float = 10) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.getvalue(), within_s), self.getvalue()[-300:]


class Broken(io.StringIO):
    """A destination that is full."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def append(path: Path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def following() -> Any:
    """Starts TailLogs; all are stopped after the test."""
    started: list[TailLog] = []

    def start(files: dict[int, Path], dst: Any, **options: Any) -> TailLog:
        tail = TailLog("w", {rank: str(path) for rank, path in files.items()}, dst, **options).start()
        started.append(tail)
        return tail

    yield start
    for tail in started:
        tail.stop()


Following = Callable[..., TailLog]


def test_lines_of_a_growing_file_arrive_with_their_rank(tmp_path: Path, following: Following) -> None:
    path, dst = tmp_path / "log", Stream()
    tail = following({3: path}, dst)
    append(path, "one\n")
    dst.wait_for("[w3]:one\n")
    append(path, "two\nthree\n")
    dst.wait_for("three\n")
    assert not tail.stopped()
    tail.stop()
    assert tail.stopped()
    assert dst.getvalue() == "[w3]:one\n[w3]:two\n[w3]:three\n"
    assert dst.flushed == dst.getvalue()


def test_a_prefix_is_used_verbatim_and_a_rank_without_one_has_the_default(tmp_path: Path, following: Following) -> None:
    first, second, dst = tmp_path / "0", tmp_path / "1", Stream()
    append(first, "a\n")
    append(second, "b\n")
    following({0: first, 1: second}, dst, log_line_prefixes={0: "rank 0>"}).stop()
    assert sorted(dst.getvalue().splitlines()) == ["[w1]:b", "rank 0>a"]


def test_latency_is_not_the_interval(tmp_path: Path, following: Following) -> None:
    path, dst = tmp_path / "log", Stream()
    following({0: path}, dst, interval_sec=3600)
    append(path, "at once\n")
    dst.wait_for("at once\n", within_s=1)  # 20 times the 0.05 s that are promised


def test_one_thread_follows_all_files(tmp_path: Path, following: Following) -> None:
    dst = Stream()
    files = {rank: tmp_path / str(rank) for rank in range(32)}
    before = {thread.name for thread in threading.enumerate()}
    tail = following(files, dst)
    for rank, path in files.items():
        append(path, f"from {rank}\n")
    for rank in files:
        dst.wait_for(f"[w{rank}]:from {rank}\n")
    assert {thread.name for thread in threading.enumerate()} - before == {"TailLog_w_0"}
    tail.stop()
    assert {thread.name for thread in threading.enumerate()} == before


def test_thirty_two_files_lose_no_line(tmp_path: Path, following: Following) -> None:
    ranks, lines, dst = range(32), 500, Stream()
    files = {rank: tmp_path / str(rank) for rank in ranks}
    tail = following(files, dst)

    def write(path: Path) -> None:
        with path.open("w") as file:
            for number in range(lines):
                file.write(f"line {number}\n")
                if number % 50 == 0:
                    file.flush()

    writers = [threading.Thread(target=write, args=(path,)) for path in files.values()]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    tail.stop()
    by_rank: dict[str, list[str]] = {}
    for line in dst.getvalue().splitlines():
        header, _, text = line.partition(":")
        by_rank.setdefault(header, []).append(text)
    assert by_rank == {f"[w{rank}]": [f"line {number}" for number in range(lines)] for rank in ranks}


@pytest.mark.parametrize("is_late", [False, True])
def test_what_is_written_right_before_stop_is_there(tmp_path: Path, following: Following, is_late: bool) -> None:
    for attempt in range(30):  # each a race of the last line with the reader
        path, other, dst = tmp_path / f"{attempt}", tmp_path / f"{attempt}.other", Stream()
        if not is_late:
            append(path, "first\n")
        append(other, "runs\n")
        tail = following({0: path, 1: other}, dst)
        dst.wait_for("runs")
        append(path, "last\n")
        tail.stop()
        assert "[w0]:last\n" in dst.getvalue()


def test_half_line_gets_its_header_once_and_nobody_splits_it(tmp_path: Path, following: Following) -> None:
    first, second, dst = tmp_path / "0", tmp_path / "1", Stream()
    tail = following({0: first, 1: second}, dst)
    append(first, "loss ")
    append(second, "between\n")
    dst.wait_for("between\n")
    append(first, "0.5\n")
    dst.wait_for("0.5\n")
    tail.stop()
    assert dst.getvalue() == "[w1]:between\n[w0]:loss 0.5\n"


def test_last_half_lines_are_written_each_on_its_own(tmp_path: Path, following: Following) -> None:
    first, second, dst = tmp_path / "0", tmp_path / "1", Stream()
    append(first, "a\nhalf 0")
    append(second, "half 1")
    following({0: first, 1: second}, dst).stop()
    assert dst.getvalue() == "[w0]:a\n[w0]:half 0\n[w1]:half 1"


def test_each_update_of_a_progress_bar_is_a_line(tmp_path: Path, following: Following) -> None:
    path, dst = tmp_path / "log", Stream()
    tail = following({0: path}, dst)
    append(path, "\r 10%")
    append(path, "\r 20%")
    dst.wait_for("[w0]: 10%\n")
    append(path, "\r 30%\ndone\r\n")
    dst.wait_for("done\n")
    tail.stop()
    assert dst.getvalue() == "[w0]: 10%\n[w0]: 20%\n[w0]: 30%\n[w0]:done\n"


def test_return_and_newline_that_come_apart_end_one_line(tmp_path: Path, following: Following) -> None:
    path, dst = tmp_path / "log", Stream()
    tail = following({0: path}, dst)
    append(path, "one\r")
    dst.wait_for("one\n")
    append(path, "\ntwo\n\r\n")
    dst.wait_for("two\n")
    tail.stop()
    assert dst.getvalue() == "[w0]:one\n[w0]:two\n[w0]:\n"


def test_only_line_ends_of_a_terminal_end_lines(tmp_path: Path, following: Following) -> None:
    path, dst = tmp_path / "log", Stream()
    append(path, "a\x0bb\x0cc\x1cd\x85e\u2028f\n")
    following({0: path}, dst).stop()
    assert dst.getvalue() == "[w0]:a\x0bb\x0cc\x1cd\x85e\u2028f\n"


def test_bytes_that_are_not_text_are_replaced(tmp_path: Path, following: Following) -> None:
    path, dst = tmp_path / "log", Stream()
    append(path, b"caf\xe9 \xff\n")
    following({0: path}, dst).stop()
    assert dst.getvalue() == "[w0]:caf\ufffd \ufffd\n"


def test_a_destination_that_cannot_spell_a_letter_gets_its_escape(tmp_path: Path, following: Following) -> None:
    path, raw = tmp_path / "log", io.BytesIO()
    append(path, "\u2603\n")
    following({0: path}, io.TextIOWrapper(raw, encoding="ascii")).stop()
    assert raw.getvalue() == b"[w0]:\\u2603\n"


def test_a_line_of_two_megabytes_is_one_line(tmp_path: Path, following: Following) -> None:
    path, dst = tmp_path / "log", Stream()
    append(path, "x" * (2 << 20) + "\nnext\n")
    following({0: path}, dst).stop()
    assert dst.getvalue() == "[w0]:" + "x" * (2 << 20) + "\n[w0]:next\n"


def test_a_file_that_is_cut_short_is_read_from_its_start(tmp_path: Path, following: Following) -> None:
    path, dst = tmp_path / "log", Stream()
    append(path, "a long first line\n")
    tail = following({0: path}, dst)
    dst.wait_for("first line\n")
    os.truncate(path, 0)
    append(path, "new\n")
    tail.stop()
    assert dst.getvalue() == "[w0]:a long first line\n[w0]:new\n"


def test_filter_sees_whole_lines_and_decides(tmp_path: Path, following: Following) -> None:
    path, dst, seen = tmp_path / "log", Stream(), []

    def is_kept(line: str) -> bool:
        seen.append(line)
        return "keep" in line

    append(path, "drop\nkeep 1\nkeep 2")
    following({0: path}, dst, log_line_filter=is_kept).stop()
    assert seen == ["drop\n", "keep 1\n", "keep 2"]
    assert dst.getvalue() == "[w0]:keep 1\n[w0]:keep 2"


@pytest.mark.parametrize(("files", "dst"), [({}, io.StringIO()), ({0: "/nowhere"}, None)])
def test_without_files_or_destination_there_is_no_pool(files: dict[int, str], dst: Any) -> None:
    tail = TailLog("w", files, dst)
    assert tail._threadpool is None
    assert tail.start() is tail
    assert not tail.stopped()
    tail.stop()
    assert tail.stopped()


def test_file_that_never_comes_does_not_keep_stop_waiting(tmp_path: Path, following: Following) -> None:
    tail = following({0: tmp_path / "never"}, Stream(), interval_sec=3600)
    tail.stop()
    assert tail.stopped()
    assert tail._threadpool is not None
    assert tail._threadpool._shutdown


def test_stop_may_come_before_start_and_twice() -> None:
    tail = TailLog("w", {0: "/nowhere"}, io.StringIO())
    tail.stop()
    tail.stop()
    assert tail.stopped()
    with pytest.raises(RuntimeError):
        tail.start()


def test_a_second_start_does_not_double_the_lines(tmp_path: Path, following: Following) -> None:
    path, dst = tmp_path / "log", Stream()
    append(path, "once\n")
    following({0: path}, dst).start().stop()
    assert dst.getvalue() == "[w0]:once\n"


def test_destination_may_ask_the_tail_to_stop(tmp_path: Path, following: Following) -> None:
    path, asked = tmp_path / "log", threading.Event()

    class Asking(io.StringIO):
        def write(self, text: str) -> int:
            tail.stop()
            asked.set()
            return len(text)

    tail = TailLog("w", {0: str(path)}, Asking())
    append(path, "enough\n")
    tail.start()
    assert asked.wait(10)
    tail.stop()
    assert tail.stopped()


def test_errors_are_logged_at_stop_each_with_its_rank_and_the_others_go_on(
    tmp_path: Path, following: Following, caplog: pytest.LogCaptureFixture
) -> None:
    path, dst = tmp_path / "log", Stream()
    with caplog.at_level(logging.ERROR, "ipyelastic"):
        tail = following({0: tmp_path, 1: path}, dst)
        append(path, "goes on\n")
        dst.wait_for("[w1]:goes on\n")
        assert caplog.records == []
        tail.stop()
        tail.stop()
    assert [record.getMessage() for record in caplog.records] == ["error in log tailer for w0. IsADirectoryError"]
    assert caplog.records[0].exc_info is not None
    assert tail.stopped()


def test_destination_that_raises_is_logged_and_not_raised(
    tmp_path: Path, following: Following, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    append(path, "a\n")
    with caplog.at_level(logging.ERROR, "ipyelastic"):
        following({0: path, 1: path}, Broken()).stop()
    assert [record.getMessage() for record in caplog.records] == [
        "error in log tailer for w0. OSError",
        "error in log tailer for w1. OSError",
    ]


def test_filter_that_raises_keeps_the_lines_before(
    tmp_path: Path, following: Following, caplog: pytest.LogCaptureFixture
) -> None:
    path, dst = tmp_path / "log", Stream()
    append(path, "1\n0\n2\n")
    with caplog.at_level(logging.ERROR, "ipyelastic"):
        following({0: path}, dst, log_line_filter=lambda line: bool(1 / int(line))).stop()
    assert dst.getvalue() == "[w0]:1\n"
    assert [record.getMessage() for record in caplog.records] == ["error in log tailer for w0. ZeroDivisionError"]


def test_the_logger_can_be_replaced(tmp_path: Path, following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    from unittest.mock import Mock

    monkeypatch.setattr(tail_log, "logger", Mock())
    following({0: tmp_path}, Stream()).stop()
    tail_log.logger.exception.assert_called_once()  # type: ignore[attr-defined]


def test_two_tails_on_one_stream_write_whole_lines(tmp_path: Path, following: Following) -> None:
    class Slow(Stream):
        """Takes each write letter by letter."""

        def write(self, text: str) -> int:
            for letter in text:
                super().write(letter)
                time.sleep(0)
            return len(text)

    first, second, dst = tmp_path / "0", tmp_path / "1", Slow()
    tails = [following({0: first}, dst), following({1: second}, dst)]
    for number in range(50):
        append(first, f"{number:04} of 0\n")
        append(second, f"{number:04} of 1\n")
    for tail in tails:
        tail.stop()
    lines = dst.getvalue().splitlines()
    assert len(lines) == 100
    assert all(re.fullmatch(r"\[w([01])\]:\d{4} of \1", line) for line in lines)


def test_tail_logfile_copies_to_the_end_and_returns(tmp_path: Path) -> None:
    path, dst, finished = tmp_path / "log", io.StringIO(), threading.Event()
    append(path, "a\nb\n")
    finished.set()
    tail_logfile("H:", str(path), dst, finished, 0.1)
    assert dst.getvalue() == "H:a\nH:b\n"


def test_tail_logfile_raises_and_returns_for_a_file_that_never_comes(tmp_path: Path) -> None:
    finished = threading.Event()
    with pytest.raises(IsADirectoryError):
        tail_logfile("H:", str(tmp_path), io.StringIO(), finished, 0.1)
    finished.set()
    tail_logfile("H:", str(tmp_path / "never"), io.StringIO(), finished, 0.1)


def test_a_tail_that_nobody_stopped_does_not_keep_the_process(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, "read at the end\n")
    code = f"""
        import sys
        from ipyelastic.output.tail_log import TailLog
        TailLog("w", {{0: {str(path)!r}}}, sys.stdout).start()
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[w0]:read at the end\n", "")


PROGRAM = """
    import io, json, logging, os, sys, tempfile, threading
    from {module} import TailLog, tail_logfile, logger

    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append((record.levelname, record.getMessage()))
    logger.addHandler(handler)
    logger.propagate = False
    folder = tempfile.mkdtemp()

    class Stream(io.StringIO):
        wrote = threading.Event()
        def write(self, text):
            super().write(text)
            if "END" in self.getvalue():
                self.wrote.set()

    def copied(data, **options):
        path, dst = os.path.join(folder, "log"), Stream()
        dst.wrote = threading.Event()
        with open(path, "wb") as file:
            file.write(data + b"END\\n")
        tail = TailLog("w", {{0: path}}, dst, **options)
        same = tail.start() is tail
        done = dst.wrote.wait(10)
        tail.stop()
        return same, done, dst.getvalue(), tail.stopped()

    results = {{}}
    for data in ("a\\nb\\n", "", "\\n\\n", "x\\ry\\r", "x\\r\\ny\\r\\n", "caf\\xe9\\n", " a \\t\\n"):
        results[repr(data)] = copied(data.encode("latin-1"))
    results["prefix"] = copied(b"a\\n", log_line_prefixes={{0: "P>"}})
    results["other prefix"] = copied(b"a\\n", log_line_prefixes={{1: "P>"}})
    results["filter"] = copied(b"a\\nb\\n", log_line_filter=lambda line: "a" in line or "END" in line)
    empty = TailLog("w", {{}}, sys.stdout)
    results["no files"] = empty._threadpool is None, empty.stopped(), empty.start().stop(), empty.stopped()
    never = TailLog("w", {{0: folder + "/never"}}, sys.stdout).start()
    never.stop()
    results["never"] = never.stopped(), never._threadpool._shutdown
    broken = TailLog("w", {{0: folder}}, io.StringIO()).start()
    broken.stop()
    results["log"] = records
    finished, dst = threading.Event(), io.StringIO()
    finished.set()
    tail_logfile("H:", folder + "/log", dst, finished, 0.1, lambda line: True)
    results["function"] = dst.getvalue()
    try:
        tail_logfile("H:", folder, dst, finished, 0.1)
    except Exception as error:
        results["function error"] = type(error).__name__
    print(json.dumps(results))
"""


@pytest.mark.torch
@pytest.mark.slow
def test_the_same_program_has_the_same_outcome_with_torch() -> None:
    outcomes = []
    for module in ("torch.distributed.elastic.multiprocessing.tail_log", "ipyelastic.output.tail_log"):
        code = textwrap.dedent(PROGRAM.format(module=module))
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        outcomes.append(json.loads(ended.stdout.splitlines()[-1]))
    assert outcomes[1] == outcomes[0]
    assert outcomes[1]["log"] == [["ERROR", "error in log tailer for w0. IsADirectoryError"]]


@pytest.mark.torch
@pytest.mark.slow
def test_signatures_are_those_of_torch() -> None:
    import inspect

    from torch.distributed.elastic.multiprocessing import tail_log as torchs

    for name in ("TailLog", "tail_logfile"):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (tail_log, torchs))
        assert list(ours) == list(theirs)
        defaults = [parameter.default for parameter in ours.values() if not callable(parameter.default)]
        assert defaults == [parameter.default for parameter in theirs.values() if not callable(parameter.default)]


def test_following_leaves_nothing_open(tmp_path: Path, following: Following) -> None:
    path, dst = tmp_path / "log", Stream()
    append(path, "a\n")
    tail = following({0: path, 1: tmp_path}, dst)
    dst.wait_for("a\n")
    tail.stop()
    wait_until(
        lambda: str(path) not in map(os.path.realpath, (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")))
    )
