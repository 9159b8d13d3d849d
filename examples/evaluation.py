"""Training and evaluation by the same workers: `python examples/evaluation.py [URL]`.

The tasks are sums. The "policy" is the chance of a right answer, which grows with each version. Every second version
is evaluated, in a run of its own, beside training. The tasks of an evaluation carry the policy that they judge, so they
are generated with its weights, however late.

Needs the extra `embedded`; with a URL, none.
"""

import random
import sys
import threading
from queue import SimpleQueue

from broker import Attempt, Judged, RunConfig, Task, Trainer, Worker

STEPS, EVERY = 10, 2
BATCH, QUESTIONS = 4, 20
TRAIN, EVAL = "examples/evaluation", "examples/evaluation/eval"


def generate(attempt: Attempt) -> dict[str, float]:
    """One rollout with the weights of `attempt.version`, of both runs; `attempt.blob` says where they are."""
    left, _, right = str(attempt.payload).partition("+")
    skill = float(attempt.blob or b"0")
    answer = int(left) + int(right) + (0 if random.random() < skill else 1)
    return {"answer": answer, "reward": float(answer == int(left) + int(right)), "version": attempt.version}


def evaluate(evaluation: Trainer) -> None:
    """Reports each evaluation when all of its questions are answered, until no more will come."""
    rewards: dict[int, list[float]] = {}
    for batch in evaluation.batches(timeout=60.0):
        for rollout in batch:
            assert rollout.judged is not None
            version, (result,) = rollout.judged.version, rollout.results
            assert result["version"] == version
            found = rewards.setdefault(version, [])
            found.append(result["reward"])
            if len(found) == QUESTIONS:
                print(f"version {version}: mean reward {sum(found) / QUESTIONS:.2f} in evaluation")


def main(url: str) -> None:
    config = RunConfig(consumer_batch_size=BATCH, max_staleness=1, max_concurrent_rollouts=8)
    # Preferred by the workers, so that it is not starved; at most two at a time, so that it does not starve training.
    eval_config = RunConfig(consumer_batch_size=BATCH, max_staleness=None, max_concurrent_rollouts=2)
    with Trainer(url, TRAIN, config) as trainer, Trainer(url, EVAL, eval_config) as evaluation:
        trainer.enqueue(Task(id=f"sum/{i}", payload=f"{i}+{i}", samples=2) for i in range(STEPS * BATCH))
        workers = [Worker(url, [EVAL, TRAIN], name=f"thread-{number}") for number in range(3)]
        threads = [threading.Thread(target=worker.run, args=(generate, 2)) for worker in workers]
        threads.append(threading.Thread(target=evaluate, args=(evaluation,)))
        questions: SimpleQueue[Task | None] = SimpleQueue()
        evaluation.feed(iter(questions.get, None))  # until None: then no more evaluations will come
        for thread in threads:
            thread.start()
        while trainer.version < STEPS:
            trainer.next_batch(timeout=60.0)
            weights = b"%.2f" % ((trainer.version + 1) / STEPS)
            trainer.advance(weights)
            if trainer.version % EVERY == 0:
                for i in range(QUESTIONS):
                    judged = Judged(f"{i}+1", trainer.policy, weights)
                    questions.put(Task(id=f"v{trainer.version}/{i}", payload=judged))
        questions.put(None)
        threads.pop().join()
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()
        print(f"trained {trainer.stats().consumed} tasks, evaluated {evaluation.stats().consumed}")


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["embedded://"]))
