"""The dataset: who gets what, and when a step counts as trained on."""

from __future__ import annotations

import pickle
import threading
from importlib import import_module
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from broker import RunConfig, Task, Trainer, Worker
from broker.errors import BadArgument, WaitTimeout
from broker.integrations.torch import RolloutBatches, collate
from tests.integrations.torch.crew import working
from tests.threads import InThread, in_threads
from tests.waiting import wait_until

RUN = "torch/test"
CONFIG = RunConfig(consumer_batch_size=4, max_staleness=1, max_concurrent_rollouts=64)
#: Long enough on a busy machine; a test that waits so long has failed.
PATIENCE_S = 30.0

DataLoader: Any = import_module("torch").utils.data.DataLoader


def leader(url: str, tasks: int = 12, **options: Any) -> RolloutBatches:
    batches = RolloutBatches(url, RUN, CONFIG, timeout=PATIENCE_S, **options)
    if batches.rank == 0:
        batches.trainer.enqueue(Task(id=f"t{i}", payload=i, samples=2) for i in range(tasks))
    return batches


def names(rollouts: Any) -> list[str]:
    return [rollout.task for rollout in rollouts]


def test_a_loop_over_the_dataset_trains_step_by_step(url: str) -> None:
    with leader(url, steps=3) as batches, working(url, RUN):
        seen: list[str] = []
        for step, rollouts in enumerate(batches):
            assert batches.trainer.version == step  # acknowledged when the next one is asked for
            seen += names(rollouts)
        assert batches.trainer.version == 3
        assert sorted(seen) == sorted(f"t{i}" for i in range(12))


def test_a_step_can_be_acknowledged_early_with_something_for_the_workers(url: str) -> None:
    with leader(url, steps=2) as batches, working(url, RUN):
        for step, _ in enumerate(batches):
            assert batches.advance(b"weights of %d" % (step + 1)) == step + 1
        assert batches.trainer.version == 2
        with Worker(url, RUN, name="late") as worker:
            batches.trainer.enqueue(Task(id="one-more", priority=9))
            attempts = worker.claim(1, PATIENCE_S)
            assert all(attempt.blob == b"weights of 2" for attempt in attempts)


def test_a_step_that_was_left_early_comes_again(url: str) -> None:
    with leader(url) as batches, working(url, RUN):
        first = names(next(iter(batches)))
        assert batches.trainer.version == 0
        assert names(next(iter(batches))) == first


def test_it_ends_when_the_run_is_exhausted(url: str) -> None:
    with leader(url, tasks=6, short=True) as batches, working(url, RUN):
        assert [len(rollouts) for rollouts in batches] == [4, 2]
        assert list(batches) == []
        batches.trainer.enqueue(Task(id="later", payload=1))
        assert [names(rollouts) for rollouts in batches] == [["later"]]


def test_a_filter_replaces_what_it_refuses(url: str) -> None:
    def accept(rollout: Any) -> bool:
        return rollout.task not in {"t0", "t1"}

    with leader(url, steps=1, accept=accept) as batches, working(url, RUN):
        (rollouts,) = batches
        assert sorted(names(rollouts)) == ["t2", "t3", "t4", "t5"]


def test_ranks_share_a_filtered_step_whose_last_tasks_were_ready_first(url: str) -> None:
    """Two ranks, four rollouts: each of them is trained on once, by one rank."""
    judged: list[str] = []

    def accept(rollout: Any) -> bool:
        judged.append(rollout.task)
        return True

    with (
        leader(url, 4, steps=1, world=2, accept=accept) as first,
        leader(url, rank=1, world=2, steps=1) as second,
        Worker(url, RUN) as worker,
    ):
        attempts = worker.claim(8, PATIENCE_S)
        ranks = [
            InThread(lambda batches=batches: [name for step in batches for name in names(step)])
            for batches in (first, second)
        ]
        worker.submit_many([(attempt, 1) for attempt in attempts if attempt.task in {"t2", "t3"}])
        wait_until(lambda: judged == ["t2", "t3"], "the leader has judged the tasks that are ready")
        worker.submit_many([(attempt, 1) for attempt in attempts if attempt.task in {"t0", "t1"}])
        shares = [rank.result() for rank in ranks]
    assert shares == [["t0", "t1"], ["t2", "t3"]]


@pytest.mark.parametrize("steps", [3, None])
def test_ranks_share_each_step(url: str, steps: int | None) -> None:
    world, per_rank = 3, dict[int, list[list[str]]]()
    barrier = threading.Barrier(world)  # what the gradients' all-reduce is in a real loop

    def rank(number: int) -> None:
        with leader(url, rank=number, world=world, steps=steps) as batches:
            per_rank[number] = []
            for rollouts in batches:
                per_rank[number].append(names(rollouts))
                barrier.wait(PATIENCE_S)

    with leader(url), working(url, RUN):
        in_threads(*(lambda number=number: rank(number) for number in range(world)))
    assert [[len(share) for share in per_rank[number]] for number in range(world)] == [[1] * 3, [1] * 3, [2] * 3]
    assert sorted(task for shares in per_rank.values() for share in shares for task in share) == sorted(
        f"t{i}" for i in range(12)
    )


@pytest.mark.processes
@pytest.mark.parametrize("steps", [3, None])
def test_loader_workers_read_their_share_and_collate_it(url: str, steps: int | None) -> None:
    with leader(url, steps=steps) as batches, working(url, RUN):
        loader = DataLoader(batches, batch_size=None, num_workers=2, collate_fn=collate)
        seen: list[str] = []
        for step, parts in enumerate(batches.over(loader)):
            assert batches.trainer.version == step
            assert [part["tokens"].shape[0] for part in parts] == [4, 4]  # two rollouts of two samples for each worker
            seen += [name for part in parts for name in part["text"]]
        assert batches.trainer.version == 3
        assert sorted(seen) == sorted(f"t{i}#{k}" for i in range(12) for k in range(2))


def test_a_loader_without_workers_is_an_ordinary_loop(url: str) -> None:
    with leader(url, steps=2) as batches, working(url, RUN):
        loader = DataLoader(batches, batch_size=None, collate_fn=collate)
        assert [batch["group"].tolist() for batch in loader] == [[0, 0, 1, 1, 2, 2, 3, 3]] * 2
        assert batches.trainer.version == 2
    with leader(url, steps=1) as batches, working(url, RUN):
        assert [len(parts) for parts in batches.over(DataLoader(batches, batch_size=None))] == [1]


@pytest.mark.processes
def test_loader_workers_that_nobody_leads_say_so(url: str) -> None:
    with leader(url) as batches:
        items = iter(DataLoader(batches, batch_size=None, num_workers=1))
        with pytest.raises(BadArgument, match="over"):
            next(items)
        items._shutdown_workers()  # the error that pytest keeps would keep them alive


def test_loaders_of_another_kind_are_refused(url: str) -> None:
    with leader(url) as batches, leader(url) as other:
        for loader in (
            DataLoader(other, batch_size=None),
            DataLoader(batches, batch_size=2),
            DataLoader(batches, batch_size=None, num_workers=1, persistent_workers=True),
        ):
            with pytest.raises(BadArgument):
                next(batches.over(loader))
    alone = RolloutBatches("embedded://", RUN, CONFIG)
    with pytest.raises(BadArgument, match="embedded"):
        next(alone.over(DataLoader(alone, batch_size=None, num_workers=1)))


def test_waiting_ends_with_the_time_limit(url: str) -> None:
    with leader(url) as batches, RolloutBatches(url, RUN, rank=1, world=2, timeout=0.1) as other:
        assert other.trainer.version == 0
        with pytest.raises(WaitTimeout):
            next(iter(other))
        impatient = RolloutBatches(url, RUN, timeout=0.01)
        batches.close()
        with impatient, pytest.raises(WaitTimeout):
            next(iter(impatient))


def test_it_travels_to_other_processes_without_its_connections(url: str) -> None:
    with leader(url) as batches, pickle.loads(pickle.dumps(batches)) as copy:  # noqa: S301 - our own
        assert copy.rank == 0
        assert isinstance(copy.trainer, Trainer)
        assert copy.trainer is not batches.trainer


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(BadArgument):
        RolloutBatches("embedded://", RUN, rank=2, world=2)
