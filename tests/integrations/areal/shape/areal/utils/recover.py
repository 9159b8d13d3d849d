"""Checkpoints: a step, and the data loader's position."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class RecoverHandler:
    def __init__(self, folder: Path, every: int = 1) -> None:
        self.config = SimpleNamespace(experiment_name="e", trial_name="t", fileroot=str(folder))
        self.last_step_info: Any = None
        self._every = every

    @staticmethod
    def recover_info_path(experiment_name: str, trial_name: str, fileroot: str) -> str:
        return f"{fileroot}/{experiment_name}/{trial_name}"

    @property
    def _file(self) -> Path:
        config = self.config
        return Path(self.recover_info_path(config.experiment_name, config.trial_name, config.fileroot)) / "step.json"

    def dump(self, engine: Any, step_info: Any, dataloader: Any) -> None:
        if (step_info.global_step + 1) % self._every:
            return
        self.last_step_info = step_info
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps([step_info.global_step, dataloader.position]))

    def load(self, engine: Any, dataloader: Any, inference_engine: Any = None) -> Any:
        if not self._file.exists():
            return None
        step, dataloader.position = json.loads(self._file.read_text())
        inference_engine.set_version(step + 1)
        return SimpleNamespace(last_step_info=SimpleNamespace(global_step=step))
