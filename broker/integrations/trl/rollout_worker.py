"""The rollout worker of TRL's asynchronous trainer: prompts become tasks, and finished groups TRL's samples."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.clients.trainer import Trainer
from broker.errors import BadArgument, ServerUnavailable, WaitTimeout
from broker.integrations.trl.prompts import Prompts, number_of
from broker.integrations.trl.release import sample_type
from broker.integrations.trl.samples import samples_of
from broker.trainer.filter import Accept
from broker.values.config import RunConfig
from broker.values.hooks import check_plain_hook

if TYPE_CHECKING:
    from broker.integrations.trl.callback import BrokerCallback

_log = logging.getLogger(__name__)

#: How long the thread waits before it looks whether it is to end, seconds.
_LOOK_AGAIN_S = 5.0
#: How long `stop` waits for the thread, seconds.
_END_WITHIN_S = 30.0


class BrokerRolloutWorker:
    """Feeds `AsyncGRPOTrainer` from a run: give it as `rollout_worker`, and its `callback` among `callbacks`.

    A batch of the run is an optimizer step of TRL, and a version of the run is a weight sync. So TRL never sees a
    sample that is too old, and a checkpoint of TRL has a version. The callback writes the broker's part into TRL's
    folder (`checkpoint-20/broker.json`), and begins where the checkpoint that TRL resumes from has ended.

    Nothing is opened before training begins. Only the main process has a connection.

    Args:
        url: the server.
        run: name of the run; a new training needs a new name.
        dataset: rows with a `prompt`; workers get the whole row as payload. Pass after pass is enqueued in its order.
        config: how the run works; None: as TRL's arguments say.
        accept: a filter, as in `Trainer.next_batch`: groups that it refuses are replaced.
    """

    def __init__(
        self,
        url: str,
        run: str,
        dataset: Sequence[Mapping[str, Any]],
        *,
        config: RunConfig | None = None,
        accept: Accept | None = None,
    ) -> None:
        check_plain_hook("accept", accept)
        self._url, self._run, self._dataset, self._config, self._accept = url, run, dataset, config, accept
        self.rollout_buffer: queue.Queue[Any] = queue.Queue()
        self.metrics_queue: queue.Queue[Any] = queue.Queue()
        self.blob: bytes | None = None
        self._callback: BrokerCallback | None = None
        self._prompts: Prompts | None = None  # set when training begins
        self._checkpoint: Path | None = None  # the broker's part of what TRL resumes from
        self._version = 0  # with which training begins
        self._trl_begun = self._trl_version = 0  # TRL's number of that version, and of the newest one
        self._trainer: Trainer | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._has_advanced, self._ends = threading.Condition(), False
        self._alive_at = math.inf
        self._metrics_before: dict[str, float] = {}

    @property
    def callback(self) -> BrokerCallback:
        """The callback that the trainer needs."""
        if self._callback is None:
            from broker.integrations.trl.callback import BrokerCallback

            self._callback = BrokerCallback(self)
        return self._callback

    @property
    def version_to_begin(self) -> int:
        """The version of the run that the next weight sync begins."""
        return self._version if self._trainer is None else self._trainer.version + 1

    # What the callback calls.

    def begin(self, args: Any, step: int) -> None:
        """Training begins, before TRL's first weight sync.

        Args:
            args: TRL's arguments.
            step: how many steps are trained already.

        Raises:
            BadArgument: with these arguments a batch of the run is no step of TRL.
        """
        self._config = _config_of(args, self._config)
        self._prompts = Prompts(self._dataset, args.num_generations)
        self._version, self._checkpoint = step, _checkpoint_of(args, step) if step else None

    def save(self, args: Any, step: int) -> None:
        """TRL has written its checkpoint of a step: writes the broker's part beside it.

        Raises:
            BadArgument: the checkpoint is of another version than the run.
            CheckpointError: the file could not be written.
        """
        assert self._trainer is not None, "training has begun"
        self._trainer.checkpoint(_checkpoint_of(args, step), weights=step)

    def finish(self) -> None:
        """Training has ended as it should: no more samples are wanted, and the workers' loops end."""
        self._end_thread()
        if self._trainer is not None:
            self._trainer.finish()

    # TRL's protocol.

    def start(self) -> None:
        """Opens the run, recovers it to the version that TRL resumes from, and begins to hand out rollouts.

        Raises:
            BadArgument: the callback was not given to TRL; or TRL's release is not known.
            BrokerError: as `Trainer.recover` and `Trainer.feed`.
        """
        if self._prompts is None:
            problem = "TRL's trainer needs the callback of its rollout worker: callbacks=[worker.callback]"
            raise BadArgument(problem=problem)
        make = sample_type()
        self._trl_begun = self._trl_version
        self._trainer = trainer = Trainer(self._url, self._run, self._config)
        if self._checkpoint is not None and not self._checkpoint.exists():
            _log.warning("there is no %s: run %s goes to version %d alone", self._checkpoint, self._run, self._version)
            self._checkpoint = None
        if self._checkpoint is not None:
            report = trainer.recover(self._checkpoint, blob=self.blob)
        else:
            report = trainer.recover(version=self._version, blob=self.blob)
        if report.missing:
            trainer.enqueue([self._prompts.task(name) for name in sorted(report.missing, key=number_of)])
        trainer.feed(self._prompts)
        self._metrics_before = trainer.metrics()
        self._alive_at = time.monotonic()
        self._thread = threading.Thread(target=self._deliver, args=(trainer, make), name="broker-trl", daemon=True)
        self._thread.start()

    def update_model_version(self, model_version: int) -> None:
        """TRL has synchronised the weights of its version: the step before is trained, and the run advances.

        Raises:
            BrokerError: as `Trainer.advance`.
        """
        self._trl_version = model_version
        if self._trainer is None:
            return
        self._trainer.advance(self.blob)
        with self._has_advanced:
            self._has_advanced.notify_all()
        self.metrics_queue.put(self._metrics(self._trainer))

    def check_health(self, stale_after_s: float) -> None:
        """Raises if no more samples will come: TRL calls this while it waits for one.

        Args:
            stale_after_s: for how long the run may be without any worker, in seconds.

        Raises:
            RuntimeError: the thread that brings the samples has failed, or the run has no worker.
        """
        if self._error is not None:
            raise RuntimeError(f"run {self._run} brings no more samples: {self._error}") from self._error
        if self._trainer is None:
            raise RuntimeError(f"run {self._run} brings no samples: TRL has not started its rollout worker")
        try:
            explanation = self._trainer.explain()
        except ServerUnavailable as error:
            said: object = error
        else:
            said = explanation
            if explanation.stats.sessions > explanation.stats.lapsed:
                self._alive_at = time.monotonic()
        if time.monotonic() - self._alive_at > stale_after_s:
            raise RuntimeError(f"run {self._run} had no worker for {stale_after_s:g} s: {said}")

    def stop(self) -> None:
        """Closes the connections. The run stays as it is; `finish` has ended it, if training has ended."""
        self._end_thread()
        if self._trainer is not None:
            self._trainer.close()
        if self._thread is not None:
            self._thread.join(_END_WITHIN_S)
            self._thread = None

    def _end_thread(self) -> None:
        with self._has_advanced:
            self._ends = True
            self._has_advanced.notify_all()

    def _metrics(self, trainer: Trainer) -> dict[str, float]:
        """The run's numbers as TRL reduces them: what it calls a total is what came since the last time."""
        before, self._metrics_before = self._metrics_before, trainer.metrics()
        return {
            name: value - before.get(name, 0.0) if "total" in name.split("/")[-1].split("_") else value
            for name, value in self._metrics_before.items()
        }

    def _deliver(self, trainer: Trainer, make: Any) -> None:
        """Hands out the samples of each step, one step ahead of training, until `stop`.

        TRL's loader fetches a part of the next step before it ends a step.
        """
        step = trainer.version
        try:
            while not self._ends:
                with self._has_advanced:
                    if step > trainer.version + 1:
                        self._has_advanced.wait(_LOOK_AGAIN_S)
                        continue
                try:
                    rollouts = trainer.next_batch(accept=self._accept, prefetch=True, timeout=_LOOK_AGAIN_S)
                except WaitTimeout:
                    continue
                for rollout in rollouts:
                    model_version = rollout.version - self._version + self._trl_begun
                    for sample in samples_of(rollout, make, number_of(rollout.task), model_version):
                        self.rollout_buffer.put(sample)
                step = rollouts[0].step + 1
        except BaseException as error:  # noqa: BLE001 - raised by check_health, in TRL's thread
            if not self._ends:
                _log.exception("run %s brings no more samples", self._run)
                self._error = error


def _checkpoint_of(args: Any, step: int) -> Path:
    """Where the broker's part of TRL's checkpoint of a step is."""
    return Path(args.output_dir, f"checkpoint-{step}", "broker.json")


def _config_of(args: Any, given: RunConfig | None) -> RunConfig:
    """The config of the run: a batch is what TRL trains in one step.

    Raises:
        BadArgument: that is not possible with TRL's arguments, or the given config is another.
    """
    if args.token_budget is None or args.token_budget > 0:
        expected = "token_budget=0: each step trains as many samples as the one before"
        raise BadArgument(argument="token_budget", given=args.token_budget, expected=expected)
    if args.weight_sync_steps != 1:
        expected = "weight_sync_steps=1: each step has a version"
        raise BadArgument(argument="weight_sync_steps", given=args.weight_sync_steps, expected=expected)
    if args.max_staleness < 1:
        expected = "max_staleness of at least 1: TRL's loader fetches samples of the next step before it ends a step"
        raise BadArgument(argument="max_staleness", given=args.max_staleness, expected=expected)
    samples = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    batch, rest = divmod(samples, args.num_generations)
    if rest:
        expected = (
            "per_device_train_batch_size * gradient_accumulation_steps * processes to be a multiple of num_generations"
        )
        raise BadArgument(argument="num_generations", given=args.num_generations, expected=expected)
    if given is None:
        return RunConfig(
            consumer_batch_size=batch,
            max_staleness=args.max_staleness,
            staleness_limit=args.max_staleness,
            max_concurrent_rollouts=batch * (args.max_staleness + 1),
        )
    if given.consumer_batch_size != batch:
        expected = f"{batch}: a step of TRL trains {samples} samples, {args.num_generations} of each prompt"
        raise BadArgument(argument="consumer_batch_size", given=given.consumer_batch_size, expected=expected)
    limit = given.oldest_trained
    if limit is None or limit > args.max_staleness:
        expected = f"at most max_staleness={args.max_staleness} of TRL, which drops older samples"
        raise BadArgument(argument="staleness_limit", given=limit, expected=expected)
    return given
