"""When chaos strikes, on a simulated clock and with processes that only take notes."""

from typing import cast

import pytest

from broker.demo.chaos import Chaos
from broker.demo.options import Chaos as ChaosKind
from broker.demo.options import DemoOptions
from broker.demo.processes import Child, Processes
from broker.demo.referee import Referee


class FakeChild:
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self._notes = notes

    def freeze(self) -> None:
        self._notes.append(f"freeze {self.name}")

    def thaw(self) -> None:
        self._notes.append(f"thaw {self.name}")

    def end(self, within_s: float = 0.0) -> list[str]:
        assert within_s == 0
        self._notes.append(f"kill {self.name}")
        return [f"last words of {self.name}"]

    def lines(self) -> list[str]:
        return []


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
    """Fake processes that note what chaos did to them and said; time runs in tenths of a second."""

    def __init__(self, kind: ChaosKind | None, log: FakeLog | None = None, **options: int) -> None:
        self.notes: list[str] = []
        self.said: list[tuple[float, str]] = []
        self.processes = Processes(3, lambda name: cast("Child", FakeChild(name, self.notes)))
        self.chaos = Chaos(DemoOptions(chaos=kind, **options), self.processes, cast("Referee", log or FakeLog()))

    def act(self, now: float, version: int = 1) -> bool:
        """Lets chaos act. Returns whether it reported an action."""
        before = len(self.chaos.deeds)
        self.chaos.act(now, version)
        self.said += [(now, deed) for deed in self.chaos.deeds[before:]]
        return len(self.chaos.deeds) > before

    def run(self, seconds: float, since: float = 0.0) -> None:
        for tenth in range(round(since * 10), round(seconds * 10)):
            self.act(tenth / 10)

    @property
    def deeds(self) -> list[str]:
        return [note.split()[0] for note in self.notes]


def test_workers_are_killed_and_frozen_in_turns() -> None:
    stage = Stage("workers")
    stage.run(60)
    assert stage.deeds[:8] == ["kill", "freeze", "thaw", "kill", "kill", "freeze", "thaw", "kill"]
    assert stage.processes.workers_killed == stage.deeds.count("kill") >= 10
    assert len(stage.processes.workers) == 3
    assert stage.said[0][0] >= 1.0


def test_frozen_worker_outlasts_its_lease_and_is_killed_after_it_was_thawed() -> None:
    stage = Stage("workers")
    stage.run(20)
    moments = {text.split()[0]: (at, text) for at, text in reversed(stage.said) if not text.startswith("killed")}
    froze, thawed = moments["froze"], moments["thawed"]
    assert thawed[0] - froze[0] > 2.0
    name = froze[1].split()[1]
    assert stage.notes.index(f"freeze {name}") < stage.notes.index(f"thaw {name}") < stage.notes.index(f"kill {name}")


def test_worker_that_holds_nothing_is_let_go_and_another_one_frozen() -> None:
    log = FakeLog(held=0)
    stage = Stage("workers", log)
    for tenth in range(100):
        stage.act(tenth / 10)
        log.held = int("thaw" in " ".join(stage.notes))
    assert stage.deeds[1:5] == ["freeze", "thaw", "freeze", "thaw"]


def test_next_worker_is_left_alone_until_the_replacement_has_joined() -> None:
    log = FakeLog(joined=False)
    stage = Stage("workers", log)
    stage.run(15)
    assert stage.deeds == ["kill"]
    log.joined = True
    stage.run(30, since=15)
    assert stage.processes.workers_killed >= 2


def test_replacement_that_never_joins_does_not_stop_chaos() -> None:
    stage = Stage("workers", FakeLog(joined=False))
    stage.run(120)
    assert stage.processes.workers_killed >= 3


def test_workers_that_never_hold_anything_do_not_stop_chaos() -> None:
    stage = Stage("workers", FakeLog(held=0))
    stage.run(60)
    assert stage.processes.workers_killed >= 8


@pytest.mark.parametrize("seed", range(20))
def test_trainer_is_killed_at_least_three_times_in_sixty_steps(seed: int) -> None:
    stage = Stage("trainer", seed=seed)
    for tenth in range(600):
        stage.act(tenth / 10, version=tenth // 10)
    assert 3 <= stage.processes.trainers_killed <= 6


def test_trainer_is_killed_in_each_part_of_a_long_run() -> None:
    stage = Stage("trainer", steps=1000)
    at = [version for version in range(1000) if stage.act(float(version), version)]
    assert all(any(part <= version < part + 50 for version in at) for part in range(0, 800, 50))


def test_run_of_one_step_is_over_before_long() -> None:
    stage = Stage("trainer", steps=1)
    stage.run(10)
    assert stage.processes.trainers_killed < 10


def test_replaced_trainer_is_still_heard() -> None:
    stage = Stage(None)
    before = stage.processes.trainer
    stage.processes.replace_trainer()
    assert stage.notes == ["kill trainer"]
    assert stage.processes.trainer is not before
    assert stage.processes.lines() == ["last words of trainer"]
    assert stage.processes.lines() == []


@pytest.mark.parametrize(
    ("kind", "workers", "trainer"),
    [(None, False, False), ("workers", True, False), ("trainer", False, True), ("all", True, True)],
)
def test_only_those_asked_for_are_killed(kind: ChaosKind | None, workers: bool, trainer: bool) -> None:
    stage = Stage(kind)
    for tenth in range(600):
        stage.act(tenth / 10, version=tenth // 10)
    assert (stage.processes.workers_killed > 0, stage.processes.trainers_killed > 0) == (workers, trainer)


def test_nothing_happens_before_the_first_version() -> None:
    stage = Stage("all")
    for tenth in range(600):
        stage.act(tenth / 10, version=0)
    assert stage.notes == []
