"""`Task(timeout_ms=..., max_attempts=...)`: what a task says of itself goes over the run's config."""

from pathlib import Path

import pytest

from broker import BadArgument, Task
from broker.operator import Operator
from tests.conformance.lab import Lab

SLOW, QUICK, PLAIN = Task(id="slow", timeout_ms=5_000), Task(id="quick", timeout_ms=500), Task(id="plain")
ENDLESS = Task(id="endless", timeout_ms=0)


def test_the_time_out_of_a_task_goes_over_that_of_the_run(lab: Lab):
    """Mutants: no_task_has_options_of_its_own."""
    trainer = lab.trainer(max_concurrent_rollouts=9, max_staleness=None, attempt_timeout_ms=1_000, max_attempts=9)
    worker = lab.worker(lease_s=600)
    trainer.enqueue([SLOW, QUICK, PLAIN, ENDLESS])
    assert len(worker.claim(9)) == 4
    running: list[set[str]] = []
    for ms in (600, 600, 4_000):
        lab.pass_ms(ms)
        trainer.requeue()
        running.append({task for task, state in lab.states().items() if lab.row(task).slots[0].why == ""})
    assert running == [{"slow", "plain", "endless"}, {"slow", "endless"}, {"endless"}]


def test_a_task_may_have_a_time_out_where_the_run_has_none(lab: Lab):
    trainer, worker = lab.trainer(max_concurrent_rollouts=9, max_staleness=None), lab.worker(lease_s=600)
    trainer.enqueue([QUICK, PLAIN])
    quick, plain = worker.claim(9)
    lab.pass_ms(600)
    trainer.requeue()
    worker.renew()
    assert (quick.cancel_reason, plain.cancelled) == ("expired", False)
    assert worker.submit(plain, b"x").accepted
    assert not lab.command("EXISTS", lab.key("deadlines"))


def test_the_attempts_of_a_task_go_over_those_of_the_run(lab: Lab):
    """Errors, and expiries as well. Mutants: no_task_has_options_of_its_own."""
    trainer, worker = lab.trainer(max_attempts=2, retry_backoff_ms=0, halt_after_failures=0), lab.worker()
    trainer.enqueue([Task(id="once", max_attempts=1), Task(id="often", max_attempts=4), PLAIN])
    failed: list[str] = []
    while attempts := worker.claim():
        failed.append(attempts[0].task)
        worker.fail(attempts[0], "no")
    assert {task: failed.count(task) for task in failed} == {"once": 1, "often": 4, "plain": 2}
    trainer.enqueue(Task(id="lost", max_attempts=1))
    worker.claim()
    lab.pass_ms(61_000)
    trainer.requeue()
    assert lab.states()["lost"] == "dead"


def test_a_task_that_starts_over_has_the_options_given_now(lab: Lab):
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(Task(id="t", max_attempts=1, timeout_ms=9))
    worker.fail(worker.claim()[0], "no")
    assert trainer.retry(["t"]) == {"t": "retried"}
    assert (lab.row("t").max_attempts, lab.row("t").timeout_ms) == (1, 9), "a retry keeps them"
    worker.fail(worker.claim()[0], "no")
    trainer.enqueue(Task(id="t", max_attempts=3), again=True)
    assert (lab.row("t").max_attempts, lab.row("t").timeout_ms) == (3, None)


def test_checkpoints_keep_them(lab: Lab, tmp_path: Path):
    """On the server, and in the tasks file of a full checkpoint."""
    trainer = lab.trainer()
    trainer.enqueue([Task(id="t", max_attempts=2, timeout_ms=7_000, priority=3), PLAIN])
    trainer.checkpoint(tmp_path / "c.json", full=True)
    for _ in range(2):
        trainer.recover(tmp_path / "c.json")
        row = lab.row("t")
        assert (row.max_attempts, row.timeout_ms, row.priority) == (2, 7_000, 3)
        assert (lab.row("plain").max_attempts, lab.row("plain").timeout_ms) == (None, None)
        lab.purge()
    assert lab.command("KEYS", lab.key("*")) == []


def test_a_task_says_what_it_has(lab: Lab):
    trainer = lab.trainer()
    trainer.enqueue([SLOW, PLAIN])
    with Operator(lab.url) as operator:
        row = operator.task(lab.run, "slow")
        assert row is not None
        assert (row.timeout_ms, row.max_attempts) == (5_000, None)


@pytest.mark.parametrize(
    "wrong", [{"timeout_ms": -1}, {"timeout_ms": 1.5}, {"max_attempts": 0}, {"max_attempts": True}]
)
def test_wrong_options_are_refused(wrong: dict[str, int]):
    with pytest.raises(BadArgument):
        Task(id="t", **wrong)
