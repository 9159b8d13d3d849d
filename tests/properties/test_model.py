"""The reference model by itself: its invariants hold on random walks, and it gives the results of the documents' examples."""

from __future__ import annotations

from .calls import Advance, Claim, Enqueue, Join, NewTask, Open, Submit, SubmitItem, Take
from .config import Config
from .model import Model
from .walk import walk
from .world import ModelDriver


def test_model_keeps_its_invariants_on_random_walks() -> None:
    calls, lives = walk(ModelDriver, seed=1, steps=8_000)
    assert calls >= 8_000
    assert lives > 10


def fresh(config: Config) -> Model:
    """A model of a new run."""
    model = Model()
    model.apply(Open("token0001", config), 1)
    return model


def test_capacity_of_the_worked_case_is_twelve() -> None:
    # Given: S=2, B=4, C large, at version 268 with nothing left.
    model = fresh(Config(consumer_batch_size=4, max_staleness=2, max_concurrent_rollouts=10_000))
    for version in range(268):
        model.apply(Advance("token0001", version + 1, step=version, allow_empty=True), 1)
    # Then
    assert model.run is not None
    assert model.run.accepted_count() == 1072
    assert model.run.capacity() == 12


def test_small_batches_do_not_make_capacity_drift() -> None:
    # Given: S=2, B=16 and half of each batch filtered out.
    token = "token0001"
    model = fresh(Config(consumer_batch_size=16, max_staleness=2, max_concurrent_rollouts=10_000))
    assert model.run is not None
    session = model.apply(Join("w", "n", 10**9), 1)["session"]
    for version in range(5):
        tasks = tuple(NewTask(f"{version}/{i}", b"") for i in range(8))
        number = 3 * version
        # When
        model.apply(Enqueue(token, number + 1, tasks=tasks), 1)
        claimed = model.apply(Claim(session, version + 1, 8, "x"), 1)["attempts"]
        model.apply(Submit(tuple(SubmitItem(each["id"]) for each in claimed)), 1)
        digest = model.apply(Take(token, number + 2, step=version, n=8), 1)["digest"]
        advanced = model.apply(Advance(token, number + 3, step=version, digest=digest), 1)
        # Then
        assert advanced == {"version": version + 1, "size": 8}
        assert model.run.capacity() == 48
