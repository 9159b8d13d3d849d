"""A trainer and three worker threads, on a private server: `python examples/threads.py [URL]`.

The tasks are sums. The "policy" is the chance of a right answer, which grows with each version. In a real run the
workers are other processes on other hosts, with the same URL.

Needs the extra `embedded`; with a URL, none.
"""

import random
import sys
import threading

from broker import Attempt, Reject, RunConfig, Task, Trainer, Worker

STEPS = 10
BATCH = 4
SAMPLES = 4


def generate(attempt: Attempt) -> dict[str, float]:
    """One rollout with the weights of `attempt.version`."""
    left, _, right = str(attempt.payload).partition("+")
    if not right:
        raise Reject("not a sum")  # a verdict: never train on this. After any other exception the task is tried again
    skill = (attempt.version + 1) / (STEPS + 1)
    answer = int(left) + int(right) + (0 if random.random() < skill else 1)
    return {"answer": answer, "reward": float(answer == int(left) + int(right))}


def work(worker: Worker) -> None:
    worker.run(generate, concurrency=2)


def main(url: str) -> None:
    config = RunConfig(consumer_batch_size=BATCH, max_staleness=1, max_concurrent_rollouts=8)
    with Trainer(url, run="examples/threads", config=config) as trainer:
        trainer.enqueue(Task(id=f"sum/{i}", payload=f"{i}+{i}", samples=SAMPLES) for i in range(STEPS * BATCH))
        workers = [Worker(url, run="examples/threads", name=f"thread-{number}") for number in range(3)]
        threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        while trainer.version < STEPS:
            batch = trainer.next_batch(timeout=30.0)
            rewards = [result["reward"] for rollout in batch for result in rollout.results]
            staleness = max(rollout.staleness for rollout in batch)
            print(f"step {trainer.version}: mean reward {sum(rewards) / len(rewards):.2f}, staleness up to {staleness}")
            trainer.advance()
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()
        print(f"trained {trainer.stats().consumed} tasks in {trainer.version} steps")


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["embedded://"]))
