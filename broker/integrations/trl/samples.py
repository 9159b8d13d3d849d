"""From a prompt to TRL's samples: what workers submit, and what the trainer's queue gets of a finished group."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broker.errors import BadArgument
from broker.values.rollout import Rollout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def result(
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    log_probs: Sequence[float],
    reward: float | None,
    *,
    mask: Sequence[int] | None = None,
    completion: Any = "",
    metrics: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What a worker submits for one sample.

    Args:
        prompt_ids: tokens of the prompt.
        completion_ids: tokens that follow it: the model's, and those of tools and environments between them.
        log_probs: of each of `completion_ids` under the weights that generated; any number where `mask` is 0.
        reward: of the sample; None: it could not be judged, and teaches nothing.
        mask: for each of `completion_ids` 1 if the model chose it, otherwise 0; None: it chose all.
        completion: as text or messages, for TRL's log of samples.
        metrics: numbers about this sample for TRL's log, by name.

    Raises:
        BadArgument: the lengths differ, there is no completion, or a number is not finite.
    """
    import numpy as np

    chosen = [1] * len(completion_ids) if mask is None else list(mask)
    if not 0 < len(completion_ids) == len(log_probs) == len(chosen):
        lengths = f"{len(completion_ids)} tokens, {len(log_probs)} log-probabilities, {len(chosen)} marks"
        raise BadArgument(argument="completion_ids", given=lengths, expected="as many of each, and at least one")
    before = len(prompt_ids)
    logs = np.array([0.0] * before + list(log_probs), np.float32)
    marks = np.array([0] * before + chosen, np.int64)
    if not np.isfinite(logs[marks > 0]).all():
        raise BadArgument(argument="log_probs", given="a number that is not finite", expected="finite numbers")
    if reward is not None and not math.isfinite(reward):
        raise BadArgument(argument="reward", given=reward, expected="a finite number, or None")
    return {
        "input_ids": np.array([*prompt_ids, *completion_ids], np.int64),
        "completion_mask": marks,
        "old_log_probs": logs,
        "reward": None if reward is None else float(reward),
        "completion": completion,
        "metrics": {name: float(value) for name, value in (metrics or {}).items()},
    }


def advantages_of(rewards: Sequence[float | None]) -> NDArray[np.float64]:
    """GRPO's advantages: (reward - mean) / (deviation + 1e-8) over the samples that have a reward; 0 for the others.

    Source: Shao et al., "DeepSeekMath", 2024, section 4.1.
    """
    import numpy as np

    judged = np.array([math.nan if reward is None else reward for reward in rewards], np.float64)
    there = ~np.isnan(judged)
    if not there.any():
        return np.zeros(len(rewards))
    scaled = (judged - judged[there].mean()) / (judged[there].std() + 1e-8)
    return np.where(there, scaled, 0.0)


def samples_of(rollout: Rollout, make: Callable[..., Any], number: int, model_version: int) -> list[Any]:
    """TRL's samples of a finished group.

    Args:
        rollout: the group; its payload is the row of the data set.
        make: TRL's `RolloutSample`.
        number: of the group; TRL counts trained groups by it.
        model_version: TRL's number of the oldest policy among the samples.

    Raises:
        BadArgument: a worker submitted something else than `result` makes.
    """
    try:
        rewards = [made["reward"] for made in rollout.results]
        advantages = advantages_of(rewards)
        judged = [reward for reward in rewards if reward is not None]
        deviation = deviation_of(judged)
        return [
            make(
                prompt=rollout.payload["prompt"],
                completion=made["completion"],
                input_ids=made["input_ids"],
                completion_mask=made["completion_mask"],
                old_log_probs=made["old_log_probs"],
                advantage=float(advantage),
                model_version=model_version,
                group_id=number,
                metrics={"reward": math.nan if reward is None else reward, "reward_std": deviation, **made["metrics"]},
                enqueued_at=time.time(),
            )
            for made, reward, advantage in zip(rollout.results, rewards, advantages, strict=True)
        ]
    except (KeyError, TypeError, IndexError) as error:
        workers = ", ".join(sorted({sample.worker for sample in rollout.samples}))
        raise BadArgument(
            problem=f"a result of task {rollout.task} is not what broker.integrations.trl.result makes "
            f"({type(error).__name__}: {error}); its workers are {workers}"
        ) from error


def deviation_of(rewards: Sequence[float]) -> float:
    """The deviation of the rewards of a group; not a number if there are none."""
    if not rewards:
        return math.nan
    mean = sum(rewards) / len(rewards)
    return math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))
