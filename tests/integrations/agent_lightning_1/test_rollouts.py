"""Rollouts over the API: created, shown, changed, deleted, listed as they end."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")
pytest.importorskip("httpx", reason="the extra `gateway` is not installed")

from broker import RunConfig, Task, Trainer
from broker.connections import open_transport
from broker.integrations.agent_lightning_1.gateway import RUN_CONFIG
from broker.integrations.agent_lightning_1.storage import Storage
from broker.operator import Operator
from broker.protocol import result_bytes
from broker.protocol.script_call import ScriptCall
from broker.protocol.worker import Submission
from tests.integrations.agent_lightning_1.serving import QUICK, RUN, Client, gateway
from tests.waiting import wait_until

LOCAL = {"local": {"agent_class": "a:B"}}


@pytest.fixture
def client(url: str) -> Generator[Client]:
    with gateway(url, QUICK) as client:
        yield client


def test_a_rollout_has_all_fields_of_the_api(client: Client) -> None:
    config = {"timeout_seconds": 7, "local": {"agent_class": "a:B", "env_map": {"Q": "input.q"}}}
    (created,) = client.create("r1", config=config, is_train=False, metadata={"batch_idx": 3, "own": [1]})
    status = created.pop("status")
    assert created == {
        "rollout_id": "r1",
        "input": {"q": "r1"},
        "is_train": False,
        "config": {**config, "k8s": None},
        "metadata": {"batch_idx": 3, "sample_idx_in_batch": None, "own": [1]},
    }
    created_at = status.pop("created_at")
    assert status.pop("updated_at") == created_at > 1.7e9
    assert status == {
        "state": "queuing",
        "k8s_job_name": None,
        "last_attempt_id": None,
        "error_message": None,
        "version": 1,
    }
    detail = client.get("/api/rollouts/r1").json
    assert detail["attempts"] == []
    assert {**detail["rollout"], "status": None} == {**created, "status": None}
    assert client.listed()[0]["config"] == created["config"]
    (plain,) = client.request("POST", "/api/rollouts", [{"input": None}]).json
    assert plain["config"] == {"timeout_seconds": 3600, "local": None, "k8s": None}
    assert len(plain["rollout_id"]) == 32
    assert plain["metadata"] == {"batch_idx": None, "sample_idx_in_batch": None}
    assert plain["is_train"] is True


def test_creating_again_changes_nothing(client: Client) -> None:
    client.create("r1")
    client.patch("r1", "running")
    client.post_event("r1", value=1.0)
    again = client.request("POST", "/api/rollouts", [{"rollout_id": "r1", "input": "other"}, {"input": 1}]).json
    assert (again[0]["input"], again[0]["status"]["state"], again[1]["status"]["state"]) == (
        {"q": "r1"},
        "running",
        "queuing",
    )
    assert len(client.events("r1")) == 1
    assert client.create("r2", "r2")[1]["rollout_id"] == "r2"


def test_many_rollouts_are_created_in_one_request(client: Client) -> None:
    names = [f"r{i}" for i in range(1201)]
    assert [rollout["rollout_id"] for rollout in client.create(*names)] == names
    assert client.ids(limit=3) == names[:3]


def test_a_controller_starts_and_ends_what_it_was_shown(client: Client) -> None:
    client.create("r1", "r2")
    assert client.ids() == ["r1", "r2"]
    started = client.patch("r1", "running", last_attempt_id="0", k8s_job_name="job-1").json["status"]
    assert (started["state"], started["k8s_job_name"], started["version"]) == ("running", "job-1", 2)
    assert started["updated_at"] > started["created_at"]
    assert client.status("r1") == started
    assert [(r["rollout_id"], r["status"]["k8s_job_name"]) for r in client.listed("running")] == [("r1", "job-1")]
    ended = client.patch("r1", "succeeded").json["status"]
    assert (ended["state"], ended["last_attempt_id"], ended["version"]) == ("succeeded", "0", 3)
    assert client.status("r1") == ended
    assert client.ids("running") == []
    assert [(r["rollout_id"], r["status"]["state"]) for r in client.listed("succeeded", "failed")] == [
        ("r1", "succeeded")
    ]


def test_a_change_of_no_state_is_kept(client: Client) -> None:
    client.create("r1")
    assert client.patch("r1").json["status"]["version"] == 1
    assert client.request("PATCH", "/api/rollouts/r1", {}).status == 200
    assert client.patch("r1", k8s_job_name="j").json["status"]["version"] == 2
    assert client.status("r1")["k8s_job_name"] == "j"


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ([], "queuing"),
        ([], "succeeded"),
        (["running"], "running"),
        (["running"], "queuing"),
        (["running", "succeeded"], "failed"),
        (["running", "succeeded"], "succeeded"),
        (["failed"], "running"),
    ],
)
def test_other_changes_of_state_are_refused(client: Client, steps: list[str], wrong: str) -> None:
    client.create("r1")
    for step in steps:
        assert client.patch("r1", step).status == 200
    before = client.status("r1")
    refused = client.patch("r1", wrong, error_message="x")
    assert refused.status == 409
    assert f"cannot transition {before['state']} -> {wrong}" in refused.json["detail"]
    assert client.status("r1") == before


def test_what_starts_unasked_for_is_claimed_first(client: Client) -> None:
    """A client may start a rollout that no list gave it. Those before it are its own then, too."""
    client.create("r1", "r2", "r3")
    assert client.patch("r2", "running").status == 200
    other = client.named("other")
    assert other.ids() == ["r3"]
    assert client.ids() == ["r1", "r2"]


def test_a_failed_attempt_is_tried_again_as_often_as_the_run_says(client: Client) -> None:
    client.create("r1")
    shown: list[str] = []
    for number in range(3):
        (name,) = wait_until(lambda: client.ids("queuing"), "it goes out again")
        shown.append(name)
        client.patch(name, "running", last_attempt_id="0")
        reply = client.patch(name, "failed", error_message=f"exit {number}")
        assert reply.status == 200
        assert reply.json["status"]["state"] == ("failed" if number == 2 else "queuing")
    assert shown[0] == "r1"
    assert [name.rpartition("-")[0] for name in shown[1:]] == ["r1--2", "r1--3"]
    status = client.status("r1")
    assert (status["state"], status["error_message"]) == ("failed", "exit 2")
    assert client.ids() == []


def test_a_shutdown_costs_no_try(client: Client) -> None:
    client.create("r1")
    for _ in range(5):
        (name,) = wait_until(lambda: client.ids("queuing"), "it goes out again")
        client.patch(name, "running")
        assert client.patch(name, "failed", error_message="local controller shutdown").status == 200
    assert client.status("r1")["state"] == "queuing"


def test_a_rollout_whose_attempts_run_out_fails(url: str) -> None:
    with gateway(url, RunConfig(**{**QUICK.model_dump(), "max_attempts": 2})) as client:
        client.create("r1", "r2")
        # They die with what they have. The first one lost several at once, which costs no try.
        for controller in (client.named("first"), client.named("second"), client.named("third")):
            names: list[str] = []
            wait_until(lambda: names.extend(controller.ids("queuing")) or len(names) == 2, "they go out again")
            for name in names:
                controller.patch(name, "running", last_attempt_id="0")
        ended = wait_until(lambda: client.get("/api/rollouts/terminal").json["items"], "the broker ended them")
        assert {(item["rollout_id"], item["state"]) for item in ended} == {("r1", "failed"), ("r2", "failed")}
        status = client.status("r1")
        assert (status["state"], status["error_message"]) == ("failed", "expired")
        assert status["last_attempt_id"].startswith("3-")


def test_the_list_of_the_ended_is_in_their_order_and_its_cursor_counts(client: Client) -> None:
    for name in ("a", "b", "c"):
        client.request(
            "POST", "/api/rollouts", [{"rollout_id": name, "input": {"data_id": f"d{name}"}, "is_train": name != "b"}]
        )
    client.ids()
    assert client.get("/api/rollouts/terminal").json == {"items": [], "next_after": 0, "total_terminal": 0}
    for name in ("c", "a"):
        client.run(name)
    client.patch("b", "failed", error_message="e")  # is tried again
    page = client.get("/api/rollouts/terminal", after=0, limit=1).json
    item = {"rollout_id": "c", "state": "succeeded", "data_id": "dc", "is_train": True}
    assert page == {"items": [item], "next_after": 1, "total_terminal": 2}
    (again,) = wait_until(lambda: client.ids("queuing"), "it goes out again")
    client.run(again)
    page = client.get("/api/rollouts/terminal", after=1).json
    assert [(i["rollout_id"], i["data_id"], i["is_train"]) for i in page["items"]] == [
        ("a", "da", True),
        ("b", "db", False),
    ]
    assert page["next_after"] == page["total_terminal"] == 3
    client.request("DELETE", "/api/rollouts/a")
    page = client.get("/api/rollouts/terminal").json
    assert ([i["rollout_id"] for i in page["items"]], page["next_after"]) == (["c", "b"], 3)


def test_an_end_that_its_gateway_did_not_note_is_noted(
    url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record was another one when the result was accepted."""

    async def half(storage: Storage, call: ScriptCall[Any]) -> None:
        item = Submission(str(call.args[2]), "accept", b"x")
        await storage.call(result_bytes.submit_call(storage.run, [item]))
        raise RuntimeError("the gateway died here")

    client.create("r1")
    client.patch("r1", "running")
    with monkeypatch.context() as patched:
        patched.setattr(Storage, "noted", half)
        assert client.patch("r1", "succeeded").status == 500
    assert client.status("r1")["state"] == "succeeded"
    assert client.get("/api/rollouts/terminal").json["items"] == []
    with gateway(url) as other:
        (item,) = wait_until(lambda: other.get("/api/rollouts/terminal").json["items"], "another gateway notes it")
    assert (item["rollout_id"], item["state"]) == ("r1", "succeeded")
    assert client.get("/api/rollouts/terminal").json["total_terminal"] == 1


def test_what_the_run_frees_is_forgotten(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.integrations.agent_lightning_1.gateway._TIDY_EVERY", 1)
    config = RunConfig(**{**QUICK.model_dump(), "lease_ms": 60_000, "retention_steps": 1})
    with Trainer(url, RUN, config) as trainer, gateway(url) as client:
        trainer.enqueue(Task(id=name) for name in "abcde")
        for name in client.ids():
            client.patch(name, "running")
            client.post_event(name)
            client.patch(name, "succeeded")
        for _ in range(4):
            trainer.next_batch(1, timeout=10)
            trainer.advance()
        wait_until(lambda: client.get("/api/rollouts/b").status == 404, "the freed ones are forgotten")
        page = client.get("/api/rollouts/terminal").json
        kept = [item["rollout_id"] for item in page["items"]]
        assert kept in (["c", "d", "e"], ["d", "e"])
        assert (page["next_after"], page["total_terminal"]) == (5, 5)
        with open_transport(url) as transport:
            left = [name.decode() for name in transport.command("KEYS", f"rb1:{{{RUN}}}:gateway:events:*")]
        assert sorted(name.rpartition("events:")[2].removesuffix(":0") for name in left) in (
            ["c", "d", "e"],
            ["d", "e"],
        )


def test_a_deleted_rollout_is_gone_with_its_events(client: Client, url: str) -> None:
    client.create("r1", "r2", "r3")
    client.patch("r1", "running")
    client.post_event("r1", value=1.0)
    client.run("r2")
    for name in ("r1", "r2", "r3", "r3", "unknown"):
        assert client.request("DELETE", f"/api/rollouts/{name}").status == 204
    for name in ("r1", "r2", "r3"):
        assert client.get(f"/api/rollouts/{name}").status == 404
        assert client.get(f"/api/rollouts/{name}/events").status == 404
        assert client.post_event(name).status == 404
        assert client.patch(name, "succeeded").status == 404
    assert client.ids() == []
    with Operator(url) as operator:
        stats = operator.stats(RUN)
        assert (stats.pending, stats.running, stats.ready) == (0, 0, 0)
        left = operator.transport.command("KEYS", f"rb1:{{{RUN}}}:gateway:*")
        assert not [name for name in left if b":events:" in name or b":attempts:" in name]


def test_a_run_whose_trainer_deletes_its_rollouts_does_not_grow(url: str) -> None:
    """Beside ten bytes for each id, and what is bounded by a number: events of the run, requests, signs of life."""
    bounded = ("events", "requests", "request_order", "times", "gateway:heard")

    def sizes(operator: Operator) -> dict[str, int]:
        found: dict[str, int] = {}
        for key in operator.transport.command("KEYS", f"rb1:{{{RUN}}}:*"):
            name = key.decode().partition("}:")[2]
            if not name.startswith(("finished:", *bounded)):
                count = {b"hash": "HLEN", b"zset": "ZCARD", b"set": "SCARD", b"list": "LLEN"}
                kind = operator.transport.command("TYPE", key)
                found[name] = operator.transport.command(count[kind], key) if kind in count else 1
        return found

    with gateway(url, RunConfig(**{**QUICK.model_dump(), "lease_ms": 60_000})) as client, Operator(url) as operator:
        a, seen = client.named("a"), list[dict[str, int]]()
        for batch in range(4):
            names = [f"b{batch}x{i}" for i in range(8)]
            client.create(*names, config=LOCAL)
            assert a.ids() == names[: 6 if batch else 8], "as many as its pool took"
            for name in names[:6]:
                a.patch(name, "running")
                a.post_event(name, value=1.0)
            for name in names[:3]:
                a.patch(name, "succeeded")
            for name in names[3:5]:
                a.patch(name, "failed")
            for name in names:
                client.request("DELETE", f"/api/rollouts/{name}")
            assert a.ids() == []
            seen.append(sizes(operator))
        assert seen[3] == seen[1]


@pytest.mark.parametrize("end", ["queuing", "succeeded", "failed"])
def test_a_deleted_rollout_can_be_created_anew(client: Client, end: str) -> None:
    client.create("r1")
    if end == "succeeded":
        client.run("r1")
    elif end == "failed":
        client.patch("r1", "failed")
    client.request("DELETE", "/api/rollouts/r1")
    (created,) = client.request("POST", "/api/rollouts", [{"rollout_id": "r1", "input": "new"}]).json
    assert (created["input"], created["status"]["state"]) == ("new", "queuing")
    (shown,) = client.listed()
    assert shown["input"] == "new"
    client.run(shown["rollout_id"])
    assert client.status("r1")["state"] == "succeeded"


def test_requests_that_are_wrong_are_refused(client: Client) -> None:
    assert client.get("/api/rollouts").status == 422
    assert client.get("/api/rollouts", state_in="cancelled").json["detail"][0]["loc"][:2] == ["query", "state_in"]
    assert client.get("/api/rollouts", state_in="queuing", limit="x").status == 422
    assert client.get("/api/rollouts/terminal", after="x").status == 422
    assert client.get("/api/rollouts/none").json == {"detail": "Rollout not found: none"}
    assert client.get("/api/rollouts/none/events").status == 404
    assert client.patch("none", "running").status == 404
    assert client.post_event("none").status == 404
    client.create("r1")
    assert client.patch("r1", "cancelled").status == 422
    assert client.patch("r1", cancel_requested=True).json["detail"][0]["loc"] == ["body", "status", "cancel_requested"]
    assert client.request("POST", "/api/rollouts", b"{").status == 422
    assert client.request("POST", "/api/rollouts", [{"is_train": True}]).status == 422
    for name in ("a b", "a/b", "r--2-abc", "a#0"):
        assert client.request("POST", "/api/rollouts", [{"rollout_id": name, "input": 1}]).status == 422, name
    assert client.request("POST", "/api/rollouts/r1/attempt/0/events", {"data": {}}).status == 422


def test_limits_and_token_hold(url: str) -> None:
    with gateway(url, QUICK, token="secret", max_request_bytes=1000) as client:
        assert client.create("r1")
        assert client.request("POST", "/api/rollouts", [{"input": "x" * 2000}]).status == 413
        stranger = Client(client.endpoint)
        assert stranger.get("/healthz").json == {"status": "ok"}
        assert stranger.get("/readyz").status == 200
        assert 'broker_tasks{run="agl/test",state="pending"} 1' in client.get("/metrics").text.splitlines()
        for path in (
            "/metrics",
            "/api/rollouts?state_in=queuing",
            "/api/rollouts/r1",
            "/controller/x/api/rollouts?state_in=running",
        ):
            assert stranger.get(path).status == 401
        assert stranger.request("GET", "/api/rollouts/r1", headers={"x-api-key": "secret"}).status == 200
        assert stranger.request("GET", "/api/rollouts/r1", headers={"x-api-key": "wrong"}).status == 401


def test_a_payload_that_the_run_refuses_is_told(url: str) -> None:
    with gateway(url, RunConfig(**{**QUICK.model_dump(), "max_payload_bytes": 1000})) as client:
        assert client.request("POST", "/api/rollouts", [{"input": "x" * 2000}]).status == 413


def test_the_run_is_created_once_and_then_found(url: str) -> None:
    with gateway(url) as one, gateway(url, QUICK) as other, Operator(url) as operator:
        one.create("r1")
        assert other.status("r1")["state"] == "queuing"
        assert operator.stats(RUN).config.attempt_timeout_ms == RUN_CONFIG.attempt_timeout_ms


def test_tasks_of_a_broker_trainer_are_shown_too(url: str) -> None:
    with Trainer(url, RUN, QUICK) as trainer:
        trainer.enqueue(
            [
                Task(id="whole", payload={"input": {"q": 1}, "config": {"local": {"agent_class": "a:B"}}}),
                Task(id="plain", payload=[1, 2]),
                Task(id="text", payload=b"words"),
                Task(id="group", payload="x", samples=2),
            ]
        )
        with gateway(url) as client:
            shown = {rollout["rollout_id"]: rollout for rollout in client.listed()}
            assert {name: rollout["input"] for name, rollout in shown.items()} == {
                "whole": {"q": 1},
                "plain": [1, 2],
                "text": "words",
            }
            assert shown["whole"]["config"]["local"]["agent_class"] == "a:B"
            for name in shown:
                client.run(name)
            assert client.status("plain")["state"] == "succeeded"
            wait_until(lambda: trainer.stats().ready == 3, "they are done")
            assert trainer.stats().dead == 1
