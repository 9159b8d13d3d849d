"""`install(pull=True)` on a package of AReaL's shape: batches, versions, checkpoints, weights, and what is refused."""

from __future__ import annotations

import asyncio
import importlib
import random
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from broker.errors import BadArgument, CodecError, Fenced, WorkerFault
from broker.integrations import areal
from broker.integrations.areal.pull.contents import packed, unpacked
from broker.integrations.areal.pull.rollouts import Work
from broker.operator import Operator
from broker.values.attempt import Attempt
from broker.values.policy import Policy
from tests.integrations.areal import test_install
from tests.integrations.areal.test_install import Shape
from tests.threads import InThread
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

C, B, S = 6, 4, 1
HERE = __name__

version, shape = test_install.version, test_install.shape


class Doubled:
    """Doubles the prompt's number, and rejects every seventh."""

    def __init__(self, pause_s: float = 0.01) -> None:
        self._pause_s = pause_s

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> dict[str, Any] | None:
        at = engine.get_version()
        await asyncio.sleep(random.uniform(0, 2 * self._pause_s))
        return None if data["x"] % 7 == 6 else {"x": np.array([data["x"]]), "double": 2 * data["x"], "version": at}


class FailsOnce(Doubled):
    """Fails the first time that it gets a prompt, with each third prompt."""

    met: ClassVar[set[int]] = set()

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> dict[str, Any] | None:
        if data["x"] % 3 == 0 and data["x"] not in self.met:
            self.met.add(data["x"])
            raise RuntimeError("the engine is gone")
        return await super().arun_episode(engine, data)


class Loader:
    """Batches of numbered prompts, with a position."""

    batch_size = B

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        while True:
            self.position += 1
            yield [{"x": B * (self.position - 1) + i} for i in range(B)]


class Training:
    """One life of a training: a controller, a loader, AReaL's checkpoints."""

    def __init__(self, shape: Shape, folder: Path, workflow: str = "Doubled", *, pulls: bool = True) -> None:
        self.loader, self._workflow = Loader(), f"{HERE}.{workflow}"
        self.controller = shape.controller("rollout", numbers=(C, B, S))
        if not pulls:  # the controller's own worker does nothing
            self.controller.engines["rollout/0"].submit = lambda **_: -1
        recovery: Any = importlib.import_module("areal.utils.recover")
        self.handler = recovery.RecoverHandler(folder)
        self._meta: Any = importlib.import_module("areal.api").WeightUpdateMeta
        self._folder = folder
        self.handler.load(None, self.loader, inference_engine=self.controller)

    def batch(self, **more: Any) -> list[dict[str, Any]]:
        return self.controller.prepare_batch(self.loader, workflow=self._workflow, workflow_kwargs={}, **more)

    def weights(self, version: int) -> Path:
        return self._folder / f"weight_update_v{version}"

    def update(self, *, dump: bool = True) -> None:
        """What a step ends with."""
        before = self.controller.get_version()
        goes_on: threading.Event = self.controller.engines["rollout/0"].goes_on
        goes_on.clear()
        self.weights(before + 1).mkdir(parents=True, exist_ok=True)
        (self.weights(before + 1) / "weights").write_text(f"weights {before + 1}")
        meta = self._meta("disk", str(self.weights(before + 1)), before + 1, gen_allocation=object())
        asyncio.run(self.controller.update_weights_from_disk(meta))
        self.controller.set_version(before + 1)
        goes_on.set()
        if dump:
            self.handler.dump(None, SimpleNamespace(global_step=before), self.loader)

    def steps(self, n: int) -> list[int]:
        """Trains n steps, and returns the prompts of all."""
        trained: list[int] = []
        for _ in range(n):
            batch = self.batch()
            assert len(batch) == B
            assert all(item["double"] == 2 * int(item["x"][0]) for item in batch)
            assert all(self.controller.get_version() - item["version"] <= S for item in batch)
            trained += [int(item["x"][0]) for item in batch]
            self.update()
        return trained


@pytest.fixture
def begin(shape: Shape, areal_url: str, run: str, tmp_path: Path) -> Generator[Callable[..., Training]]:
    """Begins a life of the training of the test's run."""
    with areal.install(areal_url, run, lease_s=1.5, pull=True):
        yield lambda **how: Training(shape, tmp_path, **how)


@pytest.fixture
def operator(areal_url: str) -> Generator[Operator]:
    with Operator(areal_url) as made:
        yield made


def late_worker(url: str, run: str) -> tuple[Any, InThread]:
    """An engine that the controller did not make, at work."""
    engine: Any = importlib.import_module("areal.infra.engine").Engine()
    return engine, InThread(lambda: areal.pull_rollouts(engine, url, run, concurrency=2))


def test_each_step_gets_a_whole_batch_and_no_prompt_twice(
    begin: Callable[..., Training], operator: Operator, run: str
) -> None:
    trained = begin().steps(6)
    assert len(set(trained)) == 6 * B
    assert all(x % 7 != 6 for x in trained)
    stats = operator.stats(run)
    assert (stats.version, stats.consumed) == (6, 6 * B)
    assert stats.rejected
    assert stats.config.max_concurrent_rollouts == C
    assert stats.config.max_staleness == stats.config.staleness_limit == S  # AReaL has one bound
    assert stats.config.lease_ms == 1500


def test_the_next_life_goes_on_from_areals_checkpoint_with_the_same_prompts(
    begin: Callable[..., Training], operator: Operator, run: str
) -> None:
    first = begin()
    trained = first.steps(4)
    lost = {int(item["x"][0]) for item in first.batch()}  # of a step that is in no checkpoint
    first.update(dump=False)
    second = begin()
    assert second.controller.get_version() == 4
    assert operator.stats(run).version == 4
    again = second.steps(2)
    assert lost <= set(again)  # they were ready, with at most a batch of other prompts
    trained += again + second.steps(3)
    assert len(set(trained)) == len(trained)
    stats = operator.stats(run)
    held = stats.consumed + stats.ready + stats.running + stats.pending + stats.delayed + stats.rejected
    assert held == stats.totals["enqueued"]
    with pytest.raises(Fenced):
        first.batch()


def test_a_life_without_a_checkpoint_starts_over_with_the_same_prompts(
    begin: Callable[..., Training], operator: Operator, run: str
) -> None:
    first = begin()
    lost = {int(item["x"][0]) for item in first.batch()}
    first.update(dump=False)
    second = begin()
    assert second.controller.get_version() == operator.stats(run).version == 0
    assert lost <= set(second.steps(2))  # they were ready, with at most a batch of other prompts
    assert operator.stats(run).totals["enqueued"] == B * second.loader.position


def test_a_checkpoint_that_only_areal_has_written_is_completed(
    begin: Callable[..., Training], operator: Operator, run: str, tmp_path: Path
) -> None:
    trained = begin().steps(3)
    for file in tmp_path.glob("e/t/broker.json*v3*"):
        file.unlink()
    second = begin()
    assert operator.stats(run).version == 3
    second.batch()  # enqueues prompts, and is in no checkpoint
    trained += begin().steps(3)
    assert len(set(trained)) == len(trained)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_life_that_draws_no_prompt_notes_where_the_loader_stands(
    begin: Callable[..., Training], tmp_path: Path, *, is_whole: bool
) -> None:
    """The life before drew many in a step that is in no checkpoint. Each prompt has its number by the loader's position."""
    first = begin()
    trained = first.steps(2)
    for _ in range(6):
        first.controller.staleness_manager._enqueue(first.loader, Work(f"{HERE}.Doubled", {}, None, 1))
    second = begin()
    at = second.loader.position
    trained += second.steps(1)
    assert second.loader.position == at
    if not is_whole:  # the training was killed before the broker's part was written
        for file in tmp_path.glob("e/t/broker.json*v3*"):
            file.unlink()
    trained += begin().steps(9)
    assert len(set(trained)) == len(trained)


def test_a_workflow_that_fails_is_tried_again(begin: Callable[..., Training], operator: Operator, run: str) -> None:
    FailsOnce.met.clear()
    training = begin(workflow="FailsOnce")
    trained = training.steps(2)
    wait_until(lambda: not operator.stats(run).delayed, "the pauses before a retry are over", 20)
    trained += training.steps(3)
    assert len(set(trained)) == 5 * B
    assert FailsOnce.met & set(trained)
    assert not operator.stats(run).dead


def test_a_worker_that_joins_late_loads_the_newest_weights(
    begin: Callable[..., Training], areal_url: str, run: str
) -> None:
    training = begin()
    training.steps(3)
    training.controller.engines["rollout/0"].initialized = False  # the controller's own worker ends
    engine, working = late_worker(areal_url, run)
    training.steps(2)
    engine.initialized = False
    working.result()
    # AReaL's trainer published each while it was at the version before.
    assert all(words == f"weights {at + 1}" for at, words in engine.loaded)
    assert engine.loaded[0][0] >= 2
    assert len(engine.loaded) < 4
    manager = engine.workflow_executor.staleness_manager
    assert manager.max_staleness == manager.max_concurrent_rollouts == int(1e12)


def test_only_folders_of_weights_that_a_worker_may_load_are_kept(begin: Callable[..., Training]) -> None:
    training = begin()
    training.steps(4)
    assert [version for version in range(6) if training.weights(version).exists()] == [3, 4]
    training.controller.destroy()
    assert not training.weights(4).exists()


def test_weights_in_no_folder_are_left_to_areals_own_workers(shape: Shape) -> None:
    assert shape
    weights: Any = importlib.import_module("broker.integrations.areal.pull.weights")
    engine: Any = importlib.import_module("areal.infra.engine").Engine()
    loaded = weights.LoadedWeights(engine)

    def attempt(version: int) -> Attempt:
        policy = Policy(version=version, epoch="1.a")
        return Attempt("id", "run", "task", 0, None, version, policy, 1, 0, weights.PublishedWeights().blob(version))

    loaded.load(attempt(0))  # what the engine was started with
    with pytest.raises(WorkerFault, match="weight_update_mode=disk"):
        loaded.load(attempt(1))
    assert loaded.policy == attempt(0).policy
    assert not engine.loaded


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda t: t.batch(dynamic_bs=True), "dynamic_bs"),
        (lambda t: t.controller.submit({"x": 1}), "prepare_batch"),
        (lambda t: t.controller.wait(1), "prepare_batch"),
        (lambda t: t.controller.rollout_batch([]), "prepare_batch"),
        (lambda t: (t.batch(), t.batch()), "set_version"),
        (lambda t: (t.batch(), t.controller.set_version(2)), "cannot go to version 2"),
        (lambda t: (t.batch(), t.controller.staleness_manager.on_version_recovered(3)), "began at version 0"),
    ],
)
def test_what_pulled_rollouts_cannot_do_is_refused(
    begin: Callable[..., Training], call: Callable[[Training], object], says: str
) -> None:
    with pytest.raises(BadArgument, match=says):
        call(begin())


def test_ranks_are_refused_and_other_roles_are_pushed(begin: Callable[..., Training], shape: Shape) -> None:
    assert begin
    with pytest.raises(BadArgument, match="not for Provider"):
        shape.executor(2)
    teacher = shape.controller("teacher", numbers=(C, B, S))
    assert teacher.prepare_batch(Loader(), "any") == ["pushed"]
    assert teacher.submit({}) == 7


def test_the_numbers_are_those_of_the_run(begin: Callable[..., Training]) -> None:
    training = begin()
    manager = training.controller.staleness_manager
    assert manager.get_capacity() == min(C, (S + 1) * B)
    training.batch()
    manager.on_rollout_submitted()  # counted by the run itself
    assert manager.get_stats().accepted >= B
    assert manager.get_pending_limit() == (S + 1) * B


def test_uninstalling_puts_areals_methods_back_and_a_controller_at_work_goes_on(
    shape: Shape, areal_url: str, run: str, tmp_path: Path
) -> None:
    handler: Any = importlib.import_module("areal.utils.recover").RecoverHandler
    before = handler.load, handler.dump
    with areal.install(areal_url, run, lease_s=1.5, pull=True) as installation:
        assert any(name.endswith("RecoverHandler.dump") for name in installation.replaced)
        training = Training(shape, tmp_path)
    assert (handler.load, handler.dump) == before
    assert len(training.batch()) == B
    assert shape.controller("rollout").prepare_batch(Loader(), "any") == ["pushed"]


def test_a_release_that_lacks_what_is_called_is_refused(
    shape: Shape, areal_url: str, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(shape.controllers.RolloutController, "_engine_name")
    with pytest.raises(BadArgument, match=r"has no .*_engine_name"):
        areal.install(areal_url, run, pull=True)
    areal.install(areal_url, run).uninstall()


def test_a_prompt_has_one_name_in_its_place() -> None:
    work = Work("w.W", {"t": 1.0}, None, 2)
    one = work.task(5, {"x": np.arange(3), "text": "a"})
    assert work.task(5, {"x": np.arange(3), "text": "a"}).id == one.id
    assert Work("w.W", {"t": 2.0}, None, 2).task(5, {"x": np.arange(3), "text": "a"}).id == one.id
    others = {work.task(6, {"x": np.arange(3), "text": "a"}).id, work.task(5, {"x": np.arange(4), "text": "a"}).id}
    assert len(others | {one.id}) == 3


def test_what_travels_comes_back_as_it_was(shape: Shape) -> None:
    assert shape
    array = np.arange(6).reshape(2, 3)
    back = unpacked(packed({"a": [1, 2.5, None, "t", b"b", True], "n": array, "c": (1 + 2j,)}))
    assert back["a"] == [1, 2.5, None, "t", b"b", True]
    assert back["n"].tolist() == array.tolist()
    back["n"][0, 0] = 9  # it can be changed
    assert back["c"] == [1 + 2j]
    with pytest.raises(CodecError, match="Ray"):
        packed({"ref": object()})
    with pytest.raises(CodecError, match="Ray"):
        unpacked({"areal:kind": "areal", "value": [{"type": "ray_object_ref"}]})


def test_tensors_come_back_with_their_types() -> None:
    torch = pytest.importorskip("torch")
    given = {
        "half": torch.tensor([[1.5, 2.0]], dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
        "one": torch.tensor(3),
        "none": torch.zeros(0, 4),
    }
    back = unpacked(packed(given))
    for name, tensor in given.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert torch.equal(back[name], tensor)
