"""The example of GRPO learns: a transformer, generators as processes, and kills of any of them."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from broker.weights import Publisher
from tests.child import finished

pytestmark = pytest.mark.processes


def curve(folder: Path) -> list[dict[str, Any]]:
    """The steps as the last life of the trainer that made each saw them."""
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    return [step for _, step in sorted({line["step"]: line for line in lines}.items())]


@pytest.mark.parametrize("kills", ["none", "8"])
def test_a_transformer_learns_to_use_the_tool_and_each_step_is_trained(tmp_path: Path, kills: str) -> None:
    how = [] if kills == "none" else ["--kill-every", kills]
    ended = finished("-m", "examples.grpo", "--folder", tmp_path, *how, within_s=900)
    assert ended.code == 0, ended.err
    assert ("was killed" in ended.out) == bool(how)
    steps = curve(tmp_path)
    evaluated = range(0, len(steps) + 1, 20)
    assert [step["step"] for step in steps] == list(range(1, evaluated[-1] + 1))
    assert all(step["staleness"] <= 1 for step in steps)
    assert mean(step["reward"] for step in steps[:2]) < 0.2
    # The steps since the last checkpoint are made again, with the weights and the optimizer of the checkpoint.
    assert mean(step["reward"] for step in steps[-5:]) > 0.8
    evaluations = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text("utf-8").splitlines()]
    assert {line["version"] for line in evaluations} == set(evaluated)
    assert evaluations[-1]["reward"] > 0.8


def test_a_trainer_that_is_killed_before_its_first_checkpoint_does_not_warm_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from examples.grpo import trainer
    from examples.grpo.__main__ import parser

    warmed: list[Any] = []

    def warm_up(model: Any, *_: Any) -> None:
        warmed.append(model)
        model.head.weight.data.fill_(7.0)

    monkeypatch.setattr(trainer, "warm_up", warm_up)
    options = parser().parse_args(["--folder", str(tmp_path), "--size", "tiny"])
    for _ in range(2):
        with Publisher(tmp_path / "weights") as publisher:
            learner = trainer.Learner(options, publisher)
            learner.begin(0)
            assert (learner.model.head.weight == 7.0).all()
    assert len(warmed) == 1


def test_it_ends_when_it_has_learned_at_a_version_that_is_evaluated() -> None:
    from examples.grpo.__main__ import parser
    from examples.grpo.trainer import is_enough

    options = parser().parse_args([])
    assert is_enough(options, 40, [0.9] * 5)
    assert not is_enough(options, 41, [0.9] * 5)
    assert not is_enough(options, 40, [0.9] * 4)
    assert not is_enough(options, 40, [0.8, *[0.9] * 4])
    assert not is_enough(parser().parse_args(["--until", "0"]), 40, [1.0] * 5)
    assert is_enough(parser().parse_args(["--evaluate-every", "0"]), 45, [1.0] * 5)
