"""The bytes of results: inline or SET before the call, kept while something refers to them and no longer."""

import numpy as np
import pytest

from broker import Task
from broker.errors import CodecError, Gone, NoResult, TooBig
from broker.protocol import anyone, result_bytes
from broker.protocol.result_bytes import INLINE_BYTES
from broker.protocol.worker import Submission
from tests.conformance.lab import Lab, run_one, tasks

LARGE = b"y" * (INLINE_BYTES + 1)


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, 3_000_000])
def test_results_of_any_size_arrive_whole(lab: Lab, size: int):
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(1))
    body = bytes(range(256)) * (size // 256 + 1)
    run_one(worker, body[:size])
    assert trainer.next_batch(timeout=1)[0].results == [body[:size]]


def test_large_results_are_set_before_the_call(lab: Lab):
    trainer, worker = lab.raw_trainer(), lab.raw_worker()
    trainer.enqueue("t")
    attempt = worker.take_one()
    script_call = result_bytes.submit_call(
        lab.run, [Submission(attempt, "accept", LARGE)], result_ttl_ms=5_000, now=lab.now
    )
    ((command, key, body, *options),) = script_call.before
    assert (command, key, body, options) == ("SET", lab.key(f"result:{attempt}"), LARGE, ["NX", "PX", 5_000])
    lab.command(*script_call.before[0])
    assert 0 < lab.command("PTTL", key) <= 5_000

    assert lab.do(script_call)[0].word == "accepted"

    assert lab.command("PTTL", key) == -1, "accepted bytes do not run out"
    assert lab.command("GET", key) == LARGE


def test_accept_without_bytes_changes_nothing_and_asks_for_them(lab: Lab):
    """They ran out before the script came, or the server lost them. Mutants: accept_without_bytes."""
    trainer, worker = lab.raw_trainer(), lab.raw_worker()
    trainer.enqueue("t")
    attempt = worker.take_one()
    script_call = result_bytes.submit_call(lab.run, [Submission(attempt, "accept", LARGE)], now=lab.now)
    script_call.before = ()
    before = lab.dump()
    assert [answer.word for answer in lab.do(script_call)] == ["noresult"]
    assert lab.dump() == before
    assert worker.submit(attempt, LARGE).word == "accepted"


def test_the_client_sends_missing_bytes_again_and_gives_up_with_an_error(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    first, second = worker.claim(2)
    made, lose = result_bytes.submit_call, 2

    def without_bytes(*args, **options):
        nonlocal lose
        script_call = made(*args, **options)
        if lose:
            lose -= 1
            script_call.before = ()
        return script_call

    monkeypatch.setattr("broker.protocol.result_bytes.submit_call", without_bytes)
    assert worker.submit(first, LARGE).answer == "accepted"
    lose = 99
    with pytest.raises(NoResult) as caught:
        worker.submit(second, LARGE)
    assert caught.value.fields["attempt"] == second.id
    lose = 0
    assert worker.submit(second, LARGE).answer == "accepted"


@pytest.mark.parametrize("size", [10, len(LARGE)])
@pytest.mark.parametrize("why", ["superseded", "released", "failed", "cancelled", "dead", "stale", "unknown", "policy"])
def test_a_refused_result_leaves_no_bytes(lab: Lab, why: str, size: int):
    """Mutants: refused_bytes_kept."""
    limits = {"max_staleness": 1, "staleness_limit": 1, "max_concurrent_rollouts": 9}
    trainer = lab.raw_trainer(consumer_batch_size=1, **limits, retry_backoff_ms=0)
    worker, other = lab.raw_worker(), lab.raw_worker()
    from broker.protocol import trainer as calls

    trainer.enqueue("t")
    attempt, options = worker.take_one(), {}
    match why:
        case "superseded":
            worker.release(attempt)
            other.take_one()
        case "released":
            worker.release(attempt)
        case "failed":
            worker.fail(attempt)
        case "cancelled":
            trainer.send(calls.cancel, ["t"])
        case "dead":
            worker.fail(attempt, may_retry=False)
        case "stale":
            trainer.advance(0)
            trainer.advance(1)
        case "policy":
            options = {"policy": (3, "1.nobody00")}
        case _:
            attempt = "nobody#0.1.abc"

    answer = worker.submit(attempt, b"z" * size, **options)

    assert answer.word == {"superseded": "superseded", "stale": "stale", "policy": "stale"}.get(why, "unknown")
    assert lab.result_keys() == set()


def test_a_repeated_submit_never_replaces_the_accepted_bytes(lab: Lab):
    """Mutants: none needed: SET NX, and the script's own check."""
    trainer, worker = lab.raw_trainer(), lab.raw_worker()
    trainer.enqueue("t")
    attempt = worker.take_one()
    worker.submit(attempt, LARGE)
    for body in (b"other", b"other" * 10_000):
        assert worker.submit(attempt, body).word == "accepted"
        assert lab.dump()[f"result:{attempt}"] == LARGE
        assert lab.command("PTTL", lab.key(f"result:{attempt}")) == -1


def test_a_repeat_after_the_bytes_were_freed_leaves_none(lab: Lab):
    """A late copy of SET and submit arrives when the batch was consumed long ago."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=1), lab.raw_worker()
    trainer.enqueue("t")
    attempt = worker.take_one()
    worker.submit(attempt, LARGE)
    digest = trainer.take(0, 1).digest
    trainer.advance(0, digest)
    trainer.advance(1)
    lab.call(anyone.trim)
    assert lab.result_keys() == set()
    assert worker.submit(attempt, LARGE).word == "accepted"
    assert lab.result_keys() == set()


def test_done_slots_of_a_task_that_starts_over_lose_their_bytes(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=1, max_staleness=1, staleness_limit=1), lab.raw_worker()
    trainer.enqueue("t", samples=3)
    attempts = [one.attempt_id for one in worker.claim(3).granted]
    worker.submit(attempts[0], b"small")
    worker.submit(attempts[1], LARGE)
    assert lab.result_keys() == set(attempts[:2])
    trainer.advance(0)
    trainer.advance(1)
    assert worker.submit(attempts[2], LARGE).word == "stale"
    assert lab.result_keys() == set()


def test_a_result_over_the_limit_is_refused_before_it_is_sent(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_result_bytes=1_000), lab.worker()
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim()
    with pytest.raises(TooBig) as caught:
        worker.submit(attempt, b"x" * 1_001)
    assert (caught.value.fields["size"], caught.value.fields["limit"]) == (1_001, 1_000)
    assert worker.held == [attempt]
    assert worker.submit(attempt, b"x" * 1_000).answer == "accepted"


@pytest.mark.parametrize("result", [object(), {1, 2}, np.array([object()]), 2**70, lambda: 0])
def test_a_result_that_cannot_be_encoded_is_refused(lab: Lab, result: object):
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim()
    with pytest.raises(CodecError):
        worker.submit(attempt, result)
    assert worker.held == [attempt]
    assert lab.row("t0").letters == "H"


def test_missing_bytes_of_a_batch_are_told(lab: Lab):
    lab.checks_state = False
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    for _ in range(2):
        run_one(worker)
    (lost,) = lab.attempts_of("t1")
    lab.command("DEL", lab.key(f"result:{lost}"))
    with pytest.raises(Gone) as caught:
        trainer.next_batch(timeout=1)
    assert caught.value.fields["attempt"] == lost


def test_bytes_are_read_in_bounded_pieces(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("broker.trainer.batch_reader.BYTES_PER_FETCH", 100_000)
    monkeypatch.setattr("broker.trainer.batch_reader.ROWS_PER_CALL", 3)
    trainer, worker = lab.trainer(consumer_batch_size=10), lab.worker()
    trainer.enqueue(Task(id=f"t{i}", samples=2) for i in range(10))
    for attempt in worker.claim(20):
        worker.submit(attempt, f"{attempt.task}/{attempt.slot}".encode() * 5_000)
    batch = trainer.next_batch(timeout=5)
    assert [[r[:4] for r in rollout.results] for rollout in batch] == [
        [f"t{i}/0".encode(), f"t{i}/1".encode()] for i in range(10)
    ]
