"""Group-relative advantages and the decoupled PPO loss."""

# pyright: basic, reportMissingImports=false

from dataclasses import dataclass

import torch
from torch import Tensor

from broker import Rollout
from broker.integrations.torch import collate


@dataclass
class Batch:
    """The samples of one step, padded at the right; N samples of at most T tokens.

    Args:
        tokens: `[N, T]`, int64.
        mask: `[N, T - 1]`, 1.0 where the model chose the next token.
        behaviour: `[N, T - 1]`, log-probabilities under the weights that generated.
        advantages: `[N]`.
    """

    tokens: Tensor
    mask: Tensor
    behaviour: Tensor
    advantages: Tensor


def batch_of(rollouts: list[Rollout], device: str) -> Batch:
    """The tensors of one step. Advantages are GRPO's: (reward - mean) / (deviation + 1e-4) within each group.

    Source: Shao et al., "DeepSeekMath", 2024, section 4.1.
    """
    columns = collate(rollouts)
    rewards = columns["reward"].float().view(len(rollouts), -1)  # all groups have as many samples
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, correction=0, keepdim=True) + 1e-4)
    return Batch(
        columns["tokens"].to(device),
        columns["mask"][:, 1:].to(device),
        columns["log_probabilities"][:, 1:].to(device),
        advantages.flatten().to(device),
    )


def decoupled_ppo_loss(
    new: Tensor, proximal: Tensor, behaviour: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """PPO's clipped loss around proximal weights, corrected for older weights that generated.

    Source: Hilton et al., "Batch size-invariance for policy optimization", 2021, as AReaL uses it (Fu et al., 2025).

    Args:
        new: `[N, T]`, log-probabilities under the weights in training.
        proximal: `[N, T]`, under the weights at the beginning of the step.
        behaviour: `[N, T]`, under the weights that generated.
        advantages: `[N]`.
        mask: `[N, T]`, 1.0 where a token counts.
        clip: the ratio of new to proximal is held within 1 - clip and 1 + clip.

    Returns:
        The mean over the tokens that count.
    """
    ratio = (new - proximal).exp()
    correction = (proximal - behaviour).exp().clamp(max=5.0)
    gain = torch.minimum(ratio * advantages[:, None], ratio.clamp(1 - clip, 1 + clip) * advantages[:, None])
    return -(correction * gain * mask).sum() / mask.sum().clamp(min=1.0)
