"""Malformed arguments for every script: a coded error and nothing written, or a run that is still sound."""

from __future__ import annotations

import re
from typing import Any

import pytest

from broker.errors import BrokerError
from broker.protocol import (
    admission,
    anyone,
    gateway,
    recovery,
    result_bytes,
    rights,
    scripts,
    task_row,
    trainer,
    worker,
)
from broker.protocol.admission import Counted, OwnerReport, Recovery
from broker.protocol.recovery import Begin
from broker.protocol.script_call import ScriptCall
from broker.protocol.task_options import TaskOptions
from broker.protocol.trainer import NewTask, trainer_call_id
from broker.protocol.worker import Submission
from tests.conformance.lab import Lab
from tests.conformance.state_checks import leftovers

TOKEN = "token123"
HOSTILE: list[str | bytes] = [
    "", "nan", "inf", "-inf", "1e400", "1e15", "1e3", "-1", "1.5", "1.0", "0x10", " 1", "abc", "9" * 30, "a,b", "a b",
    "#", "t0#0.1.x#1", b"\xff\x00\n", "x" * 5_000,
]  # fmt: skip
#: Errors that only a fault of a script makes.
FAULTS = {"ERR", "ERROR", "WRONGTYPE"}
#: What a refusal behind the gate may write: its number and its answer.
CHANNEL = {b"call", b"answer", b"clock"}
REPORT = OwnerReport(1, 0, 0, 0, 0, 0, asks=False, version=0, recovery=Recovery())


class Subject:
    """A run with something in every state, and a good call of every script."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.keeps_config = False
        self.trainer = lab.raw_trainer(
            token=TOKEN, consumer_batch_size=2, max_staleness=3, max_concurrent_rollouts=9, attempt_timeout_ms=1_000
        )
        worker_ = lab.raw_worker()
        self.session = worker_.session
        self.trainer.enqueue("sealed", "ready", "held", "dead", "rejected", "waiting", "pending")
        worker_.work(1)
        self.digest = self.trainer.take(0, 1).digest
        worker_.work(1)
        self.held = worker_.take_one()
        worker_.fail(worker_.take_one(), may_retry=False)
        worker_.submit(worker_.take_one(), verdict="reject")
        worker_.fail(worker_.take_one())
        self.number = worker_.number
        lab.command("HSET", lab.key("gateway:rollouts"), "held", "old")
        self.snapshot = self._saved()

    def _saved(self) -> list[tuple[bytes, bytes]]:
        names = self.lab.command("KEYS", f"rb1:{{{self.lab.run}}}:*")
        values = self.lab.transport.pipeline([("DUMP", name) for name in names])
        return list(zip(names, values, strict=True))

    def restore(self) -> None:
        """Puts the run back to how it was."""
        names = self.lab.command("KEYS", f"rb1:{{{self.lab.run}}}:*")
        commands: list[tuple[Any, ...]] = [("DEL", *names)] if names else []
        commands += [("RESTORE", name, 0, value, "REPLACE") for name, value in self.snapshot]
        self.lab.transport.pipeline(commands)

    def call(self, script: str) -> ScriptCall[Any]:
        """A call of a script that succeeds."""
        run, now = self.lab.run, self.lab.now
        call_id = trainer_call_id(TOKEN, self.trainer.number + 1)
        begin = Begin(1, "1.x", 3, policies={0: self.trainer.opened.epoch}, cursor="1", blob=b"b", allow_loss=True)
        match script:
            case "open":
                return trainer.open_run(run, "othertoken", {"max_staleness": "3", "lease_ms": "60000"}, now=now)
            case "enqueue":
                return trainer.enqueue(
                    run,
                    call_id,
                    [NewTask("x", b"p", TaskOptions(samples=2, min_samples=1, priority=3)), NewTask("y", b"")],
                    "1",
                    now=now,
                )
            case "take":
                return trainer.take(run, call_id, 1, 2, limit=9, seal=True, short=True, now=now)
            case "discard":
                return trainer.discard(run, call_id, "why", ["ready"], now=now)
            case "cancel":
                return trainer.cancel(run, call_id, ["held", "ready"], now=now)
            case "forget":
                return trainer.forget(run, call_id, ["held", "dead"], now=now)
            case "retry":
                return trainer.retry(run, call_id, ["dead", "rejected"], now=now)
            case "beat":
                return trainer.beat(run, call_id.id, now=now)
            case "advance":
                return trainer.advance(run, call_id, 0, self.digest, blob=b"b", now=now)
            case "pause":
                return trainer.pause(run, call_id, "paused", now=now)
            case "configure":
                return trainer.configure(run, call_id, {"max_staleness": "3", "lease_ms": "60000"}, now=now)
            case "readmit":
                return trainer.readmit(run, call_id, ["w"], now=now)
            case "prioritise":
                return trainer.prioritise(run, call_id, [("pending", 4), ("held", -4)], now=now)
            case "finish":
                return trainer.finish(run, call_id, now=now)
            case "repair":
                return trainer.repair(run, call_id, now=now)
            case "join":
                return worker.join(run, "w", "n1", 5_000, now=now)
            case "leave":
                return worker.leave(run, self.session, 5, now=now)
            case "claim":
                policy = (0, self.trainer.opened.epoch)
                return worker.claim(run, self.session, self.number + 1, 2, "r9", policy=policy, now=now)
            case "renew":
                return worker.renew(run, self.session, self.number, [self.held], now=now)
            case "submit":
                policy = (0, self.trainer.opened.epoch)
                items = [Submission(self.held, "accept", b"x", policy), Submission("pending#0.1.a", "reject", b"x")]
                return result_bytes.submit_call(run, items, now=now)
            case "release":
                return worker.release(run, [self.held, "pending#0.1.a"], now=now)
            case "fail":
                return worker.fail(run, self.held, "boom", may_retry=True, now=now)
            case "requeue":
                return anyone.requeue(run, 5, now=now)
            case "trim":
                return anyone.trim(run, 5, now=now)
            case "stats":
                return anyone.stats(run, now=now)
            case "audit":
                return anyone.audit(run, now=now)
            case "check":
                return anyone.check(run, ["held", "ready"], now=now)
            case "batch":
                return anyone.batch(run, 0, 0, 5, now=now)
            case "task":
                return task_row.task(run, "held", now=now)
            case "explain":
                return anyone.facts(run, 5, now=now)
            case "recover_begin":
                return recovery.begin(run, "othertoken", begin, None, now=now)
            case "recover_preview":
                return recovery.preview(run, begin, ["held"], lambda _: True, now=now)
            case "recover_sweep":
                return recovery.sweep(run, call_id, ["held"], lambda _: True, now=now)
            case "recover_commit":
                return recovery.end(run, call_id, now=now)
            case "commit":
                return recovery.commit(run, call_id, 0, now=now)
            case "note_status":
                change = gateway.StatusChange("held", self.held, "H", "old", "new", "c", "held", "1.5")
                return gateway.note_status(run, change, now=now)
            case "note_given":
                return gateway.note_given(run, "c", ", 1]", {self.held: "held"}, now=now)
            case "rights":
                return rights.missing(run, ["HSET", "ZADD"], now=now)
            case "note_deleted":
                return gateway.note_deleted(run, ["held", "ready"], now=now)
            case "note_ends":
                return gateway.note_ends(run, ["held", "ready"], now=now)
            case "admission_open":
                return admission.open_owner(run, "o", 5, TOKEN, {"lease_ms": "1"}, Counted(), now=now)
            case "admission_report":
                return admission.report(run, "o", 5, REPORT, now=now)
            case "admission_leave":
                return admission.leave(run, "o", 5, REPORT, now=now)
            case _:
                raise AssertionError(f"no call of {script} here")

    def wrong_with(self, script: str, args: tuple[Any, ...], before: dict[str, Any]) -> str:
        """What is wrong with how the script takes these arguments, or nothing."""
        raw: ScriptCall[Any] = ScriptCall(script, (self.lab.key("state"),), args, lambda reply: reply)
        (answer,) = self.lab.transport.execute([raw])
        if isinstance(answer, BrokerError) and answer.code in FAULTS:
            return f"faults: {answer}"[:200]
        after = self.lab.dump()
        if after == before:
            return ""
        if isinstance(answer, BrokerError):
            differing = {name for name in {*before, *after} if before.get(name) != after.get(name)}
            state = {
                name
                for name in {*before["state"], *after["state"]}
                if before["state"].get(name) != after["state"].get(name)
            }
            behind_gate = "used_call" in answer.fields or "stored" in answer.fields
            wrong = (
                ""
                if behind_gate and differing <= {"state"} and state <= CHANNEL
                else f"{answer.code} wrote {differing} {state}"
            )
        else:
            wrong = self.unsound(after)
        self.restore()
        return wrong

    def unsound(self, dump: dict[str, Any]) -> str:
        """What is broken in the run after a call that was taken."""
        for name, value in dump["state"].items():
            told = name.decode()
            if told in NUMBERS and not re.fullmatch(rb"-?\d{1,16}", value):
                return f"state has {told}={value!r}"
        for name, record in dump.get("tasks", {}).items():
            if not re.fullmatch(
                rb"[PDRYBXJ],-?\d+,\d+(?:/\d+)?,\d+,\d+,\d+,\d+,-?\d+,-?\d+,\d+,\d+,-?\d+,[OWHDFS]*(?:;.*)?", record
            ):
                return f"record of {name!r} is {record!r}"
        names = [name.decode() for name in dump.get("tasks", {})]
        try:
            problems = self.lab.do(anyone.check(self.lab.run, names))
            drift = {k: v for k, v in self.lab.do(anyone.audit(self.lab.run)).items() if v[0] != v[1]}
        except BrokerError as error:
            return f"is broken: {error}"
        recovering = dump["state"].get(b"recovering")
        return "; ".join([*problems, *map(str, [drift] if drift else []), *([] if recovering else leftovers(dump))])


NUMBERS = {
    *("version", "step_next", "accepted", "running", "clock", "floor", "call", "open_size", "due", "want", "order_seq"),
    *("first_seq", "session_seq", "bytes_from", "tasks_from", "policies_from", "consumer_batch_size", "lease_ms"),
    *("max_concurrent_rollouts", "max_attempts", "max_payload_bytes", "events_maxlen"),
}


@pytest.fixture
def subject(lab: Lab) -> Subject:
    if not lab.server.kind.is_real:
        pytest.skip("has no DUMP and RESTORE of all types; the scripts are the same")
    return Subject(lab)


@pytest.mark.parametrize("script", scripts.names())
def test_hostile_values_in_every_place(subject: Subject, script: str):
    good = subject.call(script).args
    before = subject.lab.dump()
    problems: list[str] = []
    for place in range(len(good)):
        for value in HOSTILE:
            args = (*good[:place], value, *good[place + 1 :])
            if wrong := subject.wrong_with(script, args, before):
                problems.append(f"argument {place + 1} = {value!r:.40}: {wrong}")
    assert not problems, "\n".join(problems[:40])


@pytest.mark.parametrize("script", scripts.names())
def test_too_few_arguments(subject: Subject, script: str):
    good = subject.call(script).args
    before = subject.lab.dump()
    problems: list[str] = []
    for count in range(len(good)):
        if wrong := subject.wrong_with(script, good[:count], before):
            problems.append(f"{count} of {len(good)} arguments: {wrong}")
    assert not problems, "\n".join(problems[:40])


@pytest.mark.parametrize("script", scripts.names())
def test_too_many_items(subject: Subject, script: str):
    """A table far over the bound of a call: refused before it costs anything."""
    good = subject.call(script).args
    before = subject.lab.dump()
    wrong = subject.wrong_with(script, (*good, *["x"] * 7_000), before)
    assert not wrong


@pytest.mark.parametrize("script", [name for name in scripts.names() if name != "rights"])  # that one reads no state
def test_no_run_and_another_schema(subject: Subject, script: str):
    script_call = subject.call(script)
    lab = subject.lab
    if script in {"open", "recover_begin", "admission_open"}:
        script_call = ScriptCall(
            script, script_call.keys, script_call.args[:4] if script == "open" else script_call.args, list
        )
        script_call.args = script_call.args[:3] if script == "open" else script_call.args
    lab.command("HSET", lab.key("state"), "schema", "2")
    before = lab.dump()
    (answer,) = lab.transport.execute([script_call])
    assert isinstance(answer, BrokerError)
    assert (answer.code, answer.fields["stored"]) == ("SCHEMA", "2")
    assert lab.dump() == before
    lab.command("HSET", lab.key("state"), "schema", "1")
    if script != "admission_open":
        lab.purge()
        (answer,) = lab.transport.execute([script_call])
        assert isinstance(answer, BrokerError)
        assert answer.code == "NORUN"
        assert lab.dump() == {}
