"""A trainer of agent-lightning's kind and three workers: `python examples/agent_lightning_gateway.py [URL]`.

The trainer queues questions and collects rollouts, as it would with `agentlightning.AgentLightningServer`. The workers
speak plain HTTP, as workers in any language may. One of them abandons every fourth task that it takes. The broker gives
these tasks to other workers, and each rollout comes back once.

Needs the extras `embedded` and `gateway`; with a URL, `embedded` is not needed.
"""

import asyncio
import json
import sys
import threading
import urllib.request
from typing import Any

from broker.integrations.agent_lightning import Rollout
from broker.integrations.agent_lightning import Server as AgentLightningServer

TASKS = 20


def call(url: str, posted: dict[str, Any] | None = None) -> Any:
    """Sends one request: GET, or POST with a body."""
    body = None if posted is None else json.dumps(posted).encode()
    with urllib.request.urlopen(url, body, timeout=10) as answer:  # noqa: S310 - the trainer's own endpoint
        return json.load(answer)


def work(endpoint: str, stop: threading.Event, *, clumsy: bool) -> None:
    """What a worker in any language does: poll, generate, post."""
    taken = 0
    while not stop.is_set():
        answer = call(f"{endpoint}/task")
        if not answer["is_available"]:
            stop.wait(0.05)
            continue
        task, taken = answer["task"], taken + 1
        if clumsy and taken % 4 == 0:
            continue  # abandons the task, as a worker that dies
        left, _, right = task["input"]["question"].partition(" + ")
        reward = float(int(left) + int(right) == task["input"]["answer"])
        # By the attempt_id the server certainly recognises a rollout that comes too late.
        call(
            f"{endpoint}/rollout",
            {"rollout_id": task["rollout_id"], "attempt_id": task["attempt_id"], "final_reward": reward},
        )


async def main(url: str | None) -> None:
    server = AgentLightningServer(port=0, task_timeout_seconds=0.5, url=url, run="examples/agent-lightning")
    await server.start()
    queued = [await server.queue_task({"question": f"{i} + {i}", "answer": 2 * i}, mode="train") for i in range(TASKS)]
    stop = threading.Event()
    workers = [
        asyncio.create_task(asyncio.to_thread(work, server.endpoint, stop, clumsy=number == 0)) for number in range(3)
    ]
    completed: list[Rollout] = []
    while len(completed) < len(queued):
        completed += await server.retrieve_completed_rollouts()
        await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*workers)
    await server.stop()
    assert {rollout.rollout_id for rollout in completed} == set(queued)
    rewards = [rollout.final_reward or 0.0 for rollout in completed]
    print(f"{len(completed)} of {len(queued)} rollouts, mean reward {sum(rewards) / len(rewards):.2f}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
