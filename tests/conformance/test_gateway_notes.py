"""What gateways write down beside the run: how attempts go, and which tasks have ended."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import BrokerError
from broker.protocol import gateway, task_row
from broker.protocol.gateway import Noted, StatusChange
from tests.conformance.lab import Lab

ROLLOUTS, HELD, HEARD = "gateway:rollouts", "gateway:held:c", "gateway:heard"


def ends(lab: Lab) -> list[tuple[str, int]]:
    """The tasks that are written down as ended, with their numbers."""
    flat = lab.command("ZRANGE", lab.key("gateway:ends"), 0, -1, "WITHSCORES")
    return [(name.decode(), int(number)) for name, number in zip(flat[::2], flat[1::2], strict=True)]


def held_one(lab: Lab, task: str = "t") -> str:
    """A task with a record `old`, and the attempt that holds it."""
    lab.raw_trainer(max_attempts=3).enqueue(task)
    lab.command("HSET", lab.key(ROLLOUTS), task, "old")
    return lab.raw_worker().take_one()


def noted(lab: Lab, attempt: str = "", letter: Any = "", **fields: Any) -> Noted:
    given: dict[str, Any] = {"task": "t", "old": "old", "new": "new", "controller": "c", **fields}
    return lab.call(gateway.note_status, StatusChange(attempt=attempt, letter=letter, **given))


def record(lab: Lab) -> bytes | None:
    return lab.command("HGET", lab.key(ROLLOUTS), "t")


def test_ends_are_noted_once_in_their_order_with_numbers_that_are_used_once(lab: Lab) -> None:
    lab.raw_trainer()
    assert lab.call(gateway.note_ends, ["b", "a"]) == 2
    assert lab.call(gateway.note_ends, ["a", "c", "c"]) == 1
    assert ends(lab) == [("b", 1), ("a", 2), ("c", 3)]
    lab.command("ZREM", lab.key("gateway:ends"), "c")
    assert lab.call(gateway.note_ends, ["c"]) == 1
    assert ends(lab) == [("b", 1), ("a", 2), ("c", 4)]


def test_a_start_is_noted_while_the_attempt_holds_its_slot(lab: Lab) -> None:
    attempt = held_one(lab)
    answer = noted(lab, attempt, "H", held="has it", heard="12.5")
    assert (answer.word, answer.payload) == ("noted", lab.command("HGET", lab.key("payloads"), "t"))
    assert record(lab) == b"new"
    assert lab.command("HGET", lab.key(HELD), attempt) == b"has it"
    assert float(lab.command("ZSCORE", lab.key(HEARD), attempt)) == 12.5
    assert ends(lab) == []


def test_an_end_is_submitted_and_noted_in_one_step(lab: Lab) -> None:
    """Mutants: a_result_that_is_not_written, a_repeated_note_is_refused, a_controller_keeps_what_ended."""
    attempt = held_one(lab)
    lab.command("HSET", lab.key(HELD), attempt, "has it")
    for body in (b"result", b"another"):  # a repeated call has the same effect
        assert noted(lab, attempt, "D", ended=True, body=body).word == "noted"
        assert (record(lab), ends(lab)) == (b"new", [("t", 1)])
        assert lab.command("HGET", lab.key(HELD), attempt) is None
        assert lab.command("GET", lab.key(f"result:{attempt}")) == b"result"
        assert lab.states() == {"t": "ready"}
    assert lab.stat("total_results") == 1
    assert noted(lab, attempt, "H").word == "over"
    lab.check()


def test_an_end_whose_result_is_refused_is_not_noted(lab: Lab) -> None:
    """Mutant: an_end_without_a_result."""
    attempt = held_one(lab)
    worker = lab.raw_worker()
    worker.release(attempt)
    other = worker.take_one()
    answer = noted(lab, attempt, "D", ended=True, body=b"late").answer
    assert answer is not None
    assert (answer.word, answer.by_attempt) == ("superseded", other)
    assert (record(lab), ends(lab), lab.result_keys(), lab.stat("total_late")) == (b"old", [], set(), 1)
    lab.check()


def test_a_result_counts_though_the_record_is_another(lab: Lab) -> None:
    attempt = held_one(lab)
    lab.command("HSET", lab.key(ROLLOUTS), "t", "another")
    for _ in range(2):
        assert noted(lab, attempt, "D", ended=True, body=b"result") == Noted("changed")
    assert (record(lab), ends(lab), lab.states()) == (b"another", [], {"t": "ready"})
    assert noted(lab, attempt, old="another", ended=True).word == "noted"
    assert ends(lab) == [("t", 1)]


@pytest.mark.parametrize("stored", ["another", None])
def test_nothing_is_noted_where_the_record_is_another(lab: Lab, stored: str | None) -> None:
    attempt = held_one(lab)
    lab.command("HDEL", lab.key(ROLLOUTS), "t")
    if stored is not None:
        lab.command("HSET", lab.key(ROLLOUTS), "t", stored)
    assert noted(lab, attempt, "H", held="has it", heard="1", ended=True).word == "changed"
    assert record(lab) == (None if stored is None else stored.encode())
    assert lab.command("EXISTS", lab.key(HELD), lab.key(HEARD), lab.key("gateway:ends")) == 0


def test_nothing_is_noted_for_an_attempt_whose_slot_another_one_holds(lab: Lab) -> None:
    attempt = held_one(lab)
    worker = lab.raw_worker()
    worker.release(attempt)
    other = worker.take_one()
    assert noted(lab, attempt, "H", held="has it").word == "over"
    assert noted(lab, other, "H", held="has it").word == "noted"


def test_what_is_said_beside_the_state_leaves_what_the_controller_has(lab: Lab) -> None:
    attempt = held_one(lab)
    lab.command("HSET", lab.key(HELD), attempt, "has it")
    assert noted(lab).word == "noted"
    assert record(lab) == b"new"
    assert lab.command("HGET", lab.key(HELD), attempt) == b"has it"
    assert noted(lab, attempt, old="new", new="newer").word == "noted"  # however the slot is
    assert lab.command("HGET", lab.key(HELD), attempt) is None


def test_a_start_leaves_the_state_as_it_is(lab: Lab) -> None:
    """A note comes with nearly every request to a gateway; it needs nothing of the state but the schema."""
    attempt = held_one(lab)
    before = lab.command("HGETALL", lab.key("state"))
    lab.pass_ms(1000)
    assert noted(lab, attempt, "H", held="has it", heard="1").word == "noted"
    assert lab.command("HGETALL", lab.key("state")) == before


def given(lab: Lab, *attempts: str) -> list[bytes]:
    return lab.call(gateway.note_given, "c", ", 1]", dict.fromkeys(attempts, "has it"))


@pytest.mark.parametrize("before", ["", "u#0.1.x"])
def test_an_attempt_is_given_once_and_its_record_keeps_the_rest(lab: Lab, before: str) -> None:
    """Mutants: a_repeated_gift_takes_a_start_back, a_given_attempt_is_not_held, a_given_rollout_forgets_the_rest."""
    attempt = held_one(lab)
    lab.command("HSET", lab.key(ROLLOUTS), "t", f'["{before}", "b", "running", 2.5, "a, \\"b"]')
    whole = f'["{attempt}", "c", "queuing", 2.5, "a, \\"b"]'.encode()
    assert given(lab, attempt) == [whole]
    assert record(lab) == whole
    assert lab.command("HGETALL", lab.key(HELD)) == [attempt.encode(), b"has it"]
    started = whole.replace(b"queuing", b"running")
    assert noted(lab, attempt, "H", old=whole.decode(), new=started.decode(), held="runs").word == "noted"
    assert given(lab, attempt) == [started]  # sent again, it changes nothing
    assert record(lab) == started
    assert lab.command("HGETALL", lab.key(HELD)) == [attempt.encode(), b"runs"]


def test_an_attempt_is_given_unless_it_is_over(lab: Lab) -> None:
    """Mutant: an_attempt_is_given_that_is_over."""
    attempt = held_one(lab)
    worker = lab.raw_worker()
    worker.release(attempt)
    other = worker.take_one()
    none, whole = given(lab, attempt, other)
    assert none == b""
    assert whole == record(lab) == f'["{other}", "c", "queuing", 1]'.encode()
    assert lab.command("HKEYS", lab.key(HELD)) == [other.encode()]


def test_a_rollout_that_has_no_record_yet_gets_one(lab: Lab) -> None:
    attempt = held_one(lab)
    lab.command("HDEL", lab.key(ROLLOUTS), "t")
    assert given(lab, attempt) == [record(lab)] == [f'["{attempt}", "c", "queuing", 1]'.encode()]


def test_what_a_controller_has_is_forgotten_if_it_does_not_come_back(lab: Lab) -> None:
    """Mutant: a_controller_that_is_gone_is_remembered."""
    attempt = held_one(lab)
    given(lab, attempt)
    assert gateway.HELD_FOR_MS - 60_000 < lab.command("PTTL", lab.key(HELD)) <= gateway.HELD_FOR_MS
    lab.command("DEL", lab.key(HELD))
    assert noted(lab, attempt, "H", old=(record(lab) or b"").decode(), held="has it").word == "noted"
    assert gateway.HELD_FOR_MS - 60_000 < lab.command("PTTL", lab.key(HELD)) <= gateway.HELD_FOR_MS


def test_of_a_rollout_that_is_deleted_nothing_of_it_is_left(lab: Lab) -> None:
    """Mutants: a_deleted_rollout_keeps_its_events, a_deleted_rollout_stays_among_the_ended."""
    lab.raw_trainer()
    for task in ("t", "other"):
        lab.command("HSET", lab.key(ROLLOUTS), task, "old")
        for attempt in ("0", "2-x"):
            lab.command("ZADD", lab.key(f"gateway:attempts:{task}"), 1, attempt)
            lab.command("RPUSH", lab.key(f"gateway:events:{task}:{attempt}"), "event")
        lab.call(gateway.note_ends, [task])
    assert lab.call(gateway.note_deleted, ["t", "unknown"]) == 1
    assert lab.call(gateway.note_deleted, ["t"]) == 0
    left = {name for name in lab.dump() if name.startswith("gateway:")}
    assert left == {
        *("gateway:rollouts", "gateway:ends", "gateway:ended", "gateway:attempts:other"),
        *("gateway:events:other:0", "gateway:events:other:2-x"),
    }
    assert ends(lab) == [("other", 2)]
    assert lab.command("HKEYS", lab.key(ROLLOUTS)) == [b"other"]


def test_a_call_tells_the_replies_of_the_commands_ahead_of_it(lab: Lab) -> None:
    held_one(lab)
    reads = task_row.task(lab.run, "t").after(("HGET", lab.key(ROLLOUTS), "t"), ("HGET", lab.key(ROLLOUTS), "none"))
    (found, none), row = lab.do(reads)
    assert (found, none, row.letters) == (b"old", None, "H")
    none, row = lab.do(task_row.task(lab.run, "t").after())
    assert (none, row.letters) == ([], "H")
    wrong = task_row.task(lab.run, "t").after(("ZRANGE", lab.key(ROLLOUTS), 0, -1))
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        lab.do(wrong)
