"""`Trainer.configure` and `Operator.configure`: the config of a run changes while it runs, and nobody is fenced."""

import asyncio
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from broker import BadArgument, RunConfig, Task, Trainer, WaitTimeout, aio
from broker.errors import ConfigMismatch, Recovering
from broker.operator import Operator
from broker.protocol import admission, recovery
from broker.protocol import trainer as calls
from broker.values.config_change import TAKES_EFFECT, ConfigChange
from tests.conformance.lab import Lab, names_of, run_one, tasks
from tests.threads import InThread
from tests.waiting import wait_until


def test_every_field_can_be_changed_and_says_when():
    assert set(TAKES_EFFECT) == set(RunConfig.model_fields) == set(get_type_hints(ConfigChange))


def test_the_page_has_the_same_table():
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    for name, when in TAKES_EFFECT.items():
        assert f"| `{name}` | {when} |\n" in page


def test_configure_changes_a_run_without_fencing(lab: Lab):
    """Mutants: a_config_is_only_compared."""
    trainer, worker = lab.trainer(max_concurrent_rollouts=1, max_staleness=None), lab.worker()
    trainer.enqueue(tasks(3))
    assert len(worker.claim(9)) == 1
    epoch = trainer.epoch
    assert trainer.configure(max_concurrent_rollouts=3, max_attempts=3) == {"max_concurrent_rollouts": 1}
    assert (trainer.epoch, trainer.config.concurrency, trainer.stats().config.concurrency) == (epoch, 3, 3)
    assert len(worker.claim(9)) == 2
    assert trainer.configure(max_concurrent_rollouts=3) == {}
    assert trainer.configure(max_staleness=5, on_stale="drop") == {"max_staleness": None, "on_stale": "requeue"}
    assert lab.kinds().count("configure") == 2


def test_a_larger_bound_wakes_workers(lab: Lab):
    """Mutants: no_wake_on_config."""
    trainer, worker = lab.trainer(max_concurrent_rollouts=1, max_staleness=None), lab.worker()
    trainer.enqueue(tasks(3))
    worker.claim(9)
    lab.unmark()
    trainer.configure(max_concurrent_rollouts=2)
    assert lab.marked()


def test_c_follows_a_new_batch_size_until_somebody_gives_it(lab: Lab):
    """Mutants: what_follows_is_not_told."""
    trainer = lab.trainer(consumer_batch_size=2)
    assert trainer.configure(consumer_batch_size=4) == {"consumer_batch_size": 2, "max_concurrent_rollouts": 2}
    assert trainer.configure(max_concurrent_rollouts=8) == {"max_concurrent_rollouts": 4}
    assert trainer.configure(consumer_batch_size=3) == {"consumer_batch_size": 4}
    assert trainer.config.concurrency == 8


def test_each_field_takes_effect_when_it_says(lab: Lab):
    """The attempt's time-out, max_attempts, the lease and the bound of payloads, on attempts from before and after."""
    trainer = lab.trainer(max_concurrent_rollouts=9, max_staleness=None, retry_backoff_ms=0, lease_ms=60_000)
    worker = lab.worker()
    trainer.enqueue(tasks(3))
    (first,) = worker.claim()
    trainer.configure(attempt_timeout_ms=1_000, max_attempts=1, lease_ms=500, max_payload_bytes=10)
    (second,) = worker.claim()
    lab.pass_ms(1_500)
    trainer.requeue()
    assert lab.states()[first.task] == "running", "claimed before the change"
    assert lab.states()[second.task] == "dead", "its time is over, and it had one attempt"
    worker.fail(first, "no")
    assert lab.states()[first.task] == "dead"
    with pytest.raises(Exception, match="TOOBIG"):
        trainer.enqueue(Task(id="large", payload=b"x" * 11))
    (third,) = lab.worker(name="later").claim()
    lab.pass_ms(600)
    trainer.requeue()
    assert lab.states()[third.task] != "running", "the lease of a worker that joined later"


def test_the_next_batch_has_the_new_size(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_staleness=1, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(9))
    for _ in range(4):
        run_one(worker)
    assert len(trainer.next_batch(timeout=5)) == 2
    with Operator(lab.url) as operator:
        assert operator.configure(lab.run, consumer_batch_size=1) == {"consumer_batch_size": 2}
        trainer.advance()
        assert names_of(trainer.next_batch(timeout=5)) == ["t2"], "the trainer learned the operator's size"
        operator.configure(lab.run, consumer_batch_size=3)
    trainer.advance()
    while len(worker.claim()) and worker.submit(worker.held[0], b"x").accepted:
        pass
    assert len(trainer.next_batch(timeout=5)) == 3
    assert trainer.audit().ok


def test_a_trainer_that_waits_for_more_than_can_be_is_told(lab: Lab):
    """It goes on with the smaller size, unless the caller gave one."""
    lab.go_live()
    trainer, worker = lab.trainer(consumer_batch_size=3), lab.worker()
    trainer.enqueue(tasks(3))
    waiting = InThread(lambda: trainer.next_batch(timeout=20))
    wait_until(lambda: lab.stat("want") > 0, "the trainer waits")
    with Operator(lab.url) as operator:
        operator.configure(lab.run, consumer_batch_size=1)
    run_one(worker)
    assert len(waiting.result()) == 1
    with pytest.raises(Exception, match="TOOMANY"):
        trainer.next_batch(3, prefetch=False, timeout=0) if trainer.advance() else None


def test_what_is_too_old_now_leaves_the_unsealed_batch(lab: Lab):
    lab.keeps_config = False
    trainer, worker = lab.trainer(consumer_batch_size=2, max_staleness=1), lab.worker()
    trainer.enqueue(tasks(4))
    worker.submit(worker.claim()[0], b"x")
    trainer.advance(allow_empty=True)
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0)
    assert trainer.stats().batched == 1
    trainer.configure(max_staleness=0)
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0)
    assert (trainer.stats().batched, lab.states()["t0"]) == (0, "pending")


def test_open_with_another_config_names_configure(lab: Lab):
    trainer = lab.trainer(max_attempts=3)
    trainer.configure(max_attempts=5)
    with pytest.raises(ConfigMismatch, match=r"trainer\.configure.*broker configure"):
        lab.trainer(max_attempts=3)
    assert lab.trainer(max_attempts=5).config.max_attempts == 5


def test_a_recovered_run_has_the_config_that_the_run_stores(lab: Lab, tmp_path: Path):
    """A checkpoint does not bring an older config back; only a run that is gone gets that of the checkpoint."""
    trainer = lab.trainer(max_attempts=3)
    trainer.checkpoint(tmp_path / "c.json")
    trainer.configure(max_attempts=7)
    trainer.recover(tmp_path / "c.json")
    assert trainer.config.max_attempts == 7
    trainer.checkpoint(tmp_path / "d.json")
    lab.purge()
    trainer.recover(tmp_path / "d.json")
    assert trainer.config.max_attempts == 7


def test_wrong_changes_are_refused(lab: Lab):
    trainer = lab.trainer()
    wrong: list[dict[str, Any]] = [
        {},
        {"speed": 3},
        {"max_attempts": 0},
        {"on_stale": "wait?"},
        {"max_concurrent_rollouts": None},
    ]
    for changes in wrong:
        with pytest.raises(BadArgument):
            trainer.configure(**changes)
    with pytest.raises(BadArgument, match="attached"):
        lab.trainer(attach=True).configure(max_attempts=4)
    assert "configure" not in lab.kinds()


def test_the_asyncio_trainer_configures(lab: Lab):
    lab.trainer()

    async def main() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as trainer:
            assert await trainer.configure(max_attempts=4) == {"max_attempts": 3}
            assert trainer.config.max_attempts == 4

    asyncio.run(main())


def test_a_change_during_a_recovery_and_of_admission_is_refused(lab: Lab):
    """Mutants: a_config_changes_during_a_recovery, the_config_of_an_admission_run_changes."""
    lab.raw_trainer()
    token = "recovering0"
    lab.call(recovery.begin, token, recovery.Begin(0), None)
    with pytest.raises(Recovering):
        lab.call(calls.configure, calls.trainer_call_id(token, 1), {"max_attempts": "4"})
    lab.call(recovery.end, calls.trainer_call_id(token, 2))
    run = f"{lab.run}/areal"
    lab.runs.add(run)
    lab.do(admission.open_owner(run, "o", 5_000, "token123", {"consumer_batch_size": "4"}, admission.Counted()))
    with pytest.raises(ConfigMismatch):
        lab.do(calls.configure(run, calls.operator_call_id("r"), {"max_attempts": "4"}, now=lab.now))


def test_configure_keeps_working_beside_the_trainer(lab: Lab):
    """An operator's change uses up no number of the trainer."""
    trainer: Trainer = lab.trainer()
    with Operator(lab.url) as operator:
        operator.configure(lab.run, max_attempts=9)
    trainer.enqueue(tasks(1))
    assert trainer.stats().config.max_attempts == 9
