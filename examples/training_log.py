"""The numbers of a run beside the loss, in TensorBoard: `python examples/training_log.py --logdir runs`.

Workers and trainer are in this process, on a private server. Needs PyTorch, `tensorboard` and the extra `embedded`.
"""

# pyright: basic, reportMissingImports=false

import argparse
import threading

from torch.utils.tensorboard import SummaryWriter

from broker import Attempt, RunConfig, Task, Trainer, Worker
from broker.local_server.embedded import EmbeddedServer


def generate(attempt: Attempt) -> dict[str, float]:
    return {"reward": attempt.payload % 7 / 6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logdir", default="runs", help="where TensorBoard reads (default: %(default)s)")
    options = parser.parse_args()
    server = EmbeddedServer()
    config = RunConfig(consumer_batch_size=4, max_staleness=1, max_concurrent_rollouts=8)
    with Trainer(server.url, "logged", config) as trainer, SummaryWriter(options.logdir) as writer:
        trainer.enqueue(Task(id=f"task/{number}", payload=number) for number in range(40))
        worker = Worker(server.url, "logged")
        working = threading.Thread(target=worker.run, args=(generate,))
        working.start()
        for rollouts in trainer.batches():
            loss = 1.0 - sum(rollout.results[0]["reward"] for rollout in rollouts) / len(rollouts)
            writer.add_scalar("train/loss", loss, trainer.version)
            for name, value in trainer.metrics().items():
                writer.add_scalar(name, value, trainer.version)
        print(f"{trainer.version} steps are in {options.logdir}: tensorboard --logdir {options.logdir}")
        trainer.finish()
        working.join()
        worker.close()
    server.stop()


if __name__ == "__main__":
    main()
