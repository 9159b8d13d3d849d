"""The simulator of `broker plan` decides what the reference model decides, event after event."""

from __future__ import annotations

import math
from typing import Any

import pytest

from broker import RunConfig
from broker.planning.lengths import lognormal
from broker.planning.setting import Mode, Setting
from broker.planning.simulation import Simulation
from tests.properties.calls import Advance, Claim, Enqueue, Join, NewTask, Open, Renew, Submit, SubmitItem, Take
from tests.properties.config import Config
from tests.properties.model import Model
from tests.properties.waiting import Due, bound, room


class Follower:
    """Makes the calls that a simulation's events stand for, and compares what the model answers."""

    def __init__(self, setting: Setting) -> None:
        self.simulation = Simulation(setting, self.observe)
        self.setting, self.model, self.number = setting, Model(), 0
        config = setting.config
        self.model.apply(
            Open(
                "token",
                Config(
                    consumer_batch_size=config.consumer_batch_size,
                    max_staleness=config.max_staleness,
                    staleness_limit=config.staleness_limit,
                    max_concurrent_rollouts=config.concurrency,
                    max_concurrent_samples=config.max_concurrent_samples,
                    on_stale=config.on_stale,
                    max_stale_requeues=config.max_stale_requeues,
                    max_wait_ms=config.max_wait_ms,
                ),
            ),
            0,
        )
        self.sessions = [
            self.model.apply(Join(f"w{place}", "n", 10**12), 0)["session"] for place in range(setting.places)
        ]
        self.claims = [0] * setting.places
        self.held: dict[int, str] = {}  # attempt by place
        self.enqueued = 0
        self.seen: set[str] = set()

    def numbered(self, kind: Any, **given: Any) -> Any:
        self.number += 1
        return self.model.apply(kind(token="token", number=self.number, **given), self.now)

    def enqueue(self, tasks: int) -> None:
        samples, enough = self.setting.samples, self.setting.enough
        new = tuple(
            NewTask(f"{i}", b"", samples=samples, min_samples=enough or samples, enough=enough)
            for i in range(self.enqueued, tasks)
        )
        self.enqueued = tasks
        self.numbered(Enqueue, tasks=new)

    def observe(self, what: str, now_s: float, of: tuple[int, ...]) -> None:
        self.now = math.ceil(now_s * 1000)
        self.seen.add(what)
        if self.enqueued < self.simulation.enqueued + 5:
            self.enqueue(self.enqueued + 20)
        match what:
            case "claimed":
                place, order, slot = of
                (attempt,) = self.claim(place)
                assert (attempt["task"], attempt["slot"]) == (f"{order}", slot)
                assert attempt["version"] == self.simulation.version
                self.held[place] = attempt["id"]
            case "refused":
                assert self.claim(of[0]) == []
            case "renew":
                call = Renew(self.sessions[of[0]], self.claims[of[0]], (self.held[of[0]],))
                assert self.model.apply(call, self.now)["abandon"] == {self.held[of[0]]: "stale"}
            case "took":
                pass
            case "submit":
                answer = self.model.apply(Submit((SubmitItem(self.held[of[0]], data=b"x"),)), self.now)["answers"][0]
                assert answer["answer"] in ("accepted", "stale")
            case "take":
                self.taken = self.numbered(Take, step=of[0], n=self.setting.config.batch_size, limit=1000)
            case "sealed":
                step = self.simulation.step_next
                assert self.taken["sealed"]
                assert self.model.run is not None
                assert set(self.model.run.batches[step].tasks) == {f"{order}" for order in of}
            case "advance":
                answer = self.numbered(Advance, step=of[0] - 1, digest=self.taken["digest"])
                assert "error" not in answer
            case _:
                raise AssertionError(what)
        if what in ("claimed", "refused"):
            self.compare()

    def claim(self, place: int) -> list[dict[str, Any]]:
        self.claims[place] += 1
        return self.model.apply(Claim(self.sessions[place], self.claims[place], 1, "r"), self.now)["attempts"]

    def compare(self) -> None:
        run, simulation = self.model.run, self.simulation
        assert run is not None
        assert (run.version, run.step_next) == (simulation.version, simulation.step_next)
        assert run.capacity() == simulation.capacity
        assert run.accepted_count() == simulation.accepted
        assert {task.id for task in run.running()} == {f"{order}" for order in simulation.running}
        assert {task.id for task in run.ready()} == {f"{order}" for _, _, order in simulation.ready}


CASES: dict[str, dict[str, Any]] = {
    "requeue": {"s": 1, "d": 2},
    "the limit is S": {"s": 1, "d": 1, "heartbeat_s": 0.0},
    "few requeues": {"s": 1, "d": 1, "max_stale_requeues": 1},
    "drop": {"s": 2, "d": 2, "mode": "drop"},
    "keep": {"s": 1, "d": 1, "mode": "keep"},
    "concurrency": {"s": 2, "d": 4, "max_concurrent_rollouts": 5},
    "samples at once": {"s": 2, "d": 2, "samples": 3, "max_concurrent_samples": 7},
    "groups": {"s": 1, "d": 2, "samples": 3},
    "enough": {"s": 1, "d": 1, "samples": 4, "enough": 3},
    "wait": {"s": 2, "d": 2, "mode": "wait", "max_wait_ms": 10**9},
    "wait of groups": {"s": 1, "d": 3, "mode": "wait", "samples": 3, "max_wait_ms": 10**9},
    "a wait that ends": {"s": 2, "d": 3, "mode": "wait", "max_wait_ms": 90_000},
    "a wait that often ends": {"s": 1, "d": 1, "mode": "wait", "max_wait_ms": 30_000, "max_stale_requeues": 2},
    "synchronous": {"s": 0, "d": 0},
    "lengths change": {"s": 1, "d": 1, "redraws": True},
}


def setting(*, s: int, d: int, mode: Mode = "requeue", sigma: float = 1.4, **given: Any) -> Setting:
    of_config = {name: given.pop(name) for name in list(given) if name in RunConfig.model_fields}
    config = RunConfig(
        consumer_batch_size=4,
        max_staleness=s,
        staleness_limit=d,
        on_stale=mode,
        **({"max_concurrent_rollouts": 100} | of_config),
    )
    return Setting(config, lognormal(60, sigma), **({"train_s": 20.0, "places": 12, "steps": 20, "seed": 3} | given))


@pytest.mark.parametrize("name", CASES)
def test_the_simulator_agrees_with_the_reference_model_at_each_event(name: str) -> None:
    follower = Follower(setting(**CASES[name]))
    outcome = follower.simulation.run()
    assert outcome.steps == 20
    assert follower.model.run is not None
    totals = follower.model.run.totals
    assert (totals.get("stale", 0) > 0) == (name not in ("keep", "wait", "wait of groups", "synchronous"))
    assert totals.get("rejected", 0) == outcome.given_up
    # The model measures in whole milliseconds.
    lost_ms = sum(ms for name, ms in follower.model.run.lengths.items() if name.startswith("ms_lost_"))
    late_ms = follower.model.run.lengths.get("ms_lost_late", 0)
    assert (lost_ms - late_ms) / 1000 == pytest.approx(outcome.wasted_s, abs=1.0, rel=0.001)
    assert follower.seen >= {"claimed", "submit", "take", "sealed", "advance"}


class Waiting:
    """Compares a simulation of `wait` with the rule that the search over small worlds has proved."""

    def __init__(self, setting: Setting) -> None:
        self.simulation, self.setting = Simulation(setting, self.observe), setting
        self.took = self.kept = 0

    def due(self) -> Due:
        simulation, config = self.simulation, self.setting.config
        assert config.oldest_trained is not None
        oldest = [task.oldest for task in simulation.running.values()] + [each for each, _, _ in simulation.ready]
        size = len(simulation.batch)
        return Due(
            simulation.step_next, simulation.version, config.batch_size, config.oldest_trained, size, tuple(oldest)
        )

    def observe(self, what: str, now_s: float, of: tuple[int, ...]) -> None:
        simulation, due = self.simulation, self.due()
        if what == "took":
            self.took += 1
            newest = bound(due)
            assert newest is None or simulation.ready[0][0] <= newest
        elif what == "claimed":
            assert room(due, due.version) >= 0
        elif what == "refused" and simulation.ready and simulation.step_next == simulation.version:
            self.kept += 1
            newest = bound(due)
            assert newest is not None
            assert simulation.ready[0][0] > newest


@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_simulated_wait_keeps_the_places_that_the_rule_keeps(d: int, samples: int) -> None:
    follower = Waiting(setting(s=2, d=d, mode="wait", samples=samples, max_wait_ms=10**9, steps=60))
    assert follower.simulation.run().wasted_s == 0.0
    assert follower.took >= 60 * 4
    assert follower.kept > 5


@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_simulated_wait_throws_nothing_away_and_trains_nothing_too_old(d: int, samples: int) -> None:
    outcome = Simulation(setting(s=2, d=d, mode="wait", samples=samples, max_wait_ms=10**9)).run()
    assert (outcome.wasted_s, outcome.given_up, outcome.steps) == (0.0, 0, 20)
    assert outcome.worst_staleness == d
    waits_less = Simulation(setting(s=2, d=d, mode="wait", samples=samples, max_wait_ms=100_000)).run()
    assert waits_less.wasted_s > 0.0
    assert waits_less.worst_staleness <= d
