"""A worker's log has a human rate, however fast the worker is."""

import logging

import pytest

from broker.errors import TooBig
from broker.values.attempt import Attempt
from broker.worker.activity import TELL_EVERY_S, Activity

ATTEMPT = Attempt("t#0.1.ab", "r", "t", 0, None, 0, None, 1, 1, None)


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Clock:
    """The clock of the worker; its INFO lines are kept."""
    caplog.set_level(logging.INFO, "broker")
    return Clock()


def test_the_first_claim_with_work_is_told_once(clock: Clock, caplog: pytest.LogCaptureFixture):
    activity = Activity("w", clock)
    for attempts in (0, 2, 3):
        activity.claimed("r", attempts)
    assert caplog.messages == ["worker w has its first work: 2 attempts of run r"]


def test_what_was_done_is_told_once_a_minute(clock: Clock, caplog: pytest.LogCaptureFixture):
    activity = Activity("w", clock)
    activity.claimed("r", 1)
    caplog.clear()
    for _ in range(90):
        activity.done(2)
        clock.now += 1
    activity.failed()
    assert caplog.messages == ["worker w: 122 done, 0 failed in 1 min, 122.0 done a minute"]
    clock.now += TELL_EVERY_S
    activity.look()
    assert caplog.messages[1:] == ["worker w: 58 done, 1 failed in 1 min 30 s, 38.7 done a minute"]


def test_a_traceback_is_shown_once_per_kind_and_minute(clock: Clock, caplog: pytest.LogCaptureFixture):
    activity = Activity("w", clock)

    def shown(error: BaseException) -> bool:
        caplog.clear()
        activity.tell_failure(ATTEMPT, error, "first\nsecond")
        (record,) = caplog.records
        assert (record.levelno, record.getMessage()) == (logging.WARNING, "attempt t#0.1.ab failed: first\\nsecond")
        return record.exc_info is not None

    kinds = ValueError("a"), ValueError("b"), KeyError("a"), TooBig(what="result", subject="t", size=2, limit=1)
    assert [shown(error) for error in kinds] == [True, False, True, False]
    clock.now += TELL_EVERY_S - 1
    assert not shown(ValueError("a"))
    clock.now += 1
    assert shown(ValueError("a"))
