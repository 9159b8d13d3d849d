"""The alert rules and the Grafana board ask for metrics that exist, and a real Prometheus answers them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker import RunConfig, Task, Trainer, Worker
from broker.inspection import metrics
from broker.inspection.metrics import METRICS, metrics_of
from broker.local_server.embedded import EmbeddedServer
from tests.child import Child
from tests.deploy.metrics_seen import selectors

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
BOARD = DEPLOY / "grafana" / "dashboards" / "rollout-broker.json"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(not (PROMETHEUS and PROMTOOL), reason="apt-get install prometheus")

ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
QUERIES: list[tuple[str, str]] = [
    (panel["title"], target["expr"]) for panel in json.loads(BOARD.read_text())["panels"] for target in panel["targets"]
]


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    server = EmbeddedServer(port=0)
    yield server.url
    server.stop()


@contextmanager
def halted(url: str, run: str) -> Generator[Trainer]:
    """A run that trained a step, threw something away, and was halted."""
    config = RunConfig(consumer_batch_size=2, max_attempts=1, halt_after_failures=2, max_staleness=1)
    with Trainer(url, run, config) as trainer, Worker(url, run) as worker:
        trainer.enqueue([Task(id=f"t{i}") for i in range(9)])
        for attempt in worker.claim(2, timeout=10):
            worker.submit(attempt, b"r")
        trainer.next_batch(timeout=10)
        trainer.advance()
        for attempt in worker.claim(3, timeout=10):
            time.sleep(0.002)  # a length of 0 is left out
            worker.fail(attempt, "boom")
        assert trainer.stats().halted
        yield trainer


def test_rules_and_board_ask_for_what_there_is(url: str) -> None:
    with halted(url, "asked") as trainer:
        there = {(metric.name, metric.of) for metric in metrics_of(trainer.stats())}
    assert {name for name, _ in there} == set(METRICS)
    for expression in [rule["expr"] for rule in ALERTS] + [expression for _, expression in QUERIES]:
        for name, labels in selectors(expression):
            assert name in METRICS, expression
            for label, values in labels.items():
                assert label == METRICS[name].label, expression
                assert all((name, value) in there for value in values), expression


@needs_prometheus
def test_promtool_finds_no_fault_in_the_metrics(url: str) -> None:
    with Trainer(url, "linted", RunConfig(consumer_batch_size=1)) as trainer, Worker(url, "linted") as worker:
        trainer.enqueue([Task(id="t")])
        (attempt,) = worker.claim(timeout=10)
        time.sleep(0.002)  # a length of 0 is left out
        worker.submit(attempt, {})
        text = metrics.prometheus([trainer.stats()])
    assert "quantile=" in text
    checked = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_every_alert_has_a_case_in_which_it_alone_fires() -> None:
    cases = yaml.safe_load((RULES.parent / "rules_test.yml").read_text())["tests"]
    expected = [[sample["labels"] for sample in case["promql_expr_test"][0]["exp_samples"]] for case in cases]
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in ALERTS}
    fires = [f'{{alertname="{alert}", severity="{severity}"}}' for alert, severity in severities.items()]
    assert {label for labels in expected for label in labels} == set(fires)
    assert max(map(len, expected)) == 1
    assert [] in expected, "a healthy run, which fires none"
    page = (DEPLOY.parent / "docs" / "monitoring.md").read_text()
    assert re.findall(r"^\| `(Broker\w+)` \| (\w+) \|", page, re.MULTILINE) == list(severities.items())
    assert all(rule["annotations"].keys() == {"summary", "description"} for rule in ALERTS)


@needs_prometheus
def test_the_rules_do_what_their_cases_say() -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        told = subprocess.run(
            [str(PROMTOOL), *command], cwd=RULES.parent, capture_output=True, text=True, timeout=60, check=False
        )
        assert told.returncode == 0, told.stdout + told.stderr
        assert "SUCCESS" in told.stdout


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def prometheus(target: str, folder: Path) -> Generator[str]:
    """A Prometheus with the config of `deploy/`, but every quarter of a second; yields its address."""
    config = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(RULES, folder)
    address = f"127.0.0.1:{_free_port()}"
    flags = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
    process = subprocess.Popen(
        [str(PROMETHEUS), *flags, f"--web.listen-address={address}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def _asked(address: str, path: str, **parameters: str) -> Any:
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{address}/api/v1/{path}?{query}", timeout=30) as answer:  # noqa: S310
        return json.load(answer)["data"]


def _until(address: str, path: str, holds: Any, **parameters: str) -> Any:
    """Asks again until the answer is as it should be."""
    until = time.monotonic() + 60
    found: Any = None
    while time.monotonic() < until:
        try:
            found = _asked(address, path, **parameters)
        except OSError as error:  # it does not listen yet
            found = error
        else:
            if holds(found):
                return found
        time.sleep(0.2)
    raise AssertionError((path, parameters, found))


@needs_prometheus
@pytest.mark.processes
def test_a_real_prometheus_answers_each_query_and_evaluates_each_rule(url: str, tmp_path: Path) -> None:
    with (
        halted(url, "math-7b"),
        Child("-m", "broker", "metrics", "math-7b", "--port", "0", env={"BROKER_URL": url}) as process,
    ):
        target = urllib.parse.urlsplit(process.read_line().strip()).netloc
        with prometheus(target, tmp_path) as address:
            _until(address, "query", lambda data: data["result"], query="count_over_time(broker_halted[1m]) > 3")
            _until(
                address,
                "rules",
                lambda data: all(rule["health"] == "ok" for group in data["groups"] for rule in group["rules"]),
            )
            alerts = _until(address, "alerts", lambda data: data["alerts"])["alerts"]
            assert {(alert["labels"]["alertname"], alert["labels"]["run"]) for alert in alerts} == {
                ("BrokerHalted", "math-7b")
            }
            for title, expression in QUERIES:
                expression = expression.replace("$__rate_interval", "1m").replace("$run", "math-7b")
                found = _asked(address, "query", query=expression)["result"]
                assert found or title == "Alerts", f"{title}: {expression}"  # one is pending, none fires yet
            (state,) = _asked(address, "query", query=_board_query("State"))["result"]
            assert state["value"][1] == "2"  # halted


def _board_query(title: str) -> str:
    return next(expression for name, expression in QUERIES if name == title).replace("$run", "math-7b")
