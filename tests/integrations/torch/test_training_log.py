"""The example that logs a run's numbers to TensorBoard does."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("tensorboard", reason="TensorBoard is not installed")

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_has_the_runs_numbers_of_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["training_log.py", "--logdir", str(tmp_path)])
    runpy.run_path(str(REPOSITORY / "examples" / "training_log.py"), run_name="__main__")
    reader: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    versions = [(event.step, event.value) for event in events.Scalars("broker/policy_version")]
    assert versions == [(step, step) for step in range(10)]
    assert [event.step for event in events.Scalars("train/loss")] == list(range(10))
    assert "broker/tasks/ready" in events.Tags()["scalars"]
