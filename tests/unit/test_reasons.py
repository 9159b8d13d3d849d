from typing import Any

import pytest

from broker.inspection.capacity import Terms, formula, terms_of
from broker.inspection.explanation import Explanation, explanation_of
from broker.inspection.reasons import batch_progress, next_claim
from broker.inspection.stats import Stats
from broker.protocol.anyone import Facts, HeldRow, Holding
from broker.values.config import RunConfig


def make_stats(*, size: int = 4, staleness: int | None = 2, concurrency: int = 100, **changes: Any) -> Stats:
    """A run at version 5 with nothing left but what `changes` say; accepted as the protocol counts it."""
    values: dict[str, Any] = {"version": 5, "ready": 0, "batched": 0, "running": 0, "pending": 0, **changes}
    values.setdefault("step_next", values["version"])
    values.setdefault("accepted", values["version"] * size + values["ready"] + values["batched"])
    given = {"max_concurrent_samples": values.pop("samples", None)}
    config = RunConfig(consumer_batch_size=size, max_staleness=staleness, max_concurrent_rollouts=concurrency, **given)
    terms = [concurrency - values["running"]]
    if staleness is not None:
        terms.append((staleness + values["version"] + 1) * size - values["accepted"] - values["running"])
    waiting: dict[str, Any] = {"delayed": 0, "consumed": 0, "dead": 0, "rejected": 0, "sessions": 0}
    return Stats(run="r", epoch="1.ab", capacity=min(terms), config=config, **(waiting | values))


def explained(stats: Stats, *held: HeldRow, lost: int = 0, **due_ms: int) -> Explanation:
    """A run's numbers, held slots, how many are silent workers', when the first of a kind is due; now is 1000 ms."""
    return explanation_of(stats, Facts(1000, (), held, due_ms, "", "", Holding(stats.sessions, 0, 0, lost)))


def test_the_formula_shows_its_numbers() -> None:
    assert formula(make_stats(running=3, ready=2))[1:] == (
        "         = min(100 - 3, (2 + 5 + 1) * 4 - (22 + 3))",
        "         = min(97, 7) = 7",
        "No term binds: capacity is positive.",
    )


def test_without_a_bound_only_concurrency_counts() -> None:
    stats = make_stats(staleness=None, concurrency=8, running=3)
    assert terms_of(stats) == Terms(concurrency=5, staleness=None)
    assert formula(stats)[1] == "         = 8 - 3 = 5"


def test_held_samples_are_a_term_beside_that_of_tasks_or_in_its_place() -> None:
    both = make_stats(samples=8, held=6, running=3)
    assert formula(both)[:2] == (
        "capacity = min(C - running, max_concurrent_samples - held, (S + version + 1) * B - (accepted + running))",
        "         = min(100 - 3, 8 - 6, (2 + 5 + 1) * 4 - (20 + 3))",
    )
    alone = make_stats(samples=8, held=8, running=3, staleness=None, concurrency=1_000_000_000)
    assert formula(alone) == (
        "capacity = max_concurrent_samples - held     (max_staleness is not bounded)",
        "         = 8 - 8 = 0",
        "The term of max_concurrent_samples is the one that binds.",
    )


@pytest.mark.parametrize(
    ("binding", "words", "changes"),
    [
        ("none", "No term binds", {"running": 3}),
        ("concurrency", "max_concurrent_rollouts is the one", {"staleness": None, "concurrency": 3, "running": 3}),
        ("concurrency", "max_concurrent_rollouts is the one", {"staleness": 0, "concurrency": 4, "running": 4}),
        ("concurrency", "max_concurrent_rollouts is the one", {"staleness": 0, "concurrency": 5, "running": 5}),
        ("staleness", "max_staleness is the one", {"staleness": 0, "running": 4}),
    ],
)
def test_the_formula_names_the_term_that_a_claim_would(binding: str, words: str, changes: dict[str, Any]) -> None:
    stats = make_stats(pending=9, **changes)
    assert terms_of(stats).binding == binding
    assert words in formula(stats)[-1]
    reasons = {"none": "open", "concurrency": "max_concurrent", "staleness": "at_capacity"}
    assert next_claim(explained(stats)).reason == reasons[binding]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("paused", {"paused": "paused", "pending": 9, "open_slots": 1, "running": 1}),
        ("recovering", {"recovering": 3, "pending": 9}),
        ("at_capacity", {"staleness": 0, "step_next": 6, "accepted": 24, "pending": 9}),
        ("at_capacity", {"staleness": 0, "step_next": 6, "accepted": 24, "running": 1, "open_slots": 1}),
        ("open", {"paused": "draining", "open_slots": 1, "running": 1}),
        ("draining", {"paused": "draining", "pending": 9}),
        ("empty", {"running": 2, "delayed": 1}),
        ("max_concurrent", {"pending": 9, "running": 4, "concurrency": 4}),
        ("at_capacity", {"pending": 9, "running": 4, "ready": 8}),
        ("open", {"pending": 9}),
        ("max_samples", {"pending": 9, "running": 4, "samples": 3, "held": 3}),
        ("max_samples", {"running": 4, "open_slots": 1, "samples": 3, "held": 4, "paused": "draining"}),
        ("draining", {"pending": 9, "running": 4, "samples": 3, "held": 3, "paused": "draining"}),
        ("empty", {"running": 4, "samples": 3, "held": 3}),
        ("open", {"pending": 9, "running": 4, "samples": 4, "held": 3}),
    ],
)
def test_the_answer_names_what_a_claim_would_meet(reason: str, changes: dict[str, Any]) -> None:
    answer = next_claim(explained(make_stats(**changes)))
    assert answer.reason == reason
    assert answer.sentence.startswith("Yes" if reason == "open" else "No")
    assert bool(answer.remedies) == (reason != "open")


def test_at_capacity_says_what_the_next_version_opens() -> None:
    answer = next_claim(explained(make_stats(pending=9, running=4, ready=8)))
    assert answer.sentence == "No: what may be started before version 6 has been started."
    assert answer.remedies[0] == (
        "The trainer advances to version 6: opens 4. The batch of step 5 can be taken: it needs 4, and 8 are ready."
    )


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("is sealed and being trained", {"step_next": 6}),
        ("can be taken: it needs 4, and 4", {"ready": 3, "batched": 1}),
        ("has 1 of 4; 3 are running", {"ready": 1, "running": 3}),
        ("has 3 of 4; 1 is running", {"ready": 3, "running": 1}),
        ("needs 4, and 3 are left", {"ready": 1, "running": 2}),
        ("needs 4, and 1 is left", {"running": 1}),
    ],
)
def test_the_batch_tells_what_it_lacks(words: str, changes: dict[str, Any]) -> None:
    assert words in batch_progress(make_stats(**changes))


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("at_capacity", {"pending": 9, "running": 12}),
        ("max_concurrent", {"pending": 9, "running": 4, "concurrency": 4}),
        ("empty", {"running": 4}),
    ],
)
@pytest.mark.parametrize(
    ("words", "due"),
    [
        ("take back 2 slots of workers that are silent", {"lost": 2}),
        ("hand out a slot whose backoff has passed", {"retries": 1000}),
        ("take back an attempt that has reached its time-out", {"deadlines": 999}),
    ],
)
def test_what_a_claim_sweeps_first_needs_no_capacity(
    reason: str, changes: dict[str, Any], words: str, due: dict[str, int]
) -> None:
    stats = make_stats(lapsed=1, sessions=1, **changes)
    answer = next_claim(explained(stats, **due))
    assert answer.reason == "open"
    assert answer.sentence.startswith("Yes: the next claims")
    assert words in answer.sentence
    later = {name: 1001 for name in due if name != "lost"}
    assert next_claim(explained(stats, **later)).reason == reason


def test_what_silent_workers_held_is_not_handed_out_where_it_cannot_be_used() -> None:
    overtaken = make_stats(staleness=0, step_next=6, accepted=24, running=1, pending=9)
    assert next_claim(explained(overtaken, lost=2)).reason == "at_capacity"

    full = make_stats(running=4, pending=9, concurrency=4)

    def reason(tasks: str, *, max_attempts: int) -> str:
        held = [HeldRow(f"{task}#{k}.1.ab", "w-1", 5, 0, 900, 0, max_attempts) for k, task in enumerate(tasks)]
        return next_claim(explained(full, *held, lost=2)).reason

    assert reason("aa", max_attempts=1) == "max_concurrent"
    assert reason("aa", max_attempts=2) == "open"
    assert reason("ab", max_attempts=1) == "open", "several lost tasks use up no try"


def test_a_time_out_is_told_of_where_the_slot_may_be_tried_again() -> None:
    full = make_stats(running=4, pending=9, concurrency=4)

    def reason(*rows: tuple[int, int]) -> str:
        """Of slots that were claimed at 0, with their time-outs and limits of attempts."""
        held = [HeldRow(f"{k}#0.1.ab", "w-1", 5, 0, 9000, 0, most, ms) for k, (ms, most) in enumerate(rows)]
        return next_claim(explained(full, *held, deadlines=999)).reason

    assert reason((999, 1), (2000, 3), (0, 3)) == "max_concurrent"
    assert reason((999, 1), (1000, 2)) == "open"
    assert reason((2000, 1)) == "open", "the slot is not among those that are listed"


def test_a_task_whose_backoff_has_passed_is_started_where_there_is_capacity() -> None:
    assert next_claim(explained(make_stats(delayed=1), delayed=1000)).reason == "open"
    assert next_claim(explained(make_stats(delayed=1), delayed=1001)).reason == "empty"
    assert (
        next_claim(explained(make_stats(delayed=1, running=4, concurrency=4), delayed=1000)).reason == "max_concurrent"
    )


@pytest.mark.parametrize(
    ("reason", "words", "changes"),
    [
        ("paused", "is paused", {"paused": "paused"}),
        ("draining", "is draining", {"paused": "draining"}),
        ("recovering", "version 3", {"recovering": 3}),
        ("max_concurrent", "4 rollouts are running", {"running": 4, "concurrency": 4}),
        ("at_capacity", "before version 6", {"running": 12}),
        ("open", "12 rollouts may be started", {}),
    ],
)
def test_an_admission_run_needs_no_tasks(reason: str, words: str, changes: dict[str, Any]) -> None:
    stats = make_stats(admission=True, **changes)
    answer = next_claim(explained(stats))
    assert answer.reason == reason
    assert words in answer.sentence
    assert bool(answer.remedies) == (reason != "open")
    assert "holds no tasks" in batch_progress(stats)
