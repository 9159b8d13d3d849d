"""Several controllers and gateways: each attempt is one controller's, and what comes late is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")
pytest.importorskip("httpx", reason="the extra `gateway` is not installed")

from broker import RunConfig
from broker.connections import open_async_transport
from broker.integrations.agent_lightning_1 import controllers, shares
from broker.integrations.agent_lightning_1.gateway import Gateway
from broker.integrations.agent_lightning_1.messages import RolloutState
from broker.integrations.agent_lightning_1.rollouts import Rollouts
from broker.integrations.agent_lightning_1.shares import Who, who
from broker.integrations.agent_lightning_1.storage import Storage
from broker.operator import Operator
from broker.protocol import keys
from tests.integrations.agent_lightning_1.serving import QUICK, RUN, Client, gateway
from tests.waiting import wait_until

LOCAL = {"local": {"agent_class": "a:B"}}
K8S = {"k8s": {"job_template": "x"}}


@pytest.fixture
def client(url: str) -> Generator[Client]:
    with gateway(url, RunConfig(**{**QUICK.model_dump(), "lease_ms": 60_000})) as client:
        yield client


def test_controllers_see_their_own_alone(client: Client) -> None:
    client.create(*(f"r{i}" for i in range(6)))
    a, b = client.named("a"), client.named("b")
    assert a.ids(limit=2) == ["r0", "r1"]
    assert b.ids(limit=2) == ["r2", "r3"]
    a.patch("r0", "running")
    assert (a.ids("running"), b.ids("running")) == (["r0"], [])
    assert client.named("c").ids() == ["r4", "r5"]


def test_a_foreign_change_is_refused_and_counted(client: Client) -> None:
    client.create("r1")
    a, b = client.named("a"), client.named("b")
    a.ids()
    assert b.patch("r1", "running").status == 409
    a.patch("r1", "running")
    for state in ("failed", "succeeded"):
        assert "controller a was given it, not b" in b.patch("r1", state).json["detail"]
    assert a.patch("r1", "succeeded").status == 200
    assert client.refused == {"patches": 3}


def test_a_late_attempt_is_refused_and_its_successor_goes_on(url: str) -> None:
    """The first controller loses its lease, as when its host sleeps. It comes back, and so does its agent."""
    with gateway(url, QUICK) as client:
        client.create("r1")
        a, b = client.named("a"), client.named("b")
        assert a.ids() == ["r1"]
        a.patch("r1", "running", last_attempt_id="0")
        assert a.post_event("r1", value=1.0).status == 200
        (name,) = wait_until(lambda: b.ids("queuing"), "it goes out again")
        assert name.startswith("r1--2-")
        b.patch(name, "running", last_attempt_id="0")
        assert b.post_event(name, value=2.0).json["attempt_id"] == name.removeprefix("r1--")
        assert a.ids() == []
        assert a.post_event("r1", value=9.0).status == 409
        assert a.patch("r1", "succeeded", last_attempt_id="0").status == 409
        assert a.patch("r1", "failed", error_message="local subprocess timed out").status == 409
        assert b.patch(name, "succeeded", last_attempt_id="0").status == 200
        assert client.status("r1")["state"] == "succeeded"
        assert [event["data"] for event in client.events("r1")] == [{"value": 2.0}]
        assert [event["data"] for event in client.events(name)] == [{"value": 2.0}]
        assert client.get("/api/rollouts/r1").json["attempts"] == ["0", name.removeprefix("r1--")]
        assert client.refused == {"patches": 2, "events": 1}


def test_an_attempt_may_be_named_in_full(client: Client) -> None:
    """As a controller does that knows the attempt: the list names it, also the first one."""
    client.create("r1")
    (attempt,) = [rollout["attempt_id"] for rollout in client.listed()]
    for wrong in ("1-wrong", "2-abc", "nonsense"):
        assert client.patch("r1", "running", last_attempt_id=wrong).status == 409, wrong
        assert client.post_event("r1", attempt=wrong).status == 409, wrong
    assert client.patch("r1--2-abc", "running").status == 409
    assert client.patch("r1", "running", last_attempt_id=attempt).status == 200
    assert client.post_event("r1", attempt=attempt, value=1.0).json["attempt_id"] == "0"
    assert client.patch("r1", "succeeded", last_attempt_id=attempt).json["status"]["last_attempt_id"] == attempt
    assert len(client.events("r1")) == 1
    # The trainer's hooks add to what has ended.
    assert client.post_event("r1", attempt=attempt, value=0.5).status == 200
    assert client.post_event("r1", attempt="0", value=0.5).status == 200
    assert client.refused == {"patches": 4, "events": 3}


def test_a_controller_that_lost_a_process_may_say_so(client: Client) -> None:
    """It was killed and started again under its name: what it had goes out again at once."""
    client.create("r1")
    a = client.named("a")
    a.ids()
    a.patch("r1", "running")
    assert a.ids() == ["r1"]
    assert a.patch("r1", "failed", error_message="local subprocess is not running").status == 200
    (again,) = wait_until(lambda: a.ids("queuing"), "it goes out again")
    a.run(again)
    assert client.status("r1")["state"] == "succeeded"


def test_of_controllers_with_one_address_none_ends_what_another_runs(client: Client) -> None:
    """Without names they are one to the gateway: each is shown what the others run, and has no process for it."""
    client.create("r1")
    assert client.ids() == ["r1"]
    assert client.ids() == [], "it was shown to the one that starts it"
    client.patch("r1", "running")
    assert client.ids() == ["r1"]
    for _ in range(3):
        refused = client.patch("r1", "failed", error_message="local subprocess is not running")
        assert refused.status == 409
        assert "/controller/NAME" in refused.json["detail"]
    client.post_event("r1", value=1.0)
    assert client.patch("r1", "succeeded").status == 200


def test_what_nobody_runs_fails_after_a_lease_without_a_sign_of_life(url: str) -> None:
    with gateway(url, RunConfig(**{**QUICK.model_dump(), "lease_ms": 1500})) as client:
        client.create("r1")
        client.ids()
        client.patch("r1", "running")
        assert client.patch("r1", "failed", error_message="local subprocess is not running").status == 409

        def failed() -> bool:
            client.ids()  # keeps the lease
            return client.patch("r1", "failed", error_message="local subprocess is not running").status == 200

        wait_until(failed, "it has been silent for a lease")
        assert wait_until(lambda: client.ids("queuing"), "it goes out again")[0].startswith("r1--2-")


def test_a_controller_with_a_full_pool_keeps_few_in_hand(client: Client) -> None:
    client.create(*(f"r{i}" for i in range(20)), config=LOCAL)
    a, b = client.named("a"), client.named("b")
    shown = a.ids()
    assert len(shown) == 20, "what its pool takes is not known yet"
    for name in shown[:3]:
        a.patch(name, "running")
    assert len(a.ids("queuing")) == 17, "its word that it started them may have been lost"
    assert b.ids() == []
    assert len(a.ids("queuing")) == 1
    assert len(b.ids("queuing")) == 16
    b.ids()
    assert len(b.ids("queuing")) == 1
    a.patch("r0", "succeeded")
    (next_one,) = a.ids("queuing")
    a.patch(next_one, "running")
    assert len(a.ids("queuing")) == 2, "its pool has room again, perhaps for more"
    for name in a.ids("running"):
        a.patch(name, "succeeded")
    assert len(a.ids("queuing")) == 1
    a.patch(a.ids("queuing")[0], "running")
    assert len(a.ids("queuing")) == 2


def test_a_controller_that_had_nothing_to_do_gets_as_much_as_its_pool_takes(client: Client) -> None:
    client.create(*(f"r{i}" for i in range(10)), config=LOCAL)
    a = client.named("a")

    def look(pool: int) -> int:
        """One look at the list, as the stock controller takes it: all that it ran has ended, it starts what it can."""
        shown = a.listed()
        for rollout in shown:
            if rollout["status"]["state"] == "running":
                a.patch(rollout["rollout_id"], "succeeded")
        waiting = [rollout["rollout_id"] for rollout in shown if rollout["status"]["state"] == "queuing"]
        for name in waiting[:pool]:
            a.patch(name, "running")
        return len(shown)

    while look(4):
        pass
    assert client.get("/api/rollouts/terminal").json["total_terminal"] == 10
    client.create(*(f"s{i}" for i in range(10)), config=LOCAL)
    assert look(4) == 4


def test_a_start_whose_word_was_lost_is_told_again(client: Client) -> None:
    """The gateway was away when the controller said so. Its next list has them as waiting, and it says so again."""
    client.create("r1", "r2", "r3", config=LOCAL)
    a = client.named("a")
    names = a.ids()
    assert a.ids() == names
    for name in names:
        assert a.patch(name, "running").status == 200


def test_kubernetes_keeps_all_that_it_was_shown(client: Client) -> None:
    """Its controller says that a rollout runs when the Job is there, at its next look or later."""
    client.create(*(f"r{i}" for i in range(5)), config=K8S)
    a = client.named("a")
    for _ in range(3):
        assert len(a.ids("queuing")) == 5
    assert client.named("b").ids() == []


def test_controllers_with_one_address_are_shown_again_what_none_started(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "SETTLED_S", 0.3)
    client.create(*(f"r{i}" for i in range(4)), config=LOCAL)
    assert len(client.ids()) == 4
    client.patch("r0", "running")
    assert client.ids() == ["r0"]
    wait_until(lambda: client.ids("queuing") == ["r1", "r2", "r3"], "they are shown again")
    assert client.ids("queuing") == []
    wait_until(lambda: client.ids("queuing") == ["r1"], "one is shown again, the others are given back")
    assert len(client.named("b").ids()) == 2


def test_any_gateway_goes_on_with_what_another_gave_out(url: str) -> None:
    with gateway(url, QUICK) as other:
        with gateway(url, QUICK) as one:
            one.create("r1", "r2")
            a = one.named("a")
            a.ids()
            a.patch("r1", "running", last_attempt_id="0")
            a.post_event("r1", value=1.0)
        # That gateway is gone. Its controller asks the other one, for longer than a lease.
        a = other.named("a")
        seen: list[str] = []
        wait_until(lambda: seen.append(" ".join(a.ids())) or len(seen) == 100, "more than a lease has passed")
        assert set(seen) == {"r1 r2"}
        a.patch("r1", "succeeded", last_attempt_id="0")
        a.run("r2")
        assert [event["data"] for event in other.events("r1")] == [{"value": 1.0}]
        assert other.get("/api/rollouts/terminal").json["total_terminal"] == 2


@pytest.mark.parametrize("lost", [False, True], ids=["", "its session is lost"])
def test_a_gateway_lists_what_another_gave_out_since_and_keeps_what_it_gives_out_itself(url: str, lost: bool) -> None:
    """To its knowledge the controller has nothing."""
    with gateway(url, RunConfig(**{**QUICK.model_dump(), "lease_ms": 60_000})) as one, gateway(url) as other:
        one.create("r1", "r2", "r3")
        a, b = one.named("a"), other.named("a")
        assert a.ids(limit=1) == ["r1"]
        a.run("r1")
        assert b.ids(limit=1) == ["r2"]
        b.patch("r2", "running")
        if lost:
            with Operator(url) as operator:
                (mine,) = [
                    name
                    for name in operator.transport.command("ZRANGE", f"rb1:{{{RUN}}}:sessions", 0, -1)
                    if not operator.transport.command("ZCARD", f"rb1:{{{RUN}}}:session:{name.decode()}")
                ]
                operator.transport.command("HDEL", f"rb1:{{{RUN}}}:calls", mine)
        assert sorted(a.ids(limit=3)) == ["r2", "r3"]
        assert sorted(a.ids(limit=3)) == ["r2", "r3"], "neither was given back"
        a.run("r3")
        b.patch("r2", "succeeded")
        assert one.get("/api/rollouts/terminal").json["total_terminal"] == 3


def test_what_a_gateway_forgot_of_its_own_session_is_listed_beside_new_ones(client: Client) -> None:
    client.create("r1", "r2")
    a = client.named("a")
    assert a.ids(limit=1) == ["r1"]
    assert a.patch("r1", "queuing").status == 409, "its gateway reads the record anew, and then forgets it"
    for _ in range(2):
        assert sorted(a.ids(limit=2)) == ["r1", "r2"], "neither was given back"
    for name in ("r1", "r2"):
        a.run(name)


def test_claims_whose_answer_a_gateway_lost_are_given_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died between the claim and the note of it. What the controller has there already keeps its session alive."""

    async def lost(*_: object) -> None:
        raise RuntimeError("the gateway died here")

    with gateway(url, RunConfig(**{**QUICK.model_dump(), "lease_ms": 60_000})) as one:
        one.create("r1")
        a = one.named("a")
        a.ids()
        a.patch("r1", "running")
        one.create("r2")
        with monkeypatch.context() as patched:
            patched.setattr(controllers.Controllers, "_shown", lost)
            assert a.get("/api/rollouts", state_in="queuing").status == 500
    with gateway(url) as other:
        a = other.named("a")
        assert a.ids("running") == ["r1"]
        (again,) = wait_until(lambda: a.ids("queuing"), "it goes out again")
        assert again.startswith("r2--2-")


def test_a_session_that_the_server_lost_begins_anew(url: str, client: Client) -> None:
    client.create("r1", "r2")
    a = client.named("a")
    assert a.ids(limit=1) == ["r1"]
    with Operator(url) as operator:
        operator.transport.command("DEL", f"rb1:{{{RUN}}}:calls")
    wait_until(lambda: a.ids(limit=1) == ["r2"], "it has what the new session got")


def test_deleting_revokes_what_a_controller_has(client: Client) -> None:
    client.create("r1")
    client.ids()
    client.patch("r1", "running")
    client.request("DELETE", "/api/rollouts/r1")
    assert client.ids() == []
    assert client.post_event("r1").status == 404


def test_names_of_controllers() -> None:
    assert who("gpu-7", "10.0.0.1") == Who("gpu-7", by_address=False)
    assert who(None, "10.0.0.1") == Who("controller@10.0.0.1", by_address=True)
    assert who(None, "fe80::1%eth0") == Who("controller@fe80::1-eth0", by_address=True)
    assert who("controller@10.0.0.1", "") is None
    assert who("a b", "") is None


def test_a_name_that_no_controller_can_have_is_not_found(client: Client) -> None:
    assert client.get("/controller/a%20b/api/rollouts", state_in="queuing").status == 404


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[Storage], Awaitable[None]]]:
    """What happens once after a gateway has claimed attempts, and before it notes them."""
    steps: list[Callable[[Storage], Awaitable[None]]] = []
    note = Storage.note_list

    async def note_after(self: Storage, controller: str, before: Any, seen: Sequence[str], given: Any) -> Any:
        if given and steps:
            await steps.pop()(self)
        return await note(self, controller, before, seen, given)

    monkeypatch.setattr(Storage, "note_list", note_after)
    return steps


def test_a_rollout_that_is_deleted_as_it_is_claimed_stays_deleted(
    client: Client, between: list[Callable[[Storage], Awaitable[None]]]
) -> None:
    async def delete(storage: Storage) -> None:
        await Rollouts(storage).delete("r1")

    client.create("r1", "r2")
    between.append(delete)
    assert client.named("a").ids() == ["r2"]
    assert client.get("/api/rollouts/r1").status == 404
    assert client.get("/api/rollouts/r2").status == 200


def test_what_another_gateway_writes_as_a_rollout_is_claimed_is_not_lost(
    client: Client, between: list[Callable[[Storage], Awaitable[None]]]
) -> None:
    async def write(storage: Storage) -> None:
        old = await storage.record("r1")
        assert old is not None
        new = replace(old, error="of the attempt before", version=7)
        assert (await storage.noted(storage.noting("r1", old, new))).word == "noted"

    client.create("r1")
    between.append(write)
    (shown,) = client.named("a").listed()
    assert (shown["status"]["error_message"], shown["status"]["version"]) == ("of the attempt before", 7)
    client.named("a").run("r1")
    assert client.status("r1")["version"] == 9


def test_a_rollout_that_is_claimed_while_it_is_created_keeps_what_the_trainer_said(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Storage.create_records

    async def claimed_before(self: Storage, records: Any) -> Any:
        b = Who("b", by_address=False)
        assert len(await controllers.Controllers(self).listed(b, frozenset({RolloutState.QUEUING}), 5)) == 1
        return await create(self, records)

    monkeypatch.setattr(Storage, "create_records", claimed_before)
    client.create("r", input={"data_id": "d7"}, is_train=False)
    monkeypatch.undo()
    client.named("b").run("r")
    (ended,) = client.get("/api/rollouts/terminal").json["items"]
    assert (ended["data_id"], ended["is_train"]) == ("d7", False)


def test_what_a_controller_has_is_remembered_for_seven_days_after_it_asked(
    client: Client, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create("r")
    a = client.named("a")
    assert a.ids() == ["r"]

    async def left_ms(to: int | None = None) -> int:
        transport = open_async_transport(url)
        key = keys.key(RUN, "gateway:held:a")
        if to is not None:
            await transport.command("PEXPIRE", key, to)
        left: int = await transport.command("PTTL", key)
        await transport.close()
        return left

    a.patch("r", "running")
    asyncio.run(left_ms(60_000))
    assert a.ids("running") == ["r"]
    assert asyncio.run(left_ms()) <= 60_000  # that is not prolonged at each look
    monkeypatch.setattr(controllers, "_KEEP_EVERY_S", 0.0)
    assert a.ids("running") == ["r"]
    assert asyncio.run(left_ms()) > 604_000_000


def test_results_whose_ends_nobody_noted_are_found_in_pieces(url: str) -> None:
    names = {f"t{i}" for i in range(3_000)}

    async def scenario() -> tuple[set[str], int]:
        async with Gateway(url, RUN) as opened:
            parts = [part for name in names for part in (1, name)]
            await opened._transport.command("ZADD", keys.key(RUN, "ready"), *parts)  # pyright: ignore[reportPrivateUsage]
            found, cursor, longest = set[str](), 0, 0
            while True:
                piece, cursor = await opened.storage.unnoted_results(cursor)
                found.update(piece)
                longest = max(longest, len(piece))
                if not cursor:
                    return found, longest

    found, longest = asyncio.run(scenario())
    assert found == names
    assert longest < 1_500
