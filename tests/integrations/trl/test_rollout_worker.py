"""The rollout worker does what TRL's trainer asks of one, and a resumed training trains each prompt once."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker import RunConfig, Trainer, Worker
from broker.connections import open_transport
from broker.errors import BadArgument
from broker.integrations.trl import BrokerRolloutWorker, BrokerWeightTransfer, result, weight_transfer
from broker.integrations.trl.samples import advantages_of
from tests.integrations.trl.training import ROWS, RUN, Training, arguments, generate, groups, working
from tests.threads import InThread
from tests.waiting import wait_until


@pytest.fixture
def opened() -> Any:
    """Makes rollout workers, which are stopped in the end."""
    made: list[BrokerRolloutWorker] = []

    def make(url: str, **options: Any) -> BrokerRolloutWorker:
        made.append(BrokerRolloutWorker(url, RUN, ROWS, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.stop()


def test_a_step_trains_a_batch_of_whole_groups_and_the_run_counts_trls_versions(
    url: str, tmp_path: Path, opened: Any
) -> None:
    training = Training(opened(url), arguments(tmp_path))
    with working(url):
        trained = [training.train() for _ in range(5)]
        for step, samples in enumerate(trained):
            assert len(samples) == 4
            assert Counter(sample.group_id for sample in samples) == dict.fromkeys(groups(samples), 2)
            assert all(step + 1 - 1 <= sample.model_version <= step + 1 for sample in samples)
        everything = [number for samples in trained for number in groups(samples)]
        assert len(everything) == len(set(everything)) == 10  # also the second pass over 6 rows
        assert {sample.completion for samples in trained for sample in samples} == {str(n) for n in range(1, 7)}
        first = trained[0][0]
        assert (first.input_ids.tolist(), first.completion_mask.tolist()) == ([1, 2, 3], [0, 0, 1])
        assert (first.advantage, trained[0][1].advantage) == (pytest.approx(-1), pytest.approx(1))
        assert first.metrics == {"reward": 0.0, "reward_std": 0.5}
        with Trainer(url, RUN, attach=True) as looker:
            assert looker.stats().version == 5
        told = [training.worker.metrics_queue.get_nowait() for _ in range(5)]
        assert [numbers["broker/policy_version"] for numbers in told] == [1, 2, 3, 4, 5]
        assert [numbers["broker/tasks_trained_total"] for numbers in told] == [2] * 5, "TRL adds totals up"
        training.end()


def test_the_end_of_training_ends_the_workers(url: str, tmp_path: Path, opened: Any) -> None:
    training = Training(opened(url), arguments(tmp_path))
    with Worker(url, RUN) as worker:
        running = InThread(lambda: worker.run(generate))
        training.train()
        assert running.is_running
        training.end()
        running.result()


def test_an_end_while_samples_are_awaited_is_no_failure(url: str, tmp_path: Path, opened: Any) -> None:
    training = Training(opened(url), arguments(tmp_path))
    thread = training.worker._thread
    assert thread is not None
    training.worker.finish()
    wait_until(lambda: not thread.is_alive(), "the thread has ended")
    assert training.worker._error is None
    training.end()


@pytest.mark.parametrize("has_file", [True, False], ids=["with the broker's part", "killed before the broker's part"])
def test_a_training_that_was_killed_goes_on_from_its_checkpoint(
    url: str, tmp_path: Path, opened: Any, has_file: bool
) -> None:
    args = arguments(tmp_path)
    first = Training(opened(url), args)
    with working(url):
        trained = [first.train(save=step in {1, 3}) for step in range(5)]
        if not has_file:
            for path in (tmp_path / "checkpoint-4").iterdir():
                path.unlink()
        second = Training(opened(url), args, resumed=4)  # the first one is as if killed: it ends nothing
        again = [second.train() for _ in range(4)]
        survives = [number for samples in trained[:4] + again for number in groups(samples)]
        assert sorted(survives) == sorted(set(survives)), "a prompt was trained twice"
        assert max(survives) - len(survives) <= 4, "prompts were skipped"
        assert set(groups(trained[4])) <= {number for samples in again for number in groups(samples)}
        second.end()


def test_a_group_that_became_too_old_does_not_pin_the_position_of_a_resumed_training(
    url: str, tmp_path: Path, opened: Any
) -> None:
    """With TRL's own worker such a group stayed the position to resume from, for the rest of the run (TRL #7274)."""
    config = RunConfig(
        consumer_batch_size=2, max_staleness=2, staleness_limit=2, max_concurrent_rollouts=8, on_stale="drop"
    )
    args = arguments(tmp_path, max_staleness=2)
    first = Training(opened(url, config=config), args)
    with Worker(url, RUN) as slow:
        (held,) = slow.claim(1, timeout=30.0)
        assert held.task == "prompt/0"
        with working(url):
            trained = [first.train() for _ in range(4)]
            assert slow.submit(held, generate(held)).answer == "stale"
            trained.append(first.train(save=True))
            second = Training(opened(url, config=config), args, resumed=5)
            again = [second.train() for _ in range(3)]
        survives = [number for samples in trained + again for number in groups(samples)]
        assert 0 not in survives
        assert sorted(survives) == sorted(set(survives)), "a prompt was trained twice"
        with Trainer(url, RUN, attach=True) as looker:
            assert looker.stats().rejected == 1
            assert looker.cursor["next"] > max(survives)
        second.end()


def test_prompts_that_a_server_has_lost_are_enqueued_again(url: str, tmp_path: Path, opened: Any) -> None:
    args = arguments(tmp_path)
    first = Training(opened(url), args)
    with working(url):
        trained = [first.train(save=step == 1) for step in range(2)]
        first.worker.stop()
    with open_transport(url) as transport:
        transport.command("FLUSHALL")
    second = Training(opened(url), args, resumed=2)
    with working(url):
        again = [second.train() for _ in range(4)]
        survives = sorted(number for samples in trained + again for number in groups(samples))
        assert survives == list(range(12))
        second.end()


def test_each_version_has_its_weights_also_after_a_kill(
    url: str, tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = SimpleNamespace(save=lambda tensors, path: path.write_text(json.dumps(tensors)))
    monkeypatch.setattr(weight_transfer, "import_module", lambda name: saved)
    args, seen = arguments(tmp_path), list[tuple[int, int]]()
    loaded: dict[str, int] = {}

    def noted(attempt: Any) -> dict[str, Any]:
        seen.append((attempt.version, loaded["steps"]))
        return generate(attempt)

    def training(resumed: int) -> Training:
        worker = opened(url)
        return Training(worker, args, resumed, BrokerWeightTransfer(worker, tmp_path / "weights"))

    first = training(0)
    with Worker(url, RUN, load_weights=lambda version, path: loaded.update(json.loads(path.read_text()))) as worker:
        running = InThread(lambda: worker.run(noted))
        for step in range(3):
            first.train(save=step == 1)
        second = training(2)
        for _ in range(3):
            second.train()
        second.end()
        running.result()
    assert {version for version, _ in seen} >= {0, 1, 2, 3, 4}
    assert all(version == steps for version, steps in seen)


def test_a_filter_replaces_groups_that_teach_nothing(url: str, tmp_path: Path, opened: Any) -> None:
    def judged(attempt: Any) -> dict[str, Any]:
        reward = float(attempt.slot) if attempt.payload["answer"] % 2 else 1.0
        return result([1], [2], [-0.1], reward)

    def is_informative(rollout: Any) -> bool:
        return len({made["reward"] for made in rollout.results}) > 1

    training = Training(opened(url, accept=is_informative), arguments(tmp_path))
    with working(url, judged):
        trained = [training.train() for _ in range(3)]
        assert all(number % 2 == 0 for samples in trained for number in groups(samples))
        training.end()


def test_a_run_without_workers_is_told(url: str, tmp_path: Path, opened: Any) -> None:
    training = Training(opened(url), arguments(tmp_path))
    training.worker.check_health(60.0)
    time.sleep(0.01)
    with pytest.raises(RuntimeError, match=r"(?s)had no worker for 0\.001 s.*Is work going on\?"):
        training.worker.check_health(0.001)
    with working(url):
        training.train()
        training.worker.check_health(0.001)


def test_a_result_of_another_form_is_told_with_its_worker(url: str, tmp_path: Path, opened: Any) -> None:
    training = Training(opened(url), arguments(tmp_path))
    with Worker(url, RUN, name="wrong") as worker:
        running = InThread(lambda: worker.run(lambda attempt: {"text": "hello"}))
        failed = wait_until(lambda: training.worker._error, "the thread has failed")
        assert "workers are wrong" in str(failed)
        with pytest.raises(RuntimeError, match="brings no more samples"):
            training.worker.check_health(60.0)
        worker.stop()
        running.result()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"token_budget": None}, "token_budget"),
        ({"token_budget": 4096}, "token_budget"),
        ({"weight_sync_steps": 2}, "weight_sync_steps"),
        ({"max_staleness": 0}, "max_staleness"),
        ({"num_generations": 3}, "num_generations"),
    ],
)
def test_arguments_with_which_a_step_is_no_batch_are_refused(
    url: str, tmp_path: Path, opened: Any, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadArgument, match=named):
        Training(opened(url), arguments(tmp_path, **changes))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (RunConfig(consumer_batch_size=3, max_staleness=1), "consumer_batch_size"),
        (RunConfig(consumer_batch_size=2, max_staleness=1, staleness_limit=2), "staleness_limit"),
        (RunConfig(consumer_batch_size=2, max_staleness=None), "staleness_limit"),
    ],
)
def test_a_config_that_disagrees_with_trl_is_refused(
    url: str, tmp_path: Path, opened: Any, config: RunConfig, named: str
) -> None:
    with pytest.raises(BadArgument, match=named):
        Training(opened(url, config=config), arguments(tmp_path))


def test_a_worker_without_its_callback_is_refused(url: str, opened: Any) -> None:
    worker = opened(url)
    worker.update_model_version(1)
    with pytest.raises(BadArgument, match="callbacks"):
        worker.start()


def test_other_releases_of_trl_are_refused_by_name(
    url: str, tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.17.0")
    with pytest.raises(BadArgument, match=r"1\.16\.x.*1\.17\.0"):
        Training(opened(url), arguments(tmp_path))


def test_a_data_set_without_rows_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="dataset"):
        Training(BrokerRolloutWorker(url, RUN, []), arguments(tmp_path))


def test_a_result_says_what_is_wrong_with_it() -> None:
    assert json.loads(json.dumps(result([1], [2], [-0.5], None)["metrics"])) == {}
    for wrong in (
        lambda: result([1], [], [], 1.0),
        lambda: result([1], [2], [-0.5, -0.5], 1.0),
        lambda: result([1], [2], [float("nan")], 1.0),
        lambda: result([1], [2], [-0.5], float("inf")),
        lambda: result([1], [2], [-0.5], 1.0, mask=[1, 1]),
    ):
        with pytest.raises(BadArgument):
            wrong()
    assert result([1], [2, 3], [-0.5, float("nan")], 1.0, mask=[1, 0])["completion_mask"].tolist() == [0, 1, 0]


def test_a_sample_without_reward_has_no_advantage() -> None:
    assert advantages_of([0.0, None, 1.0]).tolist() == pytest.approx([-1, 0, 1])
    assert advantages_of([None, None]).tolist() == [0, 0]
    assert advantages_of([1.0, 1.0]).tolist() == [0, 0]
