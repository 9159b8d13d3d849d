"""Groups: tasks that ask for several rollouts."""

import pytest

from broker import Task, WaitTimeout
from broker.operator import Operator
from broker.protocol import anyone, result_bytes
from broker.protocol import trainer as calls
from broker.protocol import worker as worker_calls
from tests.conformance.lab import Lab, names_of


def test_a_group_is_ready_when_all_its_samples_are_done(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(Task(id="t", payload={"q": 1}, samples=4))

    attempts = worker.claim(10)
    assert [attempt.slot for attempt in attempts] == [0, 1, 2, 3]
    assert [attempt.samples for attempt in attempts] == [4] * 4
    for attempt in attempts[:3]:
        worker.submit(attempt, attempt.slot)
    assert lab.row("t").state == "running"
    worker.submit(attempts[3], 3)

    (rollout,) = trainer.next_batch(timeout=1)
    assert rollout.results == [0, 1, 2, 3]
    assert [sample.slot for sample in rollout.samples] == [0, 1, 2, 3]
    assert rollout.payload == {"q": 1}


def test_a_group_that_needs_six_of_eight_does_not_wait_for_the_others(lab: Lab):
    """Held, open and waiting slots close. Mutants: a_group_waits_for_all."""
    trainer, worker, slow = lab.trainer(consumer_batch_size=1, retry_backoff_ms=5_000), lab.worker(), lab.worker()
    trainer.enqueue(Task(id="t", samples=10, enough=6))
    (held,) = slow.claim(1)
    attempts = worker.claim(8)
    worker.fail(attempts.pop(), "boom")
    lab.unmark()
    for attempt in attempts[:6]:
        assert lab.row("t").state == "running"
        assert worker.submit(attempt, attempt.slot).answer == "accepted"
    assert (lab.row("t").state, lab.row("t").letters) == ("ready", "SDDDDDDSSS")
    assert lab.marked()
    assert [lab.command("ZCARD", lab.key(name)) for name in ("open", "retries")] == [0, 0]
    assert lab.command("EXISTS", lab.key(f"revoked:{slow.sessions[lab.run]}")), "its heartbeat is woken"
    assert (lab.stat("running"), trainer.stats().totals["surplus"]) == (0, 2)
    worker.renew()
    slow.renew()
    assert (held.cancel_reason, attempts[6].cancel_reason) == ("surplus", "surplus")
    for late in (held, attempts[6]):
        assert slow.submit(late, "late").answer == "unknown"
    lab.pass_ms(60_000)
    assert worker.claim(9) == []
    (rollout,) = trainer.next_batch(timeout=1)
    assert rollout.results == [1, 2, 3, 4, 5, 6]
    trainer.advance()


def test_a_group_that_starts_over_has_its_surplus_slots_open_again(lab: Lab):
    """Mutants: surplus_slots_stay_closed."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=0), lab.worker()
    trainer.enqueue(Task(id="t", samples=3, enough=2))
    for attempt in worker.claim(3)[:2]:
        worker.submit(attempt, b"x")
    assert lab.row("t").letters == "DDS"
    trainer.advance(allow_empty=True)
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0.1)
    assert (lab.row("t").state, lab.row("t").letters) == ("pending", "OOO")
    for attempt in worker.claim(3):
        worker.fail(attempt, "no", retry=False)
        if attempt.slot == 1:
            break
    assert lab.row("t").state == "dead", "one slot is left, and two are needed"


@pytest.mark.parametrize(
    ("options", "letters", "state"),
    [
        ({"samples": 4, "enough": 2}, "DDSS", "ready"),
        ({"samples": 4, "enough": 3, "min_samples": 1}, "DDFF", "ready"),
        ({"samples": 4, "enough": 2}, "FDDS", "ready"),
        ({"samples": 4, "enough": 4}, "DDDD", "ready"),
        ({"samples": 4, "enough": 3}, "FFDO", "rejected"),
    ],
)
def test_the_fewest_samples_are_what_is_enough(lab: Lab, options: dict[str, int], letters: str, state: str):
    """What workers submit, slot by slot, as far as the group goes."""
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(Task(id="t", **options))
    for attempt, letter in zip(worker.claim(4), letters, strict=True):
        if lab.row("t").state == "running":
            (worker.reject if letter == "F" else lambda one: worker.submit(one, b"x"))(attempt)
    assert lab.row("t").state == state
    if state == "ready":
        assert lab.row("t").letters == letters


def test_open_slots_of_started_groups_go_before_new_tasks_and_need_no_capacity(lab: Lab):
    """Mutants: open_slots_need_capacity."""
    trainer, one, two = lab.trainer(consumer_batch_size=1), lab.worker(), lab.worker()
    trainer.enqueue([Task(id="a", samples=3), Task(id="b", samples=1, priority=1000)])

    (first,) = one.claim(1)  # b, of the higher priority, starts and takes all the capacity
    assert (first.task, lab.stat("capacity")) == ("b", 0)
    assert two.claim(5) == []
    one.release(first)
    trainer.cancel(["b"])
    (started,) = one.claim(1)
    assert lab.stat("capacity") == 0

    others = two.claim(5)

    assert [attempt.task for attempt in [started, *others]] == ["a", "a", "a"]
    assert two.claim_reason == "empty"


@pytest.mark.parametrize(
    ("samples", "least", "verdicts", "state"),
    [
        (3, 2, "aar", "ready"),
        (3, 2, "arr", "rejected"),
        (3, 1, "rra", "ready"),
        (3, 3, "r", "rejected"),
        (3, 3, "aar", "rejected"),
        (3, 1, "ffa", "ready"),
        (3, 2, "ff", "dead"),
        (2, 1, "rf", "dead"),
        (2, 1, "fr", "dead"),
        (2, 1, "rr", "rejected"),
        (1, 1, "f", "dead"),
        (1, 1, "r", "rejected"),
    ],
)
def test_slots_that_fail_for_good_count_against_min_samples(
    lab: Lab, samples: int, least: int, verdicts: str, state: str
):
    """a: accepted, r: rejected by the worker, f: failed without retry, of the slots in order."""
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(Task(id="t", samples=samples, min_samples=least))

    for attempt, verdict in zip(worker.claim(samples), verdicts, strict=False):
        match verdict:
            case "a":
                assert worker.submit(attempt, b"x").answer == "accepted"
            case "r":
                assert worker.reject(attempt, "bad").answer == "rejected"
            case _:
                assert worker.fail(attempt, "boom", retry=False).answer == "failed"

    row = lab.row("t")
    assert row.state == state
    assert lab.stat("running") == 0
    if state == "ready":
        (rollout,) = trainer.next_batch(timeout=1)
        assert len(rollout.samples) == verdicts.count("a")
    else:
        assert row.reason == ("boom" if verdicts.rstrip("a")[-1] == "f" else "bad")
        assert lab.result_keys() == set()


def test_a_group_that_can_no_longer_succeed_revokes_its_live_attempts(lab: Lab):
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(Task(id="t", samples=3))
    first, second, third = worker.claim(3)
    worker.submit(first, b"x")
    worker.reject(second, "bad")

    worker.renew()

    assert (third.cancelled, third.cancel_reason) == (True, "revoked")
    assert worker.submit(third, b"x").answer == "unknown"
    assert lab.result_keys() == set()


def test_large_groups_end_and_begin_anew_in_pieces(lab: Lab):
    """Mutants: groups_of_any_size_in_a_call."""
    raw = lab.raw_trainer(max_finished=10)
    names = ["a", "b", "c", "d"]
    raw.enqueue("a", "b", "c", samples=500)
    raw.enqueue("d", samples=1024)

    for operation, done in ((calls.cancel, "cancelled"), (calls.retry, "retried")):
        assert raw.send(operation, ["none", *names]) == ["unknown", done, done]
        assert raw.send(operation, ["c", "d"]) == [done]
        assert raw.send(operation, ["d", "none"]) == [done]

    cancelled = lab.trainer(reopen=True).cancel(name for name in [*names, "none"])
    assert cancelled == {**dict.fromkeys(names, "cancelled"), "none": "unknown"}
    with Operator(lab.url) as operator:
        assert operator.retry(lab.run, names) == dict.fromkeys(names, "retried")


@pytest.mark.parametrize("by", ["lease", "time-out"])
def test_large_groups_that_end_with_what_is_due_end_in_pieces(lab: Lab, by: str):
    """Mutants: sweep_ends_any_number_of_slots, a_session_ends_with_its_first_piece."""
    timeout_ms = 500 if by == "time-out" else 0
    raw = lab.raw_trainer(
        consumer_batch_size=5, max_attempts=1, max_concurrent_rollouts=5, attempt_timeout_ms=timeout_ms
    )
    worker = lab.raw_worker(lease_ms=1_000)
    raw.enqueue(*(f"t{i}" for i in range(5)), samples=400)
    held = [one.attempt_id for number in (1, 2) for one in worker.claim(1000, random=f"r{number}").granted]
    assert len(held) == 2000
    done = [one for one in held if "#7." not in one]
    for first in range(0, len(done), 200):
        lab.call(
            result_bytes.submit_call,
            [worker_calls.Submission(one, "accept", b"x") for one in done[first : first + 200]],
        )
    assert sorted(lab.states().values()) == ["running"] * 5
    if by == "lease":  # the first expiry of slots that are lost together costs no try
        lab.pass_ms(1_001)
        assert lab.call(anyone.requeue) == 5
        assert len(lab.raw_worker("again", lease_ms=1_000).claim(1000).granted) == 5
        assert sorted(lab.states().values()) == ["running"] * 5

    lab.pass_ms(1_001)

    assert lab.call(anyone.requeue) == 3
    assert sorted(lab.states().values()) == ["dead"] * 3 + ["running"] * 2
    # A claim takes back the rest, and hands out what is open all the same.
    other = lab.raw_worker("other")
    raw.enqueue("next", samples=2)
    assert [one.task for one in other.claim(2).granted] == ["next", "next"]
    assert sorted(lab.states().values()) == ["dead"] * 5 + ["running"]
    assert lab.stat("total_expired") == (10 if by == "lease" else 5)


def test_a_group_is_done_by_several_workers(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=2)
    workers = [lab.worker(name=f"w{i}") for i in range(4)]
    trainer.enqueue([Task(id="a", samples=4), Task(id="b", samples=4)])
    for _ in range(2):
        for worker in workers:
            (attempt,) = worker.claim(1)
            worker.submit(attempt, worker.name)

    batch = trainer.next_batch(timeout=1)

    assert names_of(batch) == ["a", "b"]
    for rollout in batch:
        assert [sample.worker for sample in rollout.samples] == ["w0", "w1", "w2", "w3"]
        assert rollout.results == ["w0", "w1", "w2", "w3"]


def test_the_oldest_sample_counts_and_the_newest_is_told(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=3), lab.worker()
    trainer.enqueue(Task(id="t", samples=2))
    (first,) = worker.claim(1)
    worker.submit(first, b"x")
    trainer.advance(allow_empty=True)
    trainer.advance(allow_empty=True)
    (second,) = worker.claim(1)
    worker.submit(second, b"y")

    (rollout,) = trainer.next_batch(timeout=1)

    assert [sample.version for sample in rollout.samples] == [0, 2]
    assert (rollout.version, rollout.newest, rollout.step, rollout.staleness) == (0, 2, 2, 2)
