"""What workflows and weights are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class RolloutWorkflow:
    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        raise NotImplementedError


@dataclass
class WeightUpdateMeta:
    type: str
    path: str | None = None
    version: int | None = None
    gen_allocation: object = None
    clear_checkpoint_after_load: bool = True
