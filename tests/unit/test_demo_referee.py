"""The demo's referee: a history that keeps every rule, and the same with one rule broken."""

from collections.abc import Iterable

import pytest

from broker.demo.referee import Referee

GOOD = """\
open 1.aa
enqueue a
enqueue b
join w1~1.x
start a 1
claim a#0.1.r1 0 1.aa w1~1.x
claim a#1.1.r1 0 1.aa w1~1.x
done a#0.1.r1 0
ended a#1.1.r1 expired
leave w1~1.x expired
claim a#1.2.r2 0 1.aa w2~2.y
done a#1.2.r2 0
ready a
late a#1.1.r1 superseded a#1.2.r2
batch a 0 0
seal 0 1 d0
start b 2
claim b#0.1.r3 0 1.aa w2~2.y
advance 1 1.aa
claim b#1.1.r4 1 1.aa w2~2.y
done b#0.1.r3 0
done b#1.1.r4 1
ready b
batch b 1 0
seal 1 1 d1
advance 2 1.aa
"""

RECOVERY = """\
open 2.bb
recover 1 3.cc
requeue b recovery
recovered 1 3.cc
start b 3
claim b#0.2.r5 1 1.aa w2~2.y
claim b#1.2.r5 1 1.aa w2~2.y
done b#0.2.r5 1
done b#1.2.r5 1
ready b
batch b 1 1
seal 1 1 d2
advance 2 3.cc
"""


def judged(text: str, max_staleness: int = 1) -> Referee:
    referee = Referee(batch_size=1, max_staleness=max_staleness)
    for line in text.splitlines():
        kind, *words = line.split()
        referee.feed(kind, words)
    return referee


def edited(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def rules(referee: Referee) -> set[str]:
    return set(referee.verdict.broken)


def test_good_history_breaks_no_rule() -> None:
    referee = judged(GOOD)
    assert referee.verdict.violations == []
    assert referee.trained_exactly_once
    tally = referee.tally
    assert (tally.version, tally.consumed, tally.duplicates) == (2, 2, 0)
    assert tally.late == {"superseded": 1}
    assert tally.ended == {"expired": 1}
    assert tally.requeued == 1
    assert tally.accepted == 4
    assert tally.staleness == {0: 1, 1: 1}
    assert tally.max_staleness_seen == 1
    assert tally.most_in_use == 2


def test_kinds_without_meaning_for_the_rules_are_passed_over() -> None:
    assert judged(GOOD + "pause paused\nresume -\ncommit 2 0\nsomething new\n").verdict.violations == []


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("duplicate", [("done a#1.2.r2 0", "done a#1.2.r2 0\ndone a#1.2.r2 0")]),
        ("duplicate", [("batch b 1 0", "batch b 1 0\nbatch a 1 0")]),
        ("duplicate", [("seal 1 1 d1", "batch b 1 0\nseal 1 1 d1")]),
        ("fencing", [("done a#1.2.r2 0", "done a#1.1.r1 0")]),
        ("fencing", [("done a#1.2.r2 0", "done a#1.2.r9 0")]),
        ("claim", [("ended a#1.1.r1 expired\n", "")]),
        ("claim", [("start b 2\n", "")]),
        ("ended", [("ended a#1.1.r1 expired", "ended a#1.1.r1 expired\nended a#1.1.r1 released")]),
        ("batch", [("seal 0 1 d0", "seal 0 2 d0")]),
        ("state", [("ready b\n", "")]),
        ("state", [("start b 2", "start a 2")]),
        ("state", [("seal 0 1 d0", "seal 0 1 d0\nrequeue a stale")]),
        ("state", [("advance 1 1.aa", "advance 1 1.aa\nrejected a stale")]),
        ("batch", [("batch a 0 0\nseal 0 1 d0", "seal 0 0 d0\nbatch a 0 0")]),
        ("advance", [("advance 1 1.aa\n", "")]),
        ("policy", [("claim b#0.1.r3 0 1.aa", "claim b#0.1.r3 0 9.zz")]),
        ("enqueue", [("enqueue b", "enqueue b\nenqueue b")]),
        ("log", [("enqueue b\n", "")]),
        ("log", [("done b#0.1.r3 0", "done nonsense 0")]),
        ("log", [("advance 1 1.aa", "advance")]),
    ],
)
def test_broken_rule_is_named(rule: str, changes: Iterable[tuple[str, str]]) -> None:
    referee = judged(edited(GOOD, *changes))
    assert rule in rules(referee)
    assert referee.verdict.violations


def test_duplicates_are_counted() -> None:
    assert judged(edited(GOOD, ("batch b 1 0", "batch b 1 0\nbatch a 1 0"))).tally.duplicates == 1
    assert judged(edited(GOOD, ("done a#1.2.r2 0", "done a#1.2.r2 0\ndone a#1.2.r2 0"))).tally.duplicates == 1


def test_rollout_older_than_the_bound_is_seen() -> None:
    referee = judged(GOOD, max_staleness=0)
    assert "staleness" in rules(referee)
    assert referee.tally.max_staleness_seen == 1


def test_staleness_is_judged_by_the_claims_whatever_the_broker_says() -> None:
    referee = judged(edited(GOOD, ("batch b 1 0", "batch b 1 1")), max_staleness=0)
    assert referee.tally.max_staleness_seen == 1


def test_task_started_beyond_the_budget_is_seen() -> None:
    referee = judged("open 1.aa\nenqueue a\nenqueue b\nstart a 1\nstart b 2\n", max_staleness=0)
    assert rules(referee) == {"admission"}


def test_requeued_task_frees_its_place_in_the_budget() -> None:
    text = "open 1.aa\nenqueue a\nenqueue b\nstart a 1\nrequeue a expired\nstart b 2\n"
    assert judged(text, max_staleness=0).verdict.violations == []


def test_recovery_takes_back_what_the_lost_steps_consumed() -> None:
    referee = judged(GOOD + RECOVERY)
    assert referee.verdict.violations == []
    assert referee.trained_exactly_once
    assert (referee.tally.version, referee.tally.consumed, referee.tally.recoveries) == (2, 2, 1)


def test_task_that_a_recovery_forgets_is_lost() -> None:
    referee = judged(edited(GOOD + RECOVERY, ("requeue b recovery\n", "")))
    assert "lost" in rules(referee)
    assert not referee.trained_exactly_once


def test_task_of_a_surviving_step_must_not_be_trained_again() -> None:
    referee = judged(edited(GOOD + RECOVERY, ("requeue b recovery\n", "requeue b recovery\nrequeue a recovery\n")))
    assert "state" in rules(referee)
    again = judged(GOOD + edited(RECOVERY, ("batch b 1 1", "batch b 1 1\nbatch a 1 0")))
    assert again.tally.duplicates == 1
    assert not again.trained_exactly_once


def test_sample_of_an_undone_policy_must_not_be_trained_on() -> None:
    undone = "open 2.bb\nrecover 0 3.cc\nready a\nready b\nrecovered 0 3.cc\nbatch a 0 0\nseal 0 1 d3\nadvance 1 3.cc\n"
    referee = judged(GOOD + undone + "batch b 1 0\nseal 1 1 d4\nadvance 2 3.cc\n")
    assert rules(referee) == {"policy"}


def test_checkpoint_is_held_against_the_log() -> None:
    referee = judged(GOOD)
    referee.compare(2, {"a", "b"})
    referee.compare(1, {"a"})
    assert referee.verdict.violations == []
    referee.compare(2, {"a"})
    referee.compare(1, {"a", "b"})
    assert rules(referee) == {"checkpoint"}
    assert not referee.trained_exactly_once


def test_log_with_holes_says_nothing() -> None:
    referee = judged(GOOD)
    referee.missed(0)
    assert referee.verdict.violations == []
    referee.missed(3)
    assert not referee.trained_exactly_once


def test_slots_held_by_a_worker_are_counted() -> None:
    held = GOOD[: GOOD.index("done a#0.1.r1")]
    assert judged(held).held_by("w1") == 2
    assert judged(held).held_by("w") == 0
    assert judged(GOOD).held_by("w1") == 0
    assert judged(GOOD).has_joined("w1")
    assert not judged(GOOD).has_joined("w3")


def test_violations_told_are_bounded() -> None:
    referee = Referee(1, 0)
    for number in range(1000):
        referee.feed("ready", [f"task-{number}"])
    assert len(referee.verdict.violations) < 100
    assert referee.verdict.broken["state"] == 1000


def test_run_that_stands_still_is_told_with_what_ended() -> None:
    referee = judged(GOOD)
    referee.stalled(90)
    assert rules(referee) == {"progress"}
    assert "90 s" in referee.verdict.violations[0]
    assert "1 expired" in referee.verdict.violations[0]
