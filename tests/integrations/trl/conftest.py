"""TRL where it is installed; elsewhere a stand-in with the little that the adapter imports."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

IS_THERE = importlib.util.find_spec("trl") is not None


@dataclass
class RolloutSample:
    """The fields of TRL's class of this name."""

    prompt: Any
    completion: Any
    input_ids: Any
    completion_mask: Any
    old_log_probs: Any
    advantage: float
    model_version: int
    group_id: int
    metrics: dict[str, float]
    enqueued_at: float | None = None


class TrainerCallback:
    """The base class of callbacks."""


@pytest.fixture(autouse=True)
def trl(monkeypatch: pytest.MonkeyPatch) -> None:
    if IS_THERE:
        return
    module: Any = ModuleType("trl.experimental.async_grpo.async_rollout_worker")
    module.RolloutSample = RolloutSample
    transformers: Any = ModuleType("transformers")
    transformers.TrainerCallback = TrainerCallback
    for name in ("trl", "trl.experimental", "trl.experimental.async_grpo"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    if importlib.util.find_spec("transformers") is None:
        monkeypatch.setitem(sys.modules, "transformers", transformers)
    stored = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.16.0" if name == "trl" else stored(name))
