"""`for batch in trainer.batches(...)`: advances after each body, and saves weights and checkpoint that agree."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from broker import Rollout, Trainer, Worker, aio
from broker.errors import BadArgument, CheckpointError, Exhausted
from tests.conformance.lab import Lab, tasks
from tests.threads import LoopThread

FLAVOURS = pytest.mark.parametrize("flavour", ["sync", "aio"])


class Loops:
    """A trainer of either client, and a worker that has submitted whatever can be claimed."""

    def __init__(self, lab: Lab, flavour: str, **fields: Any) -> None:
        self.lab, self.thread = lab, LoopThread() if flavour == "aio" else None
        config = lab.config(**{"max_staleness": None, "max_concurrent_rollouts": 100, **fields})
        self.trainer: Any = (
            Trainer(lab.url, lab.run, config, clock=lab.clock)
            if self.thread is None
            else self.thread.do(aio.Trainer(lab.url, lab.run, config, clock=lab.clock).open())
        )
        self.worker: Worker = lab.worker()

    def work(self, count: int) -> None:
        """So many tasks, with a result each."""
        given = self.trainer.enqueue(tasks(count))
        _ = given if self.thread is None else self.thread.do(given)
        for attempt in self.worker.claim(count):
            self.worker.submit(attempt, b"x")

    def batches(self, **options: Any) -> Iterator[list[Rollout]]:
        """The loop; of the asyncio client too."""
        found: Any = self.trainer.batches(timeout=5, **options)
        if self.thread is None:
            yield from found
            return
        iterator: AsyncIterator[list[Rollout]] = found
        while (batch := self.thread.do(_following(iterator))) is not None:
            yield batch

    def close(self) -> None:
        closing = self.trainer.close()
        if self.thread is not None:
            self.thread.do(closing)
            self.thread.close()


async def _following(iterator: AsyncIterator[list[Rollout]]) -> list[Rollout] | None:
    return await anext(iterator, None)


@FLAVOURS
def test_weights_and_checkpoint_are_saved_between_an_advance_and_the_next_batch(lab: Lab, flavour: str, tmp_path: Path):
    loops, seen, path = Loops(lab, flavour, consumer_batch_size=2), list[str](), tmp_path / "broker.json"
    loops.work(14)

    def save(version: int) -> None:
        seen.append(f"save {version} at {loops.trainer.version}, {'a' if path.exists() else 'no'} checkpoint")

    for batch in loops.batches(checkpoint=path, every=3, save=save):
        seen.append(f"train {len(batch)} at {loops.trainer.version}")
    assert seen == [
        *("train 2 at 0", "train 2 at 1", "train 2 at 2", "save 3 at 3, no checkpoint"),
        *("train 2 at 3", "train 2 at 4", "train 2 at 5", "save 6 at 6, a checkpoint"),
        *("train 2 at 6", "save 7 at 7, a checkpoint"),
    ]
    assert lab.trainer(reopen=True).recover(path).version_to == 7
    loops.close()


@FLAVOURS
def test_leaving_the_loop_does_not_advance(lab: Lab, flavour: str):
    loops = Loops(lab, flavour, consumer_batch_size=2)
    loops.work(6)
    first: list[Rollout] = []
    for batch in loops.batches():
        first = batch
        break
    with pytest.raises(LookupError):
        for again in loops.batches():
            assert [rollout.task for rollout in again] == [rollout.task for rollout in first]
            raise LookupError
    assert (loops.trainer.version, lab.stat("version")) == (0, 0)
    assert [len(batch) for batch in loops.batches()] == [2, 2, 2]
    assert lab.stat("version") == 3
    loops.close()


@FLAVOURS
def test_leaving_the_loop_does_not_skip_a_batch_that_is_formed_ahead(lab: Lab, flavour: str):
    loops, trained = Loops(lab, flavour, consumer_batch_size=2), list[str]()
    loops.work(10)
    for at, batch in enumerate(loops.batches(prefetch=True)):
        if at == 2:
            break
        trained += [rollout.task for rollout in batch]
    for batch in loops.batches(prefetch=True):
        trained += [rollout.task for rollout in batch]
    assert trained == [f"t{i}" for i in range(10)]
    assert (lab.stat("version"), lab.stat("step_next")) == (5, 5)
    loops.close()


@FLAVOURS
def test_a_last_save_that_failed_is_made_by_the_next_loop(lab: Lab, flavour: str):
    loops, saved = Loops(lab, flavour, consumer_batch_size=2), list[int]()
    loops.work(2)

    def save(version: int) -> None:
        saved.append(version)
        if len(saved) == 1:
            raise OSError("the disk is full")

    for _ in range(2):
        with suppress(OSError):
            for _ in loops.batches(save=save, every=5):
                pass
    assert saved == [1, 1]
    loops.close()


@FLAVOURS
def test_tasks_that_make_no_batch_are_told(lab: Lab, flavour: str):
    loops = Loops(lab, flavour, consumer_batch_size=2)
    loops.work(3)
    sizes = list[int]()
    with pytest.raises(Exhausted, match="1 task is left"):
        for batch in loops.batches():
            sizes.append(len(batch))
    sizes += [len(batch) for batch in loops.batches(short=True)]
    assert sizes == [2, 1]
    loops.close()


@FLAVOURS
def test_the_end_tells_of_tasks_that_died(lab: Lab, flavour: str, caplog: pytest.LogCaptureFixture):
    loops = Loops(lab, flavour, consumer_batch_size=1, max_attempts=1, halt_after_failures=0)
    loops.work(1)
    given = loops.trainer.enqueue(tasks(1, "bad"))
    _ = given if loops.thread is None else loops.thread.do(given)
    (attempt,) = loops.worker.claim(1)
    loops.worker.fail(attempt, "no such file")
    assert [len(batch) for batch in loops.batches()] == [1]
    (said,) = [record for record in caplog.records if "the loop over batches has ended" in record.getMessage()]
    assert (said.levelno, "no such file" in said.getMessage()) == (logging.WARNING, True)
    loops.close()


@FLAVOURS
def test_the_end_warns_of_nothing_where_the_filter_discarded_tasks(
    lab: Lab, flavour: str, caplog: pytest.LogCaptureFixture
):
    loops = Loops(lab, flavour, consumer_batch_size=1)
    loops.work(3)
    with caplog.at_level(logging.INFO, "broker"):
        assert [len(batch) for batch in loops.batches(accept=lambda rollout: rollout.task == "t1")] == [1]
    (said,) = [record for record in caplog.records if "the loop over batches has ended" in record.getMessage()]
    assert (said.levelno, "2 rejected" in said.getMessage()) == (logging.INFO, True)
    loops.close()


@FLAVOURS
def test_workers_get_what_belongs_to_the_version(lab: Lab, flavour: str):
    loops = Loops(lab, flavour, consumer_batch_size=1)
    loops.work(2)
    for _ in loops.batches(blob=lambda version: f"weights {version}".encode()):
        pass
    given = loops.trainer.enqueue(tasks(1, "later"))
    _ = given if loops.thread is None else loops.thread.do(given)
    (attempt,) = loops.worker.claim(1)
    assert (attempt.version, attempt.blob) == (2, b"weights 2")
    loops.close()


@FLAVOURS
def test_what_cannot_be_saved_is_refused_before_the_first_batch(lab: Lab, flavour: str):
    loops = Loops(lab, flavour)
    for options, words in (
        ({"every": 5}, "give checkpoint=PATH or save=FUNCTION"),
        ({"every": 0, "save": print}, "every must be 1 to"),
        ({"save": 3}, "save must be a function"),
        ({"checkpoint": 3}, "checkpoint"),
    ):
        with pytest.raises(BadArgument, match=words):
            loops.trainer.batches(**options)
    loops.close()


@FLAVOURS
def test_a_checkpoint_that_could_not_be_written_is_refused_before_the_first_batch(
    lab: Lab, flavour: str, tmp_path: Path
):
    loops = Loops(lab, flavour)
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "c.json"):
        with pytest.raises(CheckpointError, match="could not be written"):
            loops.trainer.batches(checkpoint=path)
    loops.close()


def test_hooks_of_the_asyncio_client_are_awaited(lab: Lab):
    loops, saved = Loops(lab, "aio"), list[int]()
    loops.work(2)

    async def save(version: int) -> None:
        saved.append(version)

    async def blob(version: int) -> bytes:
        return str(version).encode()

    for _ in loops.batches(save=save, blob=blob):
        pass
    assert saved == [1, 2]
    with pytest.raises(BadArgument, match="a plain function"):
        lab.trainer(reopen=True).batches(save=save)
    loops.close()
