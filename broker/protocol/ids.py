"""Reads the ids that scripts make, of attempts and sessions.

An attempt is `<task>#<slot>.<claims>.<random>`, a session `<worker>~<number>.<random>`. Names of tasks and workers hold
neither `#` nor `~` (`broker/values/names.py`).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from broker.values.names import NAME

_ATTEMPT: Final = re.compile(rf"({NAME})#([0-9]{{1,4}})\.([0-9]{{1,16}})\.([A-Za-z0-9]{{1,64}})")


class AttemptId(NamedTuple):
    """The parts of an attempt's id.

    Attributes:
        task: the task's id.
        slot: the number of the slot in the task, from 0.
        claims: the number of this claim of the slot, from 1.
        random: the part that the client chose.
    """

    task: str
    slot: int
    claims: int
    random: str


def attempt_id(text: str) -> AttemptId:
    """The parts of an attempt's id. Raises ValueError for anything else."""
    parts = attempt_id_or_none(text)
    if parts is None:
        raise ValueError(f"not an attempt's id: {text[:300]}")
    return parts


def attempt_id_or_none(text: str) -> AttemptId | None:
    """The parts of an attempt's id; None for anything else. For texts that strangers send."""
    match = _ATTEMPT.fullmatch(text)
    if match is None:
        return None
    task, slot, claims, random = match.groups()
    return AttemptId(task, int(slot), int(claims), random)


def worker_of(session: str) -> str:
    """The name of a session's worker; of an empty id the empty string."""
    return session.partition("~")[0]
