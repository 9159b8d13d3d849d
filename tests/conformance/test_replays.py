"""G7: every call may arrive twice, late or out of order, and has its effect once."""

from collections.abc import Callable
from typing import Any

import pytest

from broker import Task
from broker.errors import BrokerError, Early, Fenced, OldCall, Rewound, TooMany
from broker.protocol import trainer as calls
from broker.protocol import worker as worker_calls
from broker.protocol.script_call import ScriptCall
from tests.conformance.clients import blocking, coroutine
from tests.conformance.lab import Lab, RawTrainer, names_of, tasks
from tests.lossy_proxy import LossyProxy

#: Every call of the trainer's channel: what to prepare before it, and its function and arguments.
Prepared = tuple[Callable[..., ScriptCall[Any]], tuple[Any, ...], dict[str, Any]]


def of_enqueue(lab: Lab, trainer: RawTrainer) -> Prepared:
    return calls.enqueue, ([calls.NewTask("new", b""), calls.NewTask("t0", b"")], '{"row": 1}'), {}


def of_take(lab: Lab, trainer: RawTrainer) -> Prepared:
    return calls.take, (0, 2), {"limit": 10, "seal": True}


def of_discard(lab: Lab, trainer: RawTrainer) -> Prepared:
    return calls.discard, ("no advantage", ["t0", "t1", "nobody"]), {}


def of_cancel(lab: Lab, trainer: RawTrainer) -> Prepared:
    return calls.cancel, (["t0", "t3", "nobody"],), {}


def of_retry(lab: Lab, trainer: RawTrainer) -> Prepared:
    trainer.send(calls.cancel, ["t3"])
    return calls.retry, (["t3", "t0"],), {}


def of_advance(lab: Lab, trainer: RawTrainer) -> Prepared:
    return calls.advance, (0, trainer.take(0, 2).digest), {"blob": b"weights"}


def of_an_empty_advance(lab: Lab, trainer: RawTrainer) -> Prepared:
    return calls.advance, (0, "-"), {"allow_empty": True}


def of_pause(lab: Lab, trainer: RawTrainer) -> Prepared:
    return calls.pause, ("paused",), {}


def of_configure(lab: Lab, trainer: RawTrainer) -> Prepared:
    return calls.configure, ({"consumer_batch_size": "1", "max_staleness": ""},), {}


def of_prioritise(lab: Lab, trainer: RawTrainer) -> Prepared:
    return calls.prioritise, ([("t3", 5), ("t0", 5), ("nobody", 5)],), {}


def of_finish(lab: Lab, trainer: RawTrainer) -> Prepared:
    return calls.finish, (), {}


def of_repair(lab: Lab, trainer: RawTrainer) -> Prepared:
    lab.command("HINCRBY", lab.key("state"), "accepted", 5)
    return calls.repair, (), {}


EVERY_CALL = [
    of_enqueue, of_take, of_discard, of_cancel, of_retry, of_advance, of_an_empty_advance, of_pause, of_configure, of_prioritise, of_finish, of_repair,
]  # fmt: skip


def ready_run(lab: Lab) -> RawTrainer:
    """Two rollouts finished, one running, one pending."""
    trainer = lab.raw_trainer(consumer_batch_size=2, max_staleness=3, max_concurrent_rollouts=9)
    worker = lab.raw_worker()
    trainer.enqueue("t0", "t1", "t2", "t3")
    worker.work(2)
    worker.take_one()
    return trainer


def without_clock(dump: dict[str, Any]) -> dict[str, Any]:
    state = {name: value for name, value in dump["state"].items() if name != b"clock"}
    return {**dump, "state": state}


@pytest.mark.parametrize("prepare", EVERY_CALL, ids=lambda prepare: prepare.__name__)
def test_a_trainer_call_again_gets_the_same_answer_and_no_second_effect(lab: Lab, prepare: Callable[..., Prepared]):
    """Mutants: replays_execute."""
    trainer = ready_run(lab)
    make, args, options = prepare(lab, trainer)
    answer = trainer.send(make, *args, **options)
    after = without_clock(lab.dump())
    for _ in range(3):
        lab.pass_ms(5)
        assert trainer.send(make, *args, number=trainer.number, **options) == answer
        assert without_clock(lab.dump()) == after
    # The clock of the state is the only thing a replay may have moved, and the channel goes on.
    assert trainer.send(calls.pause, "").mode in {"", "paused"}
    with pytest.raises(OldCall):
        trainer.send(make, *args, number=trainer.number - 1, **options)


@pytest.mark.parametrize("prepare", EVERY_CALL, ids=lambda prepare: prepare.__name__)
@pytest.mark.parametrize(("offset", "refusal"), [(-1, OldCall), (-4, OldCall), (2, Rewound), (1_000, Rewound)])
def test_a_trainer_call_out_of_order_does_nothing(
    lab: Lab, prepare: Callable[..., Prepared], offset: int, refusal: type[BrokerError]
):
    """A gap means that the server forgot calls. Mutants: gaps_allowed, old_calls_execute."""
    trainer = ready_run(lab)
    for _ in range(4):
        trainer.send(calls.pause, "")
    make, args, options = prepare(lab, trainer)
    before = without_clock(lab.dump())
    with pytest.raises(refusal) as caught:
        trainer.send(make, *args, number=trainer.number + offset, **options)
    assert caught.value.fields["last"] == str(trainer.number)
    assert "used_call" not in caught.value.fields
    assert without_clock(lab.dump()) == before
    lab.checks_state = prepare is not of_repair  # it drifted on purpose and was not repaired


@pytest.mark.parametrize("prepare", EVERY_CALL, ids=lambda prepare: prepare.__name__)
def test_a_trainer_call_with_another_token_is_fenced(lab: Lab, prepare: Callable[..., Prepared]):
    """Mutants: no_fence."""
    trainer = ready_run(lab)
    make, args, options = prepare(lab, trainer)
    before = without_clock(lab.dump())
    for token in ("0" * 16, trainer.token[:-1], trainer.token.upper() + "x", ""):
        with pytest.raises(Fenced):
            lab.call(make, calls.trainer_call_id(token, trainer.number + 1), *args, **options)
    assert without_clock(lab.dump()) == before
    lab.checks_state = prepare is not of_repair


@pytest.mark.parametrize(
    ("make", "args", "refusal"),
    [
        (calls.take, (5, 1), Early),
        (calls.take, (0, 99), TooMany),
        (calls.advance, (3, "-"), Early),
        (calls.enqueue, ([calls.NewTask("t9", b"x" * 2_000)],), BrokerError),
        (calls.enqueue, ([calls.NewTask("no spaces", b"")],), BrokerError),
        (calls.pause, ("sideways",), BrokerError),
        (calls.cancel, ([],), BrokerError),
    ],
)
def test_a_refused_call_uses_up_its_number_and_is_refused_the_same_again(
    lab: Lab, make: Callable[..., ScriptCall[Any]], args: tuple[Any, ...], refusal: type[BrokerError]
):
    """Else a late copy of it could run in place of the next call. Mutants: refusals_use_no_number."""
    trainer = lab.raw_trainer(consumer_batch_size=1, max_payload_bytes=1_000)
    trainer.enqueue("t0")
    options = {"limit": 1, "seal": True} if make is calls.take else {}
    with pytest.raises(refusal) as first:
        trainer.send(make, *args, **options)
    assert first.value.fields["used_call"] == str(trainer.number)
    after = lab.dump()
    with pytest.raises(refusal) as again:
        trainer.send(make, *args, number=trainer.number, **options)
    assert (type(again.value), again.value.fields) == (type(first.value), first.value.fields)
    assert lab.dump() == after
    # Whatever arrives under that number hears the refusal; the next number is free.
    with pytest.raises(refusal):
        trainer.send(calls.pause, "paused", number=trainer.number)
    assert lab.stat("n_pending") == 1
    assert trainer.send(calls.pause, "paused").mode == ""


def test_the_client_goes_on_after_a_refusal(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=1)
    with pytest.raises(TooMany):
        trainer.next_batch(50, timeout=0)
    trainer.enqueue(tasks(1))
    assert trainer.stats().pending == 1


def test_open_again_is_the_same_open(lab: Lab):
    trainer = lab.raw_trainer(consumer_batch_size=2)
    trainer.enqueue("t")
    again = trainer.open()
    assert (again.epoch, again.created) == (trainer.opened.epoch, False)
    assert trainer.send(calls.pause, "").mode == "", "the call number goes on"


def test_a_late_open_does_not_fence_its_successor(lab: Lab):
    """Mutants: old_tokens_forgotten."""
    first = lab.raw_trainer(consumer_batch_size=2)
    second = lab.raw_trainer(consumer_batch_size=2)
    with pytest.raises(Fenced):
        first.open()
    assert second.enqueue("t").added == 1
    assert second.open().epoch == second.opened.epoch


def test_the_last_hundred_tokens_are_remembered(lab: Lab):
    trainers = [lab.raw_trainer(consumer_batch_size=2) for _ in range(103)]
    for old in (trainers[3], trainers[50], trainers[101]):
        with pytest.raises(Fenced):
            old.open()
    assert trainers[-1].opened.epoch.startswith("103.")
    assert len(lab.dump()["state"][b"tokens"].split()) == 100


# -- workers -----------------------------------------------------------------------------------------------------------


def test_a_claim_again_gets_the_same_attempts(lab: Lab):
    """Mutants: claims_not_remembered."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    trainer.enqueue("a", "b", samples=2)
    trainer.enqueue("c")
    first = worker.claim(3)
    before = lab.dump()
    again = worker.claim(3, number=1)
    assert {one.attempt_id for one in again.granted} == {one.attempt_id for one in first.granted}
    assert [one.attempt_id for one in again.granted] == [one.attempt_id for one in first.granted]
    assert (again.version, again.epoch, again.reason) == (first.version, first.epoch, first.reason)
    assert lab.dump() == before


def test_an_empty_claim_again_stays_empty(lab: Lab):
    """Else the attempts of the replay would belong to nobody. Mutants: empty_claims_not_remembered."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    assert worker.claim(3).reason == "empty"
    trainer.enqueue(*"abc")
    again = worker.claim(3, number=1)
    assert (again.granted, again.reason) == ((), "empty")
    assert len(worker.claim(3).granted) == 3


def test_a_claim_again_leaves_out_what_is_no_longer_held(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    trainer.enqueue(*"abc")
    a, b, c = (one.attempt_id for one in worker.claim(3).granted)
    worker.submit(a)
    worker.release(b)
    assert [one.attempt_id for one in worker.claim(3, number=1).granted] == [c]


@pytest.mark.parametrize("how", ["release", "fail", "reject"])
def test_an_ending_again_has_no_second_effect(lab: Lab, how: str):
    trainer = lab.raw_trainer(consumer_batch_size=9, retry_backoff_ms=0, max_attempts=2)
    worker, other = lab.raw_worker(), lab.raw_worker()
    trainer.enqueue("t")
    attempt = worker.take_one()

    def end() -> str:
        match how:
            case "release":
                return worker.release(attempt)[0].word
            case "fail":
                return worker.fail(attempt).word
            case _:
                return worker.submit(attempt, verdict="reject").word

    words = [end(), end(), end()]

    assert (
        words
        == {
            "release": ["released", "unknown", "unknown"],
            "fail": ["retried", "unknown", "unknown"],
            "reject": ["rejected", "rejected", "rejected"],
        }[how]
    )
    if how != "reject":
        assert lab.row("t").slots[0].tries == (1 if how == "fail" else 0)
        newer = other.take_one()
        assert end() == "superseded"
        assert lab.row("t").letters == "H"
        assert other.submit(newer).word == "accepted"
        assert end() == "superseded"


def test_leave_again_and_after_the_end(lab: Lab):
    lab.raw_trainer()
    worker = lab.raw_worker()
    assert [worker.leave(), worker.leave()] == [True, True]


# -- operators ---------------------------------------------------------------------------------------------------------


def test_an_operators_request_again_gets_the_same_answer(lab: Lab):
    trainer = lab.raw_trainer(consumer_batch_size=9)
    trainer.enqueue(*"ab")
    request = calls.operator_call_id("request1")
    assert lab.call(calls.cancel, request, ["a", "b"]) == ["cancelled", "cancelled"]
    trainer.send(calls.retry, ["a"])
    assert lab.call(calls.cancel, request, ["a", "b"]) == ["cancelled", "cancelled"]
    assert lab.states() == {"a": "pending", "b": "rejected"}


def test_the_last_64_requests_are_remembered(lab: Lab):
    lab.raw_trainer(consumer_batch_size=9)
    for i in range(70):
        lab.call(calls.pause, calls.operator_call_id(f"r{i}"), "")
    lab.call(calls.pause, calls.operator_call_id("stop"), "paused")
    assert lab.call(calls.pause, calls.operator_call_id("r69"), "draining").mode == ""
    assert lab.call(calls.pause, calls.operator_call_id("r8"), "").mode == "", "one of the last 64: no effect"
    assert lab.stat("n_pending") == 0
    assert lab.dump()["state"][b"paused"] == b"paused"
    assert len(lab.dump()["requests"]) <= 64


def test_a_refused_request_is_remembered_too(lab: Lab):
    lab.raw_trainer(consumer_batch_size=9)
    for _ in range(2):
        with pytest.raises(BrokerError, match="mode"):
            lab.call(calls.pause, calls.operator_call_id("bad"), "sideways")
    with pytest.raises(BrokerError, match="mode"):
        lab.call(calls.pause, calls.operator_call_id("bad"), "paused")


@pytest.mark.parametrize("request_id", ["", "x" * 101])
def test_requests_without_a_proper_id(lab: Lab, request_id: str):
    lab.raw_trainer()
    before = lab.dump()
    with pytest.raises(BrokerError, match="request_id"):
        lab.call(calls.pause, calls.operator_call_id(request_id), "paused")
    assert lab.dump() == before


# -- lost replies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["lose_replies", "lose_requests"])
@pytest.mark.parametrize("times", [1, 2])
def test_everything_has_its_effect_once_over_a_network_that_loses(lab: Lab, fault: str, times: int):
    """Each call of a whole run is lost so many times before it gets through.

    Mutants: replays_execute, claims_not_remembered, no_compare_and_set.
    """
    if not lab.server.kind.is_real:
        pytest.skip("needs TCP")
    with LossyProxy(lab.server.port) as proxy:
        lab.url = proxy.url
        try:
            run_over(lab, proxy, fault, times)
        finally:
            lab.close_clients()
            lab.url = lab.server.url
    history = lab.history()
    assert sorted(task for batch in history.sealed.values() for task in batch) == [f"t{i}" for i in range(6)]
    assert history.problems == []


def run_over(lab: Lab, proxy: LossyProxy, fault: str, times: int) -> None:
    def losing(call: Callable[[], Any]) -> Any:
        setattr(proxy, fault, times)
        answer = call()
        assert getattr(proxy, fault) == 0
        return answer

    trainer = losing(lambda: lab.trainer(consumer_batch_size=3, max_staleness=1, max_concurrent_rollouts=99))
    worker = losing(lab.worker)
    assert losing(lambda: trainer.enqueue(tasks(6))).added == 6
    seen: list[str] = []
    for step in range(2):
        attempts = losing(lambda: worker.claim(4))
        assert len({attempt.id for attempt in attempts}) == 4 - step
        if step == 0:
            (released,) = losing(lambda: worker.release(attempts.pop()))
            # The repeated call finds its own work done; the caller only needs to know that it is not held.
            assert released.answer == ("released" if fault == "lose_requests" else "unknown")
        for i, attempt in enumerate(attempts):
            body = attempt.task.encode() * (1 if i else 9_000)
            assert losing(lambda attempt=attempt, body=body: worker.submit(attempt, body)).answer == "accepted"
        batch = losing(lambda: trainer.next_batch(timeout=5))
        seen += names_of(batch)
        assert [rollout.results[0][:2] for rollout in batch] == [rollout.task.encode() for rollout in batch]
        assert losing(trainer.advance) == step + 1
        losing(worker.renew)
    assert sorted(seen) == [f"t{i}" for i in range(6)]
    assert losing(lambda: trainer.cancel(["t0"])) == {"t0": "consumed"}
    assert trainer.stats().totals["results"] == 6
    assert trainer.stats().totals["enqueued"] == 6


def test_the_outcome_of_a_lost_call_is_settled_before_the_next(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """The trainer gives up on a call that was executed. Its next call finds that number used, and takes the next one."""
    trainer = lab.trainer(consumer_batch_size=1)
    io = trainer._transport.io
    execute = blocking(io.execute)

    def executed_but_unanswered(script_calls: Any, *_: Any) -> Any:
        execute(script_calls)
        raise ConnectionError("no answer")

    def never_sent(script_calls: Any, *_: Any) -> Any:
        raise ConnectionError("not sent")

    for broken, task in ((executed_but_unanswered, "a"), (never_sent, "b")):
        monkeypatch.setattr(io, "execute", coroutine(broken))
        with pytest.raises(ConnectionError):
            trainer.enqueue(Task(id=task))
        monkeypatch.setattr(io, "execute", coroutine(execute))
        assert trainer.enqueue(Task(id=f"after-{task}")).added == 1
    assert lab.states() == dict.fromkeys(["a", "after-a", "after-b", "b"], "pending")


def test_a_claim_whose_answer_was_lost_for_good_is_given_back(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    io = worker._transport.io
    execute = blocking(io.execute)

    def executed_but_unanswered(script_calls: Any, *_: Any) -> Any:
        execute(script_calls)
        raise ConnectionError("no answer")

    monkeypatch.setattr(io, "execute", coroutine(executed_but_unanswered))
    with pytest.raises(ConnectionError):
        worker.claim(2)
    monkeypatch.setattr(io, "execute", coroutine(execute))
    assert trainer.stats().running == 2
    worker.renew()
    assert trainer.stats().running == 0
    assert len(worker.claim(2)) == 2
    assert lab.call(worker_calls.renew, worker.sessions[lab.run], 2, [one.id for one in worker.held]).abandon == {}
