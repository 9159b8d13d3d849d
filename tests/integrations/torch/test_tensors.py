"""Ragged arrays as tensors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from broker import Attempt, RunConfig, Task, Trainer, Worker
from broker.errors import BadArgument
from broker.integrations.torch import collate, pack, pad
from broker.values.rollout import Rollout, Sample
from tests.threads import InThread

torch: Any = import_module("torch")


def rollout(task: str, *results: Any, version: int = 3, step: int = 4) -> Rollout:
    samples = [Sample(f"{task}#{i}.1.aa", i, result, version, version, "w") for i, result in enumerate(results)]
    return Rollout(task, None, samples, version, version, step, step - version)


def frozen(*values: float) -> np.ndarray[Any, Any]:
    """As the codec gives arrays: they cannot be written."""
    array = np.array(values, dtype=np.int32)
    array.flags.writeable = False
    return array


def test_pad_fills_to_the_longest() -> None:
    tokens, mask = pad([frozen(1, 2, 3), frozen(), frozen(4)], value=-1)
    assert tokens.dtype == torch.int32
    assert tokens.tolist() == [[1, 2, 3], [-1, -1, -1], [4, -1, -1]]
    assert mask.tolist() == [[True, True, True], [False] * 3, [True, False, False]]


def test_pad_on_the_left_to_a_length() -> None:
    tokens, mask = pad([[1, 2], [3]], length=3, side="left")
    assert tokens.tolist() == [[0, 1, 2], [0, 0, 3]]
    assert mask.tolist() == [[False, True, True], [False, False, True]]


def test_pad_keeps_what_comes_after_the_ragged_dimension() -> None:
    values, mask = pad([np.ones((2, 4), np.float32), np.ones((1, 4), np.float32)])
    assert (values.shape, mask.shape, float(values.sum())) == ((2, 2, 4), (2, 2), 12.0)


KINDS: list[tuple[list[Any], str]] = [
    ([[0.5], [1, 2]], "float32"),
    ([[0.5], []], "float32"),
    ([[], []], "int64"),
    ([[True], [False, True]], "bool"),
    ([np.zeros(1, np.uint16)], "int32"),
    ([np.zeros(1, np.float64), [0.5]], "float64"),
    ([], "int64"),
]


@pytest.mark.parametrize(("arrays", "kind"), KINDS)
def test_pad_has_a_type_of_pytorch(arrays: list[Any], kind: str) -> None:
    assert pad(arrays)[0].dtype == getattr(torch, kind)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadArgument):
        pad([[1, 2, 3]], length=2)
    with pytest.raises(BadArgument):
        pad([np.ones((1, 2)), np.ones((1, 3))])


def test_pack_puts_arrays_end_to_end() -> None:
    values, offsets = pack([frozen(1, 2), frozen(), frozen(3)])
    assert values.tolist() == [1, 2, 3]
    assert (offsets.tolist(), offsets.dtype) == ([0, 2, 2, 3], torch.int32)
    assert [part.tolist() for part in pack([])] == [[], [0]]


def test_collate_stacks_the_samples_of_all_rollouts() -> None:
    batch = collate(
        [
            rollout("a", {"tokens": frozen(1, 2), "logprobs": [-0.5, -1.0], "reward": 1.0, "text": "x"}),
            rollout(
                "b", *({"tokens": frozen(i), "logprobs": [0.0], "reward": i, "text": "y"} for i in (7, 8)), version=2
            ),
        ],
        pad_value={"tokens": 99},
    )
    assert batch["tokens"].tolist() == [[1, 2], [7, 99], [8, 99]]
    assert batch["tokens_mask"].tolist() == [[True, True], [True, False], [True, False]]
    assert batch["logprobs"].tolist() == [[-0.5, -1.0], [0.0, 0.0], [0.0, 0.0]]
    assert batch["logprobs"].dtype == batch["reward"].dtype == torch.float32
    assert (batch["reward"].tolist(), batch["text"]) == ([1.0, 7.0, 8.0], ["x", "y", "y"])
    assert (batch["task"], batch["group"].tolist()) == (["a", "b", "b"], [0, 1, 1])
    assert (batch["version"].tolist(), batch["staleness"].tolist()) == ([3, 2, 2], [1, 2, 2])


def test_collate_of_nothing_is_empty() -> None:
    batch = collate([])
    assert {name: len(column) for name, column in batch.items()} == {
        "task": 0,
        "group": 0,
        "version": 0,
        "staleness": 0,
    }


def test_collate_says_which_result_is_unlike_the_others() -> None:
    with pytest.raises(BadArgument, match="dict"):
        collate([rollout("a", [1, 2])])
    with pytest.raises(BadArgument, match=r"b#0\.1\.aa"):
        collate([rollout("a", {"x": 1}), rollout("b", {"y": 1})])


def test_tensors_of_workers_become_arrays_of_the_trainer_and_tensors_again(url: str) -> None:
    def generate(attempt: Attempt) -> dict[str, object]:
        logits = torch.arange(6.0).reshape(3, 2).requires_grad_()
        return {"tokens": attempt.payload["prompt"].copy() + 1, "logprobs": logits.T[1], "reward": logits.mean()}

    config = RunConfig(consumer_batch_size=1)
    with Trainer(url, "r", config) as trainer, Worker(url, "r") as worker:
        trainer.enqueue(Task(id="t", payload={"prompt": torch.tensor([1, 2])}, samples=2))
        working = InThread(lambda: worker.run(generate))
        try:
            batch = trainer.next_batch(timeout=30.0)
        finally:
            worker.stop()
            working.result()
    result = batch[0].results[0]
    assert type(result["logprobs"]) is np.ndarray
    assert result["reward"] == 2.5
    columns = collate(batch)
    assert columns["tokens"].tolist() == [[2, 3], [2, 3]]
    assert columns["logprobs"].tolist() == [[1.0, 3.0, 5.0]] * 2
    assert columns["reward"].tolist() == [2.5, 2.5]
