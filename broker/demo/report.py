"""What the trainer tells the supervisor: a line of JSON for each step. Only the curve of returns is drawn from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step saw; a line of the trainer's standard output.

    Attributes:
        step: its number, from 0.
        mean_return: of the episodes it trained on.
        episodes: how many.
        samples: steps of the environment in them.
        mean_weight: mean of the truncated off-policy weights.
        wait_s: how long the batch took to arrive, seconds.
        update_s: how long the update took, seconds.
    """

    step: int
    mean_return: float
    episodes: int
    samples: int
    mean_weight: float
    wait_s: float
    update_s: float

    def to_line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> StepReport:
        """Reads what `to_line` made.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls(**json.loads(line))
        except TypeError as error:
            raise ValueError(f"not a report of a step: {line[:200]}") from error
