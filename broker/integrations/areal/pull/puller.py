"""The side of a worker: claims prompts, runs AReaL's workflow on an engine, submits the trajectories."""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from broker.clients.worker import Worker
from broker.errors import BadArgument, BrokerError, WorkerFault
from broker.integrations.areal.pull.contents import packed, unpacked
from broker.integrations.areal.pull.weights import LoadedWeights, told_with
from broker.values.attempt import Attempt
from broker.values.policy import Policy

if TYPE_CHECKING:

    class RolloutWorkflow:
        """AReaL's base class."""

else:
    RolloutWorkflow = import_module("areal.api").RolloutWorkflow

_log = logging.getLogger(__name__)

#: How long a claim waits before it is looked at whether the engine was ended, seconds.
_LOOK_EVERY_S = 1.0
#: Between the end of a workflow and that of AReaL's work on its trajectory, seconds.
_LAST_WORK_S = 60.0
#: AReaL's bound for evaluation. An engine must not bound what the run has admitted.
_UNBOUNDED = int(1e12)


class _Episode(RolloutWorkflow):
    """One attempt. Tells when it has ended, and keeps the error, which AReaL only logs.

    Args:
        puller: is told.
        number: of the attempt.
        payload: of the task.
    """

    def __init__(self, puller: Puller, attempt: Attempt, number: int, payload: dict[str, Any]) -> None:
        self._puller, self.attempt, self.number, self._payload = puller, attempt, number, payload
        self.error: BaseException | None = None

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        try:
            try:
                workflow = engine._resolve_workflow(  # noqa: SLF001 - it has no public name
                    self._payload["workflow"], self._payload["kwargs"], self._payload["group_size"],
                    proxy_addr=self._puller.proxy_addr,
                )  # fmt: skip
            except Exception as error:
                raise WorkerFault(f"the workflow cannot be made here: {error}") from error
            return await workflow.arun_episode(engine, data)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._puller.ended.put(self)


class Puller:
    """Works on a run with one engine.

    Args:
        engine: an initialized inference engine of AReaL.
        url: the server.
        run: name of the run.
        concurrency: rollouts at the same time.
        proxy_addr: of the proxy of this engine, for agent workflows.
        served: life and epoch of the controller that made this worker, and gives it new weights; None: it loads them
            by itself.

    Attributes:
        is_over: the controller that made this worker is gone, so its engine gets no weights any more.
    """

    def __init__(
        self,
        engine: Any,
        url: str,
        run: str,
        *,
        concurrency: int,
        proxy_addr: str | None = None,
        served: Sequence[str] | None = None,
    ) -> None:
        if concurrency < 1:
            raise BadArgument(argument="concurrency", given=concurrency, expected="at least 1")
        self._engine, self._url, self._run, self._concurrency = engine, url, run, concurrency
        self.proxy_addr = proxy_addr
        self._served, self.is_over = served, False
        self._weights = LoadedWeights(engine) if served is None else None
        self.ended: queue.SimpleQueue[_Episode | None] = queue.SimpleQueue()
        self._places = threading.Semaphore(concurrency)
        self._numbers = itertools.count()
        manager = engine.workflow_executor.staleness_manager
        manager.max_staleness, manager.max_concurrent_rollouts = _UNBOUNDED, _UNBOUNDED

    def work(self) -> None:
        """Works until the engine is destroyed, or the process is told to end."""
        with Worker(self._url, self._run, wait_for_run_s=math.inf, retry_for_s=math.inf) as worker:
            submitting = threading.Thread(target=self._submit_all, args=(worker,), name="broker-areal-submit")
            submitting.daemon = True
            submitting.start()
            try:
                while self._engine.initialized and not self.is_over:
                    if self._places.acquire(timeout=_LOOK_EVERY_S):
                        self._claim(worker)
            finally:
                self.ended.put(None)
                submitting.join(_LOOK_EVERY_S)

    def _claim(self, worker: Worker) -> None:
        attempts = worker.claim(1, timeout=_LOOK_EVERY_S)
        if not attempts:
            self._places.release()
        for attempt in attempts:
            self._begin(worker, attempt)

    def _begin(self, worker: Worker, attempt: Attempt) -> None:
        if self._served is not None and told_with(attempt).get("life", self._served[0]) != self._served[0]:
            self.is_over = True
            _log.warning("run %s has another controller: the worker of the one before ends", self._run)
            worker.release(attempt)
            return
        try:
            if self._weights is not None:
                self._weights.load(attempt)
            payload = unpacked(attempt.payload)
            episode = _Episode(self, attempt, next(self._numbers), payload)
            self._engine.submit(
                data=payload["data"], workflow=episode, should_accept_fn=payload["should_accept"],
                task_id=episode.number,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - the attempt's, whatever it is
            self._places.release()
            _log.warning("%s did not begin: %r", attempt.task, error)
            worker.fail(attempt, error, "worker")

    def _submit_all(self, worker: Worker) -> None:
        while (episode := self.ended.get()) is not None:
            try:
                self._submit(worker, episode)
            except Exception as error:  # noqa: BLE001 - the next ones must be submitted
                _log.exception("the rollout of %s was not submitted", episode.attempt.task)
                self._failed(worker, episode.attempt, error)
            finally:
                self._places.release()

    def _submit(self, worker: Worker, episode: _Episode) -> None:
        trajectory = self._engine.wait_for_task(episode.number, timeout=_LAST_WORK_S)
        attempt = episode.attempt
        if episode.error is not None:
            worker.fail(attempt, episode.error)
        elif trajectory is None:
            worker.reject(attempt, "the workflow, or should_accept_fn, rejects it")
        else:
            worker.submit(attempt, packed(trajectory), policy=self._newest(attempt))

    # Weights may have changed while the rollout was made.
    def _newest(self, attempt: Attempt) -> Policy | None:
        if self._weights is not None:
            return self._weights.policy
        version: int = self._engine.get_version()
        if self._served is None or version <= attempt.version:
            return None
        return Policy(version=version, epoch=self._served[1])

    def _failed(self, worker: Worker, attempt: Attempt, error: Exception) -> None:
        try:
            worker.fail(attempt, error)
        except BrokerError:
            _log.exception("%s is given to another worker when the lease runs out", attempt.task)
