"""Puts the broker's staleness manager wherever AReaL makes one of its own."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, Self

from broker.errors import BadArgument, NoRun
from broker.integrations.areal.pull.places import PullPlaces
from broker.integrations.areal.release import known_release
from broker.integrations.areal.staleness import DEFAULT_LEASE_S, StalenessManager
from broker.operator import Operator
from broker.values.names import check_name

_log = logging.getLogger(__name__)
#: Above the loggers of all modules of the broker.
_broker_log = logging.getLogger("broker")

#: The role of the controller that makes the rollouts to train on: its run has no role in its name.
TRAINING_ROLE = "rollout"
#: AReaL gives its managers for evaluation this staleness: they bound nothing.
UNBOUNDED = int(1e12)

_MANAGERS = "areal.infra.staleness_manager"
_EXECUTORS = "areal.infra.workflow_executor"
_LOGGING = "areal.utils.logging"
#: Modules that are loaded, so that whatever they bind is found; the second controller binds nothing until it starts.
_USERS = ("areal.infra.controller.rollout_controller", _EXECUTORS)

_installed: Installation | None = None


def install(
    url: str,
    run: str,
    *,
    owner: str | None = None,
    lease_s: float = DEFAULT_LEASE_S,
    update: bool = False,
    pull: bool = False,
) -> Installation:
    """Makes AReaL count its rollouts in Redis or Valkey, from here on in this process.

    Call it before the trainer, or any engine or controller, is made. Every staleness manager that AReaL makes is then a
    `StalenessManager` of the run, and its dispatcher is woken by the others; managers for evaluation stay AReaL's own.
    The controller of role `rollout` counts in the run, one of another role in the run `RUN/ROLE`. Of ranks that train
    each step together each has its part of the batch as its share. What is replaced is logged (INFO), in AReaL's log.
    A second call takes the place of the first.

    Args:
        url: the server.
        run: name of the run; the same in all processes of the training, and after a restart.
        owner: name of this process, shown to people; None: host and process id.
        lease_s: as of `StalenessManager`.
        update: as of `StalenessManager`.
        pull: the training controller does not push rollouts to its workers. It enqueues its prompts in the run, and
            workers pull them: its own, and those of `pull_rollouts`.

    Returns:
        What was done; its `uninstall` undoes it.

    Raises:
        BadArgument: AReaL is not installed, is of a release that is not known, or is not as that release was.
        BadName: an argument is out of range.
        ServerUnavailable: no answer. Nothing was replaced.
    """
    global _installed  # noqa: PLW0603 - AReaL's modules are global, too
    check_name("run", run)
    version = known_release()
    with Operator(url) as operator, contextlib.suppress(NoRun):
        operator.stats(run)
    if _installed is not None:
        _installed.uninstall()
    _installed = Installation(url, run, owner, lease_s, update, version, pull)
    return _installed


class Installation:
    """The broker's staleness manager in the places of AReaL's. `install` makes it.

    What is logged under `broker` is shown where AReaL's own lines are.

    Attributes:
        replaced: what was replaced, dotted names.
    """

    def __init__(
        self, url: str, run: str, owner: str | None, lease_s: float, update: bool, version: str, pull: bool
    ) -> None:
        self._url, self._run, self._owner, self._lease_s, self._update = url, run, owner, lease_s, update
        self._version = version
        self._undo: list[tuple[Any, str, Any]] = []
        self._shown: logging.Handler | None = None
        self._level = logging.NOTSET
        self._made: weakref.WeakSet[StalenessManager] = weakref.WeakSet()
        self._lock = threading.Lock()
        self.replaced: tuple[str, ...] = ()
        for name in _USERS:
            self._module(name)
        executors = self._module(_EXECUTORS)
        self._own = self.member(self._module(_MANAGERS), "StalenessManager")
        executor, dispatcher = (self.member(executors, name) for name in ("WorkflowExecutor", "BatchTaskDispatcher"))
        for owned, names in (
            (executor, ("initialize", "_resolve_dp_world_size")),
            (dispatcher, ("initialize", "submit_task_input", "destroy")),
        ):
            for name in names:
                self.member(owned, name)
        self.member(self._module(_LOGGING), "getLogger")
        try:
            in_place = self._class_in_place()
            for name, module in sorted(sys.modules.items()):
                if (
                    name.partition(".")[0] == "areal"
                    and getattr(module, "__dict__", {}).get("StalenessManager") is self._own
                ):
                    self._replace(module, "StalenessManager", in_place)
            self.wrap(executor, "initialize", self._initialize_executor)
            self.wrap(dispatcher, "initialize", self._initialize_dispatcher)
            self._pull = PullPlaces(self, url, run, lease_s, update=update) if pull else None
        except BaseException:
            self.uninstall()
            raise
        self._show_lines()
        self.replaced = tuple(f"{_name_of(holder)}.{name}" for holder, name, _ in self._undo)
        _log.info(
            "AReaL %s counts its rollouts in run %s: %s of evaluation stays its own; replaced: %s",
            version, run, self._own.__name__, ", ".join(self.replaced),
        )  # fmt: skip

    def uninstall(self) -> None:
        """Puts AReaL's own back; what is at work goes on with what it has. May be called twice."""
        global _installed  # noqa: PLW0603 - as in `install`
        while self._undo:
            holder, name, original = self._undo.pop()
            setattr(holder, name, original)
        if self._shown is not None:
            _broker_log.removeHandler(self._shown)
            _broker_log.setLevel(self._level)
            self._shown = None
        if _installed is self:
            _installed = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.uninstall()

    # AReaL's loggers have a root of their own: what any other logger says is not shown, unless by itself.
    def _show_lines(self) -> None:
        logger = self.member(self._module(_LOGGING), "getLogger")("broker")
        self._shown, self._level = _Shown(logger), _broker_log.level
        _broker_log.addHandler(self._shown)
        if self._level == logging.NOTSET:
            _broker_log.setLevel(logging.INFO)

    # -- AReaL's places --------------------------------------------------------------------------------------------

    def _module(self, name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "areal":
                raise
            raise self._unlike(name) from None

    def member(self, holder: Any, name: str) -> Any:
        """What has this name. Raises BadArgument: AReaL is not as this release was."""
        if not hasattr(holder, name):
            raise self._unlike(f"{_name_of(holder)}.{name}")
        return getattr(holder, name)

    def _unlike(self, missing: str) -> BadArgument:
        return BadArgument(
            problem=f"AReaL {self._version} is not as that release was: it has no {missing}; nothing was replaced, so "
            "give AReaL a StalenessManager by hand"
        )

    def _replace(self, holder: Any, name: str, new: Any) -> None:
        self._undo.append((holder, name, getattr(holder, name)))
        setattr(holder, name, new)

    def wrap(self, holder: Any, name: str, around: Callable[..., Any]) -> None:
        """Replaces a method; `around` gets the original and the arguments."""
        original = getattr(holder, name)

        @functools.wraps(original)
        def wrapped(this: Any, *args: Any, **kwargs: Any) -> Any:
            return around(original, this, *args, **kwargs)

        self._replace(holder, name, wrapped)

    def _class_in_place(self) -> type:
        own, make = self._own, self._make

        class Kind(type):
            def __instancecheck__(cls, instance: object) -> bool:
                return isinstance(instance, own | StalenessManager)

        def new(
            _: type, version_provider: Any, max_concurrent_rollouts: int, consumer_batch_size: int, max_staleness: int
        ) -> Any:
            return make(version_provider, max_concurrent_rollouts, consumer_batch_size, max_staleness)

        names = {"__new__": new, "__module__": __name__, "__doc__": StalenessManager.__doc__}
        return Kind("StalenessManager", (StalenessManager,), names)

    # -- managers --------------------------------------------------------------------------------------------------

    def _make(self, provider: Any, max_concurrent: int, batch: int, max_staleness: int, *, ranks: int = 1) -> Any:
        """Makes the manager of one rank. The numbers are this rank's part.

        AReaL makes one also where no rollouts come: in ranks that only follow another, and in 1.0.4 beside that of an
        executor. So it joins with its first rollout only; else its share would be kept from the others for ever.
        """
        role = getattr(provider, "_worker_role", None)
        role = role if isinstance(role, str) and role else TRAINING_ROLE
        if max_staleness >= UNBOUNDED:
            _log.info("role %s evaluates: AReaL's own StalenessManager counts it", role)
            return self._own(provider, max_concurrent, batch, max_staleness)
        if self._pull is not None and role == TRAINING_ROLE:
            return self._pull.make(provider, max_concurrent, batch, max_staleness)
        run = self._run if role == TRAINING_ROLE else f"{self._run}/{role}"
        manager = StalenessManager(
            provider, max_concurrent * ranks, batch * ranks, max_staleness, share=max(1, batch), url=self._url, run=run,
            owner=self._owner, lease_s=self._lease_s, update=self._update, join_now=False,
        )  # fmt: skip
        with self._lock:
            self._made.add(manager)
        _log.info(
            "role %s counts in run %s: %d rollouts of each batch of %d, at most %d at once, staleness %d",
            role, run, batch, batch * ranks, max_concurrent * ranks, max_staleness,
        )  # fmt: skip
        return manager

    def _made_here(self, manager: object) -> StalenessManager | None:
        with self._lock:
            return manager if isinstance(manager, StalenessManager) and manager in self._made else None

    # AReaL divides the numbers by the ranks.
    def _initialize_executor(
        self,
        original: Callable[..., None],
        executor: Any,
        logger: Any = None,
        train_data_parallel_size: int | None = None,
    ) -> None:
        before = executor._staleness_manager  # noqa: SLF001 - its property raises where there is none
        made = self._made_here(before)
        if before is None or (made is not None and made.closed):
            ranks = train_data_parallel_size
            if ranks is None:
                ranks = executor._resolve_dp_world_size()  # noqa: SLF001 - it has no public name
            ranks = max(1, ranks)
            executor._staleness_manager = self._make(  # noqa: SLF001 - as above
                executor.inference_engine,
                max(1, executor.max_concurrent_rollouts // ranks),
                max(1, executor.consumer_batch_size // ranks),
                executor.max_staleness,
                ranks=ranks,
            )
        original(executor, logger, train_data_parallel_size)

    # On the dispatcher itself, so that what is at work when `uninstall` is called goes on and ends as it would have.
    def _initialize_dispatcher(self, original: Callable[..., None], dispatcher: Any, *args: Any, **kwargs: Any) -> None:
        manager = self._made_here(dispatcher.staleness_manager)
        if manager is not None:
            _place(manager, dispatcher)
        original(dispatcher, *args, **kwargs)


class _Shown(logging.Handler):
    """Gives lines to another logger."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        self._logger.handle(record)


def _place(manager: StalenessManager, dispatcher: Any) -> None:
    """Attaches the manager once it joins, which it does before the first rollout, and closes it with the dispatcher."""
    submit, destroy = dispatcher.submit_task_input, dispatcher.destroy

    def join_and_submit(*args: Any, **kwargs: Any) -> None:
        if not manager.joined:
            manager.join()
            manager.attach(dispatcher)
        submit(*args, **kwargs)

    def destroy_and_close(*args: Any, **kwargs: Any) -> None:
        destroy(*args, **kwargs)
        manager.close()

    dispatcher.submit_task_input, dispatcher.destroy = join_and_submit, destroy_and_close


def _name_of(holder: Any) -> str:
    return holder.__name__ if isinstance(holder, ModuleType) else f"{holder.__module__}.{holder.__qualname__}"
