"""Puts pulled rollouts in the place of the calls of AReaL's training controller to its workers."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from broker.errors import BadArgument
from broker.integrations.areal.pull.rollouts import PulledRollouts, Work
from broker.values.config import RunConfig

_log = logging.getLogger(__name__)

_CONTROLLERS = "areal.infra.controller.rollout_controller"
_RECOVERY = "areal.utils.recover"
#: What is replaced on a controller, and what is called of it without public names.
_REPLACED = (
    "prepare_batch", "set_version", "update_weights_from_disk", "destroy", "submit", "wait", "rollout_batch",
)  # fmt: skip
_CALLED = ("_resolve_workflow_str", "_resolve_should_accept_fn", "_engine_name", "_collective_rpc_async")


class Places(Protocol):
    """AReaL's places: what `install` has found."""

    def member(self, holder: Any, name: str) -> Any:
        """What has this name. Raises BadArgument: AReaL has not."""
        ...

    def wrap(self, holder: Any, name: str, around: Callable[..., Any]) -> None:
        """Replaces a method; `around` gets the original and the arguments."""
        ...


class PullPlaces:
    """The places of the training controllers of this process, and of AReaL's checkpoints.

    Args:
        places: AReaL's.
        url: the server.
        run: name of the run.
        lease_s: time without a sign of life after which a worker's rollouts go to others, in seconds.
        update: change the stored config.
    """

    def __init__(self, places: Places, url: str, run: str, lease_s: float, *, update: bool) -> None:
        self._url, self._run, self._lease_ms, self._update = url, run, int(lease_s * 1000), update
        self._of_handler: weakref.WeakKeyDictionary[Any, PulledRollouts] = weakref.WeakKeyDictionary()
        self._kind = import_module(_CONTROLLERS).RolloutController
        for name in _REPLACED + _CALLED:
            places.member(self._kind, name)
        handler = import_module(_RECOVERY).RecoverHandler
        places.wrap(handler, "load", self._load)
        places.wrap(handler, "dump", self._dump)

    def make(self, controller: Any, max_concurrent: int, batch: int, max_staleness: int) -> PulledRollouts:
        """The rollouts of a controller, given to it as its staleness manager.

        Raises:
            BadArgument: it is of another kind: the second controller, or a rank.
        """
        if not isinstance(controller, self._kind):
            raise BadArgument(
                problem=f"pull=True is for AReaL's RolloutController, not for {type(controller).__name__}: install "
                "without it"
            )
        config = RunConfig(
            consumer_batch_size=batch, max_staleness=max_staleness, staleness_limit=max_staleness,
            max_concurrent_rollouts=max_concurrent, lease_ms=self._lease_ms,
        )  # fmt: skip
        made = PulledRollouts(controller, self._url, self._run, config, update=self._update)
        _place(made, controller)
        _log.info(
            "run %s has the rollouts, and workers pull them: %d of each batch, at most %d at once, staleness %d",
            self._run, batch, max_concurrent, max_staleness,
        )  # fmt: skip
        return made

    # -- AReaL's checkpoints ---------------------------------------------------------------------------------------

    def _load(self, original: Callable[..., Any], handler: Any, *args: Any, **kwargs: Any) -> Any:
        loaded = original(handler, *args, **kwargs)
        pulled = getattr(kwargs.get("inference_engine"), "staleness_manager", None)
        if isinstance(pulled, PulledRollouts):
            self._of_handler[handler] = pulled
            version = 0 if loaded is None else loaded.last_step_info.global_step + 1
            pulled.start(version, _folder(handler))
        return loaded

    def _dump(
        self, original: Callable[..., Any], handler: Any, engine: Any, step: Any, *args: Any, **kwargs: Any
    ) -> Any:
        answer = original(handler, engine, step, *args, **kwargs)
        pulled = self._of_handler.get(handler)
        if pulled is not None and handler.last_step_info is step:  # it is not time for one at every step
            pulled.checkpoint(step.global_step + 1, _folder(handler))
        return answer


def _place(pulled: PulledRollouts, controller: Any) -> None:
    """On the controller itself, so that it goes on as it began when `uninstall` is called."""
    set_version, destroy = controller.set_version, controller.destroy

    def prepare_batch(
        dataloader: Any,
        workflow: Any,
        workflow_kwargs: dict[str, Any] | None = None,
        should_accept_fn: str | None = None,
        group_size: int = 1,
        dynamic_bs: bool = False,
    ) -> list[dict[str, Any]]:
        if dynamic_bs:
            raise BadArgument(problem="dynamic_bs is not there with pull=True: a batch has a fixed size")
        work = Work(
            controller._resolve_workflow_str(workflow), workflow_kwargs or {},  # noqa: SLF001 - no public names
            controller._resolve_should_accept_fn(should_accept_fn), group_size,  # noqa: SLF001
        )  # fmt: skip
        return pulled.prepare_batch(dataloader, work)

    def set_version_and_advance(version: int) -> None:
        # First: a worker names the version that its engine has, and the run must know that one.
        pulled.advance(version)
        set_version(version)

    async def update_weights_from_disk(meta: Any) -> None:
        await pulled.weights.update_from_disk(controller, meta)

    def destroy_and_close() -> None:
        destroy()
        pulled.close()

    def refuse(*_: Any, **__: Any) -> None:
        raise BadArgument(problem="with pull=True a training gets its rollouts by prepare_batch alone")

    controller.prepare_batch, controller.set_version = prepare_batch, set_version_and_advance
    controller.update_weights_from_disk, controller.destroy = update_weights_from_disk, destroy_and_close
    controller.submit = controller.wait = controller.rollout_batch = refuse


def _folder(handler: Any) -> Path:
    config = handler.config
    return Path(handler.recover_info_path(config.experiment_name, config.trial_name, config.fileroot))
