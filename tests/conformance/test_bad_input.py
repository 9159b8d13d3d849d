"""Wrong input of users, and the errors that they get."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from broker import Policy, RunConfig, Task, Trainer, Worker, aio
from broker.errors import BadArgument, BadName, BrokerError, CodecError, ConfigMismatch, NoRun, SchemaMismatch, TooBig
from broker.operator import Operator
from broker.protocol import trainer as calls
from tests.conformance.lab import Lab, tasks

BAD_NAMES = ["", " ", "a b", "{a}", "a{b", "a}b", "a" * 201, "a\n", "ä", "a#b", "a*", "a,b", "a\0b", "a~b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_not_allowed(lab: Lab, name: str):
    lab.trainer()
    config = RunConfig(consumer_batch_size=1)
    for call in (
        lambda: Trainer(lab.url, name, config),
        lambda: Worker(lab.url, name),
        lambda: Worker(lab.url, lab.run, name=name),
        lambda: Task(id=name),
        lambda: lab.trainer(reopen=True).cancel([name]),
        lambda: aio.Trainer(lab.url, name, config),
        lambda: stat_of(lab, name),
    ):
        with pytest.raises(BadName) as caught:
            call()
        assert isinstance(caught.value, ValueError)
        assert caught.value.fields["problem"]


def stat_of(lab: Lab, name: str) -> Any:
    with Operator(lab.url) as operator:
        return operator.stats(name)


@pytest.mark.parametrize("name", ["a", "A-Za-z0-9._:/@+-", "x" * 200, "math-7b/eval", "..", "-"])
def test_names_that_are_allowed(lab: Lab, name: str):
    run = f"{lab.run}/{name}"[:200]
    trainer = lab.trainer(run=run)
    worker = lab.worker(run, name=name)
    trainer.enqueue(Task(id=name))
    (attempt,) = worker.claim()
    assert attempt.task == name
    worker.submit(attempt, b"x")
    assert trainer.next_batch(timeout=1)[0].samples[0].worker == name


def test_a_run_that_does_not_exist(lab: Lab):
    lab.runs.clear()
    with Operator(lab.url) as operator:
        for call in (
            lambda: Trainer(lab.url, lab.run),
            lambda: Trainer(lab.url, lab.run, attach=True),
            lambda: Worker(lab.url, lab.run),
            lambda: operator.stats(lab.run),
            lambda: operator.explain(lab.run),
            lambda: operator.audit(lab.run),
            lambda: operator.task(lab.run, "t"),
            lambda: operator.dead(lab.run),
            lambda: operator.pause(lab.run),
            lambda: operator.cancel(lab.run, ["t"]),
            lambda: operator.purge(lab.run),
        ):
            with pytest.raises(NoRun) as caught:
                call()
            assert lab.run in str(caught.value)
        assert lab.command("KEYS", "rb1:*") == []


def test_a_run_that_is_purged_under_its_users(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    (attempt,) = worker.claim()
    with Operator(lab.url) as operator:
        operator.purge(lab.run)
    for call in (
        lambda: trainer.enqueue(tasks(1)),
        lambda: trainer.next_batch(timeout=0),
        trainer.stats,
        lambda: worker.submit(attempt, b"x"),
        lambda: worker.release(attempt),
    ):
        with pytest.raises(NoRun):
            call()
    assert worker.claim() == [], "it waits for the run to come back"
    worker.close()
    assert lab.dump() == {}


@pytest.mark.parametrize(
    ("field", "stored", "given"),
    [
        ("max_staleness", "2", "3"),
        ("max_staleness", "2", ""),
        ("on_stale", "requeue", "drop"),
        ("lease_ms", "60000", "5"),
    ],
)
def test_a_config_that_disagrees_says_where(lab: Lab, field: str, stored: str, given: str):
    lab.keeps_config = False
    first = lab.trainer(consumer_batch_size=2, max_staleness=2)
    changed = {"max_staleness": 2, field: None if given == "" else int(given) if given.isdigit() else given}
    before = lab.dump()
    with pytest.raises(ConfigMismatch) as caught:
        lab.trainer(consumer_batch_size=2, **changed)
    assert caught.value.fields == {"field": field, "stored": stored, "given": given}
    assert field in str(caught.value)
    assert lab.dump() == before
    first.enqueue(tasks(1))  # the trainer before is not fenced
    second = lab.trainer(consumer_batch_size=2, update=True, **changed)
    assert getattr(second.config, field) == changed[field]
    assert lab.trainer(reopen=True).config == second.config


@pytest.mark.parametrize(
    "fields",
    [
        {"samples": 0}, {"samples": -1}, {"samples": 1_025}, {"samples": 2, "min_samples": 3}, {"min_samples": 0},
        {"samples": 10**30}, {"samples": 1.5}, {"samples": "2"}, {"priority": 1_001}, {"priority": -1_001},
        {"priority": float("nan")}, {"samples": True}, {"sample": 2},
    ],
)  # fmt: skip
def test_tasks_that_make_no_sense(fields: dict[str, Any]):
    with pytest.raises(BadArgument):
        Task(id="t", **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"consumer_batch_size": -1}, {"consumer_batch_size": 1_000_001}, {"max_staleness": -1}, {"lease_ms": 0},
        {"max_staleness": 10**12}, {"max_concurrent_rollouts": -5}, {"on_stale": "later"}, {"max_attempts": 0},
        {"max_wait_ms": -1}, {"retry_backoff_ms": -1}, {"max_payload_bytes": 0}, {"lease_ms": 10**18}, {"lease_ms": 1.5}, {"batch": 1},
        {"max_staleness": float("inf")}, {"events_maxlen": -1}, {"consumer_batch_size": None},
    ],
)  # fmt: skip
def test_configs_that_make_no_sense(fields: dict[str, Any]):
    with pytest.raises(BadArgument):
        RunConfig(**{"consumer_batch_size": 1, **fields})


@pytest.mark.parametrize("fields", [{"version": -1}, {"version": 2**53}, {"epoch": ""}, {"epoch": "x" * 201}])
def test_policies_that_make_no_sense(fields: dict[str, Any]):
    with pytest.raises(BadArgument):
        Policy(**{"version": 1, "epoch": "1.x", **fields})


@pytest.mark.parametrize("n", [0, -1, 10**10])
def test_batches_of_no_sensible_size(lab: Lab, n: int):
    trainer = lab.trainer(max_staleness=None)
    with pytest.raises(BrokerError):
        trainer.next_batch(n, timeout=0)
    trainer.enqueue(tasks(1))
    assert trainer.audit().ok


@pytest.mark.parametrize("lease_s", [0, -1, 10**9, float("nan")])
def test_leases_of_no_sensible_length(lab: Lab, lease_s: float):
    lab.trainer()
    with pytest.raises(BadArgument):
        Worker(lab.url, lab.run, lease_s=lease_s)


def test_a_payload_over_the_limit(lab: Lab):
    trainer = lab.trainer(max_payload_bytes=1_000)
    with pytest.raises(TooBig) as caught:
        trainer.enqueue([Task(id="a"), Task(id="big", payload=b"x" * 1_001)])
    fields = caught.value.fields
    assert (fields["subject"], fields["size"], fields["limit"]) == ("big", 1_001, 1_000)
    assert trainer.enqueue(Task(id="ok", payload=b"x" * 1_000)).added == 1
    raw = lab.raw_trainer(max_payload_bytes=1_000)
    with pytest.raises(TooBig):
        raw.send(calls.enqueue, [calls.NewTask("ok2", b""), calls.NewTask("big", b"x" * 1_001)])
    assert sorted(lab.states()) == ["ok"]


@pytest.mark.parametrize(
    "payload", [object(), {1, 2}, np.array([object()]), {"a": lambda: 0}, 2**64, [np.array(["a", None])], {1.5: object}]
)
def test_payloads_of_types_that_are_not_stored(lab: Lab, payload: Any):
    trainer = lab.trainer()
    with pytest.raises(CodecError):
        trainer.enqueue(Task(id="t", payload=payload))
    assert lab.states() == {}
    assert trainer.enqueue(Task(id="t", payload=1)).added == 1


@pytest.mark.parametrize("cursor", [object(), {1, 2}, float("nan"), b"bytes", "x" * 70_000])
def test_cursors_that_json_cannot_hold(lab: Lab, cursor: Any):
    trainer = lab.trainer()
    with pytest.raises(BrokerError):
        trainer.enqueue(tasks(1), cursor=cursor)
    assert lab.states() == {}


@pytest.mark.parametrize("given", ["t", [1], [None], [{"id": "t"}]])
def test_what_is_no_task(lab: Lab, given: Any):
    with pytest.raises(BadArgument):
        lab.trainer().enqueue(given)


def test_a_blob_over_the_limit(lab: Lab):
    trainer = lab.trainer()
    with pytest.raises(TooBig):
        trainer.advance(b"x" * (1024 * 1024 + 1), allow_empty=True)
    assert trainer.stats().version == 0
    assert trainer.advance(b"x" * (1024 * 1024), allow_empty=True) == 1


def test_the_state_of_another_schema(lab: Lab):
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim()
    lab.command("HSET", lab.key("state"), "schema", "2")
    before = lab.dump()
    for call in (
        lab.trainer,
        lambda: lab.trainer(attach=True),
        lab.worker,
        lambda: trainer.enqueue(tasks(1)),
        trainer.stats,
        worker.claim,
        lambda: worker.submit(attempt, b"x"),
    ):
        with pytest.raises(SchemaMismatch) as caught:
            call()
        assert (caught.value.fields["stored"], caught.value.fields["known"]) == ("2", "1")
    assert lab.dump() == before
    lab.command("HSET", lab.key("state"), "schema", "1")


def test_a_payload_that_cannot_be_read_back(lab: Lab):
    """Another program wrote the payload. Its attempt ends at once, and the others of the same claim are worked on."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=3, retry_backoff_ms=0, max_attempts=1), lab.worker()
    trainer.send(calls.enqueue, [calls.NewTask("t", b"\xc1garbage of another program"), calls.NewTask("u", b"")])
    assert [attempt.task for attempt in worker.claim(2)] == ["u"]
    row = lab.row("t")
    assert row.letters != "H"
    assert row.state in {"dead", "pending", "delayed"}
    assert worker.submit(worker.held[0], b"x").answer == "accepted"


WRONG_TYPES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "tasks": lambda trainer, worker, attempt: trainer.enqueue(5),
    "tasks, none": lambda trainer, worker, attempt: trainer.enqueue(None),
    "tasks to cancel": lambda trainer, worker, attempt: trainer.cancel(5),
    "tasks to retry": lambda trainer, worker, attempt: trainer.retry(None),
    "tasks to discard": lambda trainer, worker, attempt: trainer.discard(object()),
    "time-out of a batch": lambda trainer, worker, attempt: trainer.next_batch(timeout="1"),
    "time-out that is no number": lambda trainer, worker, attempt: trainer.next_batch(timeout=float("nan")),
    "number of rollouts": lambda trainer, worker, attempt: trainer.next_batch("1"),
    "filter": lambda trainer, worker, attempt: trainer.next_batch(accept=True),
    "step": lambda trainer, worker, attempt: trainer.read_batch("0"),
    "rank": lambda trainer, worker, attempt: trainer.read_batch(0, "0"),
    "world": lambda trainer, worker, attempt: trainer.read_batch(0, 0, None),
    "limit": lambda trainer, worker, attempt: trainer.requeue("1"),
    "blob": lambda trainer, worker, attempt: trainer.advance("where the weights are"),
    "path of a checkpoint": lambda trainer, worker, attempt: trainer.checkpoint(5),
    "path to recover from": lambda trainer, worker, attempt: trainer.recover(5),
    "version": lambda trainer, worker, attempt: trainer.recover(version="0"),
    "number of attempts": lambda trainer, worker, attempt: worker.claim("1"),
    "half an attempt": lambda trainer, worker, attempt: worker.claim(1.5),
    "time-out of a claim": lambda trainer, worker, attempt: worker.claim(1, "1"),
    "attempt": lambda trainer, worker, attempt: worker.submit(None, b"x"),
    "id of an attempt": lambda trainer, worker, attempt: worker.fail(attempt.id, "boom"),
    "policy": lambda trainer, worker, attempt: worker.submit(attempt, b"x", policy=0),
    "error": lambda trainer, worker, attempt: worker.fail(attempt, 5),
    "reason": lambda trainer, worker, attempt: worker.reject(attempt, None),
    "attempts": lambda trainer, worker, attempt: worker.release(5),
    "ids of attempts": lambda trainer, worker, attempt: worker.release([attempt.id]),
    "results": lambda trainer, worker, attempt: worker.submit_many(5),
    "results without attempts": lambda trainer, worker, attempt: worker.submit_many([b"x"]),
    "results the wrong way round": lambda trainer, worker, attempt: worker.submit_many([(b"x", attempt)]),
}


@pytest.mark.parametrize("flavour", ["sync", "aio"])
@pytest.mark.parametrize("what", WRONG_TYPES)
def test_values_of_the_wrong_type_change_nothing(lab: Lab, what: str, flavour: str):
    lab.trainer().enqueue(tasks(2))
    call = WRONG_TYPES[what]

    async def with_asyncio() -> None:
        clocked = {"clock": lab.clock}
        async with aio.Trainer(lab.url, lab.run, **clocked) as trainer:
            async with aio.Worker(lab.url, lab.run, heartbeat=False, **clocked) as worker:
                (attempt,) = await worker.claim()
                before = lab.dump()
                with pytest.raises(BadArgument, match="must be"):
                    await call(trainer, worker, attempt)
                assert lab.dump() == before
                assert (await worker.submit(attempt, b"x")).accepted

    if flavour == "aio":
        asyncio.run(with_asyncio())
        return
    trainer, worker = lab.trainer(reopen=True), lab.worker()
    (attempt,) = worker.claim()
    before = lab.dump()
    with pytest.raises(BadArgument, match="must be"):
        call(trainer, worker, attempt)
    assert lab.dump() == before
    assert worker.submit(attempt, b"x").accepted


def test_numbers_and_bytes_of_other_types_are_taken(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=2, max_staleness=3)
    trainer.enqueue(tasks(4))
    worker = lab.worker()
    attempts = worker.claim(np.int64(2), np.float32(5))  # type: ignore[arg-type]
    worker.submit_many((attempt, b"x") for attempt in attempts)
    assert len(trainer.next_batch(np.int64(2), timeout=Decimal(5))) == 2  # type: ignore[arg-type]
    for blob in (bytearray(b"b" * 50_000), memoryview(b"b" * 50_000), bytearray(b"b")):
        trainer.advance(blob, allow_empty=True)
        stored = lab.command("HGET", lab.key("state"), "blob")
        assert stored == bytes(blob)


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_what_cannot_be_sent_does_not_stay_in_the_way(lab: Lab, flavour: str):
    """The refused call was not sent, so the next call has its number."""
    lab.trainer().enqueue(tasks(1))

    async def with_asyncio() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as trainer:
            with pytest.raises(BadArgument, match="cannot be sent"):
                await trainer.discard(["t0"], "a byte of no text: \udcff")
            assert (await trainer.enqueue(Task(id="u"))).added == 1

    if flavour == "aio":
        asyncio.run(with_asyncio())
        return
    trainer = lab.trainer(reopen=True)
    with pytest.raises(BadArgument, match="cannot be sent"):
        trainer.discard(["t0"], "a byte of no text: \udcff")
    assert trainer.enqueue(Task(id="u")).added == 1


@pytest.mark.parametrize("make", [Trainer, Worker, aio.Trainer, aio.Worker])
@pytest.mark.parametrize("url", [6379, b"redis://"])
def test_urls_of_the_wrong_type(make: Callable[[Any, str], Any], url: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BROKER_URL", "embedded://")  # it does not stand in for a wrong one
    with pytest.raises(BadArgument, match="url must be a str"):
        make(url, "r")


@pytest.mark.parametrize("make", [Trainer, aio.Trainer])
def test_a_config_of_the_wrong_type(lab: Lab, make: Callable[..., Any]):
    lab.runs.clear()
    with pytest.raises(BadArgument, match=r"config must be a broker\.RunConfig"):
        make(lab.url, lab.run, {"consumer_batch_size": 1})


@pytest.mark.parametrize("run", [5, None, [5]])
def test_runs_of_the_wrong_type(run: Any):
    for make in (Worker, aio.Worker):
        with pytest.raises((BadArgument, BadName)):
            make("embedded://", run)


def test_whatever_can_be_iterated_over_is_taken(lab: Lab):
    class Dataset:
        """An object with only the sequence protocol, like map-style datasets."""

        def __init__(self, items: list[Any]) -> None:
            self._items = items

        def __len__(self) -> int:
            return len(self._items)

        def __getitem__(self, i: int) -> Any:
            return self._items[i]

    trainer, worker = lab.trainer(consumer_batch_size=4), lab.worker()
    assert trainer.enqueue(Dataset(tasks(4))).added == 4  # type: ignore[arg-type]
    first, second, third = worker.claim(3)
    assert [one.accepted for one in worker.submit_many(Dataset([(first, b"x"), (second, b"y")]))] == [True] * 2  # type: ignore[arg-type]
    assert [one.answer for one in worker.release(Dataset([third]))] == ["released"]  # type: ignore[arg-type]
    assert trainer.cancel(Dataset([third.task])) == {third.task: "cancelled"}  # type: ignore[arg-type]


def test_an_exception_is_an_error_to_report(lab: Lab):
    lab.trainer(consumer_batch_size=2, max_attempts=1, halt_after_failures=0).enqueue(tasks(2))
    worker = lab.worker()
    first, second = worker.claim(2)
    worker.fail(first, ValueError("no such tool"))
    worker.fail(second, "a byte of no text: \udcff")
    with Operator(lab.url) as operator:
        reasons = {found.id: found.reason for found in operator.dead(lab.run)}
        assert operator.dead(lab.run, count=0) == []
        for count in (-1, "1"):
            with pytest.raises(BadArgument):
                operator.dead(lab.run, count=count)  # type: ignore[arg-type]
            with pytest.raises(BadArgument):
                operator.events(lab.run, count=count)  # type: ignore[arg-type]
    assert "ValueError('no such tool')" in reasons[first.task]
    assert "a byte of no text: \\udcff" in reasons[second.task]


def test_attempts_of_another_run_are_not_given_back(lab: Lab):
    lab.trainer().enqueue(tasks(1))
    lab.trainer(run=f"{lab.run}-2")
    (attempt,) = lab.worker().claim()
    with pytest.raises(BadArgument, match="attempt must be one that this worker claimed"):
        lab.worker(f"{lab.run}-2").release([attempt])


def test_asyncio_users_are_told_the_same(lab: Lab):
    lab.trainer(consumer_batch_size=2)

    async def main() -> None:
        with pytest.raises(ConfigMismatch):
            async with aio.Trainer(lab.url, lab.run, RunConfig(consumer_batch_size=3)):
                pass
        for client in (aio.Trainer(lab.url, "nobody"), aio.Worker(lab.url, "nobody")):
            with pytest.raises(NoRun):
                async with client:
                    pass
        async with aio.Worker(lab.url, lab.run) as worker:
            with pytest.raises(BadArgument):
                await worker.claim(0)
            with pytest.raises(BadArgument):
                await worker.run(None, concurrency=0)  # type: ignore[arg-type]

    asyncio.run(main())
    lab.go_live()
