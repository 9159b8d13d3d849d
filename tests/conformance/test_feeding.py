"""`Trainer.feed`: tasks come from a data loader as the run needs them, and its position is stored with them."""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Self

import pytest

from broker import Rollout, Task, Trainer, aio
from broker.errors import BadArgument, Exhausted, Fenced
from broker.protocol import anyone
from broker.protocol import trainer as calls
from tests.conformance.lab import Lab, tasks
from tests.threads import LoopThread
from tests.waiting import wait_until

FLAVOURS = pytest.mark.parametrize("flavour", ["sync", "aio"])


class Feeds:
    """A trainer of either client that is fed."""

    def __init__(self, lab: Lab, flavour: str, *, reopen: bool = False, **fields: Any) -> None:
        self.loop = LoopThread() if flavour == "aio" else None
        config = None if reopen else lab.config(**fields)
        self.trainer: Any
        if self.loop is None:
            self.trainer = Trainer(lab.url, lab.run, config)
        else:
            self.trainer = self.do(self._opened(lab, config))

    async def _opened(self, lab: Lab, config: Any) -> aio.Trainer:
        return await aio.Trainer(lab.url, lab.run, config).open()

    def do(self, call: Any) -> Any:
        """What a call of either client returns."""
        return call if self.loop is None else self.loop.do(call)

    def feed(self, items: Any, **options: Any) -> None:
        self.do(self.trainer.feed(items, **options))

    def step(self, **options: Any) -> list[Rollout]:
        """Trains one batch."""
        batch = self.do(self.trainer.next_batch(timeout=30, **options))
        self.do(self.trainer.advance())
        return batch

    def rest(self, **options: Any) -> list[list[str]]:
        """Trains until nothing is left; the tasks of each batch."""
        batches: list[list[str]] = []
        with suppress(Exhausted):
            while True:
                batches.append([rollout.task for rollout in self.step(**options)])
        return batches

    def close(self) -> None:
        self.do(self.trainer.close())
        if self.loop is not None:
            self.loop.close()


class Hands:
    """A worker that submits whatever it gets, in a thread."""

    def __init__(self, lab: Lab) -> None:
        self._over = threading.Event()
        self._worker = lab.worker(heartbeat=True)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._over.is_set():
            for attempt in self._worker.claim(4, timeout=0.05):
                self._worker.submit(attempt, b"x")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Loader:
    """A data loader that knows its position."""

    def __init__(self, size: int) -> None:
        self.size, self.at, self.given = size, 0, list[str]()

    def state_dict(self) -> Any:
        return {"at": self.at}

    def load_state_dict(self, state_dict: Any) -> None:
        self.at = state_dict["at"]

    def __iter__(self) -> Iterator[Task]:
        while self.at < self.size:
            self.at += 1
            self.given.append(f"t{self.at - 1}")
            yield Task(id=self.given[-1])


def slowly(items: Iterable[Task], pause_s: float) -> Iterator[Task]:
    for item in items:
        time.sleep(pause_s)
        yield item


@FLAVOURS
@pytest.mark.parametrize("short", [False, True])
def test_a_slow_loader_makes_no_small_batch_and_its_tail_comes_short(lab: Lab, flavour: str, short: bool):
    lab.go_live()
    feeds = Feeds(lab, flavour, consumer_batch_size=8)
    with Hands(lab):
        feeds.feed(slowly(tasks(27), 0.004))
        batches = feeds.rest(short=short)
    assert [len(batch) for batch in batches] == [8, 8, 8, 3]
    assert sorted(chain.from_iterable(batches)) == sorted(task.id for task in tasks(27))
    assert feeds.trainer.cursor == 27
    feeds.close()


@FLAVOURS
def test_so_many_tasks_wait_and_no_more_are_read(lab: Lab, flavour: str):
    lab.go_live()
    feeds, read = Feeds(lab, flavour, consumer_batch_size=2), list[str]()

    def rows() -> Iterator[Task]:
        for task in tasks(1000):
            read.append(task.id)
            yield task

    feeds.feed(rows(), ahead=10)
    wait_until(lambda: lab.stat("n_pending") == 10, "ten tasks wait")
    time.sleep(0.1)
    assert (len(read), lab.stat("n_pending")) == (10, 10)
    worker = lab.worker()
    for attempt in worker.claim(2):
        worker.submit(attempt, b"x")
    feeds.step()
    wait_until(lambda: worker.claim(2), "the next tasks")
    wait_until(lambda: lab.stat("n_pending") >= 8 and len(read) >= 12, "the place of those that are gone is filled")
    assert lab.stat("n_pending") <= 10
    feeds.close()


@FLAVOURS
@pytest.mark.parametrize("in_lists", [False, True])
def test_a_trainer_that_starts_again_goes_on_by_the_count(lab: Lab, flavour: str, in_lists: bool):
    lab.go_live()

    def rows() -> list[Any]:
        rows = tasks(30)
        return [rows[i : i + 4] for i in range(0, 30, 4)] if in_lists else rows

    trained = list[str]()
    for ends_at in (7, 12, None):
        feeds = Feeds(lab, flavour, consumer_batch_size=2)
        with Hands(lab):
            feeds.feed(rows(), ahead=4)
            while ends_at is None or feeds.trainer.version < ends_at:
                try:
                    trained += [rollout.task for rollout in feeds.step()]
                except Exhausted:
                    break
        feeds.close()
    assert sorted(trained) == sorted(task.id for task in tasks(30))
    assert lab.stat("total_enqueued") == 30


def test_the_feeds_of_one_program_count_on(lab: Lab):
    lab.go_live()
    trained = list[str]()
    for ends_at in (9, None):  # in the middle of the second epoch, then to the end
        feeds = Feeds(lab, "sync", consumer_batch_size=2)
        with Hands(lab), suppress(Exhausted):
            for epoch in ("a", "b", "c"):
                feeds.feed(iter(tasks(12, epoch)), ahead=2)
                with suppress(Exhausted):
                    while ends_at is None or feeds.trainer.version < ends_at:
                        trained += [rollout.task for rollout in feeds.step()]
                if ends_at is not None and feeds.trainer.version >= ends_at:
                    break
        feeds.close()
    assert sorted(trained) == sorted(f"{epoch}{i}" for epoch in "abc" for i in range(12))
    assert lab.stat("total_enqueued") == 36


@FLAVOURS
@pytest.mark.parametrize("beside", [False, True])
def test_a_loader_that_knows_its_position_is_put_there(lab: Lab, flavour: str, beside: bool):
    lab.go_live()
    given = list[str]()
    for ends_at in (5, None):
        feeds, loader = Feeds(lab, flavour, consumer_batch_size=2), Loader(20)
        with Hands(lab):
            if beside:
                feeds.feed(iter(loader) if ends_at else slowly(loader, 0), ahead=2, cursor=loader)
            else:
                feeds.feed(loader, ahead=2)
            while ends_at is None or feeds.trainer.version < ends_at:
                try:
                    feeds.step()
                except Exhausted:
                    break
        feeds.close()
        stored = feeds.trainer.cursor["at"]
        given.append(loader.given[0])
    assert (given[0], stored, lab.stat("total_enqueued"), lab.stat("total_consumed")) == ("t0", 20, 20, 20)
    assert int(given[1][1:]) >= 10, "rows that were stored are not read again"


@FLAVOURS
def test_the_loaders_error_is_raised_by_next_batch(lab: Lab, flavour: str):
    lab.go_live()
    feeds = Feeds(lab, flavour, consumer_batch_size=2)

    def breaks() -> Iterator[Task]:
        yield from tasks(2)
        time.sleep(0.2)  # so that the two are sent
        yield Task(id="t2")
        raise LookupError("row 3")

    with Hands(lab):
        feeds.feed(breaks(), ahead=2)
        assert len(feeds.step()) == 2
        for _ in range(2):
            with pytest.raises(LookupError, match="row 3"):
                feeds.step()
        feeds.feed(tasks(5))
        assert sorted(chain.from_iterable(feeds.rest())) == ["t2", "t3", "t4"]
    feeds.close()


@FLAVOURS
def test_a_filter_is_refilled(lab: Lab, flavour: str):
    lab.go_live()
    feeds = Feeds(lab, flavour, consumer_batch_size=4)
    with Hands(lab):
        feeds.feed(tasks(41), ahead=4)
        batches = feeds.rest(accept=lambda rollout: int(rollout.task[1:]) % 3 == 0)
    assert [len(batch) for batch in batches] == [4, 4, 4, 2]
    feeds.close()


@FLAVOURS
def test_the_next_trainer_is_told_of_a_feeder_that_had_more(lab: Lab, flavour: str, caplog: pytest.LogCaptureFixture):
    lab.go_live()
    feeds = Feeds(lab, flavour, consumer_batch_size=2)
    feeds.feed(tasks(20), ahead=3)
    wait_until(lambda: feeds.trainer.cursor == 3, "a piece")
    feeds.close()
    feeds = Feeds(lab, flavour, reopen=True)
    with Hands(lab):
        assert len(feeds.step()) == 2
        with pytest.raises(Exhausted, match=r"the feeder of an earlier trainer had more tasks: trainer\.feed"):
            feeds.step()
    said = [record for record in caplog.records if "goes on at cursor 3" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.WARNING]
    feeds.close()


def test_a_recovery_stops_the_feeder_and_the_next_one_goes_on(lab: Lab):
    lab.go_live()
    trainer, go_on, asked = lab.trainer(consumer_batch_size=1), threading.Event(), threading.Event()

    def waits() -> Iterator[Task]:
        yield Task(id="t0")
        time.sleep(0.2)
        yield Task(id="t1")
        asked.set()
        go_on.wait(30)
        yield Task(id="t2")

    trainer.feed(waits(), ahead=4)
    assert asked.wait(30)
    wait_until(lambda: trainer.cursor == 2, "what the loader gave before it waits")
    trainer.recover()
    go_on.set()
    time.sleep(0.2)
    assert (trainer.cursor, lab.stat("n_pending"), lab.call(anyone.stats)["supply"]) == (2, 2, "interrupted")
    trainer.feed(tasks(3))
    wait_until(lambda: trainer.cursor == 3, "the rest, and the answer about it")
    assert lab.stat("n_pending") == 3


@FLAVOURS
def test_a_fenced_trainers_feeder_ends(lab: Lab, flavour: str):
    lab.go_live()
    feeds = Feeds(lab, flavour, consumer_batch_size=2)
    feeds.feed(tasks(50), ahead=2)
    wait_until(lambda: lab.stat("n_pending") == 2, "two tasks")
    lab.trainer(reopen=True)
    with Hands(lab):
        wait_until(lambda: lab.stat("n_pending") == 0, "nobody feeds it")
    with pytest.raises(Fenced):
        feeds.step()
    assert lab.stat("total_enqueued") == 2
    feeds.close()


@FLAVOURS
def test_what_cannot_be_fed_is_refused(lab: Lab, flavour: str):
    lab.go_live()
    feeds = Feeds(lab, flavour, consumer_batch_size=2)
    for given, options, words in (
        (7, {}, "tasks must be an iterable"),
        (tasks(2), {"ahead": 0}, "ahead must be 1 to"),
        (tasks(2), {"cursor": 5}, "cursor must be an object with state_dict"),
    ):
        with pytest.raises(BadArgument, match=words):
            feeds.feed(given, **options)
    feeds.feed([{"id": "t"}])
    with pytest.raises(BadArgument, match=r"an iterable of broker\.Task or of lists of them"):
        feeds.step()
    feeds.feed(slowly(tasks(3), 0.3))
    with pytest.raises(BadArgument, match="another feeder is at work"):
        feeds.feed(tasks(2))
    feeds.close()
    other = lab.trainer(reopen=True)
    other.enqueue([], cursor={"file": 3})
    with pytest.raises(BadArgument, match="an object with load_state_dict, for the run's stored cursor is"):
        other.feed(tasks(2))


def test_an_asynchronous_iterable_is_fed(lab: Lab):
    lab.go_live()

    async def rows() -> AsyncIterator[list[Task]]:
        for i in range(5):
            await asyncio.sleep(0.01)
            yield [Task(id=f"t{i}a"), Task(id=f"t{i}b")]

    feeds = Feeds(lab, "aio", consumer_batch_size=4)
    with Hands(lab):
        feeds.feed(rows())
        assert [len(batch) for batch in feeds.rest()] == [4, 4, 2]
    assert feeds.trainer.cursor == 5
    feeds.close()


def test_the_end_of_the_event_loop_does_not_wait_for_a_loader_that_hangs(lab: Lab):
    lab.go_live()
    reads, go_on, went_on = threading.Event(), threading.Event(), threading.Event()

    def hangs() -> Iterator[Task]:
        yield Task(id="t")
        reads.set()
        go_on.wait(30)
        went_on.set()

    async def main() -> None:
        async with aio.Trainer(lab.url, lab.run, lab.config()) as trainer:
            await trainer.feed(hangs())
            while not reads.is_set():
                await asyncio.sleep(0.01)

    asyncio.run(main())
    assert not went_on.is_set()
    go_on.set()


@FLAVOURS
def test_the_same_tasks_are_fed_again_after_an_error_and_none_is_missing_later(lab: Lab, flavour: str):
    lab.go_live()
    breaks = [12]

    class Rows:
        def __iter__(self) -> Iterator[Task]:
            for at, task in enumerate(tasks(40)):
                if at in breaks:
                    raise LookupError
                yield task

    rows, trained = Rows(), list[str]()
    feeds = Feeds(lab, flavour, consumer_batch_size=2)
    with Hands(lab):
        feeds.feed(rows, ahead=2)
        with pytest.raises(LookupError):
            while True:
                trained += [rollout.task for rollout in feeds.step()]
        breaks.clear()
        feeds.feed(rows, ahead=2)
        for _ in range(5):
            trained += [rollout.task for rollout in feeds.step()]
        feeds.close()
        feeds = Feeds(lab, flavour, reopen=True)
        feeds.feed(rows, ahead=2)
        trained += chain.from_iterable(feeds.rest())
    assert sorted(trained) == sorted(task.id for task in tasks(40))
    assert feeds.trainer.cursor == 40
    feeds.close()


@FLAVOURS
def test_a_loader_that_knows_its_position_loses_nothing_by_an_error(lab: Lab, flavour: str):
    lab.go_live()

    class Breaks(Loader):
        def __iter__(self) -> Iterator[Task]:
            for task in super().__iter__():
                if self.at == 10 and len(self.given) == 10:
                    raise LookupError
                yield task

    loader, trained = Breaks(20), list[str]()
    feeds = Feeds(lab, flavour, consumer_batch_size=1)
    with Hands(lab):
        feeds.feed(loader, ahead=20)
        with pytest.raises(LookupError):
            while True:
                trained += [rollout.task for rollout in feeds.step()]
        feeds.feed(loader, ahead=4)
        trained += chain.from_iterable(feeds.rest())
    assert sorted(trained) == sorted(task.id for task in tasks(20))
    feeds.close()


@FLAVOURS
def test_what_a_loader_gave_before_it_waits_is_sent(lab: Lab, flavour: str):
    """A loader that waits for the trainer: its tasks in hand would wait for the next one, and that for the batch."""
    lab.go_live()
    trained = threading.Semaphore(0)

    def curriculum() -> Iterator[Task]:
        for level in range(3):
            yield from tasks(2, f"level-{level}-")
            assert trained.acquire(timeout=30)

    feeds = Feeds(lab, flavour, consumer_batch_size=2)
    with Hands(lab):
        feeds.feed(curriculum(), ahead=8)
        for level in range(3):
            assert {rollout.task for rollout in feeds.step()} == {f"level-{level}-0", f"level-{level}-1"}
            trained.release()
    feeds.close()


@FLAVOURS
@pytest.mark.parametrize("error", [asyncio.CancelledError(), Exhausted(left=0)])
def test_an_error_of_the_loader_that_would_mean_something_else_is_wrapped(lab: Lab, flavour: str, error: BaseException):
    lab.go_live()
    feeds = Feeds(lab, flavour)

    def breaks() -> Iterator[Task]:
        raise error
        yield

    feeds.feed(breaks())
    with pytest.raises(RuntimeError, match=f"the data loader raised {type(error).__name__}"):
        feeds.step()
    feeds.close()


def test_an_iterator_that_a_recovery_left_in_the_middle_is_refused(lab: Lab):
    lab.go_live()
    trainer, rows = lab.trainer(consumer_batch_size=1), iter(tasks(50))
    trainer.feed(rows, ahead=4)
    wait_until(lambda: trainer.cursor, "a piece")
    trainer.recover()
    wait_until(lambda: "broker-feeder" not in [thread.name for thread in threading.enumerate()], "it has ended")
    with pytest.raises(BadArgument, match="left in the middle"):
        trainer.feed(rows)
    trainer.feed(tasks(50), ahead=50)
    wait_until(lambda: lab.stat("n_pending") == 50, "all are there")


@FLAVOURS
def test_tasks_that_are_known_already_are_told(lab: Lab, flavour: str, caplog: pytest.LogCaptureFixture):
    lab.go_live()
    feeds = Feeds(lab, flavour, consumer_batch_size=2)
    drawn = itertools.count()
    feeds.feed(next(drawn) < 0 or task for task in itertools.cycle(tasks(3)))
    wait_until(lambda: any("needs ids of its own" in each.getMessage() for each in caplog.records), "a warning")
    feeds.close()
    assert next(drawn) < 10_000


def test_the_trainer_that_waits_is_woken_by_the_loaders_end(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=3), lab.raw_worker()
    trainer.send(calls.enqueue, [calls.NewTask("a", b"")], supply="more")
    worker.work()
    waits = trainer.take(0, 3)
    assert (waits.exhausted, waits.sealed, waits.size, waits.left) == (False, False, 1, 1)
    lab.unmark("wake:ready")
    trainer.send(calls.enqueue, [], supply="done")
    assert lab.marked("wake:ready")
    sealed = trainer.take(0, 3)
    assert (sealed.sealed, sealed.size) == (True, 1)


def test_tasks_that_nobody_feeds_end_the_feeders_end(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=3), lab.raw_worker()
    trainer.send(calls.enqueue, [calls.NewTask("a", b"")], supply="done")
    trainer.send(calls.enqueue, [calls.NewTask("a", b"")])  # it is there
    assert lab.call(anyone.stats)["supply"] == "done"
    trainer.enqueue("b")
    worker.work(2)
    taken = trainer.take(0, 3)
    assert (taken.exhausted, taken.short, taken.sealed) == (True, False, False)


def test_more_ends_with_its_trainer(lab: Lab):
    trainer = lab.raw_trainer(consumer_batch_size=3)
    trainer.send(calls.enqueue, [calls.NewTask("a", b"")], supply="more")
    following = lab.raw_trainer(consumer_batch_size=3)
    assert following.take(0, 3).exhausted
    assert lab.call(anyone.stats)["supply"] == "interrupted"
