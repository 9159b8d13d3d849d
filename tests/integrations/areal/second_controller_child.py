"""AReaL's real second controller makes its managers, without workers: `python -m second_controller_child URL RUN`."""

# pyright: reportMissingImports=false

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any

from areal.api.cli_args import InferenceEngineConfig, SchedulingSpec

from broker.integrations.areal import StalenessManager, install

#: Where it is in 2.0.x and in 1.0.x.
PLACES = ("areal.v2.inference_service", "areal.experimental.inference_service")


def controller_class() -> Any:
    for place in PLACES:
        try:
            return importlib.import_module(f"{place}.controller.controller").RolloutControllerV2
        except ModuleNotFoundError as error:
            if not place.startswith(str(error.name)) and error.name != place:
                raise
    raise AssertionError(f"none of {PLACES} is there")


def initialized(role: str, staleness: int) -> Any:
    """A controller that has started all but its workers."""

    async def no_workers(*_: Any, **__: Any) -> None: ...

    config = InferenceEngineConfig(
        backend="sglang:d1", consumer_batch_size=4, max_concurrent_rollouts=6, max_head_offpolicyness=staleness,
        scheduling_spec=(SchedulingSpec(cpu=1, gpu=0, mem=1),),
    )  # fmt: skip
    controller = controller_class()(config=config, scheduler=SimpleNamespace(n_gpus_per_node=1))
    controller._async_initialize = no_workers
    controller._register_data_proxies_in_router = controller._register_model_impl = lambda **_: None
    controller._worker_role = role
    if hasattr(controller, "_bg_initialize"):
        controller._bg_initialize(None)
    else:
        controller.register_model = controller._start_online_callback_server = lambda **_: None
        controller.initialize(role)
    return controller


def main(url: str, run: str) -> None:
    install(url, run)
    training, evaluation = initialized("rollout", 1), initialized("eval-rollout", int(1e12))
    dispatcher = training._workflow_executor.dispatcher
    manager = dispatcher.staleness_manager
    before = training.get_capacity()
    dispatcher.pause()
    dispatcher.submit_task_input(SimpleNamespace(task_id=0))
    told = {
        "run": manager.run,
        "before": before,
        "capacity": manager.get_capacity(),
        "attached": manager._listener.attached,
        "evaluation": isinstance(evaluation._workflow_executor.staleness_manager, StalenessManager),
    }
    for controller in (training, evaluation):
        controller._workflow_executor.destroy()
    sys.stdout.write("\n@" + json.dumps({**told, "closed": manager.closed}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
