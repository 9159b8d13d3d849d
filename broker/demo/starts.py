"""The tasks of the demo: start states of CartPole, by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from broker import Task

#: Start states of one run's seed; the next seed's begin after them.
_STARTS_PER_SEED: Final = 10_000_000

_PREFIX: Final = "start-"


@dataclass(frozen=True, slots=True)
class Start:
    """A task's payload.

    Attributes:
        seed: start state of the episode.
        policy_seed: of the weights of version 0, which no trainer has to send.
    """

    seed: int
    policy_seed: int

    def to_payload(self) -> dict[str, int]:
        """What goes into the task."""
        return {"seed": self.seed, "policy_seed": self.policy_seed}

    @classmethod
    def from_payload(cls, payload: Any) -> Start:
        """Reads a task's payload.

        Raises:
            ValueError: it is not one of the demo's.
        """
        try:
            return cls(seed=int(payload["seed"]), policy_seed=int(payload["policy_seed"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{str(payload)[:100]} is not a task of the demo") from error


def start(run_seed: int, samples: int, number: int) -> Task:
    """Task number `number` of a run, from 0."""
    payload = Start(run_seed * _STARTS_PER_SEED + number, run_seed).to_payload()
    return Task(id=start_id(number), payload=payload, samples=samples)


def start_id(number: int) -> str:
    """The id of a task."""
    return f"{_PREFIX}{number}"


def number_of(task: str) -> int:
    """The number in a task's id.

    Raises:
        ValueError: it is not one of the demo's tasks.
    """
    if not task.startswith(_PREFIX):
        raise ValueError(f"{task} is not a task of the demo")
    return int(task.removeprefix(_PREFIX))
