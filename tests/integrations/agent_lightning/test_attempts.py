"""Which attempt a posted rollout is of."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

from broker.integrations.agent_lightning.attempts import Slot, attributed, brought_back
from broker.integrations.agent_lightning.messages import PostedRollout
from broker.protocol.task_row import SlotRow, TaskRow

FIRST, SECOND, THIRD = "t#0.1.aa", "t#0.2.bb", "t#0.3.cc"
SLOT = Slot("t", 0)


def row(letter: str, *last: str) -> TaskRow:
    slots = tuple(SlotRow(0, attempt, 0, 0, "w~1.n", 0, "") for attempt in last)
    numbers = dict.fromkeys(("order", "errors", "oldest", "newest", "stale_requeues", "requeues", "payload_bytes"), 0)
    return TaskRow(id="t", state="running", step=-1, letters=letter, reason="", slots=slots, **numbers)


@pytest.mark.parametrize(
    "brought",
    [
        {"attempt_id": SECOND},
        {"metadata": {"attempt_id": SECOND}},
        {"task": {"rollout_id": "t", "input": 1, "attempt_id": SECOND}},
        {"task": {"rollout_id": "t", "input": 1, "metadata": {"attempt_id": SECOND}}},
        {"attempt_id": SECOND, "metadata": {"attempt_id": FIRST}},
        {"task": {"rollout_id": "t", "input": 1, "attempt_id": SECOND}, "metadata": {"attempt_id": {"a": 1}}},
        {"attempt_id": "of another project", "metadata": {"attempt_id": SECOND}},
        {"attempt_id": "other#0.9.aa", "metadata": {"attempt_id": SECOND}},
        {"attempt_id": "t#1.9.aa", "metadata": {"attempt_id": SECOND}},
    ],
)
def test_an_attempt_id_may_come_back_in_four_places(brought: dict[str, Any]) -> None:
    posted = PostedRollout.model_validate({"rollout_id": "t", **brought})
    assert brought_back(posted, SLOT) == SECOND


@pytest.mark.parametrize(
    ("task", "given", "client", "expected"),
    [
        (row("H", FIRST), {FIRST: "a"}, "a", (FIRST, "claimed once")),
        (row("H", FIRST), {FIRST: "a"}, "another address", (FIRST, "claimed once")),
        (row("O", FIRST), {FIRST: "a"}, "a", (FIRST, "claimed once")),  # expired: refused as that attempt
        (row("H", FIRST), {}, "a", (FIRST, "claimed once")),  # the note was forgotten
        (row("H", SECOND), {FIRST: "a", SECOND: "b"}, "a", (FIRST, "by the client")),
        (row("H", SECOND), {FIRST: "a", SECOND: "b"}, "b", (SECOND, "by the client")),
        (row("D", SECOND), {FIRST: "a", SECOND: "b"}, "a", (FIRST, "by the client")),
        (row("H", SECOND), {FIRST: "a", SECOND: "a"}, "a", (SECOND, "first write")),
        (row("H", SECOND), {FIRST: "a", SECOND: "b"}, "c", (SECOND, "first write")),
        (row("H", THIRD), {FIRST: "a", SECOND: "a", THIRD: "b"}, "a", (THIRD, "first write")),
        (row("H", SECOND), {}, "a", (SECOND, "first write")),
        (row("H", SECOND), {FIRST: "b"}, "a", ("t#0.0.unidentified", "late")),  # a native worker holds it
        (row("D", SECOND), {FIRST: "a", SECOND: "a"}, "a", ("t#0.0.unidentified", "late")),
        (row("O", SECOND), {FIRST: "a", SECOND: "a"}, "a", ("t#0.0.unidentified", "late")),
        (row("O"), {}, "a", ("t#0.0.unidentified", "late")),  # never claimed
        (None, {}, "a", ("t#0.0.unidentified", "late")),  # forgotten, or never there
    ],
)
def test_a_rollout_without_its_attempt_id_is_attributed(
    task: TaskRow | None, given: dict[str, str], client: str, expected: tuple[str, str]
) -> None:
    found = attributed(SLOT, task, given, client)
    assert (found.attempt_id, found.basis) == expected


def test_each_sample_of_a_group_is_a_rollout_of_its_own() -> None:
    assert Slot.of_rollout("t") == Slot("t", 0)
    assert Slot.of_rollout("t#3") == Slot("t", 3)
    assert Slot("t", 3).rollout_id(samples=4) == "t#3"
    assert Slot("t", 0).rollout_id(samples=1) == "t"
    assert Slot.of_rollout("no name") is None
    assert Slot.of_rollout("") is None
