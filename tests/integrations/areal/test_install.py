"""`install` finds AReaL's places, gives each role its run, and puts all back; on a package of AReaL's shape."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import sys
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker.errors import BadArgument, BadName, BadUrl, ConfigMismatch, NoRun
from broker.integrations import areal
from broker.integrations.areal import StalenessManager
from broker.integrations.areal.release import areal_version
from broker.operator import Operator
from tests.integrations.areal.conftest import Provider
from tests.integrations.areal.crew import Process, processes
from tests.waiting import wait_until

C, B, S = 10, 4, 2


class Shape:
    """The modules of a package of AReaL's shape."""

    def __init__(self) -> None:
        self.package: Any = importlib.import_module("areal")
        self.managers: Any = importlib.import_module("areal.infra.staleness_manager")
        self.executors: Any = importlib.import_module("areal.infra.workflow_executor")
        self.controllers: Any = importlib.import_module("areal.infra.controller.rollout_controller")
        self._made: list[Any] = []

    def controller(self, role: str, *, second: bool = False, numbers: tuple[int, int, int] = (C, B, S)) -> Any:
        kind = self.controllers.SecondController if second else self.controllers.RolloutController
        made = kind(numbers)
        made.initialize(role)
        self._made.append(made)
        return made

    def executor(self, ranks: int, *, manager: Any = None, initialize: bool = True) -> Any:
        made = self.executors.WorkflowExecutor(Provider(), (C, B, S), manager, ranks)
        if initialize:
            made.initialize()
            self._made.append(made)
        return made

    def end(self) -> None:
        for made in self._made:
            made.destroy()


def forget_areal() -> dict[str, Any]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "areal"}


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The release that AReaL's package says it is."""
    says = SimpleNamespace(value="2.0.0")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: says.value)
    return says


@pytest.fixture
def shape(version: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Generator[Shape]:
    assert version
    before = forget_areal()
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "shape"))
    made = Shape()
    yield made
    made.end()
    forget_areal()
    sys.modules.update(before)


@pytest.fixture
def installed(shape: Shape, areal_url: str, run: str) -> Generator[areal.Installation]:
    assert shape
    with areal.install(areal_url, run, lease_s=1.5) as installation:
        yield installation


def test_all_that_binds_the_class_binds_ours_and_it_says_so(
    shape: Shape, areal_url: str, run: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = shape.managers.StalenessManager
    holders = (shape.package, shape.managers, shape.executors, shape.controllers)
    with caplog.at_level(logging.INFO, "broker"), areal.install(areal_url, run) as installation:
        assert all(issubclass(holder.StalenessManager, StalenessManager) for holder in holders)
        assert {f"{holder.__name__}.StalenessManager" for holder in holders} <= set(installation.replaced)
        assert "areal.infra.workflow_executor.WorkflowExecutor.initialize" in installation.replaced
        (said,) = [record.getMessage() for record in caplog.records if "replaced" in record.getMessage()]
        assert f"AReaL 2.0.0 counts its rollouts in run {run}" in said
        assert all(name in said for name in installation.replaced)
    assert all(holder.StalenessManager is own for holder in holders)
    assert shape.executors.WorkflowExecutor.initialize.__module__ == shape.executors.__name__
    assert isinstance(shape.controller("rollout").staleness_manager, own)


def test_what_it_logs_is_in_areals_log(shape: Shape, areal_url: str, run: str) -> None:
    log = importlib.import_module("areal.utils.logging")
    broker = logging.getLogger("broker")
    before = broker.level, list(broker.handlers)
    with areal.install(areal_url, run):
        shape.controller("rollout")
        assert any("replaced: areal.StalenessManager" in line for line in log.lines)
        assert any(f"role rollout counts in run {run}" in line for line in log.lines)
    assert (broker.level, broker.handlers) == before


@pytest.mark.parametrize("second", [False, True], ids=["bound", "imported late"])
def test_a_controller_counts_in_the_run_of_its_role(
    shape: Shape, installed: areal.Installation, areal_url: str, run: str, second: bool
) -> None:
    assert installed
    train, teacher = (shape.controller(role, second=second) for role in ("rollout", "teacher"))
    assert (train.staleness_manager.run, teacher.staleness_manager.run) == (run, f"{run}/teacher")
    for _ in range(3):
        train.dispatcher.submit_task_input(object())
    assert len(train.dispatcher.started) == 3
    assert train.staleness_manager.flush()
    with Operator(areal_url) as operator:
        assert operator.stats(run).running == 3
        with pytest.raises(NoRun):  # it has started nothing yet
            operator.stats(f"{run}/teacher")
        teacher.dispatcher.submit_task_input(object())
        assert teacher.staleness_manager.flush()
        assert operator.stats(f"{run}/teacher").running == 1


def test_evaluation_keeps_areals_own_manager(
    shape: Shape, installed: areal.Installation, areal_url: str, run: str
) -> None:
    assert installed
    own = shape.managers.StalenessManager.__mro__
    evaluation = shape.controller("eval-rollout", numbers=(C, B, int(1e12)))
    assert type(evaluation.staleness_manager) not in own
    assert evaluation.staleness_manager.numbers == (C, B, int(1e12))
    assert isinstance(evaluation.staleness_manager, shape.managers.StalenessManager)
    with Operator(areal_url) as operator, pytest.raises(NoRun):
        operator.stats(f"{run}/eval-rollout")


def test_ranks_share_the_batch_that_areal_divides(shape: Shape, installed: areal.Installation) -> None:
    assert installed
    fast, slow = shape.executor(2), shape.executor(2)
    manager = fast.staleness_manager
    assert (manager.max_concurrent_rollouts, manager.consumer_batch_size, manager.max_staleness) == (C, B, S)
    assert manager.get_pending_limit() == (S + 1) * (B // 2)  # as AReaL's own of one rank
    for _ in range(20):
        fast.dispatcher.submit_task_input(object())
    assert len(fast.dispatcher.started) == min(C, (S + 1) * B - B // 2)
    slow.dispatcher.submit_task_input(object())
    assert fast.staleness_manager.flush()
    assert slow.staleness_manager.get_stats().enqueued > 0


def test_a_rank_that_starts_no_rollouts_keeps_no_share(
    shape: Shape, installed: areal.Installation, areal_url: str, run: str
) -> None:
    assert installed
    heads, others = [shape.executor(2) for _ in range(2)], [shape.executor(2) for _ in range(4)]
    with Operator(areal_url) as operator:
        with pytest.raises(NoRun):
            operator.stats(run)
        for head in heads:
            head.staleness_manager.on_version_recovered(7)
            head.inference_engine.version = 7
            for _ in range(2 * B):
                head.dispatcher.submit_task_input(object())
        assert all(len(head.dispatcher.started) >= B // 2 for head in heads)
        assert heads[0].staleness_manager.flush()
        assert (operator.stats(run).version, operator.stats(run).accepted) == (7, 7 * B)
    assert not any(other.staleness_manager.joined for other in others)
    assert others[0].staleness_manager.get_capacity() == (S + 1) * (B // 2)
    assert not others[0].staleness_manager.flush()


def test_a_manager_that_was_given_is_left_alone(shape: Shape, installed: areal.Installation, areal_url: str) -> None:
    assert installed
    with StalenessManager(Provider(), C, B, S, url=areal_url, run="given") as manager:
        executor = shape.executor(2, manager=manager)
        assert executor.staleness_manager is manager
        executor.destroy()
        assert not manager.closed


def test_a_dispatcher_is_attached_and_its_end_gives_back_what_it_had(
    shape: Shape, installed: areal.Installation, areal_url: str, run: str
) -> None:
    assert installed
    first = shape.controller("rollout")
    with processes(1) as (other,), Operator(areal_url) as operator:
        other.do("new", "m", 0, [C, B, S], {"url": areal_url, "run": run, "share": 0})
        fill(other, C)
        first.dispatcher.submit_task_input(object())
        assert not first.dispatcher.started
        woken(first.dispatcher, other)
        first.staleness_manager.on_rollout_submitted()
        assert first.staleness_manager.flush()
        assert operator.stats(run).running == C
        first.destroy()
        assert operator.stats(run).running == C - 1
        assert first.staleness_manager.closed
        other.do("close", "m")


def fill(other: Process, n: int) -> None:
    other.call("m", "on_rollout_enqueued", times=n)
    other.call("m", "on_rollout_submitted", times=n)
    assert other.call("m", "flush")


def woken(dispatcher: Any, other: Process) -> None:
    """Frees a slot in the other process and waits until the dispatcher was woken by it."""
    rings = 0
    notify_all = dispatcher._input_cv.notify_all

    def ring() -> None:
        nonlocal rings
        rings += 1
        notify_all()

    dispatcher._input_cv.notify_all = ring
    other.call("m", "on_rollout_rejected")
    wait_until(lambda: rings > 0, "the dispatcher is woken")


def test_an_executor_that_is_used_again_gets_a_manager_that_counts(shape: Shape, installed: areal.Installation) -> None:
    assert installed
    executor = shape.executor(1)
    first = executor.staleness_manager
    executor.destroy()
    executor.initialize()
    assert executor.staleness_manager is not first
    executor.dispatcher.submit_task_input(object())
    assert len(executor.dispatcher.started) == 1


def test_installing_again_takes_the_place_of_the_first(shape: Shape, areal_url: str, run: str) -> None:
    own = shape.managers.StalenessManager
    areal.install(areal_url, "another")
    with areal.install(areal_url, run) as second:
        assert shape.controller("rollout").staleness_manager.run == run
        second.uninstall()
        assert shape.managers.StalenessManager is own


@pytest.mark.parametrize("release", ["0.5.3", "1.1.0", "2.1.0", "3.0", "unknown"])
def test_an_unknown_release_is_refused_by_name(
    shape: Shape, version: SimpleNamespace, areal_url: str, run: str, release: str
) -> None:
    own, version.value = shape.managers.StalenessManager, release
    with pytest.raises(BadArgument, match=rf"areal must be 1\.0\.x or 2\.0\.x, not release {release}"):
        areal.install(areal_url, run)
    assert shape.managers.StalenessManager is own


@pytest.mark.parametrize("release", ["1.0.0.rc1", "1.0.4", "2.0.0", "2.0.11"])
def test_the_known_releases_are_taken(
    shape: Shape, version: SimpleNamespace, areal_url: str, run: str, release: str
) -> None:
    assert shape
    version.value = release
    areal.install(areal_url, run).uninstall()


def test_a_checkout_that_is_not_installed_says_its_release(
    shape: Shape, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert shape

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert areal_version() == "unknown"
    forget_areal()
    (tmp_path / "areal").mkdir()
    (tmp_path / "areal/__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "areal"\nversion = "2.0.3"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert areal_version() == "2.0.3"


def test_without_areal_it_says_so(monkeypatch: pytest.MonkeyPatch, areal_url: str, run: str) -> None:
    before = forget_areal()
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, "areal").is_dir()])
    with pytest.raises(BadArgument, match="AReaL is not installed"):
        areal.install(areal_url, run)
    sys.modules.update(before)


def test_a_release_that_lacks_a_place_is_refused_and_nothing_is_replaced(
    shape: Shape, monkeypatch: pytest.MonkeyPatch, areal_url: str, run: str
) -> None:
    own = shape.managers.StalenessManager
    monkeypatch.delattr(shape.executors.BatchTaskDispatcher, "submit_task_input")
    with pytest.raises(BadArgument, match=r"it has no .+\.BatchTaskDispatcher\.submit_task_input"):
        areal.install(areal_url, run)
    assert shape.managers.StalenessManager is own


def test_what_cannot_work_is_refused_before_anything_is_replaced(shape: Shape, areal_url: str) -> None:
    own = shape.managers.StalenessManager
    with pytest.raises(BadName):
        areal.install(areal_url, "a b")
    with pytest.raises(BadUrl):
        areal.install("redis:/nowhere", "areal")
    assert shape.managers.StalenessManager is own


def test_other_numbers_under_the_same_name_are_refused_unless_told_to_update(
    shape: Shape, installed: areal.Installation, areal_url: str, run: str
) -> None:
    assert installed
    shape.controller("rollout").dispatcher.submit_task_input(object())
    with pytest.raises(ConfigMismatch):
        shape.controller("rollout", numbers=(C + 1, B, S)).dispatcher.submit_task_input(object())
    with areal.install(areal_url, run, update=True):
        controller = shape.controller("rollout", numbers=(C + 1, B, S))
        controller.dispatcher.submit_task_input(object())
        assert controller.staleness_manager.joined


def test_a_manager_beside_that_of_the_executor_keeps_nothing_from_it(shape: Shape, areal_url: str, run: str) -> None:
    with areal.install(areal_url, run):
        unused, executor = shape.controller("rollout", numbers=(C, B, 0)), shape.executor(1)
        assert unused.staleness_manager.get_capacity() == B
        for _ in range(B):
            executor.dispatcher.submit_task_input(object())
        assert len(executor.dispatcher.started) == B
