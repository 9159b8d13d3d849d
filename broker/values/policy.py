"""The policy that a rollout was made with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from broker.values.model import Model


class Policy(Model, frozen=True):
    """A version together with the epoch of the trainer that made it.

    Args:
        version: number of the policy, from 0.
        epoch: `<number>.<token>` of that trainer.
    """

    version: Annotated[int, Field(ge=0, lt=2**53)]
    epoch: Annotated[str, Field(min_length=1, max_length=200)]
