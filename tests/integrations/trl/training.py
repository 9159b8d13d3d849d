"""What TRL's trainer does with a rollout worker, in its order, without a model; and workers that generate."""

from __future__ import annotations

import queue
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from broker import Attempt, Worker
from broker.integrations.trl import BrokerRolloutWorker, BrokerWeightTransfer, result
from tests.threads import InThread

RUN = "trl"
ROWS = [{"prompt": f"{number}+1=", "answer": number + 1} for number in range(6)]
#: How long the trainer waits for a sample, seconds.
PATIENCE_S = 60.0


def arguments(folder: Path, **changes: Any) -> SimpleNamespace:
    """Those arguments of TRL that the adapter reads: two prompts of two samples in a step."""
    given = {
        "output_dir": str(folder), "token_budget": 0, "weight_sync_steps": 1, "max_staleness": 1,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "world_size": 1, "num_generations": 2,
    }  # fmt: skip
    return SimpleNamespace(**{**given, **changes})


def generate(attempt: Attempt) -> dict[str, Any]:
    """A sample of one token, whose reward is its slot."""
    return result([1, 2], [3 + attempt.slot], [-0.5], float(attempt.slot), completion=str(attempt.payload["answer"]))


@contextmanager
def working(url: str, handler: Any = generate) -> Generator[Worker]:
    """A worker that generates during the block; training has begun."""
    with Worker(url, RUN) as worker:
        running = InThread(lambda: worker.run(handler))
        try:
            yield worker
        except BaseException:
            worker.stop()  # the error of the block is told, not that of the worker
            raise
        worker.stop()
        running.result()


class Training:
    """One life of TRL's trainer.

    Args:
        worker: its rollout worker.
        args: its arguments.
        resumed: the step of the checkpoint that it resumes from.
        transfer: of the weights; None: there is none. The weights are the number of steps that made them.
    """

    def __init__(
        self,
        worker: BrokerRolloutWorker,
        args: SimpleNamespace,
        resumed: int = 0,
        transfer: BrokerWeightTransfer | None = None,
    ) -> None:
        self.worker, self.args, self.step, self.transfer = worker, args, resumed, transfer
        self.model_version = 0
        self._ahead: list[Any] = []
        worker.callback.on_train_begin(args, self._state, None)
        if transfer is not None:
            transfer.init_weight_transfer()
        self._sync()
        worker.start()

    @property
    def _state(self) -> SimpleNamespace:
        return SimpleNamespace(global_step=self.step, is_world_process_zero=True)

    def _sync(self) -> None:
        if self.transfer is not None:
            self.transfer.pause()
            self.transfer.send_weights(iter([("steps", Tensor(self.step))]))
            self.transfer.resume()
        self.model_version += 1
        self.worker.update_model_version(self.model_version)

    def _pull(self) -> Iterator[Any]:
        """The samples of a micro-batch, as TRL's data set takes them: it drops what is too old."""
        for _ in range(self.args.per_device_train_batch_size):
            for _ in range(int(PATIENCE_S)):
                try:
                    sample = self.worker.rollout_buffer.get(timeout=1.0)
                    break
                except queue.Empty:
                    self.worker.check_health(PATIENCE_S)
            else:
                raise AssertionError("no sample came")
            assert self.model_version - sample.model_version <= self.args.max_staleness, "TRL would drop it"
            yield sample

    def train(self, save: bool = False) -> list[Any]:
        """One step. TRL's loader has fetched a micro-batch of the next step when it ends."""
        samples = []
        self._ahead = self._ahead or list(self._pull())
        for _ in range(self.args.gradient_accumulation_steps):
            samples += self._ahead
            self._ahead = list(self._pull())
        self.step += 1
        self._sync()
        if save:
            Path(self.args.output_dir, f"checkpoint-{self.step}").mkdir(parents=True)
            self.worker.callback.on_save(self.args, self._state, None)
        return samples

    def end(self) -> None:
        """Training has ended as it should."""
        self.worker.callback.on_train_end(self.args, self._state, None)
        self.worker.stop()
        if self.transfer is not None:
            self.transfer.destroy()


class Tensor:
    """As much of a tensor as the transfer of weights uses.

    Args:
        value: on the CPU.
    """

    def __init__(self, value: int) -> None:
        self._value = value

    def detach(self) -> Tensor:
        """Itself."""
        return self

    def to(self, device: str, copy: bool) -> int:
        """The value."""
        assert (device, copy) == ("cpu", True)
        return self._value


def groups(samples: list[Any]) -> list[int]:
    """The numbers of the groups, each once, in order."""
    return list(dict.fromkeys(sample.group_id for sample in samples))
