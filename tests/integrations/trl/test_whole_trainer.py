"""TRL's own trainer on the broker, killed and resumed, on CPU: `PYTHON -m pytest tests/integrations/trl`, with TRL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.child import Child
from tests.integrations.trl.conftest import IS_THERE

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.skipif(not IS_THERE, reason="TRL is not installed: pip install -e '.[test,trl]'"),
]

PROGRAM = "tests.integrations.trl.whole_trainer"
#: Importing TRL takes a busy machine more than a minute.
PATIENCE_S = 300.0


def steps(folder: Path) -> list[dict[str, Any]]:
    path = folder / "steps.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def test_trls_trainer_is_killed_and_trains_each_prompt_once_with_the_weights_of_each_version(
    url: str, tmp_path: Path
) -> None:
    with Child("-m", PROGRAM, "train", url, tmp_path, "1000", "cpu") as trainer:
        trainer.wait_until((tmp_path / "model" / "config.json").exists, "the model is there", PATIENCE_S)
        with Child("-m", PROGRAM, "generate", url, tmp_path, "cpu") as generator:
            trainer.wait_until(lambda: len(steps(tmp_path)) > 4, "it has saved step 4", PATIENCE_S)
            trainer.kill()
            first = steps(tmp_path)
            with Child("-m", PROGRAM, "train", url, tmp_path, "10", "cpu") as resumed:
                ended = resumed.end(PATIENCE_S)
                assert ended.code == 0, ended.err
            ended = generator.end()
            assert ended.code == 0, ended.err
    resumed_at = steps(tmp_path)[len(first)]["step"] - 1
    before = next(line["collated"] for line in first if line["step"] == resumed_at - 1)
    after = next(line["collated"] for line in steps(tmp_path)[len(first) :] if line["step"] == 9)
    assert len(before + after) == len(set(before + after)) == 2 * 10, "two groups in each step, each once"
    history = json.loads((tmp_path / "out" / "checkpoint-10" / "trainer_state.json").read_text("utf-8"))["log_history"]
    ratios = [line["ratio"] for line in history if "ratio" in line]
    assert len(ratios) == 10
    assert all(abs(ratio - 1) < 0.2 for ratio in ratios), "the log-probabilities are of other weights"
