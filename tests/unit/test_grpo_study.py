"""The study of the GRPO example measures what the lines of its trainings say."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from examples.grpo import study

LINES: list[dict[str, Any]] = [
    {
        "step": step,
        "reward": step / 10,
        "waited_s": 1.0,
        "published_s": 0.5,
        "in_broker_s": 0.05,
        "trained_s": 0.5,
        "at": 100.0 + 2 * step,
    }
    for step in range(1, 12)
]
GENERATOR = {"tokens": 4_000, "seconds": {"claim": 3.0, "generate": 6.0, "submit": 1.0, "load": 1.0}}


def a_run(staleness: int, kills: float = 0.0) -> dict[str, Any]:
    measured = study._measured(LINES, [GENERATOR, GENERATOR])
    return {"staleness": staleness, "seed": 0, "kill_every_s": kills, "curve": LINES, "gpu_busy": None} | measured


def test_shares_are_of_the_time_after_the_first_step() -> None:
    measured = study._measured(LINES, [GENERATOR, GENERATOR])
    assert (measured["steps"], measured["steps_trained"], measured["wall_s"]) == (11, 11, 20.0)
    assert measured["learned_s"] == 18.0, "the mean of steps 6 to 10 is 0.8"
    assert measured["tokens_per_s"] == 400.0
    assert measured["trainer_waits"] == pytest.approx(0.5)
    assert measured["in_broker"] == pytest.approx(0.025)
    assert measured["generators_wait"] == pytest.approx(0.2), "loading is no waiting"
    assert measured["generators_submit"] == pytest.approx(0.1)


def test_the_table_has_a_row_for_each_bound_and_says_what_never_learned() -> None:
    slow = a_run(4) | {"learned_s": None}
    rows = study.table([a_run(0), a_run(0, kills=10.0), a_run(4), slow]).splitlines()
    assert [row.split(" | ")[:3] for row in rows[2:]] == [
        ["| 0", "never", "1"],
        ["| 4", "never", "2"],
        ["| 0", "10 s", "1"],
    ]
    assert "18.0 (1 of 2)" in rows[3]
    assert len({row.count("|") for row in rows}) == 1


def test_the_plot_has_a_line_for_each_training() -> None:
    drawn = study.plot([a_run(0), a_run(4), a_run(0, kills=10.0)])
    assert drawn.count("<polyline") == 3
    assert drawn.count("stroke-dasharray") == 1
    assert "S = 4" in drawn


def test_no_training_is_begun_that_may_end_too_late(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, float]] = []
    clock = iter(range(0, 10_000, 40))

    def train(
        arguments: list[str], staleness: int, seed: int, kills: float, limit_s: float, gpu: int | None
    ) -> dict[str, Any]:
        assert arguments == ["--size", "85m"]
        assert gpu is None
        asked.append((staleness, seed, kills))
        return a_run(staleness, kills) | {"seed": seed}

    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study.time, "monotonic", lambda: next(clock))
    words = ["--out", str(tmp_path), "--staleness", "0", "1", "--seeds", "0", "1", "--kills", "0", "--size", "85m"]
    study.main([*words, "--limit-s", "300"])
    assert 0 < len(asked) < 4
    study.main([*words, "--limit-s", "9000"])
    assert sorted(asked) == [(0, 0, 0.0), (0, 1, 0.0), (1, 0, 0.0), (1, 1, 0.0)]
    assert {path.name for path in tmp_path.iterdir()} == {"study.json", "table.md", "plot.svg"}


def test_each_gpu_has_a_training_of_its_own(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=30)
    used: list[tuple[int, int | None]] = []

    def train(arguments: list[str], staleness: int, seed: int, kills: float, limit_s: float, gpu: Any) -> Any:
        both.wait()
        used.append((seed, gpu))
        return a_run(staleness, kills) | {"seed": seed}

    monkeypatch.setattr(study, "train", train)
    words = ["--out", str(tmp_path), "--staleness", "0", "--seeds", "0", "1", "2", "3", "--kills", "0", "--gpus", "2"]
    study.main(words)
    assert sorted(seed for seed, _ in used) == [0, 1, 2, 3]
    assert {gpu for _, gpu in used} == {0, 1}
