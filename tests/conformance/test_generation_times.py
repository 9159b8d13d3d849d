"""How long accepted attempts were held: a histogram on the server, its quantiles, and slow attempts beside them."""

from __future__ import annotations

import logging
import math

import pytest

from broker.inspection.times import compared, quantile_s
from broker.protocol import anyone
from broker.trainer import batches, wait_log
from tests.conformance.lab import Lab, tasks


def work(lab: Lab, times_ms: list[int], prefix: str = "old") -> None:
    """An accepted attempt for each time."""
    trainer, worker = lab.trainer(max_staleness=None, max_concurrent_rollouts=999, lease_ms=86_400_000), lab.worker()
    trainer.enqueue(tasks(len(times_ms), prefix))
    for ms in times_ms:
        (attempt,) = worker.claim(1)
        lab.pass_ms(ms)
        assert worker.submit(attempt, b"x").accepted


def test_the_stats_have_the_quantiles_of_generation_times(lab: Lab) -> None:
    work(lab, [1_000] * 50 + [4_000] * 40 + [64_000] * 9 + [600_000])
    stats = lab.trainer(reopen=True).stats()
    assert stats.timed == 100
    for name, seconds in {"p50": 1.0, "p90": 4.0, "p99": 64.0}.items():
        assert math.isclose(stats.generation_s[name], seconds, rel_tol=0.19), name
    assert list(stats.generation_s) == ["p50", "p90", "p99"]


def test_a_run_without_results_has_none(lab: Lab) -> None:
    """So it is with a run that an earlier release stored: the histogram begins with its next result."""
    work(lab, [])
    trainer = lab.trainer(reopen=True)
    assert (trainer.stats().generation_s, trainer.stats().timed) == ({}, 0)
    work(lab, [1_000])
    lab.command("DEL", lab.key("times"))
    assert lab.trainer(reopen=True).stats().timed == 0
    work(lab, [1_000], "new")
    assert lab.trainer(reopen=True).stats().timed == 1


def test_only_accepted_results_count_and_each_once(lab: Lab) -> None:
    lab.trainer(max_staleness=None, max_concurrent_rollouts=99).enqueue(tasks(4))
    worker = lab.worker()
    one, two, three, four = worker.claim(4)
    lab.pass_ms(1_000)
    for _ in range(2):
        worker.submit(one, b"x")
    worker.reject(two)
    worker.fail(three, "boom")
    worker.release(four)
    worker.submit(four, b"late")
    assert {name: number for name, number in lab.call(anyone.stats).items() if name.startswith("time_")} == {
        "time_19": "1"
    }


def test_the_histogram_is_bounded(lab: Lab) -> None:
    work(lab, [0, 1, 2, 3, 1_000, 10**6, 86_400_000 - 1])
    assert set(lab.dump()["times"]) == {b"0", b"2", b"3", b"19", b"39", b"52"}


def test_it_survives_a_recovery_and_a_new_trainer(lab: Lab) -> None:
    work(lab, [1_000] * 3)
    trainer = lab.trainer(reopen=True)
    trainer.next_batch()
    trainer.advance()
    trainer.recover(version=0)
    assert trainer.stats().timed == 3


def test_a_wait_compares_a_slow_attempt_with_the_median(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wait_log, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(batches, "LOOK_AGAIN_S", 0.01)
    caplog.set_level(logging.INFO, "broker")
    work(lab, [54_000] * 20)
    trainer = lab.trainer(reopen=True)
    while trainer.stats().ready:
        trainer.next_batch()
        trainer.advance()
    trainer.enqueue(tasks(1, "e1/"))
    (held,) = lab.worker(name="w4").claim(1)
    lab.pass_ms(31 * 60_000)
    with pytest.raises(TimeoutError):
        trainer.next_batch(timeout=0.05)
    words = next(r.getMessage() for r in caplog.records if "waiting for" in r.getMessage())
    assert words.endswith(f": {held.task} on w4 for 31 min, 34 times the median")


def test_an_attempt_is_compared_only_where_enough_have_finished_and_it_is_slow() -> None:
    assert compared(100.0, 10.0, 7) == ""
    assert compared(19.0, 10.0, 8) == ""
    assert compared(25.0, 10.0, 8) == "2.5 times the median"
    assert compared(25_000.0, 10.0, 8) == "2,500 times the median"
    assert compared(25.0, None, 0) == ""


def test_a_quantile_is_right_within_19_percent() -> None:
    for ms in (1, 7, 1_000, 12_345, 10**7):
        bucket = (ms * ms).bit_length() - 1
        assert math.isclose(quantile_s({bucket: 5, bucket + 30: 4}, 0.5) or 0.0, ms / 1000, rel_tol=0.19)
    assert quantile_s({}, 0.5) is None
