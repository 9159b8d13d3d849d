"""The example of GRPO learns: a transformer, generators as processes, and kills of any of them."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tests.child import finished

pytest.importorskip("torch", reason="PyTorch is not installed")

pytestmark = pytest.mark.processes


def curve(folder: Path) -> list[dict[str, Any]]:
    """The steps as the last life of the trainer that made each saw them."""
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    return [step for _, step in sorted({line["step"]: line for line in lines}.items())]


@pytest.mark.parametrize("kills", ["none", "8"])
def test_a_transformer_learns_to_use_the_tool_and_each_step_is_trained(tmp_path: Path, kills: str) -> None:
    how = [] if kills == "none" else ["--kill-every", kills]
    ended = finished("-m", "examples.grpo", "--folder", tmp_path, *how, within_s=560)
    assert ended.code == 0, ended.err
    assert ("was killed" in ended.out) == bool(how)
    steps = curve(tmp_path)
    assert [step["step"] for step in steps] == list(range(1, 81))
    assert all(step["staleness"] <= 1 for step in steps)
    assert mean(step["reward"] for step in steps[:2]) < 0.3
    evaluations = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text("utf-8").splitlines()]
    assert {line["version"] for line in evaluations} == {0, 20, 40, 60, 80}
    if not how:  # kills undo steps since the last checkpoint, and what was learned in them
        assert mean(step["reward"] for step in steps[-5:]) > 0.8
        assert evaluations[0]["reward"] < 0.3
        assert evaluations[-1]["reward"] > 0.8
