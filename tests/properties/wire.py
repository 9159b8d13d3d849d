"""Translates between the model's calls and the broker's script calls: builds a script call, and reads its answer."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from broker.protocol import anyone, recovery, result_bytes, trainer, worker
from broker.protocol.script_call import ScriptCall
from broker.protocol.task_options import TaskOptions
from broker.values.config import RunConfig

from .calls import (
    Advance,
    Answer,
    Call,
    Cancel,
    Claim,
    Commit,
    Configure,
    Discard,
    Enqueue,
    Fail,
    Finish,
    Forget,
    Join,
    Leave,
    Numbered,
    Open,
    Pause,
    Prioritise,
    Readmit,
    RecoverBegin,
    RecoverEnd,
    RecoverSweep,
    Release,
    Renew,
    Requeue,
    Resume,
    Retry,
    SetBytes,
    Submit,
    SubmitItem,
    Take,
    Trim,
    task_options,
)
from .config import Config
from .worker_calls import WorkerCall

#: Above this size the client SETs a result before the call; here short results may take either way.
NEVER_INLINE, ALWAYS_INLINE = -1, 1 << 20


def config_fields(config: Config, unsaid: tuple[str, ...]) -> dict[str, str]:
    """The config fields that a call gives."""
    given = {each.name: getattr(config, each.name) for each in fields(config) if each.name not in unsaid}
    return RunConfig(**given, events_maxlen=100).to_fields()


def lineage(given: tuple[str, ...], epoch: str) -> str:
    """Which epochs gave the order numbers, as the server writes it."""
    marks = [f"{token}:{at}" for at, token in enumerate(given) if at == 0 or given[at - 1] != token]
    return " ".join(reversed(marks)) or f"{epoch.partition('.')[2]}:0"


class Wire:
    """Translates for one run."""

    def __init__(self, run: str) -> None:
        self._run = run

    def script_call(self, call: Call, now: int) -> ScriptCall[Any]:
        """The script call that sends this call."""
        if isinstance(call, Numbered):
            return self._gated(call, now)
        run = self._run
        match call:
            case Open():
                config = config_fields(call.config, call.unsaid) if call.config else None
                return trainer.open_run(run, call.token, config, update=call.update, now=now)
            case RecoverBegin():
                to = recovery.Begin(
                    call.version,
                    file_epoch=call.file_epoch,
                    listed_order=call.listed_order,
                    in_flight=call.in_flight,
                    policies=dict(call.policies),
                    cursor=call.cursor,
                    blob=call.blob,
                    recoveries=" ".join(f"{number}:{version}" for number, version in call.recoveries),
                    lineage=lineage(call.given, call.file_epoch),
                )
                return recovery.begin(run, call.token, to, None, now=now)
            case Requeue():
                return anyone.requeue(run, call.limit, now=now)
            case Trim():
                return anyone.trim(run, call.limit, now=now)
            case SetBytes():
                raise TypeError("plain SET, no script call")
            case _:
                return self._of_worker(call, now)

    def _of_worker(self, call: WorkerCall, now: int) -> ScriptCall[Any]:
        run = self._run
        match call:
            case Join():
                return worker.join(run, call.worker, call.nonce, call.lease_ms, now=now)
            case Claim():
                return worker.claim(
                    run, call.session, call.number, call.n, call.random, policy=call.policy, limit=call.limit, now=now
                )
            case Renew():
                return worker.renew(run, call.session, call.number, call.held, now=now)
            case Leave():
                return worker.leave(run, call.session, now=now)
            case Submit():
                return self._submit(call, now)
            case Release():
                return worker.release(run, call.attempts, now=now)
            case Fail():
                return worker.fail(run, call.attempt, call.error, may_retry=call.retry, kind=call.kind, now=now)

    def _gated(self, call: Numbered, now: int) -> ScriptCall[Any]:
        run = self._run
        call_id = (
            trainer.operator_call_id(call.request) if call.request else trainer.trainer_call_id(call.token, call.number)
        )
        match call:
            case Enqueue():
                tasks = [
                    trainer.NewTask(task.id, task.payload, TaskOptions(**task_options(task))) for task in call.tasks
                ]
                return trainer.enqueue(run, call_id, tasks, call.cursor, again=call.again, supply=call.supply, now=now)
            case Take():
                return trainer.take(
                    run, call_id, call.step, call.n, limit=call.limit, seal=call.seal, short=call.short, now=now
                )
            case Discard():
                return trainer.discard(run, call_id, call.reason, call.tasks, now=now)
            case Advance():
                return trainer.advance(
                    run, call_id, call.step, call.digest or "-", allow_empty=call.allow_empty, blob=call.blob, now=now
                )
            case Commit() | RecoverSweep() | RecoverEnd():
                return self._recovery(call, call_id, now)
            case Cancel():
                return trainer.cancel(run, call_id, call.tasks, now=now)
            case Forget():
                return trainer.forget(run, call_id, call.tasks, now=now)
            case Pause():
                return trainer.pause(run, call_id, call.mode, now=now)
            case Resume():
                return trainer.pause(run, call_id, "", halted=call.halted, now=now)
            case Configure():
                fields_said = config_fields(call.config, call.unsaid)
                del fields_said["events_maxlen"]
                return trainer.configure(run, call_id, fields_said, now=now)
            case Prioritise():
                return trainer.prioritise(run, call_id, call.priorities, now=now)
            case Finish():
                return trainer.finish(run, call_id, now=now)
            case Readmit():
                return trainer.readmit(run, call_id, call.names, now=now)
            case Retry():
                return trainer.retry(run, call_id, call.tasks, now=now)
            case _:
                raise TypeError(call)

    def _recovery(self, call: Commit | RecoverSweep | RecoverEnd, call_id: trainer.CallId, now: int) -> ScriptCall[Any]:
        match call:
            case Commit():
                return recovery.commit(self._run, call_id, call.version, call.epoch, now=now)
            case RecoverSweep():
                listed = dict(call.tasks)
                return recovery.sweep(self._run, call_id, list(listed), listed.__getitem__, now=now)
            case RecoverEnd():
                return recovery.end(self._run, call_id, now=now)

    def _submit(self, call: Submit, now: int) -> ScriptCall[Any]:
        """One script call for all items, although each may send its bytes in another way."""
        parts = [self._submit_one(item, now) for item in call.items]
        args = (parts[0].args[0], *(arg for part in parts for arg in part.args[1:]))
        before = tuple(
            command
            for part, item in zip(parts, call.items, strict=True)
            if item.how != "missing"
            for command in part.before
        )
        return ScriptCall("submit", parts[0].keys, args, parts[0].parse, before)

    def _submit_one(self, item: SubmitItem, now: int) -> ScriptCall[Any]:
        body = item.data if item.verdict == "accept" else item.reason.encode()
        sent = worker.Submission(item.attempt, item.verdict, body, item.policy)
        size = ALWAYS_INLINE if item.how == "inline" else NEVER_INLINE
        return result_bytes.submit_call(self._run, [sent], inline_bytes=size, now=now)

    def answer(self, call: Call, parsed: Any) -> Answer:
        """The script call's answer, in the words of the model."""
        if isinstance(call, Numbered):
            return self._gated_answer(call, parsed)
        match call:
            case Open():
                return {"epoch": parsed.epoch, "version": parsed.version, "step_next": parsed.step_next}
            case RecoverBegin():
                return {"epoch": parsed.epoch}
            case Join():
                policy = (parsed.version, parsed.epoch)
                return {"session": parsed.session, "lease_ms": parsed.lease_ms, "run_policy": policy}
            case Claim():
                return _claimed(parsed)
            case Renew():
                return {"abandon": parsed.abandon, "run_version": parsed.run_version, "paused": parsed.paused}
            case Submit() | Release():
                return {"answers": [_worded(each) for each in parsed]}
            case Fail():
                return {"answers": [_worded(parsed)]}
            case _:
                return {}

    def _gated_answer(self, call: Numbered, parsed: Any) -> Answer:
        match call:
            case Commit():
                return {"floor": parsed}
            case RecoverSweep():
                return {"done": parsed.done}
            case RecoverEnd():
                return {"accepted": parsed.accepted, "running": parsed.running, "capacity": parsed.capacity}
            case Enqueue():
                return {"added": parsed.added, "existing": list(parsed.existing), "states": list(parsed.states)}
            case Take():
                return self._taken(call, parsed)
            case Advance():
                return {"version": parsed.version, "size": parsed.size}
            case Discard() | Cancel() | Forget() | Retry() | Prioritise():
                return {"answers": parsed}
            case Configure():
                return {"before": {name: _config_value(text) for name, text in parsed.items()}}
            case Finish():
                return {
                    "before": parsed.before,
                    "waiting": parsed.waiting,
                    "running": parsed.running,
                    "ready": parsed.ready,
                }
            case Readmit():
                return {"sessions": parsed}
            case Pause() | Resume():
                return {"before": parsed.mode, "halted": parsed.halted}
            case _:
                raise TypeError(call)

    def _taken(self, call: Take, parsed: trainer.Taken) -> Answer:
        answer: Answer = {
            "size": parsed.size,
            "sealed": parsed.sealed,
            "exhausted": parsed.exhausted,
            "left": parsed.left,
            "taken": parsed.taken,
            "short": parsed.short,
        }
        if call.limit > 0 and not parsed.sealed and parsed.size < call.n:
            answer["more"] = parsed.more
        if not parsed.sealed:
            answer["halted"] = parsed.halted
            answer["due"] = list(parsed.due)
        if parsed.sealed:
            answer["digest"], answer["sealed_ms"] = parsed.digest, parsed.sealed_ms
        return answer


def _config_value(text: str) -> int | str | None:
    return int(text) if text.isdecimal() else text or None


def _claimed(parsed: worker.Claimed) -> Answer:
    attempts: list[Answer] = [
        {
            "id": each.attempt_id,
            "task": each.task,
            "slot": each.slot,
            "payload": each.payload,
            "version": parsed.version,
            "epoch": parsed.epoch,
            "samples": each.samples,
            "tries": each.tries,
        }
        for each in parsed.granted
    ]
    policy = (parsed.run_version, parsed.run_epoch)
    return {"attempts": attempts, "reason": parsed.reason, "run_policy": policy, "blob": parsed.blob}


def _worded(parsed: worker.Answer) -> Answer:
    if parsed.word == "superseded":
        return {
            "answer": parsed.word,
            "by": parsed.by_attempt,
            "session": parsed.by_session,
            "age_ms": parsed.age_ms,
        }
    return {"answer": parsed.word, "why": parsed.why} if parsed.why else {"answer": parsed.word}
