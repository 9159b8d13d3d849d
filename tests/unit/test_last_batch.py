"""The wait for a batch, as a training log has it."""

import pytest

from broker.trainer import last_batch
from broker.trainer.last_batch import LastBatch
from broker.values.rollout import Rollout, Sample


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(last_batch.time, "monotonic", lambda: now[0])
    return now


def wait(last: LastBatch, clock: list[float], seconds: float) -> None:
    with last.waiting():
        clock[0] += seconds


def test_waits_that_timed_out_count_and_another_delivery_keeps_the_first_wait(clock: list[float]) -> None:
    last = LastBatch()
    with pytest.raises(TimeoutError), last.waiting():
        clock[0] += 2.0
        raise TimeoutError
    clock[0] += 50.0  # the caller did something else
    wait(last, clock, 3.0)
    last.delivered(0, [])
    assert last.numbers["wait_seconds"] == 5.0
    wait(last, clock, 0.5)
    last.delivered(0, [])
    assert last.numbers["wait_seconds"] == 5.0
    wait(last, clock, 1.0)
    last.delivered(1, [])
    assert last.numbers["wait_seconds"] == 1.0


def test_after_a_recovery_a_batch_of_the_same_step_is_another_one(clock: list[float]) -> None:
    last = LastBatch()
    wait(last, clock, 5.0)
    last.delivered(3, [])
    last.recovered()
    wait(last, clock, 7.0)
    last.delivered(3, [])
    assert last.numbers["wait_seconds"] == 7.0


def test_what_has_no_times_is_in_no_mean() -> None:
    known = Sample("a#0.1.x", 0, None, 1, 1, "w", "", 10.0, 14.0)
    unknown = Sample("b#0.1.x", 0, None, 1, 1, "w", "", 10.0, None)
    last = LastBatch()
    last.delivered(
        2, [Rollout("a", None, [known], 1, 1, 2, 1, sealed_at=20.0), Rollout("b", None, [unknown], 1, 1, 2, 1)]
    )
    assert last.numbers["generation_seconds_mean"] == 4.0
    assert last.numbers["queued_seconds_mean"] == 6.0
    last.delivered(3, [Rollout("b", None, [unknown], 1, 1, 3, 2)])
    assert last.numbers.keys() == {"wait_seconds", "staleness_mean", "staleness_max"}
