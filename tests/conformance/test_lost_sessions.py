"""What it costs a task that the session of its worker is lost, with other tasks or alone."""

import pytest

from broker import Task
from broker.inspection.reasons import next_claim
from broker.protocol import anyone
from tests.conformance.lab import Lab, tasks

LEASE_MS = 10_000


def tries_of(lab: Lab, task: str) -> int:
    """How many tries of its only slot a task has used up."""
    row = lab.row(task)
    return row.slots[0].tries if row.slots else 0


def lose(lab: Lab, n: int) -> list[str]:
    """A worker claims n tasks and is gone; the tasks."""
    claimed = [attempt.task for attempt in lab.worker().claim(n)]
    lab.pass_ms(LEASE_MS + 1)
    lab.call(anyone.requeue, limit=100)
    return claimed


def test_tasks_that_were_lost_beside_a_poison_prompt_have_used_no_try(lab: Lab):
    """Mutant: a_lost_session_costs_each_task_a_try."""
    trainer = lab.trainer(consumer_batch_size=8, max_attempts=1, lease_ms=LEASE_MS)
    trainer.enqueue(tasks(8))
    assert lose(lab, 8) == [f"t{i}" for i in range(8)]
    assert [tries_of(lab, f"t{i}") for i in range(8)] == [0] * 8
    assert (trainer.stats().pending, trainer.stats().dead) == (8, 0)


def test_a_poison_prompt_ends_however_many_tasks_are_lost_with_it(lab: Lab):
    """Mutant: a_prompt_that_kills_its_workers_costs_nothing."""
    trainer = lab.trainer(consumer_batch_size=64, max_attempts=3, lease_ms=LEASE_MS)
    trainer.enqueue(tasks(13))
    for tries in (0, 1, 2, 3):
        dying, healthy = lab.worker(), lab.worker()
        assert [attempt.task for attempt in dying.claim()] == ["t0"]
        for attempt in healthy.claim(2):
            healthy.submit(attempt, b"x")
        assert len(dying.claim()) == 1
        lab.pass_ms(LEASE_MS + 1)
        trainer.requeue()
        assert tries_of(lab, "t0") == tries
    assert (trainer.stats().dead, lab.row("t0").state) == (1, "dead")


def test_the_only_task_of_a_lost_session_has_used_a_try(lab: Lab):
    """Mutant: one_lost_task_costs_no_try."""
    lab.trainer(consumer_batch_size=8, max_attempts=3, lease_ms=LEASE_MS).enqueue(tasks(1, samples=4))
    assert lose(lab, 4) == ["t0"] * 4
    assert [attempt.tries for attempt in lab.row("t0").slots] == [1] * 4


def test_a_session_that_is_taken_back_in_pieces_lost_several_tasks(lab: Lab):
    """Mutant: the_last_piece_of_a_lost_session_costs_a_try."""
    lab.trainer(consumer_batch_size=8, lease_ms=LEASE_MS).enqueue(tasks(3))
    assert len(lab.worker().claim(3)) == 3
    lab.pass_ms(LEASE_MS + 1)
    for _ in range(2):
        lab.call(anyone.requeue, limit=2)
    assert lab.stat("n_sessions") == 0
    assert [tries_of(lab, f"t{i}") for i in range(3)] == [0] * 3


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ([Task(id="a")], "empty"),
        ([Task(id="a"), Task(id="b")], "open"),
        ([Task(id="a", max_attempts=2, timeout_ms=60_000)], "open"),
        ([Task(id="a", max_attempts=1)], "empty"),
    ],
)
def test_explain_knows_what_the_next_claim_takes_back(lab: Lab, lost: list[Task], reason: str):
    trainer = lab.trainer(consumer_batch_size=8, max_attempts=1, lease_ms=LEASE_MS)
    trainer.enqueue(lost)
    assert len(lab.worker().claim(2)) == len(lost)
    row = trainer.explain().held[0]
    assert (row.tries, row.max_attempts, row.timeout_ms) == (0, lost[0].max_attempts or 1, lost[0].timeout_ms or 0)
    lab.pass_ms(LEASE_MS + 1)
    assert next_claim(trainer.explain()).reason == reason
    assert [attempt.task for attempt in lab.worker().claim(2)] == (
        [task.id for task in lost] if reason == "open" else []
    )
