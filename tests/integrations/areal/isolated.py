"""Loads AReaL's real `BatchTaskDispatcher` without the GPU stack.

The package is installed with `pip install --no-deps areal==1.0.4`. Its `areal/infra/workflow_executor.py` (the
dispatcher) and `areal/infra/async_task_runner.py` (its event loop) run unchanged. Placeholders take the place of all
other imports: torch, aiofiles and others, and AReaL's own packages, whose `__init__` would import all of AReaL. The
dispatcher uses none of them. If uvloop is not installed, asyncio's loop takes its place.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

_REAL = ("areal.infra.workflow_executor", "areal.infra.async_task_runner")
_PLACEHOLDERS = (
    "torch", "torch.distributed", "requests", "aiofiles", "aiofiles.os", "torchdata",
    "torchdata.stateful_dataloader", "areal.api", "areal.api.cli_args", "areal.infra.rpc",
    "areal.infra.rpc.rtensor", "areal.infra.staleness_manager", "areal.infra.workflow_context",
    "areal.infra.utils", "areal.infra.utils.concurrent", "areal.experimental", "areal.experimental.openai",
    "areal.experimental.openai.types", "areal.utils", "areal.utils.data", "areal.utils.perf_tracer",
)  # fmt: skip


def installed() -> bool:
    """Whether AReaL's package is there."""
    return importlib.util.find_spec("areal") is not None


@contextmanager
def _placeholders() -> Generator[None]:
    spec = importlib.util.find_spec("areal")
    assert spec is not None
    assert spec.submodule_search_locations
    root = spec.submodule_search_locations[0]
    modules: dict[str, Any] = {name: MagicMock(name=name) for name in _PLACEHOLDERS}
    for name, path in (("areal", root), ("areal.infra", f"{root}/infra")):
        modules[name] = ModuleType(name)
        modules[name].__path__ = [path]
    modules["areal.infra"].workflow_context = modules["areal.infra.workflow_context"]
    if importlib.util.find_spec("uvloop") is None:
        modules["uvloop"] = MagicMock(new_event_loop=asyncio.new_event_loop)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        for name in _REAL:
            sys.modules.pop(name, None)


def dispatcher_class() -> Any:
    """AReaL's `BatchTaskDispatcher`."""
    with _placeholders():
        return importlib.import_module(_REAL[0]).BatchTaskDispatcher
