"""Metrics: what `trainer.metrics()` and `broker metrics` say is what `stats` says."""

from __future__ import annotations

import asyncio
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from broker import RunConfig, Task, Trainer, Worker, aio
from broker.cli.main import main
from broker.inspection.metrics import METRICS, flat, metrics_of, prometheus
from broker.local_server.embedded import EmbeddedServer
from tests.child import Child
from tests.conformance.lab import Lab, tasks

#: A line of Prometheus's text format.
LINE = re.compile(r'[a-z_]+\{run="[^"]+"(,[a-z]+="[^"]+")?\} -?[0-9.e+-]+')
PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"


def busy(lab: Lab) -> Trainer:
    trainer, worker = lab.trainer(consumer_batch_size=2, max_concurrent_rollouts=9, max_staleness=3), lab.worker()
    trainer.enqueue(tasks(7))
    (failing,) = worker.claim(1)
    lab.pass_ms(500)
    worker.fail(failing, "boom", retry=False)
    for attempt in worker.claim(3):
        lab.pass_ms(2_000)
        worker.submit(attempt, b"x")
    trainer.next_batch(timeout=5)
    trainer.advance()
    worker.claim(1)
    return trainer


def test_one_flat_dict_has_what_stats_say(lab: Lab):
    trainer = busy(lab)
    stats, seen = trainer.stats(), trainer.metrics()
    assert {name: value for name, value in seen.items() if not name.startswith("broker/batch/")} == flat(stats)
    assert all(type(value) is float for value in seen.values())
    assert seen["broker/policy_version"] == 1
    assert seen["broker/tasks/running"] == stats.running == 1
    assert seen["broker/tasks/dead"] == 1
    assert seen["broker/tasks_trained_total"] == 2
    assert seen["broker/results_total"] == 3
    assert seen["broker/waste_total/failed"] == 1
    assert seen["broker/lost_seconds_total/failed"] == 0.5
    assert seen["broker/attempt_mean_seconds/kept"] == stats.mean_s["kept"]
    assert seen["broker/generation_seconds/p50"] == stats.generation_s["p50"]
    assert seen["broker/capacity_tasks"] == stats.capacity


def test_the_trainer_for_asyncio_has_it_too(lab: Lab):
    async def train() -> dict[str, float]:
        async with aio.Trainer(lab.url, lab.run, lab.config(), clock=lab.clock) as trainer:
            return await trainer.metrics()

    assert asyncio.run(train())["broker/policy_version"] == 0


def test_prometheus_gets_one_help_and_type_for_each_name(lab: Lab):
    stats = busy(lab).stats()
    text = prometheus([stats, stats.model_copy(update={"run": "other"})])
    assert text.endswith("\n")
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)), "the lines of a name stand together"
    for line in text.splitlines():
        assert line.startswith("# ") or LINE.fullmatch(line), line
    for metric in metrics_of(stats):
        assert (METRICS[metric.name].kind == "counter") == metric.name.endswith("_total")
    assert f'broker_tasks{{run="{lab.run}",state="dead"}} 1' in text.splitlines()


def test_large_numbers_are_exact(lab: Lab):
    stats = lab.trainer().stats().model_copy(update={"consumed": 123_456_789})
    assert "} 123456789" in prometheus([stats])


def test_the_page_lists_each_metric(lab: Lab):
    page = PAGE.read_text().partition("## Metrics")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `broker_(\w+)` \| `?(\w*)`? ?\|", page, re.MULTILINE))
    assert rows == {name: described.label for name, described in METRICS.items()}
    assert {metric.name for metric in metrics_of(busy(lab).stats())} == set(METRICS)


@pytest.mark.processes
def test_the_command_serves_scrapes_and_probes():
    server = EmbeddedServer(port=0)
    try:
        with Trainer(server.url, "r", RunConfig(consumer_batch_size=1)) as trainer, Worker(server.url, "r"):
            trainer.enqueue(Task(id="t"))
            with Child("-m", "broker", "metrics", "--port", "0", env={"BROKER_URL": server.url}) as process:
                url = process.read_line().strip()
                with urllib.request.urlopen(url) as answer:  # noqa: S310 - of this test
                    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                    assert 'broker_tasks{run="r",state="pending"} 1' in answer.read().decode()
                base = url.removesuffix("/metrics")
                for path, status in (("/healthz", 200), ("/readyz", 200), ("/nothing", 404)):
                    assert status_of(base + path) == status
                trainer.close()
                server.stop()
                assert status_of(f"{base}/healthz") == 200
                assert status_of(f"{base}/readyz") == 503
    finally:
        server.stop()


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - of this test
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_command_prints_them_once(lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    busy(lab)
    if lab.url.startswith("fakeredis"):
        pytest.skip("its server is in one process")
    monkeypatch.setenv("BROKER_URL", lab.url)
    assert main(["metrics", lab.run]) == 0
    assert f'broker_policy_version{{run="{lab.run}"}} 1' in capsys.readouterr().out.splitlines()
    assert main(["metrics", "none"]) == 2


def test_a_pause_and_a_drain_have_a_number_each(lab: Lab):
    trainer = busy(lab)
    for state, change in (("paused", trainer.pause), ("draining", trainer.drain), ("", trainer.resume)):
        change()
        seen = trainer.metrics()
        assert [seen["broker/paused"], seen["broker/draining"]] == [state == "paused", state == "draining"]
