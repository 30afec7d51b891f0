"""The tail reads real files, in its real thread."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ipyelastic.output.tail import Tail, TailedFile
from ipyelastic.terms.events import Event, OutputChunk


class Collected:
    """A sink that keeps all chunks, and wakes whoever waits for one."""

    def __init__(self) -> None:
        self.chunks: list[OutputChunk] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        assert isinstance(event, OutputChunk)
        with self._changed:
            self.chunks.append(event)
            self._changed.notify_all()

    def text(self, rank: int = 0) -> str:
        return "".join(chunk.text for chunk in self.chunks if chunk.rank == rank)

    def wait_until(self, predicate: Callable[[], bool], within_s: float = 10) -> None:
        with self._changed:
            assert self._changed.wait_for(predicate, within_s), [chunk.text[-200:] for chunk in self.chunks[-5:]]


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def open_files() -> set[str]:
    return {
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    }


def tail_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ipyelastic-tail"]


def test_lines_arrive_while_the_file_grows(tmp_path: Path) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    path.touch()
    tail = Tail([TailedFile(3, "stderr", str(path))], sink)
    tail.start()
    try:
        append(path, b"one\n")
        sink.wait_until(lambda: sink.text(3) == "one\n")
        append(path, b"two\nthree\n")
        sink.wait_until(lambda: sink.text(3) == "one\ntwo\nthree\n")
    finally:
        tail.stop()
    assert sink.chunks[0] == OutputChunk(3, "stderr", "one\n", str(path))


def test_a_file_may_appear_later(tmp_path: Path) -> None:
    path, other, sink = tmp_path / "late.log", tmp_path / "other.log", Collected()
    tail = Tail([TailedFile(0, "stdout", str(path)), TailedFile(1, "stdout", str(other))], sink)
    tail.start()
    try:
        append(other, b"the tail runs\n")
        sink.wait_until(lambda: sink.text(1) != "")
        append(path, b"here now\n")
        sink.wait_until(lambda: sink.text(0) == "here now\n")
    finally:
        tail.stop()


def test_half_line_waits_for_its_end(tmp_path: Path) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    tail = Tail([TailedFile(0, "stdout", str(path))], sink)
    tail.start()
    try:
        append(path, b"whole\nhal")
        sink.wait_until(lambda: sink.text() == "whole\n")
        append(path, b"f\nnext")
        sink.wait_until(lambda: len(sink.chunks) == 2)
    finally:
        tail.stop()
    assert [chunk.text for chunk in sink.chunks] == ["whole\n", "half\n", "next"]


def test_carriage_return_ends_a_chunk_and_is_kept(tmp_path: Path) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    tail = Tail([TailedFile(0, "stdout", str(path))], sink)
    tail.start()
    try:
        append(path, b"10%\r20%")
        sink.wait_until(lambda: sink.text() == "10%\r")
    finally:
        tail.stop()
    assert [chunk.text for chunk in sink.chunks] == ["10%\r", "20%"]


def test_stop_reads_what_nobody_had_read_yet(tmp_path: Path) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    path.touch()
    tail = Tail([TailedFile(0, "stdout", str(path))], sink, interval_s=3600, chunk_bytes=100)
    tail.start()
    text = "".join(f"line {number}\n" for number in range(1000)) + "last words"
    append(path, text.encode())
    tail.stop()
    assert sink.text() == text
    assert max(len(chunk.text) for chunk in sink.chunks) <= 100 + len("line 999")


def test_character_cut_in_two_arrives_whole(tmp_path: Path) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    text = "pi π, smile 😀\n" * 50
    append(path, text.encode())
    tail = Tail([TailedFile(0, "stdout", str(path))], sink, chunk_bytes=7)
    tail.start()
    tail.stop()
    assert sink.text() == text


def test_long_line_is_handed_on_in_pieces_between_characters(tmp_path: Path) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    text = "x" + "π" * 200_000
    append(path, text.encode())
    tail = Tail([TailedFile(0, "stdout", str(path))], sink, chunk_bytes=10_000)
    tail.start()
    try:
        sink.wait_until(lambda: len(sink.chunks) >= 3)
    finally:
        tail.stop()
    assert sink.text() == text
    assert max(len(chunk.text.encode()) for chunk in sink.chunks) <= (64 << 10) + 10_000


def test_bytes_that_are_not_text_become_replacement_characters(tmp_path: Path) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    append(path, b"a\xffb\nend\xe2\x82")
    tail = Tail([TailedFile(0, "stdout", str(path))], sink)
    tail.start()
    tail.stop()
    assert sink.text() == "a\ufffdb\nend\ufffd"


@pytest.mark.parametrize("is_running", [True, False])
def test_truncated_file_is_read_from_its_start_again(tmp_path: Path, is_running: bool) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    append(path, b"first try\nhalf a li")
    tail = Tail([TailedFile(0, "stdout", str(path))], sink)
    tail.start()
    try:
        sink.wait_until(lambda: sink.text() == "first try\n")
        if is_running:
            path.write_bytes(b"")
            sink.wait_until(lambda: sink.text() == "first try\nhalf a li\n")
        path.write_bytes(b"second\n")
    finally:
        tail.stop()
    assert sink.text() == "first try\nhalf a li\nsecond\n"


def test_thirty_two_files_at_once_lose_nothing(tmp_path: Path) -> None:
    sink = Collected()
    paths = [tmp_path / f"{rank}.log" for rank in range(32)]
    texts = ["".join(f"rank {rank} line {number}\n" for number in range(500)) for rank in range(32)]
    tail = Tail([TailedFile(rank, "stdout", str(path)) for rank, path in enumerate(paths)], sink)

    def write(rank: int) -> None:
        for line in texts[rank].splitlines(keepends=True):
            with paths[rank].open("a") as file:
                file.write(line[:5])
                file.flush()
                file.write(line[5:])

    writers = [threading.Thread(target=write, args=(rank,)) for rank in range(32)]
    tail.start()
    try:
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert len(tail_threads()) == 1
    finally:
        tail.stop()
    assert [sink.text(rank) for rank in range(32)] == texts


def test_reader_far_behind_skips_to_a_line_start_and_counts_exactly(tmp_path: Path) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    append(path, b"".join(b"line %d\n" % number for number in range(100_000)))
    written = path.stat().st_size
    tail = Tail([TailedFile(0, "stdout", str(path))], sink, chunk_bytes=1000, behind_bytes=10_000)
    tail.start()
    tail.stop()
    skipped = [chunk.skipped_bytes for chunk in sink.chunks]
    assert skipped[0] > 0
    assert sum(skipped) + len(sink.text().encode()) == written
    assert sink.text().startswith("line 99")
    assert sink.text().endswith("line 99999\n")
    assert len(sink.text()) >= 980


def test_flood_that_overtakes_the_reader_again_and_again_is_counted_exactly(tmp_path: Path) -> None:
    path, written = tmp_path / "stdout.log", 0

    class Flooded(Collected):
        def __call__(self, event: Event) -> None:
            nonlocal written
            super().__call__(event)
            if len(self.chunks) < 20:  # the sink is so slow that much is written meanwhile, with a half line at the end
                data = "zeile π\n".encode() * 3000 + b"half"
                append(path, data)
                written += len(data)

    sink = Flooded()
    append(path, b"begin\n")
    written += 6
    tail = Tail([TailedFile(0, "stdout", str(path))], sink, chunk_bytes=1000, behind_bytes=20_000)
    tail.start()
    try:
        sink.wait_until(lambda: len(sink.chunks) >= 20)
    finally:
        tail.stop()
    assert sum(chunk.skipped_bytes > 0 for chunk in sink.chunks) > 5
    assert sum(chunk.skipped_bytes for chunk in sink.chunks) + len(sink.text().encode()) == written
    assert "\ufffd" not in sink.text()


@pytest.mark.parametrize("filler", ["π", "😀", "x"])
def test_skip_within_one_endless_line_lands_between_characters(tmp_path: Path, filler: str) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    text = "." + filler * 50_000
    append(path, text.encode())
    tail = Tail([TailedFile(0, "stdout", str(path))], sink, chunk_bytes=999, behind_bytes=5000)
    tail.start()
    tail.stop()
    assert set(sink.text()) == {filler}
    assert sum(chunk.skipped_bytes for chunk in sink.chunks) + len(sink.text().encode()) == len(text.encode())


def test_complete_tail_never_skips(tmp_path: Path) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    text = "".join(f"line {number}\n" for number in range(100_000))
    path.write_text(text)
    tail = Tail([TailedFile(0, "stdout", str(path))], sink, behind_bytes=10, is_complete=True)
    tail.start()
    tail.stop()
    assert sink.text() == text
    assert {chunk.skipped_bytes for chunk in sink.chunks} == {0}


def test_sink_that_raises_is_logged_once_and_gets_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, seen = tmp_path / "stdout.log", Collected()

    def sink(event: Event) -> None:
        seen(event)
        raise RuntimeError("no room")

    tail = Tail([TailedFile(0, "stdout", str(path))], sink)
    with caplog.at_level(logging.ERROR, "ipyelastic"):
        tail.start()
        try:
            append(path, b"one\n")
            seen.wait_until(lambda: seen.text() == "one\n")
            append(path, b"two\n")
            seen.wait_until(lambda: seen.text() == "one\ntwo\n")
            assert tail.is_running
        finally:
            tail.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "a sink failed on the output of rank 0; this is said once"
    ]


def test_stop_leaves_no_thread_and_no_open_file(tmp_path: Path) -> None:
    path, sink = tmp_path / "stdout.log", Collected()
    append(path, b"here\n")
    tail = Tail([TailedFile(0, "stdout", str(path))], sink)
    assert not tail.is_running
    tail.start()
    sink.wait_until(lambda: sink.text() == "here\n")
    assert tail.is_running
    assert str(path) in open_files()
    tail.stop()
    tail.stop()
    assert not tail.is_running
    assert tail_threads() == []
    assert str(path) not in open_files()


def test_tail_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    tail = Tail([TailedFile(0, "stdout", str(tmp_path / "none"))], Collected())
    tail.stop()
    assert not tail.is_running


def test_tail_starts_once_only(tmp_path: Path) -> None:
    tail = Tail([TailedFile(0, "stdout", str(tmp_path / "none"))], Collected())
    tail.start()
    try:
        with pytest.raises(RuntimeError, match="this Tail was started before; make a new one"):
            tail.start()
    finally:
        tail.stop()


def test_sink_may_ask_the_tail_to_stop(tmp_path: Path) -> None:
    path, seen = tmp_path / "stdout.log", Collected()

    def sink(event: Event) -> None:
        tail.stop()
        seen(event)

    tail = Tail([TailedFile(0, "stdout", str(path))], sink)
    tail.start()
    append(path, b"enough\n")
    seen.wait_until(lambda: seen.text() == "enough\n")
    tail.stop()
    assert not tail.is_running


def test_file_that_cannot_be_opened_is_named_once_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop, path, sink = tmp_path / "loop", tmp_path / "stdout.log", Collected()
    loop.symlink_to(loop)
    append(path, b"fine\n")
    tail = Tail([TailedFile(0, "stdout", str(loop)), TailedFile(1, "stdout", str(path))], sink)
    with caplog.at_level(logging.WARNING, "ipyelastic"):
        tail.start()
        sink.wait_until(lambda: sink.text(1) == "fine\n")
        tail.stop()
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [f"{loop} cannot be followed"]


@pytest.mark.parametrize("name", ["interval_s", "chunk_bytes", "behind_bytes"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0: expected a positive number"):
        Tail([], Collected(), **{name: 0})  # type: ignore[arg-type]
