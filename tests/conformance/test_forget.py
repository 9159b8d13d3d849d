"""Tasks that are forgotten: they are cancelled, and their records are freed at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker import Exhausted, Task, Trainer, WaitTimeout
from broker.operator import Operator
from broker.protocol import trainer as calls
from tests.conformance.lab import Lab, tasks


def forget(lab: Lab, *names: str) -> dict[str, str]:
    with Operator(lab.url) as operator:
        return operator.forget(lab.run, names)


def in_every_state(lab: Lab) -> Trainer:
    """A run with a task in each state, which has the state's name; `held` is running."""
    trainer = lab.trainer(
        consumer_batch_size=1, max_staleness=9, max_concurrent_rollouts=99, retry_backoff_ms=60_000, max_attempts=2
    )
    worker = lab.worker()

    def claimed(name: str, **fields: Any) -> Any:
        trainer.enqueue(Task(id=name, payload=name, **fields))
        return worker.claim(1)[0]

    for name in ("consumed", "sealed"):
        worker.submit(claimed(name), b"x")
        trainer.next_batch(timeout=5, prefetch=1) if name == "sealed" else trainer.next_batch(timeout=5)
        if name == "consumed":
            trainer.advance()
    worker.submit(claimed("ready"), b"x")
    worker.fail(claimed("dead"), "boom", retry=False)
    worker.reject(claimed("rejected"), "bad")
    worker.fail(claimed("delayed"), "boom")
    worker.submit(claimed("group", samples=2), b"x")
    claimed("held")
    trainer.enqueue(Task(id="pending"))
    return trainer


def test_tasks_in_every_state_but_a_sealed_batch_are_forgotten(lab: Lab) -> None:
    """Mutants: what_waits_cannot_be_forgotten, a_sealed_task_is_forgotten."""
    trainer = in_every_state(lab)
    states = lab.states()
    kept = [name for name, state in states.items() if state in ("consumed", "sealed")]
    assert sorted(kept) == ["consumed", "sealed"]
    gone = sorted(states.keys() - kept)
    assert len(gone) == 7
    assert forget(lab, *gone, *kept, "no-such-task") == {
        **dict.fromkeys(gone, "forgotten"),
        "consumed": "consumed",
        "sealed": "sealed",
        "no-such-task": "unknown",
    }
    assert sorted(lab.states()) == sorted(kept)
    assert forget(lab, *gone) == dict.fromkeys(gone, "freed_untrained")
    stats = trainer.stats()
    assert (stats.dead, stats.rejected, stats.totals["freed_dead"], stats.totals["freed_rejected"]) == (0, 0, 1, 6)
    for name, held in lab.dump().items():
        assert not [task for task in gone if f"'{task}" in str(held)] or name.endswith(
            ("events", "requests", "streak", "state")  # the state has a field `held`, as one of the tasks is called
        ), name
    freed = {words[0]: words[1:] for kind, words in lab.transitions() if kind == "freed"}
    assert sorted(freed) == gone
    assert freed["dead"] == ["dead", "boom"]
    assert freed["pending"] == ["rejected", "cancelled"]
    lab.check()


def test_a_worker_on_a_forgotten_task_is_told(lab: Lab) -> None:
    trainer = lab.trainer()
    worker = lab.worker()
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim(1)
    forget(lab, "t0")
    assert not worker.submit(attempt, b"x").accepted
    assert lab.result_keys() == set()
    assert trainer.enqueue(tasks(1)).states == {"t0": "freed_untrained"}
    assert trainer.enqueue(tasks(1), again=True).added == 1
    (again,) = worker.claim(1)
    assert again.id != attempt.id
    assert not worker.submit(attempt, b"late").accepted
    assert worker.submit(again, b"x").accepted
    assert trainer.next_batch(timeout=5)[0].results == [b"x"]
    lab.check()


def test_a_repeated_request_to_forget_spares_what_has_come_again(lab: Lab) -> None:
    trainer = lab.trainer()
    trainer.enqueue(tasks(1))
    call = calls.forget(lab.run, calls.operator_call_id("r1"), ["t0"])
    assert lab.do(call) == ["forgotten"]
    trainer.enqueue(tasks(1), again=True)
    assert lab.do(call) == ["forgotten"]
    assert lab.states() == {"t0": "pending"}


def test_a_recovery_names_what_was_forgotten_since_its_checkpoint_and_it_can_be_forgotten_again(
    lab: Lab, tmp_path: Path
) -> None:
    """Mutants: what_a_recovery_named_stays_awaited, forgetting_a_named_task_wakes_no_trainer."""
    trainer = lab.trainer()
    trainer.enqueue(tasks(2))
    trainer.checkpoint(tmp_path / "b.json")
    forget(lab, "t0", "t1")
    with pytest.raises(Exhausted):
        trainer.next_batch(timeout=5)
    trainer.checkpoint(tmp_path / "later.json")
    assert trainer.recover(tmp_path / "b.json").missing == ["t0", "t1"]
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0)
    lab.unmark("wake:ready")
    assert forget(lab, "t0", "t1") == {"t0": "forgotten", "t1": "forgotten"}
    assert lab.marked("wake:ready")
    with pytest.raises(Exhausted):
        trainer.next_batch(timeout=5)
    assert trainer.recover(tmp_path / "later.json").missing == []


def test_a_run_whose_tasks_are_forgotten_does_not_grow(lab: Lab) -> None:
    """Beside ten bytes for each id, and the events, whose number is bounded."""
    trainer = lab.trainer(max_staleness=None, max_concurrent_rollouts=99, events_maxlen=0, halt_after_failures=0)
    worker = lab.worker()

    def generation(number: int) -> None:
        names = [f"g{number}x{i}" for i in range(6)]
        trainer.enqueue(Task(id=name, payload=b"x" * 100, samples=2) for name in names)
        for at, attempt in enumerate(worker.claim(10)):
            if at % 3 == 0:
                worker.fail(attempt, "boom", retry=False)
            elif at % 3 == 1:
                worker.submit(attempt, b"y" * 100)
        forget(lab, *names)

    def sizes() -> dict[str, int]:
        sized: dict[str, int] = {}
        for name in lab.command("KEYS", lab.key("*")):
            kind = lab.command("TYPE", name)
            count = {b"hash": "HLEN", b"zset": "ZCARD", b"set": "SCARD", b"list": "LLEN", b"stream": "XLEN"}.get(kind)
            text = name.decode()
            if not text.partition("}:")[2].startswith("finished:"):
                sized[text] = lab.command(count, name) if count else 1
        return sized

    for number in range(40, 120):  # the last 64 requests of operators are kept
        generation(number)
    before = sizes()
    for number in range(120, 140):
        generation(number)
    assert sizes() == before
    lab.check()
