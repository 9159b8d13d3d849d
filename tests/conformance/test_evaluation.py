"""A lane for evaluation: its tasks carry the policy of training that they judge, and neither lane starves the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker import Attempt, BadArgument, Judged, Policy, Task, Worker, aio
from broker.errors import CodecError
from broker.values.codec import encode
from broker.values.evaluation_payload import decode_payload, encode_payload
from tests.conformance.lab import Lab, tasks


class Lanes:
    """A run of training, and its lane for evaluation, of which two tasks may run at a time."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.train, self.eval = lab, lab.run, f"{lab.run}/eval"
        self.trainer = lab.trainer(consumer_batch_size=4, max_staleness=1, max_concurrent_rollouts=99)
        self.evaluation = lab.trainer(
            run=self.eval, consumer_batch_size=2, max_staleness=None, max_concurrent_rollouts=2
        )

    def judge(self, count: int, blob: bytes | None = None) -> Policy:
        """Tasks that judge the current policy."""
        policy = self.trainer.policy
        self.evaluation.enqueue(
            Task(id=f"v{policy.version}/{i}", payload=Judged({"question": i}, policy, blob)) for i in range(count)
        )
        return policy


@pytest.fixture
def lanes(lab: Lab) -> Lanes:
    return Lanes(lab)


def step(lanes: Lanes, worker: Worker, blob: bytes) -> None:
    """One step of training."""
    lanes.trainer.enqueue(tasks(4, f"s{lanes.trainer.version}-"))
    for attempt in worker.claim(4, timeout=20):
        worker.submit(attempt, b"x")
    lanes.trainer.next_batch()
    lanes.trainer.advance(blob)


@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named weights"])
def test_an_attempt_has_the_policy_of_training_that_its_task_judges(lanes: Lanes, named: bool) -> None:
    """Also when training has gone on, another trainer has opened the run, and the attempt is tried again."""
    step(lanes, lanes.lab.worker(), b"weights of 1")
    judged = lanes.judge(2, b"weights of 1")
    assert judged == lanes.trainer.policy
    assert judged.version == 1
    assert lanes.lab.trainer(reopen=True).policy == judged
    lanes.trainer = lanes.lab.trainer(reopen=True)
    step(lanes, lanes.lab.worker(), b"weights of 2")
    assert lanes.trainer.policy.version == 2
    assert lanes.trainer.policy.epoch == lanes.trainer.epoch != judged.epoch
    options: dict[str, Any] = {"policy": {lanes.train: lanes.trainer.policy}} if named else {}
    for answer in ("released", "accepted"):
        worker = lanes.lab.worker(lanes.eval, lanes.train, **options)
        found = worker.claim(2)
        for attempt in found:
            assert (attempt.run, attempt.judges) == (lanes.eval, True)
            assert (attempt.version, attempt.policy, attempt.blob) == (1, judged, b"weights of 1")
            assert attempt.payload == {"question": int(attempt.task[3:])}
            with pytest.raises(BadArgument, match="judges one policy"):
                worker.submit(attempt, b"x", policy=lanes.trainer.policy)
            given = worker.release(attempt)[0] if answer == "released" else worker.submit(attempt, "r", policy=judged)
            assert given.answer == answer
        assert len(found) == 2
    batch = lanes.evaluation.next_batch()
    assert [(r.judged, r.payload, r.results) for r in batch] == [(judged, {"question": i}, ["r"]) for i in range(2)]
    assert [rollout.judged for rollout in _trained(lanes)] == [None] * 4


def _trained(lanes: Lanes) -> list[Any]:
    worker = lanes.lab.worker()
    lanes.trainer.enqueue(tasks(4, "more"))
    for attempt in worker.claim(4):
        assert not attempt.judges
        worker.submit(attempt, b"x")
    return lanes.trainer.next_batch()


@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named weights"])
def test_neither_lane_starves_the_other(lanes: Lanes, named: bool) -> None:
    """With the lane preferred and bounded: of four places, two evaluate while there is anything to evaluate."""
    lanes.trainer.enqueue(tasks(8))
    judged = lanes.judge(6)
    options: dict[str, Any] = {"policy": {lanes.train: lanes.trainer.policy}} if named else {}
    worker, held, order = lanes.lab.worker(lanes.eval, lanes.train, **options), list[Attempt](), list[str]()
    for _ in range(5):
        held += worker.claim(4 - len(held))
        order.append("".join("E" if attempt.judges else "T" for attempt in held))
        assert all(attempt.policy == judged for attempt in held)
        for attempt in held:
            worker.submit(attempt, b"x")
        held.clear()
    assert order == ["EETT", "EETT", "EETT", "TT", ""]
    assert (len(lanes.evaluation.next_batch()), len(lanes.trainer.next_batch())) == (2, 4)


def test_so_it_is_for_asyncio(lab: Lab) -> None:
    lab.go_live()
    lanes = Lanes(lab)
    judged, seen = lanes.judge(4), list[tuple[str, Policy]]()
    lanes.trainer.enqueue(tasks(4))

    async def scenario() -> None:
        async with aio.Worker(lab.url, [lanes.eval, lanes.train]) as worker:

            async def handler(attempt: Attempt) -> bytes:
                seen.append((attempt.run, attempt.policy))
                if len(seen) == 8:
                    worker.drain()
                await asyncio.sleep(0)
                return b"x"

            async with asyncio.timeout(60):
                await worker.run(handler, concurrency=4)
        async with aio.Trainer(lab.url, lanes.train) as trainer:
            assert trainer.policy == judged

    asyncio.run(scenario())
    assert sorted(seen, key=str) == sorted([(lanes.eval, judged)] * 4 + [(lanes.train, judged)] * 4, key=str)


def test_payloads_of_both_kinds_are_read_back_and_any_other_bytes_refused() -> None:
    policy = Policy(version=7, epoch="3.ab")
    for payload in (b"", b"\xc1\x03\x00\x00", {"a": [1, None]}, "text"):
        assert decode_payload(encode_payload(payload)) == (payload, None)
        for blob in (None, b"", b"\xc1"):
            found, judged = decode_payload(encode_payload(Judged(payload, policy, blob)))
            assert (found, judged) == (payload, Judged(None, policy, blob))
    whole = encode_payload(Judged("text", policy, b"blob"))
    head = encode([7, 8, 9])
    wrong = [whole[:at] for at in range(4, len(whole))] + [b"\xc1\x03\x00\x00" + bytes([len(head), 0, 0, 0]) + head]
    for bad in wrong:
        try:
            decode_payload(bad)
        except CodecError:
            continue
        assert bad == whole[: -len(encode("text"))], "only the payload is missing, which is empty bytes"


def test_what_is_judged_is_a_policy() -> None:
    for given in ({"policy": 7}, {"policy": Policy(version=0, epoch="1.a"), "blob": "text"}):
        with pytest.raises(BadArgument):
            Judged("payload", **given)  # pyright: ignore[reportArgumentType]
