"""The judge of event logs: a history that keeps every rule, and the same with one rule broken."""

from collections.abc import Iterable
from typing import Any

import pytest

from broker.inspection.judge import Judge
from broker.values.config import RunConfig

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


def config(max_staleness: int | None = 1, **fields: Any) -> RunConfig:
    others = {"staleness_limit": max_staleness, "max_concurrent_rollouts": 10, **fields}
    return RunConfig(consumer_batch_size=1, max_staleness=max_staleness, **others)


def judged(text: str, max_staleness: int = 1, **options: Any) -> Judge:
    judge = Judge(config(max_staleness), **options)
    for line in text.splitlines():
        kind, *words = line.split()
        judge.feed(kind, words)
    return judge


def edited(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def rules(judge: Judge) -> set[str]:
    return set(judge.broken)


def test_good_history_breaks_no_rule() -> None:
    judge = judged(GOOD)
    assert judge.breaches == []
    totals = judge.totals
    assert (judge.version, totals.consumed, totals.duplicates) == (2, 2, 0)
    assert totals.late == {"superseded": 1}
    assert totals.ended == {"expired": 1}
    assert totals.requeued == 1
    assert totals.accepted == 4
    assert totals.staleness == {0: 1, 1: 1}
    assert (totals.most_in_use, totals.most_running) == (2, 1)


def test_kinds_without_meaning_for_the_rules_are_passed_over() -> None:
    assert judged(GOOD + "pause paused\nresume -\ncommit 2 0\nsomething new\n").breaches == []


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
    judge = judged(edited(GOOD, *changes))
    assert rule in rules(judge)
    assert judge.breaches


def test_duplicates_are_counted() -> None:
    assert judged(edited(GOOD, ("batch b 1 0", "batch b 1 0\nbatch a 1 0"))).totals.duplicates == 1
    assert judged(edited(GOOD, ("done a#1.2.r2 0", "done a#1.2.r2 0\ndone a#1.2.r2 0"))).totals.duplicates == 1


def test_rollout_older_than_the_bound_is_seen() -> None:
    judge = judged(GOOD, max_staleness=0)
    assert "staleness" in rules(judge)
    assert max(judge.totals.staleness) == 1


def test_staleness_is_judged_by_the_claims_whatever_the_broker_says() -> None:
    judge = judged(edited(GOOD, ("batch b 1 0", "batch b 1 1")), max_staleness=0)
    assert max(judge.totals.staleness) == 1


def test_task_started_beyond_the_budget_is_seen() -> None:
    judge = judged("open 1.aa\nenqueue a\nenqueue b\nstart a 1\nstart b 2\n", max_staleness=0)
    assert rules(judge) == {"admission"}


def test_requeued_task_frees_its_place_in_the_budget() -> None:
    text = "open 1.aa\nenqueue a\nenqueue b\nstart a 1\nrequeue a expired\nstart b 2\n"
    assert judged(text, max_staleness=0).breaches == []


def test_recovery_takes_back_what_the_lost_steps_consumed() -> None:
    judge = judged(GOOD + RECOVERY)
    assert judge.breaches == []
    assert (judge.version, judge.totals.consumed, judge.totals.recoveries) == (2, 2, 1)


def test_task_that_a_recovery_forgets_is_lost() -> None:
    judge = judged(edited(GOOD + RECOVERY, ("requeue b recovery\n", "")))
    assert "lost" in rules(judge)


def test_task_of_a_surviving_step_must_not_be_trained_again() -> None:
    judge = judged(edited(GOOD + RECOVERY, ("requeue b recovery\n", "requeue b recovery\nrequeue a recovery\n")))
    assert "state" in rules(judge)
    again = judged(GOOD + edited(RECOVERY, ("batch b 1 1", "batch b 1 1\nbatch a 1 0")))
    assert again.totals.duplicates == 1
    assert "duplicate" in rules(again)


def test_sample_of_an_undone_policy_must_not_be_trained_on() -> None:
    undone = "open 2.bb\nrecover 0 3.cc\nready a\nready b\nrecovered 0 3.cc\nbatch a 0 0\nseal 0 1 d3\nadvance 1 3.cc\n"
    judge = judged(GOOD + undone + "batch b 1 0\nseal 1 1 d4\nadvance 2 3.cc\n")
    assert rules(judge) == {"policy"}


def test_violations_told_are_bounded() -> None:
    judge = Judge(config())
    for number in range(1000):
        judge.feed("ready", [f"task-{number}"])
    assert len(judge.breaches) < 100
    assert judge.broken["state"] == 1000


# -- what the log does not tell ------------------------------------------------------------------------------------------


def test_log_whose_beginning_is_gone_breaks_no_rule_wherever_it_begins() -> None:
    lines = (GOOD + RECOVERY).splitlines(keepends=True)
    for first in range(1, len(lines)):
        judge = judged("".join(lines[first:]), is_whole=False)
        assert judge.breaches == [], f"begins with {lines[first]}"


def test_log_with_a_gap_breaks_no_rule_wherever_it_is() -> None:
    lines = (GOOD + RECOVERY).splitlines()
    for first in range(1, len(lines)):
        judge = judged("\n".join(lines[:first]))
        judge.forget()
        for line in lines[first + 1 :]:
            kind, *words = line.split()
            judge.feed(kind, words)
        assert judge.breaches == [], f"lacks {lines[first]}"
        assert not judge.is_whole


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("duplicate", [("done b#1.1.r4 1", "done b#1.1.r4 1\ndone b#1.1.r4 1")]),
        ("fencing", [("done b#1.1.r4 1", "done b#1.1.r9 1")]),
        ("staleness", [("batch b 1 0", "batch b 1 -1")]),
        ("batch", [("seal 1 1 d1", "seal 1 2 d1")]),
        ("advance", [("advance 2 1.aa", "advance 3 1.aa")]),
    ],
)
def test_log_whose_beginning_is_gone_shows_what_breaks_in_the_rest(
    rule: str, changes: Iterable[tuple[str, str]]
) -> None:
    rest = edited(GOOD[GOOD.index("ready a") :], *changes)
    assert rule in rules(judged(rest, is_whole=False))


def test_events_that_were_switched_off_for_a_while_are_a_gap() -> None:
    judge = judged(GOOD + "open 4.dd\nstart c 9\nclaim c#0.1.r7 2 4.dd w2~2.y\ndone c#0.1.r7 2\nready c\n")
    assert judge.breaches == []
    assert not judge.is_whole
    assert ["between the epochs 1.aa and 4.dd" in note for note in judge.notes] == [True]


def test_what_an_earlier_config_may_have_allowed_is_in_doubt() -> None:
    stale = edited(GOOD, ("batch b 1 0", "batch b 1 -1"))
    assert rules(judged(stale + "open 2.bb\n")) == {"staleness"}
    judge = judged(stale + "open 2.bb\n", keeps_config=False)
    assert (judge.breaches, judge.broken) == ([], {})
    assert [doubt.rule for doubt in judge.doubts] == ["staleness"]
    assert rules(judged("open 1.aa\n" + stale.replace("open 1.aa\n", ""), keeps_config=False)) == {"staleness"}


def test_dead_task_may_wait_again_after_a_recovery() -> None:
    ended = "open 1.aa\nenqueue a\nrejected a why\nrecover 0 2.bb\nrecovered 0 2.bb\n"
    again = "start a 1\nclaim a#0.1.r1 0 1.aa w~1.x\ndone a#0.1.r1 0\nready a\n"
    assert judged(ended + again).breaches == []
    assert rules(judged(edited(ended, ("recover 0 2.bb\nrecovered 0 2.bb\n", "")) + again)) >= {"state"}


def test_recovery_of_a_server_that_lost_writes_drops_tasks_in_silence() -> None:
    forward = "open 2.bb\nrecover 5 3.cc\nrecovered 5 3.cc\n"
    judge = judged(GOOD + forward + "enqueue a\nstart a 3\n")
    assert judge.breaches == []
    assert judge.in_state("running") == {"a"}
    assert len(judge.notes) == 1
    back = edited(RECOVERY, ("requeue b recovery\n", "enqueue b\n"))
    assert judged(GOOD + back, has_rewound=True).breaches == []
    assert rules(judged(GOOD + back)) == {"enqueue", "lost", "state"}


def test_batch_without_an_accepted_result_is_seen() -> None:
    none = edited(GOOD, ("claim b#0.1.r3 0 1.aa w2~2.y\n", ""), ("claim b#1.1.r4 1 1.aa w2~2.y\n", ""))
    none = edited(none, ("done b#0.1.r3 0\ndone b#1.1.r4 1\n", ""))
    assert rules(judged(none)) == {"fencing"}


def test_capacity_is_also_bounded_by_the_tasks_that_run_at_once() -> None:
    text = "open 1.aa\nenqueue a\nenqueue b\nstart a 1\nstart b 2\n"
    assert judged(text, max_staleness=5).breaches == []
    judge = Judge(config(5, max_concurrent_rollouts=1))
    for line in text.splitlines():
        kind, *words = line.split()
        judge.feed(kind, words, "7-1")
    assert [(breach.guarantee, breach.event) for breach in judge.breaches] == [("G4", "7-1")]


def test_trainer_that_was_replaced_makes_no_version() -> None:
    judge = judged(edited(GOOD, ("advance 2 1.aa", "open 2.bb\nadvance 2 1.aa")))
    assert rules(judge) == {"advance"}


def test_run_that_keeps_stale_rollouts_breaks_no_rule_by_them() -> None:
    judge = Judge(config(0, on_stale="keep"))
    for line in GOOD.splitlines():
        kind, *words = line.split()
        judge.feed(kind, words)
    assert "staleness" not in rules(judge)
