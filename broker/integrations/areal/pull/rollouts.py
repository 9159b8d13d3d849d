"""The training side: enqueues a data loader's prompts, and gives AReaL whole batches of trajectories."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from broker.clients.trainer import Trainer
from broker.errors import BadArgument, BrokerError, Exhausted, WaitTimeout
from broker.integrations.areal.pull.contents import packed, unpacked
from broker.integrations.areal.pull.weights import PublishedWeights
from broker.integrations.areal.staleness import RolloutStat
from broker.recovery.checkpoint import read_checkpoint
from broker.recovery.checkpoint_files import members
from broker.values import codec
from broker.values.config import RunConfig
from broker.values.task import Task

_log = logging.getLogger(__name__)

#: The broker's part of a checkpoint, in the folder of AReaL's.
CHECKPOINT = "broker.json"
#: How long a wait for a batch goes on before it is looked at whether prompts are to be enqueued, seconds.
_LOOK_EVERY_S = 1.0
#: The workflow that starts the claims in a worker.
_LOOP = "broker.integrations.areal.pull.loop.PullLoop"


@dataclass(frozen=True)
class Work:
    """How the rollouts of a batch are made, as AReaL's `prepare_batch` gets it: names that workers can import."""

    workflow: str | None
    kwargs: dict[str, Any]
    should_accept: str | None
    group_size: int

    def task(self, number: int, data: dict[str, Any]) -> Task:
        """The task of a prompt. Its id is the same whenever the data loader brings this prompt in this place."""
        content = packed(data)
        digest = hashlib.sha256(codec.encode(content, compress_above=None)).hexdigest()[:16]
        payload = {
            "data": content,
            "workflow": self.workflow,
            "kwargs": packed(self.kwargs),
            "should_accept": self.should_accept,
            "group_size": self.group_size,
        }
        return Task(id=f"{number}-{digest}", payload=payload)


class PulledRollouts:
    """The rollouts of one controller. Has the surface of AReaL's staleness manager, which the run takes the place of.

    Args:
        controller: AReaL's `RolloutController`.
        url: the server.
        run: name of the run; its versions are AReaL's.
        config: how the run works.
        update: change the stored config.
    """

    def __init__(self, controller: Any, url: str, run: str, config: RunConfig, *, update: bool) -> None:
        self._controller, self._url, self._run = controller, url, run
        self.version_provider = controller
        self.max_concurrent_rollouts = config.concurrency
        self.consumer_batch_size = config.batch_size
        self.max_staleness: int = config.max_staleness or 0
        self.weights = PublishedWeights()
        self.trainer = Trainer(url, run, config, update=update)
        self._starting = threading.Lock()
        self._started = self._serving = self._closed = False
        self._drawn = 0  # prompts, in the order of the data loader
        self._prompts: Iterator[list[dict[str, Any]]] | None = None
        self._trained_with: int | None = None

    # -- AReaL's surface -------------------------------------------------------------------------------------------

    def get_pending_limit(self) -> int:
        """How many prompts wait in the run."""
        return (self.max_staleness + 1) * self.consumer_batch_size

    def get_capacity(self) -> int:
        """How many rollouts may start now; 0 while the server does not answer."""
        try:
            return self.trainer.capacity()
        except BrokerError as error:
            _log.warning("the capacity of run %s is not known: %s", self._run, error)
            return 0

    def get_stats(self) -> RolloutStat:
        """The run's numbers."""
        stats = self.trainer.stats()
        return RolloutStat(
            stats.accepted, stats.pending + stats.delayed, stats.totals.get("rejected", 0), stats.running
        )

    def on_version_recovered(self, version: int) -> None:
        """Training goes on from this version."""
        self.start(version, None)

    def on_rollout_enqueued(self) -> None:
        """Counted by the run."""

    on_rollout_submitted = on_rollout_accepted = on_rollout_rejected = on_rollout_enqueued

    # -- what the controller's calls become ------------------------------------------------------------------------

    def start(self, version: int, folder: Path | None) -> None:
        """Takes the run to the version that AReaL begins with, once.

        Args:
            version: after AReaL has loaded its checkpoint; 0: there is none.
            folder: of AReaL's checkpoint.
        """
        with self._starting:
            if self._started:
                if version != self.trainer.version:
                    raise BadArgument(problem=f"run {self._run} began at version {self.trainer.version}, not {version}")
                return
            path = None if folder is None else _checkpoint_of(folder / CHECKPOINT, version)
            is_new = self.trainer.version == 0 and self.trainer.cursor is None
            if path is not None or version or not is_new:
                blob = self.weights.blob(version)
                if path is not None:
                    report = self.trainer.recover(path, blob=blob)
                else:
                    report = self.trainer.recover(version=version, blob=blob)
                _log.info(
                    "run %s goes on at version %d, was at %d: %d rollouts are kept, %d are ready, %d start over",
                    self._run, report.version_to, report.version_from, report.results_kept, report.ready_again,
                    sum(report.requeued.values()),
                )  # fmt: skip
            # Where AReaL's loader stands; the run's own cursor may be that of a later step, whose prompts it has.
            stored = int(self.trainer.cursor or 0)
            if path is not None:
                self._drawn = int(read_checkpoint(path).cursor or 0)
            else:  # training was killed between AReaL's checkpoint and this one, or starts over
                self._drawn = stored if version else 0
            # Also where no prompt is drawn before the next checkpoint, which has the run's cursor.
            if self._drawn != stored:
                self.trainer.enqueue([], self._drawn)
            if path is None and version and folder is not None:
                self.trainer.checkpoint(folder / CHECKPOINT, full=True)
            self._started = True

    def prepare_batch(self, dataloader: Any, work: Work) -> list[dict[str, Any]]:
        """Waits for the trajectories of the next step, and enqueues prompts meanwhile."""
        self.start(self._controller.get_version(), None)
        self._serve()
        version = self.trainer.version
        if self._trained_with == version:
            raise BadArgument(problem=f"the batch of version {version} was given: call set_version before the next one")
        n: int = dataloader.batch_size
        while True:
            self._enqueue_ahead(dataloader, work)
            try:
                batch = self.trainer.next_batch(n, timeout=_LOOK_EVERY_S)
                break
            except WaitTimeout:
                continue
            except Exhausted:  # the workflow has rejected what was waiting
                self._enqueue(dataloader, work)
        self._trained_with = version
        return [unpacked(rollout.results[0]) for rollout in batch]

    def advance(self, version: int) -> None:
        """The workers of the controller have the weights of a new version."""
        before = self.trainer.version
        if not self._started or version == before:
            return
        if version != before + 1:
            raise BadArgument(problem=f"run {self._run} is at version {before}, and cannot go to version {version}")
        # A step that was trained on something else has no batch.
        self.trainer.advance(self.weights.blob(version), allow_empty=self._trained_with != before)

    def checkpoint(self, version: int, folder: Path) -> None:
        """Writes the broker's part, after AReaL's is written."""
        if not self._started:
            return
        if version != self.trainer.version:
            _log.warning(
                "no checkpoint of run %s: it is at version %d, not %d", self._run, self.trainer.version, version
            )
            return
        self.trainer.checkpoint(folder / CHECKPOINT, full=True)

    def close(self) -> None:
        """Ends the connection. The run stays, with what its workers finish."""
        if not self._closed:
            self._closed = True
            self.weights.close()
            self.trainer.close()

    # -- within ----------------------------------------------------------------------------------------------------

    def _enqueue_ahead(self, dataloader: Any, work: Work) -> None:
        stats = self.trainer.stats()
        waiting = stats.pending + stats.delayed
        while waiting < self.get_pending_limit():
            waiting += self._enqueue(dataloader, work)

    # Whole batches of the loader, as its own position counts these.
    def _enqueue(self, dataloader: Any, work: Work) -> int:
        if self._prompts is None:
            self._prompts = iter(import_module("areal.utils.data").cycle_dataloader(dataloader))
        prompts = next(self._prompts)
        tasks = [work.task(self._drawn + i, data) for i, data in enumerate(prompts)]
        added = self.trainer.enqueue(tasks, self._drawn + len(tasks)).added
        self._drawn += len(tasks)
        return added

    # Late, as a controller starts the proxies of agent workflows after it is initialized.
    def _serve(self) -> None:
        if self._serving:
            return
        self._serving = True
        controller = self._controller
        each = -(-self.max_concurrent_rollouts // max(1, len(controller.workers)))

        settings = {
            "url": self._url, "run": self._run, "concurrency": each,
            "served": (self.weights.life, self.trainer.epoch),
        }  # fmt: skip

        async def begin() -> None:
            for rank, worker in enumerate(controller.workers):
                proxy: str | None = controller.get_proxy_addr(rank) if controller._proxy_started else None  # noqa: SLF001 - no public name
                await controller.scheduler.async_call_engine(
                    worker.id, "submit", engine_name=controller._engine_name(rank),  # noqa: SLF001 - as above
                    data={}, workflow=_LOOP, group_size=1, task_id=-1, http_timeout=controller.config.request_timeout,
                    workflow_kwargs={**settings, "proxy_addr": proxy},
                )  # fmt: skip

        run_async: Callable[..., None] = import_module("areal.infra.utils.concurrent").run_async_task
        run_async(begin)


def _checkpoint_of(path: Path, version: int) -> Path | None:
    """The newest file of a version. None: training was killed between AReaL's checkpoint and this one."""
    found = [member for member in members(path) if member.version == version] if path.parent.is_dir() else []
    return max(found, key=lambda member: member.number).path if found else None
