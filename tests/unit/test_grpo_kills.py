"""The GRPO example kills its processes only while training gets on between two kills."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from examples.grpo.__main__ import Kills


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def due_within(kills: Kills, clock: Clock, seconds: float) -> bool:
    until = clock.now_s + seconds
    while clock.now_s < until:
        clock.now_s += 0.1
        if kills.is_due():
            return True
    return False


def test_a_kill_waits_for_a_checkpoint_after_the_one_before_it(tmp_path: Path, clock: Clock) -> None:
    kills = Kills(8.0, tmp_path / "checkpoint", random.Random(0))
    assert not due_within(kills, clock, 100.0), "a slow machine has not made any progress"
    for number in (9, 10, 11):
        (tmp_path / f"checkpoint.{number}.e1-0.v5").touch()
        assert due_within(kills, clock, 8.2)
        assert not due_within(kills, clock, 100.0)


def test_kills_are_so_many_seconds_apart(tmp_path: Path, clock: Clock) -> None:
    kills = Kills(8.0, tmp_path / "checkpoint", random.Random(0))
    for number in range(3):
        (tmp_path / f"checkpoint.{number}.e1-0.v5").touch()
        assert not due_within(kills, clock, 7.8)
        assert due_within(kills, clock, 1.0)


def test_without_the_option_there_are_none(tmp_path: Path, clock: Clock) -> None:
    kills = Kills(0.0, tmp_path / "checkpoint", random.Random(0))
    (tmp_path / "checkpoint.1.e1-0.v5").touch()
    assert not due_within(kills, clock, 100.0)
