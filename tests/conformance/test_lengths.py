"""How long attempts generated, for what was kept and what was lost."""

import pytest

from broker import Task, WaitTimeout
from tests.conformance.lab import Lab


def test_what_attempts_generate_in_vain_is_counted_by_cause(lab: Lab):
    """Mutants: what_is_cut_off_is_not_lost, what_is_thrown_away_is_not_lost, what_comes_late_is_not_lost,
    what_is_lost_is_in_no_event.
    """
    trainer, worker, other = lab.trainer(consumer_batch_size=3, lease_ms=9_000), lab.worker(), lab.worker()
    trainer.enqueue([Task(id="s", samples=2, enough=1), Task(id="f"), Task(id="c")])
    short, surplus, filtered, cancelled = worker.claim(9)
    lab.pass_ms(2_000)
    worker.submit(short, b"x")  # and 2 s of the other sample are surplus
    lab.pass_ms(1_000)
    worker.submit(filtered, b"x")
    trainer.cancel(["c"])
    lab.pass_ms(500)
    for late in (surplus, cancelled):
        assert worker.submit(late, b"x").answer == "unknown"
    assert trainer.discard(["f"]) == {"f": "discarded"}
    assert trainer.stats().lost_s == {"filtered": 3.0, "cancelled": 3.0, "surplus": 2.0, "late": 2.0}
    assert trainer.stats().mean_s == {"kept": 2.0, "started": 3.0}
    assert [words for kind, words in lab.transitions() if kind == "lost"] == [
        [surplus.id, "surplus", "2000"],
        [cancelled.id, "cancelled", "3000"],
        [surplus.id, "late", "1500"],
        [cancelled.id, "late", "500"],
        [filtered.id, "filtered", "3000"],
    ]
    told = "Generated in vain: cancelled 3.0 s, filtered 3.0 s, late 2.0 s and surplus 2.0 s. "
    told += "Kept results took 2.0 s in the mean, all attempts 3.0 s or more."
    assert told in f"{trainer.explain()}"
    trainer.enqueue(Task(id="e"))
    other.claim(1)
    for _ in range(9):
        lab.pass_ms(3_000)
        worker.renew()
    trainer.requeue()
    assert trainer.stats().lost_s["expired"] >= 9.0
    assert trainer.metrics()["broker/lost_seconds_total/filtered"] == 3.0


def test_a_result_that_is_too_old_is_lost_and_no_more_kept(lab: Lab):
    """Mutants: a_length_is_not_kept."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=0), lab.worker()
    trainer.enqueue([Task(id="old"), Task(id="new")])
    (attempt,) = worker.claim(1)
    lab.pass_ms(8_000)
    worker.submit(attempt, b"x")
    assert trainer.stats().mean_s == {"kept": 8.0, "started": 8.0}
    trainer.advance(allow_empty=True)
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0.05)
    assert (trainer.stats().lost_s, trainer.stats().mean_s) == ({"stale": 8.0}, {"started": 8.0})
    (attempt,) = worker.claim(1)
    lab.pass_ms(2_000)
    worker.submit(attempt, b"x")
    assert len(trainer.next_batch(timeout=1)) == 1
    trainer.advance()
    assert trainer.stats().mean_s == {"kept": 2.0, "started": 5.0}
    assert lab.row("old").slots[0].why == ""
