"""`expires` as a worker uses it."""

from __future__ import annotations

import inspect
import time

import pytest

from ipyelastic.timer import countdown
from ipyelastic.timer.countdown import TimerClient, TimerRequest, configure, expires


class Told(TimerClient):
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.times: list[float] = []

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        self.calls.append(("acquire", scope_id))
        self.times.append(expiration_time)

    def release(self, scope_id: str) -> None:
        self.calls.append(("release", scope_id))


class Gone(Told):
    """Its server has gone meanwhile."""

    def release(self, scope_id: str) -> None:
        raise BrokenPipeError("gone")


@pytest.fixture(autouse=True)
def no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(countdown, "_timer_client", None)


def test_a_block_has_a_timer_from_its_beginning_to_its_end() -> None:
    client = Told()
    block = expires(60, "step", client)
    assert client.calls == []
    before = time.time()
    with block:
        assert client.calls == [("acquire", "step")]
    assert client.calls == [("acquire", "step"), ("release", "step")]
    assert before + 60 <= client.times[0] <= time.time() + 60


def test_a_block_without_a_name_is_named_for_its_place() -> None:
    client = Told()
    with expires(60, client=client):
        line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
        # Not one name for all, as torch's: timers within each other would end each other.
        with expires(60, client=client):
            pass
    assert [scope for _, scope in client.calls] == [f"{__file__}#{each}" for each in (line, line + 3, line + 3, line)]


def test_the_configured_client_is_asked_when_none_is_given() -> None:
    configured, given = Told(), Told()
    configure(configured)
    with expires(1, "a"), expires(1, "b", given):
        pass
    assert configured.calls == [("acquire", "a"), ("release", "a")]
    assert given.calls == [("acquire", "b"), ("release", "b")]


def test_without_any_client_the_block_does_not_begin() -> None:
    with pytest.raises(RuntimeError, match=r"^Configure timer client before using countdown timers\.$"), expires(3):
        raise AssertionError("it began")


@pytest.mark.parametrize("after", [-1, float("nan")])
def test_a_time_that_is_none_is_refused(after: float) -> None:
    with pytest.raises(ValueError, match=f"^after={after}: expected seconds, 0 or more$"):
        expires(after, client=Told())


def test_a_failing_block_releases_its_timer_and_fails_as_it_did() -> None:
    client = Told()
    with pytest.raises(KeyError), expires(60, "step", client):
        raise KeyError
    assert client.calls[-1] == ("release", "step")


def test_a_server_that_is_gone_does_not_hide_what_the_block_raised(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError), expires(60, "step", Gone()):
        raise KeyError
    assert "timer step could not be released" in caplog.text
    with pytest.raises(BrokenPipeError), expires(60, "step", Gone()):
        pass


def test_a_function_is_timed_at_each_call() -> None:
    client = Told()

    @expires(60, "f", client)  # type: ignore[operator,untyped-decorator,misc]
    def function() -> int:
        return len(client.calls)

    assert [function(), function()] == [1, 3]


def test_requests_are_equal_by_what_they_say() -> None:
    assert TimerRequest(1, "a", 2.0) == TimerRequest(1, "a", 2.0)
    assert TimerRequest(1, "a", 2.0) != TimerRequest(1, "a", 3.0)
    assert TimerRequest(1, "a", 2.0) != (1, "a", 2.0)
    assert repr(TimerRequest(1, "a", 2.0)) == "TimerRequest(1, 'a', 2.0)"
