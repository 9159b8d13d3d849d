"""When chaos strikes, on a simulated clock and with processes that only take notes."""

from random import Random
from typing import cast

import pytest

from broker.demo.chaos import Chaos, TrainerChaos, WorkerChaos
from broker.demo.children import Child
from broker.demo.crew import Crew, Post
from broker.demo.options import Chaos as ChaosKind
from broker.demo.options import DemoOptions


class FakeChild:
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self._notes = notes

    def freeze(self) -> None:
        self._notes.append(f"freeze {self.name}")

    def thaw(self) -> None:
        self._notes.append(f"thaw {self.name}")

    def kill(self) -> None:
        self._notes.append(f"kill {self.name}")

    def reap(self, timeout_s: float) -> None:
        assert timeout_s == 0

    def last_lines(self) -> list[str]:
        return [f"last words of {self.name}"]


class FakeLog:
    """A log in which every worker holds `held` slots, and has joined or not."""

    def __init__(self, held: int = 1, *, joined: bool = True) -> None:
        self.held = held
        self.joined = joined

    def held_by(self, worker: str) -> int:
        assert worker.startswith("w")
        return self.held

    def has_joined(self, worker: str) -> bool:
        assert worker.startswith("w")
        return self.joined


class Stage:
    """A crew, a trainer, and what was done to them; time runs in tenths of a second."""

    def __init__(self, workers: int = 3) -> None:
        self.notes: list[str] = []
        self.trainers = 0
        self.crew = Crew(workers, lambda name: cast("Child", FakeChild(name, self.notes)))
        self.post = Post(self._next_trainer)

    def _next_trainer(self) -> Child:
        self.trainers += 1
        return cast("Child", FakeChild(f"t{self.trainers}", self.notes))

    def run(self, chaos: WorkerChaos, seconds: float) -> list[tuple[float, str]]:
        return [(t / 10, said) for t in range(round(seconds * 10)) for said in chaos.act(t / 10)]


def test_workers_are_killed_and_frozen_in_turns() -> None:
    stage = Stage()
    said = stage.run(WorkerChaos(stage.crew, FakeLog(), 2.0, Random(0)), 60)
    deeds = [note.split()[0] for note in stage.notes]
    assert deeds[:8] == ["kill", "freeze", "thaw", "kill", "kill", "freeze", "thaw", "kill"]
    assert stage.crew.killed == deeds.count("kill") >= 10
    assert len(stage.crew.workers) == 3
    assert said[0][0] >= 1.0


def test_frozen_worker_outlasts_its_lease_and_is_killed_after_it_was_thawed() -> None:
    stage = Stage()
    said = stage.run(WorkerChaos(stage.crew, FakeLog(), 2.0, Random(0)), 20)
    moments = {text.split()[0]: (at, text) for at, text in reversed(said) if not text.startswith("killed")}
    froze, thawed = moments["froze"], moments["thawed"]
    assert thawed[0] - froze[0] > 2.0
    name = froze[1].split()[1]
    assert stage.notes.index(f"freeze {name}") < stage.notes.index(f"thaw {name}") < stage.notes.index(f"kill {name}")


def test_worker_that_holds_nothing_is_let_go_and_another_one_frozen() -> None:
    stage = Stage()
    log = FakeLog(held=0)
    chaos = WorkerChaos(stage.crew, log, 2.0, Random(0))
    for tenth in range(100):
        chaos.act(tenth / 10)
        log.held = int("thaw" in " ".join(stage.notes))
    deeds = [note.split()[0] for note in stage.notes]
    assert deeds[1:5] == ["freeze", "thaw", "freeze", "thaw"]


def test_next_worker_is_left_alone_until_the_replacement_has_joined() -> None:
    stage = Stage()
    log = FakeLog(joined=False)
    chaos = WorkerChaos(stage.crew, log, 2.0, Random(0))
    for tenth in range(150):
        chaos.act(tenth / 10)
    assert [note.split()[0] for note in stage.notes] == ["kill"]
    log.joined = True
    for tenth in range(150, 300):
        chaos.act(tenth / 10)
    assert stage.crew.killed >= 2


def test_replacement_that_never_joins_does_not_stop_chaos() -> None:
    stage = Stage()
    stage.run(WorkerChaos(stage.crew, FakeLog(joined=False), 2.0, Random(0)), 120)
    assert stage.crew.killed >= 3


def test_workers_that_never_hold_anything_do_not_stop_chaos() -> None:
    stage = Stage()
    stage.run(WorkerChaos(stage.crew, FakeLog(held=0), 2.0, Random(0)), 60)
    assert stage.crew.killed >= 8


@pytest.mark.parametrize("seed", range(20))
def test_trainer_is_killed_at_least_three_times_in_sixty_steps(seed: int) -> None:
    stage = Stage()
    chaos = TrainerChaos(stage.post, 60, Random(seed))
    for tenth in range(600):
        chaos.act(tenth / 10, version=tenth // 10)
    assert 3 <= stage.post.killed <= 6


def test_trainer_is_killed_in_each_part_of_a_long_run() -> None:
    stage = Stage()
    chaos = TrainerChaos(stage.post, 1000, Random(0))
    at = [version for version in range(1000) if chaos.act(float(version), version)]
    assert all(any(part <= version < part + 50 for version in at) for part in range(0, 800, 50))


def test_run_of_one_step_is_over_before_long() -> None:
    stage = Stage()
    chaos = TrainerChaos(stage.post, 1, Random(0))
    for tenth in range(100):
        chaos.act(tenth / 10, version=1)
    assert stage.post.killed < 10


def test_replaced_trainer_is_still_heard() -> None:
    stage = Stage()
    stage.post.replace()
    assert stage.notes == ["kill t1"]
    assert stage.trainers == 2


@pytest.mark.parametrize(
    ("kind", "workers", "trainer"),
    [(None, False, False), ("workers", True, False), ("trainer", False, True), ("all", True, True)],
)
def test_only_those_asked_for_are_killed(kind: ChaosKind | None, workers: bool, trainer: bool) -> None:
    stage = Stage()
    chaos = Chaos(DemoOptions(chaos=kind), stage.crew, stage.post, FakeLog())
    for tenth in range(600):
        chaos.act(tenth / 10, version=tenth // 10)
    assert (stage.crew.killed > 0, stage.post.killed > 0) == (workers, trainer)


def test_nothing_happens_before_the_first_version() -> None:
    stage = Stage()
    chaos = Chaos(DemoOptions(chaos="all"), stage.crew, stage.post, FakeLog())
    for tenth in range(600):
        chaos.act(tenth / 10, version=0)
    assert stage.notes == []
