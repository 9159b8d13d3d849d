"""Results of a future that was rolled back are refused whenever they arrive; those of the surviving history are kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from broker import Task
from broker.protocol import recovery
from broker.protocol import trainer as trainer_calls
from broker.protocol.recovery import Begin
from broker.protocol.trainer import trainer_call_id
from tests.conformance.lab import Lab, RawTrainer, RawWorker
from tests.recovery.story import raw_step

TOKEN = "0123456789abcdef"
TO = 2


@dataclass
class Recovery:
    """A recovery to version 2, taken apart."""

    lab: Lab
    in_flight: str = "keep"
    calls: int = 0
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def begin(self) -> None:
        self.lab.call(recovery.begin, TOKEN, Begin(TO, in_flight=self.in_flight), None)

    def sweep(self, *names: str) -> None:
        self.calls += 1
        swept = self.lab.call(recovery.sweep, trainer_call_id(TOKEN, self.calls), names, lambda _: False)
        assert swept.done == len(names)
        for name, n in swept.counts.items():
            self.counts[name] = self.counts.get(name, 0) + n

    def end(self) -> recovery.Recovered:
        self.calls += 1
        return self.lab.call(recovery.end, trainer_call_id(TOKEN, self.calls))


@dataclass
class Future:
    """A run at version 4 with attempts in flight: `v0` to `v4` by that version, one task each."""

    trainer: RawTrainer
    worker: RawWorker
    attempts: dict[str, str]

    @property
    def all_tasks(self) -> list[str]:
        return [*self.attempts, *(f"done{i}" for i in range(4)), "w0", "w1", "w2"]


@pytest.fixture
def future(lab: Lab) -> Future:
    trainer = lab.raw_trainer(consumer_batch_size=1, max_staleness=9, max_concurrent_rollouts=20)
    worker = lab.raw_worker()
    attempts: dict[str, str] = {}
    for version in range(5):
        trainer.enqueue(f"v{version}")
        attempts[f"v{version}"] = worker.take_one()
        if version < 4:
            trainer.enqueue(f"done{version}")
            assert worker.work(1) == [f"done{version}"]
            raw_step(trainer, version)
    trainer.enqueue("w0", "w1", "w2")
    return Future(trainer, worker, attempts)


@pytest.mark.parametrize("when", ["before", "before its sweep", "after its sweep", "after"])
@pytest.mark.parametrize("version", range(5))
@pytest.mark.parametrize("in_flight", ["keep", "requeue"])
def test_a_result_is_kept_at_or_below_the_version_and_refused_above_it(
    lab: Lab, future: Future, when: str, version: int, in_flight: str
):
    name = f"v{version}"
    attempt, others = future.attempts[name], [task for task in future.all_tasks if task != name]
    recovering, answers = Recovery(lab, in_flight), list[str]()

    def submit() -> None:
        answers.append(future.worker.submit(attempt).word)

    if when == "before":
        submit()
    recovering.begin()
    if when == "before its sweep":
        submit()
    recovering.sweep(name)
    if when == "after its sweep":
        submit()
    recovering.sweep(*others)
    recovered = recovering.end()
    if when == "after":
        submit()

    lost = version > TO
    given_back = in_flight == "requeue" and when in {"after its sweep", "after"}
    if when == "before":
        assert answers == ["accepted"]  # nobody knows yet that this future is lost
    elif lost or given_back:
        assert answers[0] in {"stale", "unknown"}
    else:
        assert answers == ["accepted"]
    state = lab.row(name).state
    assert state == ("pending" if lost or given_back else "ready")
    assert (attempt in lab.result_keys()) == (state == "ready")
    if when != "after":
        assert recovered.capacity == lab.stat("capacity")
    # Sent once more, it is answered and changes nothing.
    before = lab.row(name)
    again = future.worker.submit(attempt).word
    assert again == ("accepted" if state == "ready" else answers[0] if answers[0] != "accepted" else "unknown")
    assert lab.row(name) == before


@pytest.mark.parametrize("when", ["during", "after"])
@pytest.mark.parametrize(
    ("newest", "kept"),
    [
        ((0, "e"), True),
        ((2, "e"), True),
        ((3, "e"), False),
        ((4, "e"), False),
        ((2, "x"), False),
        ((1, "x"), False),
        ((9, "e"), False),
    ],
)
def test_the_newest_policy_used_counts_where_weights_changed_during_generation(
    lab: Lab, future: Future, when: str, newest: tuple[int, str], kept: bool
):
    """An attempt that was claimed with version 0, and whose generation went on with other weights."""
    epoch = future.trainer.opened.epoch if newest[1] == "e" else "7.fedcba9876543210"
    recovering = Recovery(lab)
    recovering.begin()
    if when == "after":
        recovering.sweep(*future.all_tasks)
        recovering.end()
    answer = future.worker.submit(future.attempts["v0"], policy=(newest[0], epoch))
    if when == "during":
        recovering.sweep(*future.all_tasks)
        recovering.end()
    assert (answer.word, lab.row("v0").state) == (("accepted", "ready") if kept else ("stale", "pending"))


def test_a_done_sample_that_used_lost_weights_is_dropped_by_the_sweep(lab: Lab, future: Future):
    """Claimed with version 0, but accepted with version 4 as its newest: before the crash that was fine."""
    assert future.worker.submit(future.attempts["v0"], policy=(4, future.trainer.opened.epoch)).word == "accepted"
    recovering = Recovery(lab)
    recovering.begin()
    recovering.sweep(*future.all_tasks)
    recovering.end()
    assert lab.row("v0").state == "pending"
    assert recovering.counts["lost_policy"] == 3  # and those in flight by versions 3 and 4


def test_the_same_version_of_the_new_history_is_another_policy(lab: Lab, future: Future):
    """Version 3 of the lost future is refused also when the new history has come to version 3, and past it."""
    recovering = Recovery(lab)
    recovering.begin()
    recovering.sweep(*(name for name in future.all_tasks if name != "v3"))
    recovering.sweep("v3")
    recovering.end()
    worker = lab.raw_worker("new")
    lost_epoch = future.trainer.opened.epoch
    successor = future.trainer
    successor.token, successor.number = TOKEN, recovering.calls
    for step in range(2, 5):
        worker.work(1)
        raw_step(successor, step)
    assert lab.stat("version") == 5

    assert future.worker.submit(future.attempts["v3"]).word in {"unknown", "superseded"}
    claimed = worker.claim(1, policy=(3, lost_epoch))
    assert (claimed.reason, claimed.granted) == ("weights_stale", ())
    assert claimed.run_version == 5
    (granted,) = worker.claim(1, random="rz").granted
    answer = worker.submit(granted.attempt_id, policy=(4, lost_epoch))
    assert answer.word == "stale"


def test_while_recovering_no_work_is_handed_out_and_nothing_is_taken(lab: Lab, future: Future):
    recovering = Recovery(lab)
    recovering.begin()
    before = lab.dump()
    assert future.worker.claim(5).reason == "recovering"
    assert lab.row("w0").state == "pending"
    after = lab.dump()
    for changing in ("calls", "sessions"):  # the claim is remembered, the lease renewed
        before.pop(changing), after.pop(changing)
    before["state"].pop(b"clock", None), after["state"].pop(b"clock", None)
    assert before == after
    recovering.sweep(*future.all_tasks)
    lab.unmark()  # by a worker that woke too early, and was told `recovering`
    recovering.end()
    assert lab.marked(), "waiting workers are woken"
    assert future.worker.claim(5).granted


def test_a_worker_gives_up_what_was_revoked_and_keeps_the_rest(lab: Lab):
    """Workers are not restarted: the heartbeat tells them."""
    trainer, worker = lab.trainer(max_staleness=9, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue([Task(id="a"), Task(id="b"), Task(id="c")])
    (kept,) = worker.claim(1)
    (trained,) = worker.claim(1)
    worker.submit(trained, b"x")
    trainer.next_batch(timeout=1)
    trainer.advance()
    (revoked,) = worker.claim(1)
    assert (kept.version, revoked.version) == (0, 1)

    trainer.recover(version=0)
    worker.renew()

    assert [kept.cancelled, revoked.cancelled] == [False, True]
    assert revoked.cancel_reason == "revoked"
    assert worker.submit(kept, b"x").answer == "accepted"
    assert worker.submit(revoked, b"x").answer == "unknown"
    (again,) = worker.claim(1)
    assert (again.task, again.version, again.policy.epoch) == ("c", 0, kept.policy.epoch)


def test_a_held_sample_that_is_older_than_a_done_one_still_decides_of_the_age_of_its_group(lab: Lab):
    """A third attempt, of the lost future, left its version on the group, which is made anew from what is left.

    G5: else the old sample is accepted, and trained at a step for which it is too old.
    """
    trainer = lab.raw_trainer(consumer_batch_size=1, max_staleness=2, staleness_limit=2, max_concurrent_rollouts=9)
    low, high = lab.raw_worker(), lab.raw_worker()
    trainer.enqueue("group", samples=3)
    first, old = (one.attempt_id for one in high.claim(2).granted)  # slots 0 and 1, version 0
    high.release(first)
    trainer.advance(0)
    assert low.submit(low.take_one()).word == "accepted"  # slot 0, version 1
    trainer.advance(1)
    high.release(high.take_one())  # slot 2, version 2, which is lost
    assert (lab.row("group").letters, lab.row("group").oldest, lab.row("group").newest) == ("DHO", 0, 2)

    lab.call(recovery.begin, TOKEN, Begin(1), None)
    call_ids = (trainer_call_id(TOKEN, number) for number in range(1, 9))
    lab.call(recovery.sweep, next(call_ids), ["group"], lambda _: False)
    lab.call(recovery.end, next(call_ids))

    assert (lab.row("group").oldest, lab.row("group").newest) == (0, 1)
    for version in (1, 2):
        lab.call(trainer_calls.advance, next(call_ids), version, "-", allow_empty=True)
    assert high.submit(old).word == "stale"
    assert lab.row("group").state == "pending"


def test_the_newest_version_of_what_is_left_is_the_newest_that_was_used(lab: Lab):
    """The weights were loaded anew while the sample was made: it was claimed at version 0, and used version 1, too."""
    trainer = lab.raw_trainer(consumer_batch_size=1, max_staleness=3, max_concurrent_rollouts=9)
    worker = lab.raw_worker()
    trainer.enqueue("group", samples=2)
    attempt = worker.take_one()
    trainer.advance(0)
    assert worker.submit(attempt, policy=(1, trainer.opened.epoch)).word == "accepted"
    trainer.advance(1)
    worker.release(worker.take_one())  # version 2, which is lost
    assert (lab.row("group").oldest, lab.row("group").newest) == (0, 2)

    lab.call(recovery.begin, TOKEN, Begin(1), None)
    call_ids = (trainer_call_id(TOKEN, number) for number in range(1, 9))
    lab.call(recovery.sweep, next(call_ids), ["group"], lambda _: False)
    lab.call(recovery.end, next(call_ids))

    assert (lab.row("group").letters, lab.row("group").oldest, lab.row("group").newest) == ("DO", 0, 1)
