"""What the demo's referee judges beside the log: checkpoints, a run that stands still, a log with holes."""

from broker.demo.referee import Referee
from tests.unit.test_judge import GOOD


def judged(text: str) -> Referee:
    referee = Referee(batch_size=1, max_staleness=1)
    for line in text.splitlines():
        kind, *words = line.split()
        referee.feed(kind, words)
    return referee


def test_checkpoint_is_held_against_the_log() -> None:
    referee = judged(GOOD)
    referee.compare(2, {"a", "b"})
    referee.compare(1, {"a"})
    assert referee.violations == []
    assert referee.trained_exactly_once
    referee.compare(2, {"a"})
    referee.compare(1, {"a", "b"})
    assert set(referee.broken) == {"checkpoint"}
    assert not referee.trained_exactly_once


def test_log_with_holes_says_nothing() -> None:
    referee = judged(GOOD)
    assert referee.trained_exactly_once
    referee.missed()
    assert not referee.trained_exactly_once


def test_task_that_a_recovery_forgets_is_not_trained_once() -> None:
    assert not judged(GOOD + "recover 1 2.bb\nrecovered 1 2.bb\n").trained_exactly_once


def test_task_that_is_trained_twice_is_not_trained_once() -> None:
    assert not judged(GOOD + "batch a 2 0\n").trained_exactly_once


def test_slots_held_by_a_worker_are_counted() -> None:
    held = GOOD[: GOOD.index("done a#0.1.r1")]
    assert judged(held).held_by("w1") == 2
    assert judged(held).held_by("w") == 0
    assert judged(GOOD).held_by("w1") == 0
    assert judged(GOOD).has_joined("w1")
    assert not judged(GOOD).has_joined("w3")


def test_run_that_stands_still_is_told_with_what_ended() -> None:
    referee = judged(GOOD)
    referee.stalled(90)
    assert set(referee.broken) == {"progress"}
    assert "90 s" in referee.violations[0]
    assert "1 expired" in referee.violations[0]
