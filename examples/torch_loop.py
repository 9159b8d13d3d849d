"""REINFORCE on a toy in a PyTorch loop, with two worker threads: `python examples/torch_loop.py [URL]`.

The policy is one number, which gives the chance of an action that pays 1. Its weight goes to the workers with each new
version. In a real run the workers are other processes on other hosts, and the weights are too large for this way.

Needs the extras `embedded` and `torch`; with a URL, `embedded` is not needed.
"""

# Checked less strictly than other files: PyTorch does not declare all its types, and need not be installed.
# pyright: basic, reportMissingImports=false

import sys
import threading
from typing import Any

import numpy as np
import torch

from broker import Attempt, RunConfig, Task, Worker
from broker.integrations.torch import RolloutBatches, collate
from broker.local_server.embedded import EmbeddedServer

STEPS, BATCH, SAMPLES = 8, 4, 8


def generate(attempt: Attempt) -> dict[str, Any]:
    """An episode of one to five actions with the weights of `attempt.version`."""
    logit = float(np.frombuffer(attempt.blob, np.float32)[0]) if attempt.blob else 0.0
    chance = 1 / (1 + np.exp(-logit))
    actions = (np.random.random(1 + int(attempt.payload) % 5) < chance).astype(np.int64)
    return {"actions": actions, "reward": float(actions.mean())}


def train(batches: RolloutBatches) -> None:
    logit = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([logit], lr=2.0)
    for rollouts in batches:
        batch = collate(rollouts)
        chances = torch.where(batch["actions"] == 1, logit.sigmoid(), 1 - logit.sigmoid())
        log_probabilities = (chances.log() * batch["actions_mask"]).sum(1)
        advantages = batch["reward"] - batch["reward"].mean()
        optimizer.zero_grad()
        (-(advantages * log_probabilities).mean()).backward()
        optimizer.step()
        print(f"step {batches.trainer.version}: mean reward {batch['reward'].mean().item():.2f}")
        batches.advance(logit.detach().numpy().tobytes())  # acknowledges the step, with the new weights


def main(url: str) -> None:
    config = RunConfig(consumer_batch_size=BATCH, max_staleness=1, max_concurrent_rollouts=8)
    with RolloutBatches(url, "examples/torch", config, steps=STEPS) as batches:
        batches.trainer.enqueue(Task(id=f"episode/{i}", payload=i, samples=SAMPLES) for i in range(STEPS * BATCH))
        workers = [Worker(url, "examples/torch", name=f"thread-{number}") for number in range(2)]
        threads = [threading.Thread(target=worker.run, args=(generate,)) for worker in workers]
        for thread in threads:
            thread.start()
        train(batches)
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        server = EmbeddedServer()
        main(server.url)
        server.stop()
