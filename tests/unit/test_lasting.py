import time

import pytest

from broker.connections.repeated_warning import LONGEST_DISTANCE_S, RepeatedWarning


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def told_at(lasting: RepeatedWarning, clock: list[float], seconds: int, caplog: pytest.LogCaptureFixture) -> list[int]:
    """When it was told, of once a second."""
    times: list[int] = []
    for second in range(seconds):
        caplog.clear()
        lasting.tell("still %s", "so")
        if caplog.messages:
            assert caplog.messages == ["still so"]
            times.append(second)
        clock[0] += 1
    return times


def test_it_is_told_at_growing_distances(clock: list[float], caplog: pytest.LogCaptureFixture):
    assert told_at(RepeatedWarning(), clock, 200, caplog) == [0, 10, 30, 70, 150]


def test_the_distance_has_a_limit(clock: list[float], caplog: pytest.LogCaptureFixture):
    times = told_at(RepeatedWarning(), clock, 5000, caplog)
    assert times[-1] - times[-2] == LONGEST_DISTANCE_S


def test_when_it_begins_anew_it_is_told_at_once(clock: list[float], caplog: pytest.LogCaptureFixture):
    lasting = RepeatedWarning()
    told_at(lasting, clock, 2, caplog)
    lasting.over()
    assert told_at(lasting, clock, 12, caplog) == [0, 10]
