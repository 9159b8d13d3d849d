"""A worker with `load_weights` works on an attempt only after its weights are loaded."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from broker import BadArgument, Judged, Policy, Task, Worker, aio
from broker.errors import ServerUnavailable
from broker.weights import Publisher, fetched
from broker.weights.reference import Reference
from tests.conformance.lab import Lab, tasks


class Loads(list[tuple[int, str]]):
    """A hook that notes the versions that it loads, and what is in them."""

    def __call__(self, version: int, path: Path) -> None:
        self.append((version, path.read_text()))

    @property
    def versions(self) -> list[int]:
        return [version for version, _ in self]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "weights", keep=2)


def published(publisher: Publisher, version: int, text: str = "", *, pin: bool = False) -> bytes:
    return publisher.publish(version, lambda path: path.write_text(text or f"weights of {version}"), pin=pin)


def a_trainer(lab: Lab, **fields: Any) -> Any:
    return lab.trainer(max_staleness=9, max_concurrent_rollouts=99, **fields)


def test_weights_are_loaded_before_their_attempts_are_handed_out(lab: Lab, publisher: Publisher) -> None:
    trainer, loads = a_trainer(lab), Loads()
    trainer.recover(blob=lambda version: published(publisher, version))
    trainer.enqueue(tasks(9))
    worker = lab.worker(load_weights=loads)
    assert len(worker.claim(2)) == 2
    assert loads == [(0, "weights of 0")]
    worker.claim(1)
    assert loads.versions == [0]
    trainer.advance(published(publisher, 1), allow_empty=True)
    (attempt,) = worker.claim(1)
    assert (attempt.version, loads.versions) == (1, [0, 1])


def test_weights_are_loaded_also_when_there_is_no_work(lab: Lab, publisher: Publisher) -> None:
    trainer, loads = a_trainer(lab), Loads()
    worker = lab.worker(load_weights=loads)
    trainer.advance(published(publisher, 1), allow_empty=True)
    assert worker.claim() == []
    assert loads.versions == [1]


def test_each_loop_loads_newer_weights_before_their_attempts(lab: Lab, publisher: Publisher) -> None:
    """Results claim no further attempts in their own call: those could be of newer weights."""
    trainer, loads = a_trainer(lab), Loads()
    trainer.enqueue(tasks(6))
    worker = lab.worker(load_weights=loads)
    seen: list[tuple[int, int]] = []
    for batch in worker.batches(2):
        seen += [(attempt.version, loads.versions[-1] if loads else 0) for attempt in batch]
        trainer.advance(published(publisher, trainer.version + 1), allow_empty=True)
        worker.submit_many((attempt, b"x") for attempt in batch)
        if len(seen) == 6:
            worker.drain()
    assert seen == [(0, 0), (0, 0), (1, 1), (1, 1), (2, 2), (2, 2)]


def test_removed_weights_are_waited_for_and_the_attempts_are_given_back(
    lab: Lab, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, loads = a_trainer(lab), Loads()
    trainer.enqueue(tasks(1))
    blob = published(publisher, 1)
    trainer.advance(blob, allow_empty=True)
    reference = Reference.decode(blob)
    assert reference is not None
    shutil.rmtree(Path(reference.folder, reference.name))
    worker = lab.worker(load_weights=loads)
    with caplog.at_level(logging.WARNING):
        assert worker.claim() == []
        assert worker.claim() == []
    assert (worker.claim_reason, worker.held, loads) == ("weights_missing", [], [])
    assert lab.row("t0").state == "pending"
    assert caplog.text.count("waits for its weights") == 1
    assert reference.name in caplog.text
    trainer.advance(published(publisher, 2), allow_empty=True)
    (attempt,) = worker.claim(timeout=10)
    assert (attempt.task, attempt.version, loads.versions) == ("t0", 2, [2])


def test_a_finished_run_ends_its_workers_although_the_weights_are_gone(lab: Lab, publisher: Publisher) -> None:
    trainer, loads = a_trainer(lab), Loads()
    blob = published(publisher, 1)
    trainer.advance(blob, allow_empty=True)
    reference = Reference.decode(blob)
    assert reference is not None
    shutil.rmtree(Path(reference.folder, reference.name))
    trainer.finish()
    worker = lab.worker(load_weights=loads)
    assert list(worker) == []
    assert (worker.claim_reason, loads) == ("finished", [])


def test_weights_that_are_removed_while_they_are_read_are_not_the_hooks_fault(lab: Lab, publisher: Publisher) -> None:
    trainer, loaded = a_trainer(lab), list[int]()
    trainer.enqueue(tasks(1))
    trainer.advance(published(publisher, 1), allow_empty=True)

    def load(version: int, path: Path) -> None:
        if not loaded:
            loaded.append(-version)
            for later in (2, 3):
                trainer.advance(published(publisher, later), allow_empty=True)
        path.read_text()
        loaded.append(version)

    worker = lab.worker(load_weights=load)
    (attempt,) = worker.claim(timeout=10)
    assert (attempt.version, loaded) == (3, [-1, 3])


def test_an_error_of_the_hook_is_raised_and_the_attempts_are_given_back(lab: Lab, publisher: Publisher) -> None:
    trainer = a_trainer(lab)
    trainer.enqueue(tasks(1))
    trainer.advance(published(publisher, 1), allow_empty=True)

    def load(version: int, path: Path) -> None:
        raise RuntimeError("out of memory")

    worker = lab.worker(load_weights=load)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            worker.claim()
    assert worker.held == []
    assert lab.row("t0").state == "pending"


def test_a_version_that_nobody_published_is_not_generated_with_other_weights(lab: Lab, publisher: Publisher) -> None:
    trainer, loads = a_trainer(lab), Loads()
    trainer.enqueue(tasks(2))
    worker = lab.worker(load_weights=loads)
    assert worker.claim()[0].version == 0  # nothing was published, nothing is loaded
    trainer.advance(published(publisher, 1), allow_empty=True)
    worker.claim()
    trainer.recover(version=0)
    assert worker.claim() == []
    assert worker.claim_reason == "weights_missing"


def test_results_name_weights_that_were_loaded_while_they_were_generated(lab: Lab, publisher: Publisher) -> None:
    trainer, loads = a_trainer(lab), Loads()
    trainer.enqueue(tasks(2))
    worker = lab.worker(load_weights=loads)
    (early,) = worker.claim()
    trainer.advance(published(publisher, 1), allow_empty=True)
    (late,) = worker.claim()
    for attempt in (early, late):
        assert worker.submit(attempt, b"x").accepted
    (rollout,) = trainer.next_batch(timeout=1)
    assert (rollout.task, rollout.version, rollout.newest) == ("t0", 0, 1)


@pytest.mark.parametrize("again", [0, 2], ids=["the worker goes back", "the trainer is further again"])
def test_what_was_generated_with_weights_of_a_lost_future_is_refused(
    lab: Lab, publisher: Publisher, again: int
) -> None:
    trainer = a_trainer(lab)
    trainer.enqueue(tasks(9))
    trainer.recover(blob=lambda version: published(publisher, version))
    worker = lab.worker(load_weights=Loads())
    (begun,) = worker.claim(1)
    trainer.advance(published(publisher, 1), allow_empty=True)
    (later,) = worker.claim(1)  # the weights change while the first one is generated
    trainer.recover(version=0, blob=lambda version: published(publisher, version))
    for version in range(1, again + 1):
        trainer.advance(published(publisher, version), allow_empty=True)
    (fresh,) = worker.claim(1)
    assert (begun.version, later.version, fresh.version) == (0, 1, again)
    answers = [answer.answer for answer in worker.submit_many((one, b"x") for one in (begun, later, fresh))]
    assert answers[0] == "stale"
    assert answers[1] in {"stale", "superseded"}, (
        "the recovery has revoked it, and its slot may have been claimed again"
    )
    assert answers[2] == "accepted"


def test_a_result_names_weights_from_the_moment_when_the_hook_begins_to_load_them(
    lab: Lab, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a lost reply nor another thread that submits meanwhile may hide weights that made a part of a rollout."""
    trainer = a_trainer(lab)
    trainer.enqueue(tasks(9))
    trainer.advance(published(publisher, 1), allow_empty=True)
    answers: list[str] = []

    def load(version: int, path: Path) -> None:
        if version == 2:
            answers.append(worker.submit(during, b"x").answer)

    worker = lab.worker(load_weights=load)
    begun, during = worker.claim(2)
    again = a_trainer(lab)  # another epoch: the worker asks which policies there were
    again.advance(published(publisher, 2), allow_empty=True)
    with monkeypatch.context() as lost:
        lost.setattr(worker._state.sessions[lab.run]._io, "command", _lost_reply)
        with pytest.raises(ServerUnavailable):
            worker.claim(1)
    assert answers == [], "the hook runs after the question"
    worker.claim(1)
    assert (answers, worker.submit(begun, b"x").answer) == (["accepted"], "accepted")
    again.recover(version=1, blob=lambda version: published(publisher, version))
    assert [lab.states()[attempt.task] for attempt in (begun, during)] == ["pending", "pending"]


async def _lost_reply(*_: Any) -> None:
    raise ServerUnavailable(server="this test", problem="the reply was lost")


def test_loaded_weights_survive_with_the_older_version_that_has_them_too(lab: Lab, publisher: Publisher) -> None:
    """Not each version has weights of its own, and a recovery goes back to the one whose weights are loaded."""
    trainer, loads = a_trainer(lab), Loads()
    trainer.enqueue(tasks(9))
    blob = published(publisher, 1)
    trainer.advance(blob, allow_empty=True)
    trainer.advance(allow_empty=True)
    worker = lab.worker(load_weights=loads)
    (before,) = worker.claim(1)
    trainer.recover(version=1, blob=lambda _: blob)
    (after,) = worker.claim(1)
    assert (before.version, after.version, loads.versions) == (2, 1, [1])
    assert worker.submit(after, b"x").answer == "accepted"


def test_weights_of_an_earlier_trainer_whose_steps_survive_cost_no_result(lab: Lab, publisher: Publisher) -> None:
    trainer = a_trainer(lab)
    trainer.enqueue(tasks(9))
    trainer.recover(blob=lambda version: published(publisher, version))
    worker = lab.worker(load_weights=Loads())
    (begun,) = worker.claim(1)
    trainer.advance(published(publisher, 1), allow_empty=True)
    worker.claim(1)
    trainer = a_trainer(lab)  # another epoch, and no recovery
    trainer.advance(published(publisher, 2), allow_empty=True)
    worker.claim(1)
    assert worker.submit(begun, b"x").answer == "accepted"
    (rollout,) = trainer.next_batch(1)
    assert (rollout.version, rollout.newest) == (0, 2)


def test_attempts_of_an_evaluation_bring_their_own_weights(lab: Lab, publisher: Publisher) -> None:
    trainer, loads = a_trainer(lab), Loads()
    lane = f"{lab.run}/eval"
    evaluation = lab.trainer(run=lane, max_staleness=None, max_concurrent_rollouts=9)
    first = published(publisher, 1, "the first", pin=True)
    trainer.advance(first, allow_empty=True)
    evaluation.enqueue(Task(id="e", payload=Judged("question", trainer.policy, first)))
    for version in range(2, 6):
        trainer.advance(published(publisher, version), allow_empty=True)
    trainer.enqueue(tasks(1))
    worker = lab.worker(lane, lab.run, load_weights=loads)
    judging, training = worker.claim(2)
    assert (judging.judges, judging.version, training.version, loads.versions) == (True, 1, 5, [5])
    with fetched(judging.blob) as path:
        assert path.read_text() == "the first"
    for attempt in (judging, training):
        assert worker.submit(attempt, b"x").accepted


def test_a_hook_is_told_the_run_where_it_asks_for_it(lab: Lab, publisher: Publisher) -> None:
    trainer, told = a_trainer(lab), list[tuple[int, str]]()
    trainer.advance(published(publisher, 1), allow_empty=True)

    def load(version: int, path: Path, run: str) -> None:
        told.append((version, run))

    lab.worker(load_weights=load).claim()
    assert told == [(1, lab.run)]


def test_the_hook_of_asyncio_is_awaited_in_each_way_of_working(lab: Lab, publisher: Publisher, tmp_path: Path) -> None:
    trainer, loads, seen = a_trainer(lab), Loads(), list[tuple[int, int]]()
    trainer.recover(blob=published(publisher, 0))
    trainer.enqueue(tasks(4))
    going: list[aio.Worker] = []

    async def load(version: int, path: Path) -> None:
        await asyncio.sleep(0)
        loads(version, path)

    async def handler(attempt: Any) -> bytes:
        seen.append((attempt.version, loads.versions[-1]))
        if attempt.task in {"t1", "t2"}:
            trainer.advance(published(publisher, trainer.version + 1), allow_empty=True)
        if attempt.task == "t3":
            going[0].drain()
        return b"x"

    async def work() -> None:
        options: dict[str, Any] = {"load_weights": load, "weights_cache": tmp_path / "cache"}
        async with aio.Worker(lab.url, lab.run, clock=lab.clock, heartbeat=False, **options) as worker:
            going.append(worker)
            (attempt,) = await worker.claim()
            await worker.submit(attempt, await handler(attempt))
            await worker.run(handler)

    asyncio.run(work())
    assert seen == [(0, 0), (0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("client", [Worker, aio.Worker])
def test_the_hook_takes_the_place_of_the_policy(lab: Lab, client: Any) -> None:
    trainer = lab.trainer()
    others: list[dict[str, Any]] = [
        {"policy": Policy(version=0, epoch=trainer.epoch)},
        {"on_weights_stale": lambda policy, blob: policy},
    ]
    for other in others:
        with pytest.raises(BadArgument, match="load_weights"):
            client(lab.url, lab.run, load_weights=Loads(), **other)
    worker = lab.worker(load_weights=Loads())
    with pytest.raises(BadArgument, match="load_weights"):
        worker.policy = Policy(version=0, epoch=trainer.epoch)
    worker.policy = None
    with pytest.raises(BadArgument, match="weights_cache"):
        client(lab.url, lab.run, load_weights=Loads(), weights_cache=3)
    with pytest.raises(BadArgument, match="load_weights"):
        client(lab.url, lab.run, load_weights=3)


# -- the trainer's side ------------------------------------------------------------------------------------------------


def test_a_recovery_asks_for_the_blob_of_its_version_before_it_changes_anything(lab: Lab, tmp_path: Path) -> None:
    trainer, path, asked = a_trainer(lab), tmp_path / "broker.json", list[tuple[int, int]]()
    trainer.enqueue(tasks(2))

    def blob(version: int) -> bytes:
        asked.append((version, trainer.stats().version))
        return b"again"

    trainer.recover(path, missing_ok=True, blob=blob)
    for version in (1, 2):
        trainer.advance(b"first", allow_empty=True)
        if version == 1:
            trainer.checkpoint(path)
    trainer.recover(path, dry_run=True, blob=blob)
    assert asked == [(0, 0)]
    trainer.recover(path, blob=blob)
    assert asked == [(0, 0), (1, 2)]
    assert lab.worker().claim()[0].blob == b"again"
    trainer.recover(path, blob=lambda version: None)  # the checkpoint's
    assert lab.worker(name="other").claim()[0].blob == b"first"

    def fails(version: int) -> bytes:
        raise OSError("no weights")

    with pytest.raises(OSError, match="no weights"):
        trainer.recover(path, blob=fails)
    with pytest.raises(BadArgument, match="blob"):
        trainer.recover(path, blob=lambda version: "text")
    assert trainer.stats().version == 1


def test_for_asyncio_the_function_of_the_blob_may_be_awaited(lab: Lab) -> None:
    async def blob(version: int) -> bytes:
        return b"weights of %d" % version

    async def recover() -> None:
        async with aio.Trainer(lab.url, lab.run, lab.config(), clock=lab.clock) as trainer:
            await trainer.recover(version=0, blob=blob)
            await trainer.enqueue(tasks(1))

    asyncio.run(recover())
    assert lab.worker().claim()[0].blob == b"weights of 0"
    with pytest.raises(BadArgument, match="blob"):
        lab.trainer(reopen=True).recover(version=0, blob=blob)
