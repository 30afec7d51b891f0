"""The pace at which output is let go, and what a page that comes later gets."""

from __future__ import annotations

from ipyelastic.notebook.panel_feed import MOST_PER_TICK
from ipyelastic.notebook.panel_stream import PanelSink, Window
from ipyelastic.terms.events import OutputChunk, RunEnded, RunRestarted, UsageSample


def wrote(sink, rank, text="x\n"):
    sink(OutputChunk(rank, "stdout", text, f"/logs/{rank}/stdout.log"))


def plain(deltas):
    return {rank: data.decode().replace("\x18\x1b[0;39m", "") for rank, data in deltas.items()}


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_every_rank_of_a_few_is_let_go_at_each_tick():
    sink = PanelSink(4)
    for rank in (0, 3):
        wrote(sink, rank)
    assert plain(sink.take_tick({0}, 0.0)) == {0: "x\n", 3: "x\n"}
    assert sink.take_tick({0}, 0.05) == {}


def test_of_many_ranks_the_hidden_ones_come_less_often_and_all_at_the_end():
    sink = PanelSink(5)
    for tick in range(12):
        for rank in range(5):
            wrote(sink, rank)
        let_go = sink.take_tick({2}, tick * 0.05)
        assert set(let_go) == (set(range(5)) if tick == 0 else {2})
    wrote(sink, 0)
    assert plain(sink.take_tick({2}, 0.61))[0] == "x\n" * 12
    wrote(sink, 0)
    sink(RunEnded("succeeded", 1.0))
    assert plain(sink.take_tick({2}, 0.62)) == {0: "x\n"}
    assert not sink.has_more


def test_when_all_are_looked_at_all_are_let_go_and_share_what_a_tick_carries():
    sink = PanelSink(64)
    for rank in range(64):
        wrote(sink, rank, "y" * 99 + "\n")
        wrote(sink, rank, "z" * 99 + "\n")
        wrote(sink, rank, "0123456789\n" * 5000)
    let_go = sink.take_tick(None, 0.0)
    assert len(let_go) == 64
    assert sum(map(len, let_go.values())) < 10 * MOST_PER_TICK


def test_a_sink_wakes_its_writer_at_each_event_and_keeps_the_last_minute_of_usage():
    woken = []
    sink = PanelSink(2, lambda: woken.append(1))
    for second in range(70):
        sink(UsageSample(1, float(second), 10, None, None))
    sink(RunRestarted(1, "rank 0 failed"))
    assert len(woken) == 71
    assert len(sink.take_usage()) == 70
    assert sink.take_usage() == []
    history = sink.usage_history()
    assert [row[1] for row in history[0]] == [float(second) for second in range(10, 70)]


def test_nothing_is_sent_while_there_is_no_view():
    window = Window(Clock())
    assert not window.is_open()
    window.open_view("a")
    assert window.is_open()
    window.close_view("a")
    assert not window.is_open()


def test_four_ticks_may_be_under_way_and_an_answer_opens_the_window_again():
    window = Window(Clock())
    window.open_view("a")
    for _ in range(4):
        assert window.is_open()
        window.next_seq()
    assert not window.is_open()
    window.take_ack("a", 2)
    assert window.is_open()


def test_the_quickest_view_sets_the_pace():
    window = Window(Clock())
    window.open_view("a")
    window.open_view("b")
    for _ in range(4):
        window.next_seq()
    window.take_ack("a", 4)
    window.take_ack("b", 1)
    assert window.acked == 4


def test_a_new_view_opens_a_full_window():
    window = Window(Clock())
    window.open_view("gone")
    for _ in range(4):
        window.next_seq()
    assert not window.is_open()
    window.open_view("reloaded")
    assert window.is_open()


def test_views_that_never_answer_hold_nobody_up_and_count_as_gone_in_the_end():
    clock = Clock()
    window = Window(clock)
    window.open_view("gone")
    sent = []
    for _ in range(20):
        while window.is_open():
            sent.append(window.next_seq())
        clock.now_s += 2.01
    assert len(sent) == 20  # four at once, then four after each of four timeouts
    assert window.views == {}
    window.take_ack("gone", window.seq)  # it was only asleep
    assert window.is_open()


def test_an_answer_from_the_future_is_not_believed():
    window = Window(Clock())
    window.open_view("a")
    window.next_seq()
    window.take_ack("a", 10**9)
    assert window.acked == 1


def test_a_rank_is_looked_at_when_any_view_shows_it():
    window = Window(Clock())
    window.show("a", [1])
    window.show("b", [3])
    assert window.shown == {1, 3}
    window.show("b", None)
    assert window.shown is None
