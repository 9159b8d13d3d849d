"""The pages' data over HTTP, from a real process of `broker web` and a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker import RunConfig, Task, Trainer, Worker
from broker.local_server.embedded import EmbeddedServer
from broker.operator import Operator
from tests.waiting import wait_until
from tests.web.serving import TOKEN, web

ANYWHERE = "0.0.0.0"  # noqa: S104 - for the command that is tested


@pytest.fixture(scope="module")
def server() -> Generator[EmbeddedServer]:
    with_server = EmbeddedServer(port=0)
    yield with_server
    with_server.stop()


@pytest.fixture
def url(server: EmbeddedServer) -> str:
    with Operator(server.url) as operator:
        operator.transport.command("FLUSHALL")
    return server.url


def _get(endpoint: str, path: str, **parameters: str) -> Any:
    answer = httpx.get(endpoint + path, params=parameters, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def _logged_in(endpoint: str) -> Generator[httpx.Client]:
    with httpx.Client(base_url=endpoint, timeout=30) as client:
        assert client.post("/api/login", json={"token": TOKEN}).status_code == 200
        client.headers["x-broker-secret"] = client.get("/api/session").json()["secret"]
        yield client


def _trained(url: str, run: str, steps: int = 2) -> None:
    """A run with some steps trained, one rejected task, and tasks that wait."""
    with Trainer(url, run, RunConfig(consumer_batch_size=4, max_staleness=1, max_attempts=1)) as trainer:
        trainer.enqueue([Task(id=f"t{i}", payload={"secret": f"s{i}"}) for i in range(4 * steps + 8)])
        with Worker(url, run, name="w1") as worker:
            for _ in range(steps):
                for _ in range(4):
                    (attempt,) = worker.claim(timeout=10)
                    worker.submit(attempt, b"r")
                trainer.next_batch(timeout=10)
                trainer.advance()
            (attempt,) = worker.claim(timeout=10)
            worker.fail(attempt, ValueError("<b>no</b> answer"))


def test_the_page_of_a_run_shows_what_stats_says(url: str) -> None:
    _trained(url, "math-7b/eval")
    with web(url) as endpoint, Operator(url) as operator:
        shown, stats = _get(endpoint, "/api/run", run="math-7b/eval"), operator.stats("math-7b/eval")
        assert shown["tasks"]["consumed"] == stats.consumed == 8
        assert shown["tasks"]["dead"] == stats.dead == 1
        assert shown["tasks"]["pending"] == stats.pending
        assert shown["numbers"]["version"] == stats.version == 2
        assert shown["numbers"]["capacity"] == stats.capacity
        assert sum(shown["per_second"]["accepted"]) == stats.totals["results"] == 8
        assert sum(shown["per_second"]["trained"]) == 8
        assert [(step["step"], step["size"], step["staleness"]) for step in shown["steps"]] == [
            (0, 4, {"0": 4}),
            (1, 4, {"0": 4}),
        ]
        assert {step["last_worker"] for step in shown["steps"]} == {"w1"}
        assert _get(endpoint, "/api/runs")["runs"][0]["run"] == "math-7b/eval"


def test_a_task_has_its_history_and_its_error_and_no_payload_unless_asked(url: str) -> None:
    _trained(url, "r")
    for more, payload in (((), None), (("--show-payloads",), "{'secret': 's8'}")):
        with web(url, *more) as endpoint:
            dead = _get(endpoint, "/api/ended", run="r", kind="dead")["rows"][0]
            found = _get(endpoint, "/api/task", run="r", id=dead["id"])
            assert found["task"]["state"] == "dead"
            assert "ValueError" in found["task"]["last_failure"]["message"] + found["task"]["last_failure"]["trace"]
            kinds = [
                told["kind"] for told in found["history"] if told["kind"] != "lost"
            ]  # in less than 1 ms nothing is
            assert kinds == ["enqueue", "start", "claim", "ended", "dead"]
            assert found["payload"] == payload
            everything = json.dumps([_get(endpoint, "/api/run", run="r"), found])
            assert ("secret" in everything) is bool(more)


def test_a_stream_tells_each_look(url: str) -> None:
    _trained(url, "r", 1)
    with (
        web(url) as endpoint,
        Operator(url) as operator,
        httpx.stream("GET", f"{endpoint}/api/stream?run=r", timeout=60) as stream,
    ):
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        assert json.loads(next(lines)[6:])["look"]["state"] == "open"
        operator.pause("r")
        states = (json.loads(line[6:])["look"]["state"] for line in lines)
        assert any(state == "paused" for state in (next(states) for _ in range(5)))


def test_changes_need_the_token_and_the_secret(url: str) -> None:
    _trained(url, "r")
    pause = {"run": "r", "action": "pause"}
    with web(url, token=TOKEN) as endpoint, Operator(url) as operator:
        assert httpx.post(f"{endpoint}/api/change", json=pause).status_code == 403
        assert httpx.post(f"{endpoint}/api/login", json={"token": "guess"}).status_code == 403
        with _logged_in(endpoint) as client:
            secret = client.headers.pop("x-broker-secret")  # as a form of another site, which has the cookie only
            assert client.post("/api/change", json=pause).status_code == 403
            assert operator.stats("r").paused == ""
            client.headers["x-broker-secret"] = secret
            assert client.post("/api/change", json=pause).json() == {"before": ""}
            assert operator.stats("r").paused == "paused"
            assert client.post("/api/change", json={**pause, "action": "resume"}).status_code == 200
            assert operator.stats("r").paused == ""
            dead = operator.dead("r")[0].id
            retry = {"run": "r", "action": "retry", "names": [dead]}
            assert client.post("/api/change", json=retry).json() == {"answers": {dead: "retried"}}
            assert operator.stats("r").dead == 0
            assert client.post("/api/change", json={"run": "r", "action": "purge"}).status_code == 422
            assert client.post("/api/logout").status_code == 200
            assert client.post("/api/change", json=pause).status_code == 403


def test_without_a_token_nobody_may_change_anything(url: str) -> None:
    _trained(url, "r", 1)
    with web(url) as endpoint:
        assert httpx.post(f"{endpoint}/api/login", json={"token": ""}).status_code == 403
        refused = httpx.post(
            f"{endpoint}/api/change", json={"run": "r", "action": "pause"}, headers={"x-broker-secret": ""}
        )
        assert refused.status_code == 403
        assert not httpx.get(f"{endpoint}/api/session").json()["has_token"]


def test_a_name_that_only_points_here_is_refused(url: str) -> None:
    _trained(url, "r", 1)
    with web(url) as endpoint:
        port = endpoint.rpartition(":")[2]
        for host, status in ((f"localhost:{port}", 200), (f"127.0.0.1:{port}", 200), (f"evil.example:{port}", 421)):
            answer = httpx.get(f"{endpoint}/api/runs", headers={"host": host})
            assert answer.status_code == status, host


def test_on_all_addresses_a_token_is_needed_to_see(url: str) -> None:
    _trained(url, "r", 1)
    command = [sys.executable, "-m", "broker", "web", "--host", ANYWHERE, "--port", "0", "--url", url]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "--token" in refused.stderr
    with web(url, "--host", ANYWHERE, token=TOKEN) as endpoint:
        endpoint = endpoint.replace(ANYWHERE, "127.0.0.1")
        for path in ("/api/runs", "/api/run?run=r", "/api/stream?run=r", "/api/task?run=r&id=t0", "/api/ended?run=r"):
            assert httpx.get(endpoint + path).status_code == 401, path
        with _logged_in(endpoint) as client:
            assert client.get("/api/runs").json()["runs"][0]["run"] == "r"


def test_many_wrong_tokens_close_the_door_for_a_while(url: str) -> None:
    with web(url, token=TOKEN) as endpoint:
        for _ in range(10):
            assert httpx.post(f"{endpoint}/api/login", json={"token": "guess"}).status_code == 403
        assert httpx.post(f"{endpoint}/api/login", json={"token": TOKEN}).status_code == 403


def test_bad_questions_get_words(url: str) -> None:
    _trained(url, "r", 1)
    with web(url) as endpoint:
        for path, status, words in (
            ("/api/run?run=nope", 404, "nope"),
            ("/api/run?run=%3Cscript%3E", 400, "run"),
            ("/api/task?run=r&id=nope", 404, "knows no task nope"),
            ("/api/ended?run=r&kind=alive", 400, "dead or rejected"),
            ("/static/..%2Fapplication.py", 404, ""),
            ("/static/application.py", 404, ""),
        ):
            answer = httpx.get(endpoint + path, timeout=30)
            assert (answer.status_code, words in answer.text) == (status, True), (path, answer.text)
        page = httpx.get(f"{endpoint}/run?run=r")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "no-store" in page.headers["cache-control"]


def test_a_server_that_goes_away_is_told_and_the_last_look_stays(tmp_path: Path) -> None:
    server = EmbeddedServer(str(tmp_path), port=0)
    _trained(server.url, "r", 1)
    with web(server.url) as endpoint:
        assert _get(endpoint, "/api/run", run="r")["problem"] == ""
        assert httpx.get(f"{endpoint}/readyz").status_code == 200
        server.stop()
        wait_until(lambda: _get(endpoint, "/api/run", run="r")["problem"] != "", "the problem is told", 30)
        assert _get(endpoint, "/api/run", run="r")["tasks"]["consumed"] == 4
        assert httpx.get(f"{endpoint}/readyz", timeout=30).status_code == 503
        assert httpx.get(f"{endpoint}/healthz").status_code == 200


def test_a_run_that_is_purged_and_made_again_begins_anew(url: str) -> None:
    _trained(url, "r", 1)
    with web(url) as endpoint, Operator(url) as operator:
        assert len(_get(endpoint, "/api/run", run="r")["steps"]) == 1
        operator.purge("r")
        wait_until(lambda: httpx.get(f"{endpoint}/api/run?run=r").status_code == 404, "it is told as missing", 30)
        _trained(url, "r", 3)
        wait_until(lambda: httpx.get(f"{endpoint}/api/run?run=r").status_code == 200, "it is there again", 30)
        assert len(_get(endpoint, "/api/run", run="r")["steps"]) == 3


def test_nobody_asks_the_server_while_no_page_is_open(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from broker.web import watchers

    monkeypatch.setattr(watchers, "IDLE_S", 0.5)
    _trained(url, "r", 1)
    looks: list[float] = []
    all_of_them = watchers.Watchers(url, lambda: looks.append(time.monotonic()))
    first = all_of_them.of("r")
    wait_until(lambda: not first.is_alive, "the watcher has ended", 20)
    assert all_of_them.of("r") is not first
    all_of_them.close()
