"""Every error that the broker raises: one base, one subclass per code, fields rather than prose.

The server's scripts answer `CODE name=value name=value ...` (values percent-encoded); `broker.errors.from_reply` turns
that into the matching class. The sentence for people is made from the fields when `str` asks for it. No code parses it.
"""

from __future__ import annotations

from typing import Final

from broker.errors.base import BrokerError


class Fenced(BrokerError):
    """Another trainer opened the run; this trainer may not change it any more."""

    code = "FENCED"
    happened = (
        "another trainer opened run {run}, epoch {epoch} is in force",
        "another trainer opened this run, epoch {epoch} is in force",
        "another trainer opened this run",
    )
    remedy = "stop this process; if it is the one to keep, end the other and open the run again"


class Rewound(BrokerError):
    """The server forgot calls that it had answered: it lost acknowledged writes."""

    code = "REWOUND"
    happened = (
        "the server went back to call {last} of this trainer, which is at call {call}",
        "the server lost writes that it had acknowledged to this trainer",
    )
    remedy = "open the run again and recover from the last checkpoint"


class NoRun(BrokerError):
    """The run does not exist on this server."""

    code = "NORUN"
    happened = ("there is no run {run} on this server", "there is no such run on this server")
    remedy = "check the run's name and the URL, or let a trainer create it by opening it with a config"


class SchemaMismatch(BrokerError):
    """The run's state was written in a layout that this version does not know."""

    code = "SCHEMA"
    happened = (
        "the run's state has schema {stored}, this version knows schema {known}",
        "the run's state has a schema that this version does not know",
    )
    remedy = "use the version of rollout-broker that wrote the run"


class ConfigMismatch(BrokerError):
    """The run is stored with another configuration than the one given."""

    code = "CONFIG"
    happened = (
        "the run is stored with {field}={stored}, but {field}={given} was given",
        "the run is stored with another configuration than the one given",
    )
    remedy = (
        "give the stored value or leave the field out; to change it, open the run with update=True, or call "
        "`trainer.configure`, or `broker configure` while a trainer runs"
    )

    def _advice(self) -> str:
        if self.fields.get("field") != "kind":
            return self.remedy
        return (
            "a run counts AReaL's processes (admission) or holds tasks, for good; give another run's name. "
            "An admission run needs no checkpoint: `broker recover` with --version goes back without one"
        )


class Early(BrokerError):
    """The call is for a step whose turn has not come."""

    code = "EARLY"
    happened = (
        "run {run} went from version {before} to version {after} while its checkpoint was made",
        "another trainer, epoch {opened_by}, opened run {run} while its checkpoint was made",
        "the checkpoint is of version {checkpoint}, but the run is at version {version}: it went back since",
        "step {step} has no turn now, the version is {version} and the next step {step_next}",
        (
            "there is no sealed batch to advance from version {version}, "
            "and {open:rollout is|rollouts are} in the open one"
        ),
        (
            "cannot advance from version {version} without a batch: "
            "tasks with samples of version {due} or older would become too old"
        ),
        "cannot advance from step {step}, the version is {version}",
        "step {step} has no batch yet, the next step is {step_next}",
        "the call is for a step whose turn has not come",
    )
    remedy = "form and train the batches in order; at most one step ahead of the version"

    def _advice(self) -> str:
        if self.fields.keys() & {"before", "opened_by", "checkpoint"}:
            return "it is not committed; make it again, and pause the run meanwhile if this happens each time"
        if "due" in self.fields:
            return 'take their batch, cancel them, or set on_stale="requeue"'
        return self.remedy


class TooMany(BrokerError):
    """More rollouts were asked for than staleness can ever let a batch hold."""

    code = "TOOMANY"
    happened = (
        "a batch of {n:rollout|rollouts} for step {step} can never be filled, {bound} is the most",
        "a batch of that many rollouts can never be filled",
    )
    remedy = "ask for fewer, or raise max_staleness or consumer_batch_size"


class DigestMismatch(BrokerError):
    """The batch named in `advance` is not the one that the server sealed."""

    code = "DIGEST"
    happened = (
        "the sealed batch of step {step} has digest {sealed}, but {given} was given",
        "the batch that was named is not the one that the server sealed",
    )
    remedy = "take the batch of this step again and train on that one"


class OldCall(BrokerError):
    """A call of a trainer that it has already followed by another one arrived late."""

    code = "OLDCALL"
    happened = ("call {call} arrived after call {last}", "a call arrived after its successor")
    remedy = "nothing was changed; if you did not share one Trainer between processes, report this as a bug"


class OldRequest(BrokerError):
    """A claim or renewal that its session has already followed by another one arrived late."""

    code = "OLDREQUEST"
    happened = (
        "request {number} of the session arrived after request {last}",
        "a request arrived after its successor",
    )
    remedy = "nothing was changed; claim again"


class NoSession(BrokerError):
    """The worker's session has ended or is unknown; its attempts went back."""

    code = "NOSESSION"
    happened = ("session {session} has ended or is unknown", "the session has ended or is unknown")
    remedy = "join again; if it expired, renew more often or raise lease_ms"


class Recovering(BrokerError):
    """The run is being recovered; the call is refused until the recovery is committed."""

    code = "RECOVERING"
    happened = ("the run is being recovered to version {version}", "the run is being recovered")
    remedy = "wait until it is committed, or finish it by recovering again from the same checkpoint"


class Gone(BrokerError):
    """A batch, a result or the start of a recovery that the call needs does not exist any more."""

    code = "GONE"
    happened = (
        (
            "cannot recover to version {version}, the oldest one still recoverable is {floor}, "
            "tasks that {steps:step|steps} trained on are freed"
        ),
        "{what} of attempt {attempt} in the batch of step {step} does not exist any more",
        "the batch of step {step} does not exist any more",
        "what the call needs does not exist any more",
    )
    remedy = "read a batch before the second advance after it; if the server lost it, recover from the last checkpoint"

    def _advice(self) -> str:
        if "floor" in self.fields:
            return "recover from a newer checkpoint, or do without those tasks with allow_loss=True (--allow-loss)"
        return self.remedy


class Undone(BrokerError):
    """A later recovery undid the history that the checkpoint is of."""

    code = "UNDONE"
    happened = (
        (
            "the checkpoint of version {version}, epoch {epoch}, is of a future that was undone: "
            "epoch {by} went back to version {to}"
        ),
    )
    remedy = "recover from a checkpoint made since, or from one of that version or before"


class CheckpointError(BrokerError):
    """A checkpoint file cannot be read or written."""

    code = "CHECKPOINT"
    happened = ("the checkpoint {path} {problem}", "the checkpoint {problem}")
    remedy = "nothing was changed; use another checkpoint, or mend the file's place"


class WeightsUnavailable(BrokerError):
    """Published weights were removed, or their host does not answer."""

    code = "WEIGHTS"
    happened = ("the weights {name} cannot be had: {problem}", "published weights cannot be had")
    remedy = "a worker with `load_weights` asks again by itself; elsewhere, raise WorkerFault, or publish with pin=True"


class BadArgument(BrokerError, ValueError):
    """An argument is out of its range or of the wrong type."""

    code = "BADARG"
    happened = (
        "{problems}",
        "{argument} must be {expected}, not {given}",
        "{argument} must be {low} to {high}, not {given}",
        "{argument} must be {high} at most, not {given}",
        "{argument} cannot be {given}",
        "{problem}",
        "an argument was refused",
    )


class NotSendable(BadArgument):
    """An argument is of a type that cannot be sent. Nothing was sent."""


class NoResult(BrokerError):
    """The bytes of a submitted result are not on the server."""

    code = "NORESULT"
    happened = (
        "the bytes of the result of attempt {attempt} are not on the server",
        "the bytes of a submitted result are not on the server",
    )
    remedy = "submit it again; if it repeats, raise result_ttl_ms"


class TooBig(BrokerError):
    """A payload or result is larger than the run allows."""

    code = "TOOBIG"
    happened = (
        "the {what} of {subject} is {size} bytes, {limit} is the most",
        "the {what} is {size} bytes, {limit} is the most",
        "the payload of task {task} is {bytes} bytes, {limit} is the most",
        "the blob is {bytes} bytes, {limit} is the most",
        "{problem}",
        "a payload or result is larger than the run allows",
    )
    remedy = "make it smaller; for payloads and results max_payload_bytes and max_result_bytes can be raised"


class HandlersLost(BrokerError):
    """All places of a worker's `run` are lost to handlers that go on although their attempts were taken back.

    Its notes have the stack of each handler.
    """

    code = "LOST"
    happened = (
        "worker {worker} has lost all its places ({places}) to handlers that do not end: {attempts}",
        "all places of the worker are lost to handlers that do not end",
    )
    remedy = (
        "end this process, which ends them, and start another; give what they wait for a time-out, or let them look "
        "at `attempt.cancelled`"
    )


class Exhausted(BrokerError):
    """Fewer tasks are left in the whole run than the batch needs."""

    code = "EXHAUSTED"
    happened = (
        (
            "{left:task is|tasks are} left in the run, but the batch of step {step} needs {n}; "
            "{dead:task is|tasks are} dead and {rejected} rejected, and the records of {freed:such task are|such are} "
            "freed; the last ones because of: {reasons}"
        ),
        (
            "{left:task is|tasks are} left in the run, but the batch of step {step} needs {n}; "
            "{dead:task is|tasks are} dead and {rejected} rejected, the last ones because of: {reasons}"
        ),
        "{left:task is|tasks are} left in the run, but the batch of step {step} needs {n}",
        "{left:task is|tasks are} left in the run, but the batch needs {n}",
        "fewer tasks are left in the run than the batch needs",
    )
    remedy = "enqueue more, or ask for a short batch with short=True"

    def _advice(self) -> str:
        remedy = self.remedy
        if "supply" in self.fields:
            remedy = "the feeder of an earlier trainer had more tasks: trainer.feed(tasks) goes on where it stood"
        if "dead" not in self.fields:
            return remedy
        return (
            f"{remedy}; `broker dead {self.fields.get('run', 'RUN')} list` (or list --rejected) tells more; once "
            "the cause is mended, `retry --all` in place of list starts them over, or enqueue(tasks, again=True)"
        )


class RunFinished(Exhausted):
    """Somebody has said that the run is over: no further batch is formed. The batches that are sealed still come."""

    code = "FINISHED"
    happened = ("the run is finished: the batch of step {step} will not be formed", "the run is finished")
    remedy = "enqueue tasks, call `trainer.feed` or recover to open the run again"

    def _advice(self) -> str:
        return self.remedy


class RunHalted(BrokerError):
    """So many attempts failed, without an accepted result between them, that the run was halted.

    Its fields `failures`, `workers` (names, with commas between them) and `errors` (the last ones) say what failed.
    `quarantined`: it was halted because all its workers were quarantined, so many.
    """

    code = "HALTED"
    happened = (
        (
            "run {run} is halted: {quarantined:worker is|workers are} quarantined, and no other is connected: "
            "{workers}; {failures:attempt|attempts} failed since the last accepted result, the last errors: {errors}"
        ),
        (
            "run {run} is halted: {failures:attempt|attempts} of different tasks failed without an accepted result "
            "between them, on {workers}; the last errors: {errors}"
        ),
        "the run is halted: too many attempts failed without an accepted result between them",
    )

    def _advice(self) -> str:
        run = self.fields.get("run", "RUN")
        return (
            f"mend the cause, then call `trainer.resume()`, or `broker resume {run} --halted`; no task has died of it, "
            f"and `broker explain {run}` tells more"
        )


class ServerUnavailable(BrokerError):
    """The server could not be reached for as long as the client was willing to try."""

    code = "UNAVAILABLE"
    happened = (
        "{url} did not answer for {seconds} s, last: {error}",
        "{url} did not answer: {error}",
        "{url} did not answer",
        "the server did not answer",
    )
    remedy = "check that it runs and is reachable; whether the last call took effect is unknown, repeating it is safe"


class ServerNotStarted(ServerUnavailable):
    """An embedded server did not start; a note has its log."""

    happened = ("the server of {url} did not start: {error}", "the server did not start")
    remedy = "mend that and start it again"


class ClientClosed(ServerUnavailable):
    """This client was closed, before the call or during it."""

    happened = ("this client of {url} was closed", "this client was closed")
    remedy = "open another one; a call that was under way may have taken effect, repeating it is safe"


class UnsupportedServer(BrokerError):
    """The server is too old, or set up in a way that would lose data."""

    code = "UNSUPPORTED"
    happened = (
        "cannot use {url}: {problem}",
        "{problem}",
        "this server is not supported: use Valkey, or Redis 6.2 or newer, with maxmemory-policy noeviction",
    )


class OutOfMemory(BrokerError):
    """The server has reached its memory limit and refuses writes."""

    code = "OOM"
    happened = ("the server is out of memory: {message}", "the server is out of memory")
    remedy = "raise its maxmemory, or lower retention_steps, keep_checkpoints or max_concurrent_rollouts"


class AuthenticationFailed(BrokerError):
    """The server refused the user, the password or the user's rights."""

    code = "AUTH"
    happened = (
        "{url} refused access: {error}",
        "{url} refused access",
        "the server refused access: {message}",
        "the server refused access",
    )
    remedy = "check the user and the password in the URL, and that user's rights (ACL)"

    @property
    def lacks_rights(self) -> bool:
        """Whether the user is logged in, but has no right to the command (`NOPERM`)."""
        return "NOPERM" in str(self.fields.get("error", ""))

    def _advice(self) -> str:
        return "give that user the right to it (ACL SETUSER)" if self.lacks_rights else self.remedy


class CertificateRefused(AuthenticationFailed):
    """The server's certificate does not verify, or the server refuses the client's own or misses it."""

    code = "TLS"
    happened = ("cannot trust {url}: {problem}", "a certificate was refused")
    remedy = (
        "check the files of the URL's options ssl_ca_certs (who signed the server's certificate), ssl_certfile and "
        "ssl_keyfile (this client's own), the host's name in the URL, and the dates of the certificates"
    )


class ReadOnlyServer(BrokerError):
    """The server takes no writes: a replica, or one that cannot save or has too few replicas."""

    code = "READONLY"
    happened = ("{url} takes no writes: {message}", "{url} takes no writes", "the server takes no writes")
    remedy = (
        "READONLY: connect to the primary, or through Sentinel, which finds it; MISCONF: look at the server's disk and "
        "log; NOREPLICAS: bring its replicas back"
    )


class CodecError(BrokerError):
    """A value cannot be encoded, or bytes are not a value that the broker encoded."""

    code = "CODEC"
    happened = ("cannot {action} {subject}: {problem}", "{problem}")

    @classmethod
    def of_value(cls, problem: str, place: str = "the value") -> CodecError:
        """A value cannot be encoded."""
        return cls(action="encode", subject=place, problem=problem)

    @classmethod
    def of_bytes(cls, problem: str) -> CodecError:
        """Bytes cannot be decoded."""
        return cls(action="decode", subject="these bytes", problem=problem)


class BadUrl(BrokerError, ValueError):
    """The URL of the server cannot be understood."""

    code = "BADURL"
    happened = ("cannot use the URL {url}: {problem}", "{problem}", "the URL of the server cannot be understood")
    remedy = (
        "give one like redis://host:6379/0, rediss://, unix:///path, redis+sentinel://host:26379/name or embedded://"
    )


class BadName(BrokerError, ValueError):
    """The name of a run, task or worker is not allowed."""

    code = "NAME"
    happened = ("{value} cannot be the name of a {kind}: {problem}", "{problem}", "a name is not allowed")
    remedy = "use 1 to 200 characters of A-Z a-z 0-9 . _ : / @ + -"


class WaitTimeout(BrokerError, TimeoutError):
    """The time that the caller was willing to wait has passed."""

    code = "TIMEOUT"
    happened = (
        "{what} was not ready within {seconds} s: {reason}",
        "{what} was not ready within {seconds} s",
        "the wait took longer than allowed",
    )
    remedy = "wait longer; print(trainer.explain()), or `broker explain`, says what the run waits for"


_KINDS: Final[tuple[type[BrokerError], ...]] = (
    *(Fenced, Rewound, NoRun, SchemaMismatch, ConfigMismatch, Early, TooMany, DigestMismatch, OldCall, OldRequest),
    *(
        NoSession,
        Recovering,
        Gone,
        Undone,
        CheckpointError,
        WeightsUnavailable,
        BadArgument,
        NoResult,
        TooBig,
        HandlersLost,
        Exhausted,
        RunFinished,
        RunHalted,
        ServerUnavailable,
        UnsupportedServer,
    ),
    *(OutOfMemory, AuthenticationFailed, CertificateRefused, ReadOnlyServer, CodecError, BadUrl, BadName, WaitTimeout),
)
#: By code; the last three are the server's own words for it.
BY_CODE: Final = {kind.code: kind for kind in _KINDS} | dict.fromkeys(
    ("NOAUTH", "WRONGPASS", "NOPERM"), AuthenticationFailed
)
