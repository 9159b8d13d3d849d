"""The trainer's side of the protocol, with the interface of agent-lightning's own server."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from broker.aio import Trainer
from broker.errors import BadArgument, WaitTimeout
from broker.integrations.agent_lightning.application import application
from broker.integrations.agent_lightning.gateway import Gateway, to_json_values
from broker.integrations.agent_lightning.messages import Mode, ResourcesUpdate, Rollout
from broker.integrations.agent_lightning.messages import Task as TaskMessage
from broker.integrations.http_server.requests import MAX_REQUEST_BYTES
from broker.integrations.http_server.serving import Listener
from broker.values.config import RunConfig
from broker.values.task import Task

#: The default run and server.
RUN_VARIABLE, DEFAULT_RUN = "BROKER_RUN", "agent-lightning"
URL_VARIABLE, DEFAULT_URL = "BROKER_URL", "embedded://"

#: Tasks are requeued without limit, as in agent-lightning.
_NO_LIMIT = 1_000_000
#: Pause between two looks for one rollout, seconds.
_POLL_S = 0.2


class Server:
    """In place of `agentlightning.AgentLightningServer`: the same methods, with the tasks in Redis.

    It opens the run as its trainer and serves workers over HTTP; more gateways may serve the same run elsewhere. Queued
    tasks and reported rollouts survive this process. Each time that the trainer asks and rollouts are ready, they are
    taken as one batch. A batch counts as trained on when the trainer asks again; if the process dies before, the batch
    is delivered again.

    Args:
        host: address to listen on.
        port: port to listen on; 0: any that is free, `endpoint` has it after `start`.
        task_timeout_seconds: how long a worker may take before its task goes to another worker.
        url: the server of the run; None: the environment variable BROKER_URL, or else a private one (`embedded://`).
        run: name of the run; None: the environment variable BROKER_RUN, or else `agent-lightning`.
        config: how the run works; None: tasks go out in the order of queueing, all at once, and are requeued for ever.
        token: workers must send it as bearer token; None: no token.
        max_request_bytes: larger rollouts are refused.

    Attributes:
        host, port, endpoint: the address for workers.
        loop: the event loop of its coroutines; None while it does not run.
        startup_event: set while it runs.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        task_timeout_seconds: float = 300.0,
        *,
        url: str | None = None,
        run: str | None = None,
        config: RunConfig | None = None,
        token: str | None = None,
        max_request_bytes: int = MAX_REQUEST_BYTES,
    ) -> None:
        self.host, self.port = host, port
        self.endpoint = f"http://{host}:{port}"
        self.loop: asyncio.AbstractEventLoop | None = None
        self.startup_event = threading.Event()
        self._url = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
        self._run = run or os.environ.get(RUN_VARIABLE) or DEFAULT_RUN
        self._config = config or RunConfig(
            consumer_batch_size=1,
            max_staleness=None,
            max_concurrent_rollouts=1_000_000_000,
            attempt_timeout_ms=max(1, int(task_timeout_seconds * 1000)),
            max_attempts=_NO_LIMIT,
            halt_after_failures=0,  # no task dies here, and agent-lightning's trainer could not end a halt
        )
        self._task_timeout_s = task_timeout_seconds
        if token == "":
            raise BadArgument(argument="token", given="an empty one", expected="a secret, or None for none")
        self._token, self._max_request_bytes = token, max_request_bytes
        self._open: _Open | None = None
        self._stopped: asyncio.Event | None = None

    async def start(self) -> None:
        """Opens the run and serves; returns when workers can be served.

        Raises:
            OSError: the port is taken.
            ServerUnavailable: Redis does not answer.
        """
        if self._open is not None:
            return
        listener = Listener(self.host, self.port)
        try:
            trainer = await Trainer(self._url, self._run, self._config, update=True).open()
            try:
                gateway = await Gateway(self._url, self._run, task_timeout_s=self._task_timeout_s).open()
            except BaseException:
                await trainer.close()
                raise
        except BaseException:
            await listener.stop()
            raise
        await listener.start(application(gateway, token=self._token, max_request_bytes=self._max_request_bytes))
        self.port, self.endpoint = listener.port, listener.endpoint
        self._open = _Open(trainer, gateway, listener)
        self._stopped = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.startup_event.set()

    async def stop(self) -> None:
        """Stops serving. The run stays as it is; workers keep their tasks, and may report through another gateway."""
        opened, self._open = self._open, None
        if opened is None:
            return
        self.startup_event.clear()
        await opened.close()
        self.loop = None
        if self._stopped is not None:
            self._stopped.set()

    async def run_forever(self) -> None:
        """Serves until `stop` is called, or this is cancelled."""
        await self.start()
        assert self._stopped is not None, "started"
        try:
            await self._stopped.wait()
        finally:
            await self.stop()

    async def queue_task(
        self,
        sample: Any,
        mode: Mode | None = None,
        resources_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Queues a task.

        Args:
            sample: the task's input, of JSON types (arrays become lists).
            mode: phase in which it is executed: `train`, `val` or `test`.
            resources_id: the resources for the worker to use; None: the latest.
            metadata: passed on to the worker, with `attempt_id` added.

        Returns:
            The id under which its rollout comes back.

        Raises:
            RuntimeError: the server does not run.
            ValueError: the sample or the metadata cannot be sent as JSON, or the mode is unknown.
        """
        opened = self._running()
        rollout_id = f"rollout-{uuid.uuid4()}"
        payload = TaskMessage(
            rollout_id=rollout_id,
            input=to_json_values(sample),
            mode=mode,
            resources_id=resources_id,
            create_time=_now(),
            metadata=to_json_values(metadata or {}),
        ).model_dump(include={"input", "mode", "resources_id", "create_time", "metadata"})
        await opened.trainer.enqueue(Task(id=rollout_id, payload=payload))
        return rollout_id

    async def update_resources(self, resources: Mapping[str, Any]) -> str:
        """Publishes resources, the latest from now on.

        Args:
            resources: by name; agent-lightning's own objects, or dicts with a `resource_type`.

        Returns:
            Their id.
        """
        opened = self._running()
        resources_id, now = f"res-{uuid.uuid4()}", _now()
        await opened.gateway.resources.publish(
            ResourcesUpdate(
                resources_id=resources_id, create_time=now, update_time=now, resources=to_json_values(dict(resources))
            )
        )
        return resources_id

    async def get_completed_rollout(self, rollout_id: str) -> Rollout | None:
        """Takes one rollout; None when it has not been reported, or was taken before."""
        return await self._running().take(rollout_id)

    async def poll_completed_rollout(self, rollout_id: str, timeout: float | None = None) -> Rollout | None:
        """Waits for one rollout.

        Args:
            rollout_id: of the task.
            timeout: for how long, in seconds; None: as long as it takes.

        Returns:
            The rollout; None after the time-out.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (rollout := await self.get_completed_rollout(rollout_id)) is None:
            left = _POLL_S if until is None else until - time.monotonic()
            if left <= 0:
                return None
            await asyncio.sleep(min(_POLL_S, left))
        return rollout

    async def retrieve_completed_rollouts(self) -> list[Rollout]:
        """Takes all rollouts that were reported since the last call."""
        return await self._running().take_all()

    def _running(self) -> _Open:
        if self._open is None:
            raise RuntimeError("The server is not running: call start() first.")
        return self._open


class _Open:
    """The objects of a running server."""

    def __init__(self, trainer: Trainer, gateway: Gateway, listener: Listener) -> None:
        self.trainer, self.gateway, self._listener = trainer, gateway, listener
        self._completed: dict[str, Rollout] = {}
        self._delivered = False  # whether the trainer has got the batch of its version
        self._turn = asyncio.Lock()

    async def take(self, rollout_id: str) -> Rollout | None:
        """One rollout."""
        async with self._turn:
            if rollout_id not in self._completed:
                await self._collect()
            return self._completed.pop(rollout_id, None)

    async def take_all(self) -> list[Rollout]:
        """All rollouts."""
        async with self._turn:
            await self._collect()
            rollouts = list(self._completed.values())
            self._completed.clear()
            return rollouts

    async def _collect(self) -> None:
        """Advances from the step before, then takes all ready rollouts as the batch of one step."""
        if self._delivered:
            await self.trainer.advance()
            self._delivered = False
        stats = await self.trainer.stats()
        left_behind = stats.step_next > stats.version  # sealed by a process that died before it advanced
        waiting = stats.ready + stats.batched
        if not (left_behind or waiting):
            return
        try:
            batch = await self.trainer.next_batch(max(1, waiting), timeout=0)
        except WaitTimeout:  # some were cancelled meanwhile; the next call gets the others
            return
        self._delivered = True
        for task in batch:
            for sample in task.samples:
                rollout = _reported(task.task, sample.result)
                self._completed[rollout.rollout_id] = rollout

    async def close(self) -> None:
        """Stops serving, then disconnects."""
        await self._listener.stop()
        await self.gateway.close()
        await self.trainer.close()


def _now() -> float:
    """Seconds since 1970, rounded to milliseconds as the broker's clock: no task is handed out before it was queued."""
    return int(time.time() * 1000) / 1000


def _reported(task: str, result: Any) -> Rollout:
    """A result as a rollout. A result of a broker's own worker may be any value, and is put into the metadata."""
    try:
        return Rollout.model_validate(result)
    except ValidationError:
        return Rollout(rollout_id=task, metadata={"result": result})
