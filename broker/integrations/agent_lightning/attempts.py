"""The slot and the attempt that a posted rollout is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from broker.integrations.agent_lightning.messages import PostedRollout
from broker.protocol.ids import attempt_id, attempt_id_or_none
from broker.protocol.task_row import TaskRow
from broker.values.names import NAME

_ROLLOUT = re.compile(rf"({NAME})(?:#([0-9]{{1,4}}))?")

#: The attempt number of a rollout whose attempt is unknown: no attempt has it, so the rollout counts as late.
_NO_ATTEMPT = "0.unidentified"

Basis = Literal["brought", "claimed once", "by the client", "first write", "late"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One sample of a task. The protocol has no groups: each slot is a separate rollout there."""

    task: str
    number: int

    @classmethod
    def of_rollout(cls, rollout_id: str) -> Slot | None:
        """The slot that a rollout id names; None: no task can have that id."""
        match = _ROLLOUT.fullmatch(rollout_id)
        return cls(match[1], int(match[2] or 0)) if match else None

    @property
    def name(self) -> str:
        """`<task>#<slot>`."""
        return f"{self.task}#{self.number}"

    @property
    def no_attempt(self) -> str:
        """An attempt id that no claim gets."""
        return f"{self.name}.{_NO_ATTEMPT}"

    def rollout_id(self, samples: int) -> str:
        """The id that a client sees: the task's, with the slot if the task has several."""
        return self.task if samples == 1 else self.name


@dataclass(frozen=True, slots=True)
class Attribution:
    """The attempt that a rollout is submitted for, and how it was found.

    Args:
        attempt_id: the attempt.
        basis: `first write`: its attempt is unknown, and the rollout goes once to the attempt that holds the slot;
            `late`: its attempt is unknown, and the slot has its result.
    """

    attempt_id: str
    basis: Basis


def brought_back(rollout: PostedRollout, slot: Slot) -> str | None:
    """The attempt id that the client brought: its own field, in `metadata`, or in the echoed task.

    Values that are not attempt ids of this slot are ignored: metadata are the user's, and may hold others.
    """
    places: list[object] = [rollout.attempt_id, rollout.metadata.get("attempt_id")]
    if rollout.task is not None:
        places += [rollout.task.attempt_id, rollout.task.metadata.get("attempt_id")]
    for place in places:
        if not isinstance(place, str):
            continue
        attempt = attempt_id_or_none(place)
        if attempt is not None and (attempt.task, attempt.slot) == (slot.task, slot.number):
            return place
    return None


def attributed(slot: Slot, row: TaskRow | None, given: Mapping[str, str], client: str) -> Attribution:
    """The attempt of a rollout that came without its id.

    Args:
        slot: the rollout's slot.
        row: the broker's facts about the task, or None.
        given: the claims of this slot that gateways gave out: attempt id -> client.
        client: the client that posts the rollout.

    Returns:
        The slot's only claim; else the only claim that this client was given; else the present claim.
    """
    last = None if row is None else next((s for s in row.slots if s.slot == slot.number), None)
    if row is None or last is None:
        return Attribution(slot.no_attempt, "late")
    if attempt_id(last.attempt_id).claims == 1:
        return Attribution(last.attempt_id, "claimed once")
    own = [attempt for attempt, receiver in given.items() if receiver == client]
    if len(own) == 1:
        return Attribution(own[0], "by the client")
    held = row.letters[slot.number : slot.number + 1] == "H"
    # An attempt of a worker without gateway cannot be the posted one.
    if held and (last.attempt_id in given or not given):
        return Attribution(last.attempt_id, "first write")
    return Attribution(slot.no_attempt, "late")
