"""Trimming, the event log, audit and repair."""

import pytest

from broker import Task
from broker.errors import Gone
from broker.operator import Operator
from broker.protocol import anyone, recovery
from broker.protocol import trainer as calls
from tests.conformance.lab import Lab, names_of, run_one, tasks


def steps(lab: Lab, count: int, *, size: int = 1, samples: int = 1, first: int = 0, **config):
    """Trains `count` steps, each with tasks of its own."""
    trainer = lab.trainer(**{"consumer_batch_size": size, "max_concurrent_rollouts": 2 * size, **config})
    worker = lab.worker()
    for step in range(first, first + count):
        trainer.enqueue(Task(id=f"s{step}/{i}", samples=samples) for i in range(size))
        for attempt in worker.claim(size * samples):
            worker.submit(attempt, b"x")
        trainer.next_batch(timeout=5)
        trainer.advance()
    return trainer


def test_bytes_live_until_the_advance_after_their_own_and_tasks_for_the_retention(lab: Lab):
    """Mutants: tasks_freed_at_once, bytes_freed_at_once."""
    trainer = steps(lab, 6, size=2, samples=2, retention_steps=3)
    for _ in range(10):
        lab.call(anyone.trim)
    dump = lab.dump()
    kept = sorted(name for name in dump if name.startswith("batch:"))
    assert kept == ["batch:3", "batch:4", "batch:5"]
    assert sorted(lab.states()) == [f"s{step}/{i}" for step in (3, 4, 5) for i in (0, 1)]
    assert {name.partition("#")[0].partition("/")[0] for name in lab.result_keys()} == {"s5"}
    assert sorted(dump["batches"]) == [b"3", b"4", b"5"]
    assert trainer.stats().consumed == 12
    with pytest.raises(Gone):
        trainer.read_batch(2)


def test_trim_frees_nothing_that_is_still_needed(lab: Lab):
    trainer = steps(lab, 1, size=2, retention_steps=100)
    worker = lab.worker()
    trainer.enqueue(tasks(4))
    (a, b) = worker.claim(2)
    worker.submit(a, b"x")
    before = lab.dump()
    assert lab.call(anyone.trim) == 0
    after = lab.dump()
    before["state"].pop(b"clock"), after["state"].pop(b"clock")
    assert after == before
    assert worker.submit(b, b"x").answer == "accepted"
    assert names_of(trainer.next_batch(timeout=1)) == ["t0", "t1"]


def test_advance_keeps_up_with_large_batches(lab: Lab):
    """One trim looks at 500 tasks at most; a batch of 700 needs more than one for each step, or memory grows for ever."""
    if not lab.server.kind.is_real:
        pytest.skip("slow there, and the same script")
    steps(lab, 4, size=700, retention_steps=1, events_maxlen=0)
    assert len(lab.result_keys()) <= 2 * 700
    # What one more call leaves behind must not grow with the number of steps.
    assert lab.stat("n_tasks") <= 3 * 700


def test_dead_and_rejected_tasks_are_kept_up_to_a_bound_each(lab: Lab):
    """Those that a recovery could bring back are kept beyond it. Mutants: finished_kept_for_ever."""
    trainer = lab.trainer(
        consumer_batch_size=99, max_finished=3, max_attempts=1, retention_steps=0, halt_after_failures=0
    )
    worker = lab.worker()
    trainer.enqueue(tasks(10))
    for i, attempt in enumerate(worker.claim(10)):
        lab.pass_ms(1)
        if i % 2:
            worker.fail(attempt, "boom")
        else:
            worker.reject(attempt, "bad")
    assert lab.call(anyone.trim) == 0
    assert len(lab.states()) == 10, "they ended at step 0, which the floor has not passed"
    trainer.advance(allow_empty=True)
    while lab.call(anyone.trim):
        pass
    assert lab.states() == {f"t{i}": "dead" if i % 2 else "rejected" for i in range(4, 10)}
    assert trainer.stats().totals["dead"] == 5
    assert trainer.enqueue(tasks(10)).existing == [f"t{i}" for i in range(10)], "their ids are known for ever"


@pytest.mark.parametrize("ends", ["rejected", "dead", "dead first"])
def test_a_trim_that_may_free_none_of_many_samples_says_that_nothing_is_left(lab: Lab, ends: str):
    """A trainer would ask again for ever. Mutants: finished_that_stay_are_left_to_free."""
    trainer = lab.trainer(consumer_batch_size=150, max_finished=0, max_attempts=1, halt_after_failures=0)
    worker = lab.worker()
    trainer.enqueue(tasks(150, samples=8))
    for first in range(0, 1200, 240):
        claimed = worker.claim(240)
        for attempt in claimed[::8]:
            if ends == "rejected" or (ends == "dead first" and first > 600):
                worker.reject(attempt, "bad")
            else:
                worker.fail(attempt, "boom")
    assert set(lab.states().values()) <= {"rejected", "dead"}
    assert lab.call(anyone.trim, 250) == 0
    trainer.advance(allow_empty=True)
    assert trainer.version == 1


def test_policies_that_cannot_matter_any_more_are_forgotten(lab: Lab):
    trainer = lab.trainer(max_staleness=1, staleness_limit=1, retention_steps=5)
    for _ in range(20):
        trainer.advance(allow_empty=True)
    while lab.call(anyone.trim):
        pass
    kept = sorted(int(version) for version in lab.dump()["policies"])
    assert kept[-1] == 20
    assert 15 - 2 <= kept[0] <= 15
    assert len(kept) <= 10


def test_trim_in_small_pieces_ends(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=3, retention_steps=0), lab.raw_worker()
    for step in range(5):
        trainer.enqueue(*[f"s{step}/{i}" for i in range(3)])
        worker.work(3)
        trainer.advance(step, trainer.take(step, 3).digest)
    pieces = 1
    while lab.call(anyone.trim, 1):
        pieces += 1
        assert pieces < 100, "it never ends"
    assert pieces > 3 * 4
    assert {attempt.partition("/")[0] for attempt in lab.result_keys()} == {"s4"}


def test_a_stray_wake_up_is_no_leak(lab: Lab):
    """After a purge nothing of the run is left, markers included."""
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(3))
    run_one(worker)
    trainer.pause()
    trainer.resume()
    assert {"wake", "events", "requests"} - set(lab.dump()) <= {"requests"}
    lab.close_clients()
    with Operator(lab.url) as operator:
        operator.pause(lab.run)
        assert operator.purge(lab.run) > 5
    assert lab.dump() == {}


def test_purge_deletes_only_its_own_run(lab: Lab):
    others = [f"{lab.run}/eval", f"{lab.run}x", f"x{lab.run}", "a[b-c]".replace("[", "+").replace("]", "")]
    for other in others:
        lab.trainer(run=other).enqueue(tasks(1))
    lab.trainer().enqueue(tasks(1))
    with Operator(lab.url) as operator:
        assert operator.runs() == sorted([lab.run, *others])
        operator.purge(lab.run)
        assert operator.runs() == sorted(others)
        assert [operator.stats(other).pending for other in others] == [1] * 4


# -- the event log -----------------------------------------------------------------------------------------------------


def test_the_event_log_tells_the_story_of_a_task(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, retry_backoff_ms=0), lab.worker(name="w")
    session = worker.sessions[lab.run]
    trainer.enqueue(Task(id="t"))
    (first,) = worker.claim()
    worker.fail(first, "boom")
    (second,) = worker.claim()
    worker.submit(second, b"x")
    worker.submit(first, b"late")
    trainer.next_batch(timeout=1)
    trainer.advance()
    epoch = trainer.epoch
    found = lab.transitions()
    digest = next(words[2] for kind, words in found if kind == "seal")
    assert found == [
        ("open", [epoch]),
        ("join", [session]),
        ("enqueue", ["t"]),
        ("start", ["t", "1"]),
        ("claim", [first.id, "0", epoch, session]),
        ("ended", [first.id, "failed"]),
        ("requeue", ["t", "failed"]),
        ("start", ["t", "2"]),
        ("claim", [second.id, "0", epoch, session]),
        ("done", [second.id, "0"]),
        ("ready", ["t"]),
        ("late", [first.id, "superseded", second.id]),
        ("batch", ["t", "0", "0"]),
        ("seal", ["0", "1", digest]),
        ("advance", ["1", epoch]),
    ]


def test_every_ending_is_in_the_event_log(lab: Lab):
    trainer = lab.raw_trainer(consumer_batch_size=1, max_staleness=1, max_concurrent_rollouts=99, retry_backoff_ms=0)
    trainer.enqueue("a", "b", "c", "d", "e", "f", samples=2)
    worker, short = lab.raw_worker(), lab.raw_worker("short", lease_ms=500)
    ids = {}
    for one in worker.claim(2).granted:
        ids[one.slot] = one.attempt_id
    worker.submit(ids[0], verdict="reject")
    short.take_one() if short.claim(0 + 1, random="q").granted == () else None
    lab.pass_ms(500)
    lab.call(anyone.requeue)
    kinds = lab.kinds()
    ended = {words[1] for kind, words in lab.transitions() if kind == "ended"}
    assert {"rejected", "revoked", "expired"} <= ended
    assert "leave" in kinds
    trainer.send(calls.pause, "paused")
    trainer.send(calls.pause, "")
    trainer.send(calls.retry, ["a"])
    assert lab.kinds()[-3:] == ["pause", "resume", "retry"]


def test_reasons_with_spaces_stay_one_word(lab: Lab):
    trainer, worker = lab.trainer(max_attempts=1), lab.worker()
    trainer.enqueue(tasks(1))
    worker.fail(worker.claim()[0], "no GPU left\n100%")
    assert ("dead", ["t0", "no%20GPU%20left%0A100%25"]) in lab.transitions()


def test_the_event_log_is_bounded_and_can_be_off(lab: Lab):
    trainer = lab.trainer(run=f"{lab.run}/off", events_maxlen=0)
    trainer.enqueue(tasks(50))
    bounded = lab.trainer(events_maxlen=100)
    for i in range(300):
        bounded.enqueue(Task(id=f"t{i}"))
    assert lab.transitions(f"{lab.run}/off") == []
    assert len(lab.transitions()) < 250


def test_the_log_is_read_in_pieces_from_anywhere(lab: Lab):
    trainer = lab.trainer()
    for i in range(5):
        trainer.enqueue(Task(id=f"t{i}"))
    with Operator(lab.url) as operator:
        whole = operator.events(lab.run)
        first = operator.events(lab.run, count=2)
        rest = operator.events(lab.run, from_id=first[-1].id)
        assert operator.last_event_id(lab.run) == whole[-1].id
        assert operator.events(lab.run, from_id=whole[-1].id) == []
    assert [*first, *rest] == whole
    assert [kind for event in whole for kind, _ in event.transitions] == ["open", *["enqueue"] * 5]


# -- audit, check, repair ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["trainer", "operator"])
@pytest.mark.parametrize(("counter", "drift"), [("accepted", 7), ("accepted", -3), ("running", 1), ("open_size", 2)])
def test_drifted_counters_are_found_and_repaired(lab: Lab, by: str, counter: str, drift: int):
    """Mutants: repair_changes_nothing."""
    trainer, worker = lab.trainer(consumer_batch_size=3, max_staleness=2, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(7))
    for _ in range(3):
        run_one(worker)
    trainer.next_batch(timeout=1)
    run_one(worker)
    worker.claim()
    assert trainer.audit().ok
    right = lab.stat(counter)
    capacity = trainer.capacity()
    lab.command("HINCRBY", lab.key("state"), counter, drift)

    assert trainer.audit().drift == {counter: (right + drift, right)}
    with Operator(lab.url) as operator:
        repaired = trainer.audit(repair=True) if by == "trainer" else operator.audit(lab.run, repair=True)
    assert repaired.drift == {counter: (right + drift, right)}
    assert repaired.repaired
    assert trainer.audit().ok
    assert trainer.capacity() == capacity


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (("ZREM", "pending", "t3"), "t3 (P) is missing in the set of its state"),
        (("ZADD", "ready", "1", "t3"), "t3 (P) stands in a set of another state: Y"),
        (("ZREM", "running", "t1"), "t1 (R) is missing in the set of its state"),
        (("ZADD", "open", "1", "t1"), "t1 (R) disagrees with the set of open slots"),
        (("ZREM", "session:SESSION", "ATTEMPT"), "t1 (R) has a held slot that its session does not know"),
        (("ZREM", "sessions", "SESSION"), "t1 (R) is held by a session that is gone"),
        (("ZREM", "batch:0", "t0"), "t0 (B) is missing in its batch"),
        (("ZREM", "retries", "t2#0"), "t2 (R) has a waiting slot that nothing wakes"),
    ],
)
def test_a_deep_audit_finds_tasks_that_are_not_where_they_say(lab: Lab, command: tuple[str, ...], problem: str):
    lab.checks_state = False
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=3, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue([Task(id="t0"), Task(id="t1"), Task(id="t2", samples=2), Task(id="t3")])
    run_one(worker)
    trainer.next_batch(timeout=1)
    (attempt,) = worker.claim()
    first, _ = worker.claim(2)
    worker.fail(first, "boom")
    with Operator(lab.url) as operator:
        assert operator.audit(lab.run, deep=True).problems == []
        words = [word.replace("SESSION", worker.sessions[lab.run]).replace("ATTEMPT", attempt.id) for word in command]
        lab.command(words[0], lab.key(words[1]), *words[2:])
        found = operator.audit(lab.run, deep=True)
    assert problem in found.problems
    assert found.tasks_checked == 4
    assert not found.ok


def test_explain_says_which_term_binds(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_staleness=0, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(9))
    assert trainer.explain().binding == "none"
    worker.claim(9)
    explained = trainer.explain()
    assert (explained.binding, explained.by_staleness, explained.by_concurrency) == ("staleness", 0, 7)
    assert explained.oldest_pending == "t2"
    assert [row.held for row in explained.sessions] == [2]
    other = lab.trainer(run=f"{lab.run}/b", consumer_batch_size=9, max_concurrent_rollouts=1)
    other.enqueue(tasks(3))
    lab.worker(f"{lab.run}/b").claim(1)
    assert other.explain().binding == "concurrency"


def test_a_recovery_that_is_under_way_is_no_drift(lab: Lab):
    """It takes tasks out of the batch that is formed, whose size its commit sets."""
    lab.checks_state = False
    trainer = lab.raw_trainer(consumer_batch_size=2, max_staleness=2, max_concurrent_rollouts=9)
    trainer.enqueue("a", "b")
    lab.raw_worker().work(1)
    trainer.take(0, 2, seal=False)
    assert lab.stat("open_size") == 1
    lab.call(recovery.begin, "recoverer", recovery.Begin(0), None)
    call_id = calls.trainer_call_id("recoverer", 1)
    lab.call(recovery.sweep, call_id, ["a", "b"], lambda _: False)
    drift = {name: pair for name, pair in lab.call(anyone.audit).items() if pair[0] != pair[1]}
    assert drift == {}
