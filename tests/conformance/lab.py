"""A run under test: clients on a simulated clock, raw script calls, and checks of the server's state at the end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from broker import BrokerError, RunConfig, Task, Trainer, Worker
from broker.connections import open_transport
from broker.inspection.events import Follower
from broker.inspection.verification import verify
from broker.operator import Operator
from broker.protocol import anyone, keys, result_bytes, task_row, trainer, worker
from broker.protocol.script_call import ScriptCall
from broker.protocol.task_options import TaskOptions
from broker.protocol.task_row import TaskRow
from broker.protocol.trainer import NewTask
from broker.values.verdict import Verdict
from tests.conformance.history import History, Transition
from tests.conformance.state_checks import leftovers
from tests.servers import ServerUnderTest

#: The first time of the simulated clock, milliseconds.
START_MS = 1_000_000


class Lab:
    """One run on one server. The lab closes the clients that it makes.

    Attributes:
        checks_state: whether `check` looks at the run's keys; False in tests that break them on purpose.
        keeps_config: whether the config of the runs never changes, so that `check` judges the whole event log by it.
    """

    def __init__(self, server: ServerUnderTest, run: str) -> None:
        self.server, self.run = server, run
        self.url = server.url
        self.is_live = False
        self._now = START_MS
        self.checks_state = True
        self.keeps_config = True
        self.runs = {run}
        self._clients: list[Trainer | Worker] = []
        self.transport = open_transport(self.url, retry_for_s=5.0)

    # -- clients -----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """The clock, milliseconds."""
        return int(time.time() * 1000) if self.is_live else self._now

    def go_live(self) -> None:
        """Changes to the real clock, which clients have outside of tests."""
        self.is_live = True

    def clock(self) -> int:
        """The simulated clock, for clients."""
        return self.now

    def pass_ms(self, ms: int) -> None:
        """Lets simulated time pass."""
        assert not self.is_live, "the real clock goes by itself"
        self._now += ms

    def config(self, **fields: Any) -> RunConfig:
        """A config; its batches have one task unless `fields` say otherwise."""
        return RunConfig(**{"consumer_batch_size": 1, **fields})

    def trainer(
        self, *, run: str = "", attach: bool = False, update: bool = False, reopen: bool = False, **fields: Any
    ) -> Trainer:
        """Makes a trainer of the run; with `reopen` or `attach`, without a config."""
        config = None if attach or reopen else self.config(**fields)
        self.runs.add(run or self.run)
        made = Trainer(self.url, run or self.run, config, attach=attach, update=update, clock=self.clock)
        self._clients.append(made)
        return made

    def worker(self, *runs: str, **options: Any) -> Worker:
        """Makes a worker of the run, or of several runs; only `renew` renews its leases."""
        made = Worker(
            self.url, list(runs) or self.run, clock=self.clock, **{"heartbeat": False, "name": "w", **options}
        )
        self._clients.append(made)
        return made

    def raw_trainer(self, *, token: str = "", **fields: Any) -> RawTrainer:
        """Makes a trainer whose calls have numbers that the test chooses."""
        return RawTrainer(self, token or secrets.token_hex(8), self.config(**fields))

    def raw_worker(self, name: str = "w", lease_ms: int = 0) -> RawWorker:
        """Makes a worker whose claims have numbers that the test chooses."""
        return RawWorker(self, name, lease_ms)

    # -- raw calls ---------------------------------------------------------------------------------------------------

    def do(self, script_call: ScriptCall[Any]) -> Any:
        """Sends one script call and returns its value; raises its error."""
        (value,) = self.transport.execute([script_call])
        if isinstance(value, BrokerError):
            raise value
        return value

    def call(self, make: Callable[..., ScriptCall[Any]], *args: Any, **options: Any) -> Any:
        """Sends one script call of this run, at the lab's time."""
        return self.do(make(self.run, *args, now=self.now, **options))

    def command(self, *args: str | bytes | int) -> Any:
        """Sends one plain command."""
        return self.transport.command(*args)

    def key(self, name: str) -> str:
        """A key of the run."""
        return keys.key(self.run, name)

    # -- looking -----------------------------------------------------------------------------------------------------

    def row(self, task: str) -> TaskRow:
        """All that the run knows of a task, which must exist."""
        row = self.call(task_row.task, task)
        assert row is not None, f"{task} is unknown"
        return row

    def states(self) -> dict[str, str]:
        """The state of each task that the run knows, by id."""
        names = sorted(name.decode() for name in self.command("HKEYS", self.key("tasks")))
        return {name: self.row(name).state for name in names}

    def stat(self, name: str) -> int:
        """One number of the run's stats."""
        return int(self.call(anyone.stats)[name])

    def attempts_of(self, task: str) -> list[str]:
        """The newest attempt of each claimed slot."""
        return [slot.attempt_id for slot in self.row(task).slots]

    def result_keys(self) -> set[str]:
        """The attempts whose bytes are in the server."""
        prefix = self.key("result:")
        return {name.decode()[len(prefix) :] for name in self.command("KEYS", "*") if name.decode().startswith(prefix)}

    def marked(self, name: str = "wake") -> bool:
        """Whether the marker for blocked workers (`wake:ready`: trainers) is armed."""
        return self.command("EXISTS", self.key(name)) == 1

    def unmark(self, name: str = "wake") -> None:
        """Takes the marker, as a woken client does."""
        self.command("DEL", self.key(name))

    def dump(self, run: str = "") -> dict[str, Any]:
        """Every key of the run with its value."""
        prefix = keys.key(run or self.run, "")
        names = sorted(self.command("KEYS", keys.pattern_of_run(run or self.run)))
        kinds = self.transport.pipeline([("TYPE", name) for name in names])
        values = self.transport.pipeline([_read(name, kind) for name, kind in zip(names, kinds, strict=True)])
        found: dict[str, Any] = {}
        for name, kind, value in zip(names, kinds, values, strict=True):
            if kind in {b"hash", b"zset"}:
                value = dict(zip(value[::2], value[1::2], strict=True))
            found[name.decode()[len(prefix) :]] = value
        return found

    def transitions(self, run: str = "") -> list[Transition]:
        """The event log, in order: kind and words of each transition."""
        return [
            (kind, words.split())
            for page in Follower(self.command, run or self.run).pages()
            for event in page.events
            for kind, words in event.transitions
        ]

    def kinds(self) -> list[str]:
        """The kinds of the transitions, in order."""
        return [kind for kind, _ in self.transitions()]

    def history(self, run: str = "") -> History:
        """The event log, judged."""
        config = RunConfig.from_fields(self.do(anyone.stats(run or self.run)))
        return History(config, self.transitions(run))

    # -- the end -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Fails if counters, sets, records, result keys or the event log of a run contradict each other."""
        for run in sorted(self.runs):
            state = self.dump(run).get("state")
            if not self.checks_state or state is None or state.get(b"schema") != b"1":
                continue
            drift = {k: v for k, v in self.do(anyone.audit(run)).items() if v[0] != v[1]}
            assert not drift, f"counters of {run} drifted (stored, recomputed): {drift}"
            tasks = [name.decode() for name in self.command("HKEYS", keys.key(run, "tasks"))]
            for at in range(0, len(tasks), 1000):
                assert self.do(anyone.check(run, tasks[at : at + 1000])) == []
            assert leftovers(self.dump(run)) == []
            if state.get(b"admission") != b"1" and state.get(b"events_maxlen") != b"0":
                breaches = verify(self.transport, run, keeps_config=self.keeps_config).breaches
                assert not breaches, breaches

    def purge(self) -> None:
        """Deletes the runs, as `broker purge` does."""
        with Operator(self.url) as operator:
            for run in sorted(self.runs):
                if self.dump(run):
                    operator.purge(run)

    def close_clients(self) -> None:
        """Closes the trainers and workers; workers give their attempts back."""
        while self._clients:
            self._clients.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_clients()
        self.transport.close()
        if kind is not None:
            with open_transport(self.url, retry_for_s=5.0) as transport:
                for name in transport.command("KEYS", "rb1:*"):
                    transport.command("DEL", name)


class RawTrainer:
    """Sends a trainer's numbered calls, with numbers that the test chooses."""

    def __init__(self, lab: Lab, token: str, config: RunConfig) -> None:
        self.lab, self.token, self.config = lab, token, config
        self.number = 0
        self.opened: trainer.Opened = self.open()

    def open(self, *, update: bool = False) -> trainer.Opened:
        """Opens the run, or repeats that call."""
        return self.lab.call(trainer.open_run, self.token, self.config.to_fields(), update=update)

    def send(self, make: Callable[..., ScriptCall[Any]], *args: Any, number: int | None = None, **options: Any) -> Any:
        """Sends the next call; with `number`, the call of that number."""
        if number is None:
            self.number += 1
        call_id = trainer.trainer_call_id(self.token, self.number if number is None else number)
        return self.lab.call(make, call_id, *args, **options)

    def enqueue(self, *ids: str, samples: int = 1, min_samples: int | None = None, priority: int = 0) -> Any:
        """Adds tasks without payload."""
        least = samples if min_samples is None else min_samples
        options = TaskOptions(samples=samples, min_samples=least, priority=priority)
        return self.send(trainer.enqueue, [NewTask(name, b"", options) for name in ids])

    def take(self, step: int, n: int, *, limit: int = 500, seal: bool = True, short: bool = False) -> trainer.Taken:
        """Fills and seals a batch."""
        return self.send(trainer.take, step, n, limit=limit, seal=seal, short=short)

    def advance(self, step: int, digest: str = "-", *, allow_empty: bool = False) -> trainer.Advanced:
        """Acknowledges a batch; without a digest, an empty step."""
        return self.send(trainer.advance, step, digest, allow_empty=allow_empty or digest == "-")


class RawWorker:
    """Sends a session's calls with numbers that the test chooses."""

    def __init__(self, lab: Lab, name: str, lease_ms: int) -> None:
        self.lab = lab
        self.session: str = lab.call(worker.join, name, secrets.token_hex(4), lease_ms).session
        self.number = 0

    def claim(self, n: int = 1, *, number: int | None = None, random: str = "r1", **options: Any) -> worker.Claimed:
        """Sends the next claim; with `number`, the claim of that number."""
        if number is None:
            self.number += 1
        wanted = self.number if number is None else number
        return self.lab.call(worker.claim, self.session, wanted, n, random, **options)

    def take_one(self) -> str:
        """Claims one attempt, which must be there. Returns its id."""
        claimed = self.claim(1, random=f"r{secrets.token_hex(3)}")
        assert len(claimed.granted) == 1, claimed
        return claimed.granted[0].attempt_id

    def submit(self, attempt: str, body: bytes = b"x", *, verdict: Verdict = "accept", **options: Any) -> worker.Answer:
        """Submits one result or verdict."""
        policy = options.pop("policy", None)
        (answer,) = self.lab.call(
            result_bytes.submit_call, [worker.Submission(attempt, verdict, body, policy)], **options
        )
        return answer

    def release(self, *attempts: str) -> list[worker.Answer]:
        """Gives attempts back."""
        return self.lab.call(worker.release, attempts)

    def fail(self, attempt: str, *, may_retry: bool = True) -> worker.Answer:
        """Reports an error."""
        return self.lab.call(worker.fail, attempt, "boom", may_retry=may_retry)

    def renew(self, *held: str, number: int | None = None) -> worker.Renewed:
        """Sends a heartbeat."""
        return self.lab.call(worker.renew, self.session, self.number if number is None else number, held)

    def leave(self) -> bool:
        """Ends the session."""
        return self.lab.call(worker.leave, self.session)

    def work(self, n: int = 1) -> list[str]:
        """Claims up to n attempts and submits all. Returns their tasks."""
        granted = self.claim(n, random=f"r{secrets.token_hex(3)}").granted
        for one in granted:
            assert self.submit(one.attempt_id).word == "accepted"
        return [one.task for one in granted]


def _read(name: bytes, kind: bytes) -> tuple[str | bytes | int, ...]:
    """The command that reads a key of some type."""
    match kind:
        case b"hash":
            return ("HGETALL", name)
        case b"zset":
            return ("ZRANGE", name, 0, -1, "WITHSCORES")
        case b"set":
            return ("SMEMBERS", name)
        case b"stream":
            return ("XRANGE", name, "-", "+")
        case b"list":
            return ("LRANGE", name, 0, -1)
        case _:
            return ("GET", name)


def tasks(count: int, prefix: str = "t", **fields: Any) -> list[Task]:
    """Makes `count` tasks: `t0`, `t1`..."""
    return [Task(id=f"{prefix}{i}", **fields) for i in range(count)]


def run_one(one: Worker, result: Any = b"x") -> str:
    """Claims one attempt and submits a result. Returns the task."""
    (attempt,) = one.claim(1)
    assert one.submit(attempt, result).answer == "accepted"
    return attempt.task


def names_of(rollouts: Sequence[Any]) -> list[str]:
    """The tasks of rollouts, in order."""
    return [rollout.task for rollout in rollouts]
