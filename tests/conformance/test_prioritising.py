"""`Trainer.prioritise` and `Operator.prioritise`: tasks that wait are started in another order."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from broker import BadArgument, Task, Trainer, Worker, aio
from broker.errors import BadName
from broker.operator import Operator
from tests.conformance.lab import Lab, tasks


def wide(lab: Lab) -> tuple[Trainer, Worker]:
    return lab.trainer(max_concurrent_rollouts=99, max_staleness=None, retry_backoff_ms=1_000), lab.worker()


def started(worker: Worker) -> list[str]:
    return [attempt.task for attempt in worker.claim(99)]


def test_waiting_tasks_are_started_in_the_new_order(lab: Lab):
    """Equal ones stay in the order of their enqueue. Mutants: a_new_priority_leaves_the_place."""
    trainer, worker = wide(lab)
    trainer.enqueue([*tasks(4), Task(id="first", priority=5)])
    answer = trainer.prioritise({"t3": 5, "t1": 9, "t0": -3, "first": 5})
    assert answer == dict.fromkeys(["t3", "t1", "t0", "first"], "prioritised")
    assert started(worker) == ["t1", "t3", "first", "t2", "t0"]


def test_it_says_which_could_not_be_changed(lab: Lab):
    """Mutants: what_is_started_gets_a_priority."""
    trainer, worker = wide(lab)
    trainer.enqueue(tasks(4))
    held, ready, failed = worker.claim(3)
    worker.submit(ready, b"x")
    worker.fail(failed, "no", retry=False)
    answer = trainer.prioritise({held.task: 1, ready.task: 1, failed.task: 1, "t3": 1, "nobody": 1})
    assert answer == {"t0": "running", "t1": "ready", "t2": "dead", "t3": "prioritised", "nobody": "unknown"}
    assert [lab.row(f"t{i}").priority for i in range(4)] == [0, 0, 0, 1]
    assert [kind for kind in lab.kinds() if kind == "priority"] == ["priority"]


def test_a_task_that_waits_for_its_retry_has_it_afterwards(lab: Lab):
    trainer, worker = wide(lab)
    trainer.enqueue(tasks(2))
    worker.fail(worker.claim()[0], "no")
    assert lab.states()["t0"] == "delayed"
    assert trainer.prioritise({"t0": -1}) == {"t0": "prioritised"}
    assert lab.states()["t0"] == "delayed"
    lab.pass_ms(1_500)
    assert started(worker) == ["t1", "t0"]


def test_a_checkpoint_keeps_it(lab: Lab, tmp_path: Path):
    """On the server, and in the tasks file of a full checkpoint. Mutants: a_new_priority_is_not_kept."""
    trainer, _ = wide(lab)
    trainer.enqueue(tasks(3))
    trainer.prioritise({"t2": 4})
    trainer.checkpoint(tmp_path / "c.json", full=True)
    for _ in range(2):
        trainer.recover(tmp_path / "c.json")
        assert (lab.row("t2").priority, lab.row("t0").priority) == (4, 0)
        lab.purge()
    trainer.recover(tmp_path / "c.json")
    assert started(lab.worker()) == ["t2", "t0", "t1"]


def test_many_tasks_take_several_calls(lab: Lab):
    trainer, worker = wide(lab)
    trainer.enqueue(tasks(600))
    with Operator(lab.url) as operator:
        answer = operator.prioritise(lab.run, {f"t{i}": i % 3 for i in range(600)})
    assert set(answer.values()) == {"prioritised"}
    assert started(worker) == [f"t{i}" for i in range(600) if i % 3 == 2][:99]
    assert trainer.prioritise({}) == {}


def test_wrong_priorities_are_refused(lab: Lab):
    trainer, _ = wide(lab)
    trainer.enqueue(tasks(1))
    wrong: list[Any] = [{"t0": 1_001}, {"t0": 0.5}, {"t0": None}, ["t0"], {"two words": 1}, {5: 1}]
    for priorities in wrong:
        with pytest.raises((BadArgument, BadName)):
            trainer.prioritise(priorities)
    with pytest.raises(BadArgument, match="attached"):
        lab.trainer(attach=True).prioritise({"t0": 1})
    assert "priority" not in lab.kinds()


def test_the_asyncio_trainer_prioritises(lab: Lab):
    trainer, worker = wide(lab)
    trainer.enqueue(tasks(2))

    async def main() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as another:
            assert await another.prioritise({"t1": 1}) == {"t1": "prioritised"}

    asyncio.run(main())
    assert started(worker) == ["t1", "t0"]
