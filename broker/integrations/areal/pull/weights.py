"""Where the weights of a version are, for workers that AReaL's controller did not make."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import shutil
import threading
from importlib import import_module
from typing import Any

from broker.errors import WorkerFault
from broker.values.attempt import Attempt
from broker.values.policy import Policy

_log = logging.getLogger(__name__)

#: Versions whose folders stay: a worker may still load the one before the newest.
_KEPT = 2


class PublishedWeights:
    """The controller's side: the newest folders of weights, and the words for workers.

    Attributes:
        life: of the controller; its workers get new weights from no other.
    """

    def __init__(self) -> None:
        self.life = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._folders: list[str] = []
        self._newest: dict[str, Any] | None = None

    async def update_from_disk(self, controller: Any, meta: Any) -> None:
        """Lets the controller's own workers load the weights, and keeps the folder, which AReaL deletes."""
        meta.clear_checkpoint_after_load = False
        at = controller.get_version()
        await controller._collective_rpc_async("update_weights_from_disk", meta=meta)  # noqa: SLF001 - no public name
        fields: dict[str, Any] = {field.name: getattr(meta, field.name) for field in dataclasses.fields(meta)}
        told = {name: fields[name] for name in fields if isinstance(fields[name], str | int | dict)}
        with self._lock:
            self._newest = {"meta": told, "at": at}
            self._folders = [folder for folder in self._folders if folder != meta.path] + [meta.path]
            old, self._folders = self._folders[:-_KEPT], self._folders[-_KEPT:]
        _delete(old)

    def blob(self, version: int) -> bytes:
        """What workers get with the tasks of a version."""
        with self._lock:
            newest = self._newest
        if newest is None or newest["meta"].get("version") != version:
            newest = {}
        return json.dumps({"version": version, "life": self.life, **newest}, default=str).encode()

    def close(self) -> None:
        """Deletes the folders, as AReaL would have."""
        with self._lock:
            old, self._folders = self._folders, []
        _delete(old)


def told_with(attempt: Attempt) -> dict[str, Any]:
    """What the controller tells with an attempt; empty before its first step."""
    return json.loads(attempt.blob) if attempt.blob else {}


class LoadedWeights:
    """The side of a worker that loads weights by itself.

    Args:
        engine: AReaL's inference engine.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.policy: Policy | None = None

    def load(self, attempt: Attempt) -> None:
        """Loads the weights that the attempt is to be made with, unless they are loaded.

        Raises:
            WorkerFault: they cannot be loaded here; another worker may have them.
        """
        if attempt.policy == self.policy:
            return
        told = told_with(attempt)
        if "meta" in told:
            self._load(told["meta"], told["at"])
        elif attempt.version != 0 or self.policy is not None:
            raise WorkerFault(
                f"the weights of version {attempt.version} of run {attempt.run} are in no folder: a worker that AReaL "
                "did not make needs weight_update_mode=disk"
            )
        self._engine.set_version(attempt.version)
        self.policy = attempt.policy

    def _load(self, told: dict[str, Any], at: int) -> None:
        kind = import_module("areal.api").WeightUpdateMeta
        names = {field.name for field in dataclasses.fields(kind)}
        meta = kind(**{name: value for name, value in told.items() if name in names})
        meta.clear_checkpoint_after_load = False
        self._engine.set_version(at)  # AReaL's trainer tells under this version that the folder is complete
        self._engine.pause_generation()
        try:
            self._engine.update_weights_from_disk(meta).result()
        except Exception as error:
            raise WorkerFault(f"the weights in {meta.path} were not loaded: {error!r}") from error
        finally:
            self._engine.continue_generation()


def _delete(folders: list[str]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
