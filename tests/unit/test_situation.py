from typing import Any

import pytest

from broker.inspection.explanation import Explanation, explanation_of
from broker.inspection.situation import situation
from broker.protocol.anyone import Facts, HeldRow, Holding, SessionRow
from tests.unit.test_reasons import make_stats

NOW = 1_000_000


def make(
    *,
    workers: int = 0,
    silent: int = 0,
    told: str = "",
    held: int = 0,
    lost: int = 0,
    due: int = 0,
    uncounted: int = 0,
    **changes: Any,
) -> Explanation:
    """The facts of a run with the given numbers of connected and silent workers."""
    deadlines = [NOW - 1] * silent + [NOW + 9] * workers
    sessions = tuple(SessionRow(f"w~{at}.x", deadline, 0, told) for at, deadline in enumerate(deadlines))
    rows = tuple(HeldRow(f"t#0.{at}.x", "w~0.x", 5, NOW, NOW + 9) for at in range(held))
    holding = Holding(len(sessions), min(workers, held), held, lost)
    facts = Facts(NOW, sessions, rows, {"delayed": due}, "", "", holding)
    return explanation_of(make_stats(sessions=workers + silent + uncounted, lapsed=silent, **changes), facts)


RUNNING = {"running": 2, "held": 2}


@pytest.mark.parametrize(
    ("word", "words", "given"),
    [
        ("working", "Yes: 2 of 3 connected workers hold 2 slots.", {"workers": 3, **RUNNING}),
        ("working", "hold 2 slots. The run is paused", {"workers": 3, **RUNNING, "paused": "paused"}),
        ("working", "The run is draining: only what is started", {"workers": 3, **RUNNING, "paused": "draining"}),
        ("working", "2 slots. The trainer has given no sign of life for 5 min.",
            {"workers": 3, **RUNNING, "trainer_silent_s": 300.0}),
        ("working", "A recovery to version 3 has begun", {"workers": 3, **RUNNING, "recovering": 3}),
        ("working", "of 3 of 3 workers looked at were too old", {"workers": 3, **RUNNING, "told": "weights_stale"}),
        ("no_worker", "No: no worker is connected.", {"pending": 16}),
        ("no_worker", "No: no worker is connected.", {"pending": 16, "paused": "paused"}),
        ("no_worker", "No: no worker is connected. No task is left: 7 consumed and 1 dead.", {"consumed": 7, "dead": 1}),
        ("no_worker", "2 workers have been silent for longer than a lease.", {"pending": 1, "silent": 2}),
        ("no_worker", "the next claims take back 3 slots.", {"running": 3, "silent": 2, "lost": 3}),
        ("no_task", "No task has been enqueued.", {"workers": 1}),
        ("no_task", "1 worker is connected and holds nothing. No task is left: 8 consumed", {"workers": 1, "consumed": 8}),
        ("no_task", "The batch of step 5 is sealed and being trained.", {"workers": 1, "step_next": 6, "accepted": 24}),
        ("no_task", "No task is left to work on; the trainer has the rest.", {"workers": 1, "ready": 3}),
        ("paused", "hold nothing. The run is paused: nothing more", {"workers": 2, "pending": 9, "paused": "paused"}),
        ("recovering", "A recovery to version 3 has begun", {"workers": 2, "pending": 9, "recovering": 3}),
        ("draining", "The run is draining", {"workers": 2, "pending": 9, "paused": "draining"}),
        ("weights_stale", "the run is at version 5. Workers get work again once", {"workers": 2, "pending": 9, "told": "weights_stale"}),
        ("idle", "though tasks may be handed out.", {"workers": 2, "pending": 9}),
        ("idle", "the next claims take back 4 slots.", {"workers": 2, "pending": 9, "silent": 1, "lost": 4}),
        ("idle", "the next claims take back 4 slots.", {"workers": 2, "running": 2, "silent": 1, "lost": 4}),
        ("trainer", "The batch of step 5 can be taken: it needs 4, and 12", {"workers": 2, "pending": 9, "ready": 12}),
        (
            "trainer",
            "The batch of step 5 is sealed and being trained.",
            {"workers": 2, "pending": 9, "staleness": 0, "step_next": 6, "accepted": 24},
        ),
        ("retries", "What is left waits for a retry, the next in 2.0 s.", {"workers": 2, "delayed": 3, "due": NOW + 2000}),
        ("retries", "waits for a retry, the next with the next claim.",
            {"workers": 2, "running": 4, "concurrency": 4, "due": NOW - 1}),
    ],
)  # fmt: skip
def test_the_first_thing_said_is_whether_work_is_going_on(word: str, words: str, given: dict[str, Any]) -> None:
    found = situation(make(**given))
    assert found.word == word
    assert words in found.sentence
    assert found.sentence.startswith("Yes: " if word == "working" else "No: ")


@pytest.mark.parametrize(
    ("word", "words", "given"),
    [
        ("no_worker", "No: no process is connected.", {"running": 0}),
        ("idle", "No: 2 processes are connected, and no rollout is running.", {"workers": 2}),
        ("working", "Yes: 3 rollouts are running; 1 process is connected.", {"workers": 1, "running": 3}),
        ("working", "The run is paused", {"workers": 1, "running": 3, "paused": "paused"}),
    ],
)
def test_an_admission_run_speaks_of_processes(word: str, words: str, given: dict[str, Any]) -> None:
    found = situation(make(admission=True, **given))
    assert found.word == word
    assert words in found.sentence


def test_totals_of_more_sessions_than_were_counted_say_so() -> None:
    found = situation(make(workers=3, uncounted=19_997, running=2, held=2))
    assert "at least 2 of 20,000 connected workers hold at least 2 slots" in found.sentence


def test_slots_of_sessions_that_were_not_counted_are_held_where_the_list_shows_them() -> None:
    rows = tuple(HeldRow(f"t{at}#0.1.x", f"w{at % 2}~x", 5, NOW, NOW + end) for at, end in enumerate((9, 9, 9, -1)))
    facts = Facts(NOW, (), rows, {}, "", "", Holding(10_000, 0, 0, 0))
    found = explanation_of(make_stats(sessions=10_500, running=4), facts)
    assert found.holding == Holding(10_000, 2, 3, 1)
    assert "Yes: at least 2 of 10,500 connected workers hold at least 3 slots." in situation(found).sentence


def test_where_not_all_sessions_were_counted_nobody_says_that_all_hold_nothing() -> None:
    found = situation(make(workers=3, uncounted=9_997, pending=9))
    assert "hold nothing, as far as 3 of 10,000 were looked at, though tasks may be handed out." in found.sentence


@pytest.mark.parametrize(
    ("held_s", "finished", "told"),
    [(85, 20, True), (75, 20, False), (85, 7, False)],
    ids=["much longer than all others", "not so much", "too few to compare with"],
)
def test_a_straggler_is_named(held_s: int, finished: int, told: bool) -> None:
    facts = Facts(
        NOW,
        (SessionRow("w1~1.x", NOW + 9, 1), SessionRow("w2~1.x", NOW + 9, 1), SessionRow("gone~1.x", NOW - 1, 1)),
        (
            HeldRow("new#0.1.x", "w2~1.x", 5, NOW - 1_000, NOW + 9),
            HeldRow("late#0.1.x", "w1~1.x", 5, NOW - held_s * 1000, NOW + 9),
            HeldRow("lost#0.1.x", "gone~1.x", 5, NOW - 900_000, NOW - 1),
        ),
        {},
        "",
        "",
        Holding(3, 2, 2, 1),
    )
    times = {"p50": 10.0, "p90": 20.0, "p99": 40.0}
    stats = make_stats(sessions=3, lapsed=1, running=3, generation_s=times, timed=finished)
    sentence = " A straggler: worker w1 has held task late for 1 min 25 s, 8.5 times the median."
    assert (sentence in situation(explanation_of(stats, facts)).sentence) == told
