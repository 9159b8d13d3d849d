"""Ids as the protocol has them, and which attempt a posted rollout is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from broker.integrations.agent_lightning.messages import PostedRollout
from broker.protocol.anyone import TaskRow

_NAME = r"[A-Za-z0-9._:/@+-]{1,200}"
_ATTEMPT = re.compile(rf"({_NAME})#(\d{{1,4}})\.(\d{{1,15}})\.([A-Za-z0-9]{{1,64}})")
_ROLLOUT = re.compile(rf"({_NAME})(?:#(\d{{1,4}}))?")

#: What becomes of a rollout that nobody can say the attempt of: this is no attempt's number, so it is counted as late.
_NO_ATTEMPT = "0.unidentified"

Basis = Literal["brought", "claimed once", "by the client", "first write", "late"]


@dataclass(frozen=True, slots=True)
class AttemptId:
    """An attempt id taken apart: `<task>#<slot>.<claims>.<random>`."""

    text: str
    task: str
    slot: int
    claims: int

    @classmethod
    def parsed(cls, text: object) -> AttemptId | None:
        """The attempt that a text names, or None if it is no attempt id."""
        match = _ATTEMPT.fullmatch(text) if isinstance(text, str) else None
        return cls(match[0], match[1], int(match[2]), int(match[3])) if match else None


@dataclass(frozen=True, slots=True)
class Slot:
    """One sample of a task. The protocol knows no groups: there each slot is a rollout of its own."""

    task: str
    number: int

    @classmethod
    def of_rollout(cls, rollout_id: str) -> Slot | None:
        """The slot that a rollout id names, or None if no task can have that id."""
        match = _ROLLOUT.fullmatch(rollout_id)
        return cls(match[1], int(match[2] or 0)) if match else None

    @property
    def name(self) -> str:
        """`<task>#<slot>`."""
        return f"{self.task}#{self.number}"

    @property
    def no_attempt(self) -> str:
        """An attempt id that was never given out."""
        return f"{self.name}.{_NO_ATTEMPT}"

    def rollout_id(self, samples: int) -> str:
        """The id that a client sees: the task's, with the slot where the task has several."""
        return self.task if samples == 1 else self.name


@dataclass(frozen=True, slots=True)
class Attribution:
    """Which attempt a rollout is submitted for, and how that is known.

    Args:
        attempt_id: the attempt.
        basis: `first write`: nobody knows, and the attempt that holds the slot gets it, once; `late`: nobody knows, and
            the slot has its result.
    """

    attempt_id: str
    basis: Basis


def brought_back(rollout: PostedRollout, slot: Slot) -> AttemptId | None:
    """The attempt id that the client brought: its own field, in `metadata`, or in the echoed task.

    What is no attempt id of this slot is passed over: metadata are the user's, who may call something else so.
    """
    places: list[object] = [rollout.attempt_id, rollout.metadata.get("attempt_id")]
    if rollout.task is not None:
        places += [rollout.task.attempt_id, rollout.task.metadata.get("attempt_id")]
    for place in places:
        attempt = AttemptId.parsed(place)
        if attempt is not None and (attempt.task, attempt.slot) == (slot.task, slot.number):
            return attempt
    return None


def attributed(slot: Slot, row: TaskRow | None, given: Mapping[str, str], client: str) -> Attribution:
    """The attempt of a rollout that came without its id.

    Args:
        slot: what the rollout is of.
        row: what the broker knows of the task, or None.
        given: the claims of this slot that gateways gave out: attempt id -> client.
        client: who posts the rollout.

    Returns:
        The only claim there ever was; else the only one that this client was given; else the claim in force.
    """
    last = None if row is None else next((s for s in row.slots if s.slot == slot.number), None)
    if row is None or last is None:
        return Attribution(slot.no_attempt, "late")
    newest = AttemptId.parsed(last.attempt_id)
    if newest is not None and newest.claims == 1:
        return Attribution(last.attempt_id, "claimed once")
    own = [attempt_id for attempt_id, receiver in given.items() if receiver == client]
    if len(own) == 1:
        return Attribution(own[0], "by the client")
    held = row.letters[slot.number : slot.number + 1] == "H"
    # An attempt of a worker that does not come through a gateway cannot be what is posted here.
    if held and (last.attempt_id in given or not given):
        return Attribution(last.attempt_id, "first write")
    return Attribution(slot.no_attempt, "late")
