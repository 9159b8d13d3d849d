"""`broker recover`, `audit`, `explain` and `checkpoint` on an admission run, and a run that is one kind only."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import RunConfig, Trainer
from broker.cli.main import main
from broker.errors import ConfigMismatch
from broker.integrations.areal import RolloutStat
from broker.operator import Operator
from tests.integrations.areal.conftest import Make, Provider


def test_recovering_from_the_command_line_rewrites_accepted_and_leaves_running(
    areal_url: str, run: str, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = Provider(9)
    manager = make(provider, 1000, 4, 2)
    for _ in range(5):
        manager.on_rollout_enqueued()
        manager.on_rollout_submitted()
    manager.on_rollout_accepted()
    assert manager.flush()
    assert main(["recover", run, "--version", "268", "--yes", "--url", areal_url]) == 0
    with Operator(areal_url) as operator:
        stats = operator.stats(run)  # before any owner has reported again
        assert (stats.version, stats.accepted, stats.running, stats.capacity) == (268, 1072, 4, 8)
        assert operator.audit(run).ok
        assert operator.audit(run, repair=True).ok
    assert manager.get_stats() == RolloutStat(accepted=1072, running=4)
    assert manager.get_capacity() == 8
    assert main(["status", run, "--url", areal_url]) == 0
    assert main(["runs", "--url", areal_url]) == 0
    assert run in capsys.readouterr().out


def test_an_admission_run_has_no_drift(areal_url: str, run: str, make: Make) -> None:
    one, other = make(Provider(3), 10, 4, 2), make(Provider(3), 10, 4, 2)
    for manager in (one, other, one):
        manager.on_rollout_enqueued()
        manager.on_rollout_submitted()
    one.on_rollout_accepted()
    other.on_rollout_accepted()
    assert one.flush()
    assert other.flush()
    with Operator(areal_url) as operator:
        assert operator.audit(run).ok


def test_explain_says_that_processes_are_counted_and_what_they_may_start(
    areal_url: str, run: str, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    manager = make(Provider(), 3, 4, 2)
    for _ in range(2):
        manager.on_rollout_submitted()
    assert manager.flush()
    assert main(["explain", run, "--url", areal_url]) == 0
    told = capsys.readouterr().out
    assert "an admission run" in told
    assert "Yes: 1 rollout may be started now." in told
    assert "min(1, 10) = 1" in told
    assert "1 process connected, 2 rollouts running" in told
    assert "task" not in told.replace("holds no tasks", "")
    assert "worker" not in told


def test_no_checkpoint_is_written_of_an_admission_run(
    areal_url: str, run: str, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(Provider(), 10, 4, 2)
    assert main(["checkpoint", run, str(tmp_path / "broker.json"), "--url", areal_url]) == 1
    assert "needs no checkpoint: `broker recover` with --version" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_trainer_cannot_open_an_admission_run(areal_url: str, run: str, make: Make) -> None:
    make(Provider(), 10, 4, 2)
    config = RunConfig(consumer_batch_size=4, max_staleness=2, max_concurrent_rollouts=10)
    with pytest.raises(ConfigMismatch, match="give another run's name"):
        Trainer(areal_url, run=run, config=config)
