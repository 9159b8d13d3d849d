"""One worker for several runs, such as training and evaluation, that names the weights it has loaded for each."""

import asyncio
import math
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from broker import Attempt, BadArgument, BrokerError, Policy, RunConfig, ServerUnavailable, Trainer, Worker, aio
from broker.connections.base import BaseTransport
from broker.errors import AuthenticationFailed
from broker.operator import Operator
from broker.protocol import keys
from tests.conformance.lab import Lab, tasks

Worked = Callable[[int], list[str]]


class Lanes:
    """A training run that is strict about weights, a lane for evaluation that is not, and both trainers."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.lab, self.train, self.evaluation = lab, f"{lab.run}/train", f"{lab.run}/eval"
        lab.runs.update((self.train, self.evaluation))
        lab.go_live()
        strict = RunConfig(consumer_batch_size=1, max_staleness=0, max_concurrent_rollouts=9)
        lax = RunConfig(consumer_batch_size=1, max_staleness=None, max_concurrent_rollouts=9)
        self.trainer = stack.enter_context(Trainer(lab.url, self.train, strict))
        self.evaluator = stack.enter_context(Trainer(lab.url, self.evaluation, lax))
        self.trainers = {self.train: self.trainer, self.evaluation: self.evaluator}

    @property
    def runs(self) -> list[str]:
        return [self.train, self.evaluation]

    def current(self, run: str) -> Policy:
        trainer = self.trainers[run]
        return Policy(version=trainer.version, epoch=trainer.epoch)


@pytest.fixture
def lanes(lab: Lab) -> Generator[Lanes]:
    with ExitStack() as stack:
        yield Lanes(lab, stack)


Opened = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(params=["sync", "aio"])
def opened(request: pytest.FixtureRequest, lanes: Lanes) -> Opened:
    """A worker of both runs by either client: `claim` and `submit` as of the synchronous one, and `policy`."""

    @contextmanager
    def made(**options: Any) -> Generator[Any]:
        if request.param == "sync":
            with Worker(lanes.lab.url, lanes.runs, **options) as worker:
                yield SimpleNamespace(worker=worker, claim=worker.claim, submit=worker.submit, release=worker.release)
            return
        hook = options.pop("on_weights_stale", None)
        if hook is not None:

            async def awaited(policy: Policy, blob: bytes | None, run: str) -> Policy | None:
                await asyncio.sleep(0)
                return hook(policy, blob, run)

            options["on_weights_stale"] = awaited
        with asyncio.Runner() as runner:
            worker = aio.Worker(lanes.lab.url, lanes.runs, **options)
            runner.run(worker.open())
            try:
                yield SimpleNamespace(
                    worker=worker,
                    claim=lambda *args, **more: runner.run(worker.claim(*args, **more)),
                    submit=lambda *args: runner.run(worker.submit(*args)),
                    release=lambda *args: runner.run(worker.release(*args)),
                )
            finally:
                runner.run(worker.close())

    return made


def test_training_and_evaluation_share_a_worker_that_names_its_weights(lanes: Lanes, opened: Opened):
    """What docs/operations.md proposes, with weights that grow old in the middle of it."""
    asked: list[tuple[str, int, bytes | None]] = []

    def load(policy: Policy, blob: bytes | None, run: str) -> Policy:
        asked.append((run, policy.version, blob))
        return policy

    lanes.trainer.enqueue(tasks(2, "train"))
    lanes.evaluator.enqueue(tasks(3, "eval"))
    with opened(policy={run: lanes.current(run) for run in lanes.runs}, on_weights_stale=load) as one:
        done: list[Attempt] = []
        for _ in range(2):
            (attempt,) = one.claim(1, timeout=20)
            assert one.submit(attempt, b"x").accepted
            done.append(attempt)
        assert [attempt.task for attempt in done] == ["train0", "eval0"]  # one of training has to wait for its step
        assert asked == []

        assert [rollout.task for rollout in lanes.trainer.next_batch(timeout=20)] == ["train0"]
        lanes.trainer.advance(b"weights of 1")
        for _ in range(3):
            (attempt,) = one.claim(1, timeout=20)
            assert one.submit(attempt, b"x").accepted
            done.append(attempt)
        assert {attempt.task for attempt in done} == {"train0", "train1", "eval0", "eval1", "eval2"}
        assert asked == [(lanes.train, 1, b"weights of 1")]
        by_task = {attempt.task: attempt.policy for attempt in done}
        assert by_task["train1"] == lanes.current(lanes.train)
        assert one.worker.policy == {run: lanes.current(run) for run in lanes.runs}


@pytest.mark.parametrize("stale", ["train", "evaluation"])
def test_a_run_whose_weights_are_stale_does_not_stop_the_other(lanes: Lanes, opened: Opened, stale: str):
    """This holds for either preferred run, and whether or not there are newer weights."""
    old, other = (lanes.train, lanes.evaluation) if stale == "train" else (lanes.evaluation, lanes.train)
    asked: list[str] = []
    loads = False

    def load(policy: Policy, _: bytes | None, run: str) -> Policy | None:
        asked.append(run)
        return policy if loads else None

    gone = Policy(version=0, epoch="1.of0another0history")
    with opened(policy={old: gone, other: lanes.current(other)}, on_weights_stale=load) as one:
        lanes.trainers[old].enqueue(tasks(1, "old"))
        for round_ in range(3):  # with work there, and waiting for it
            lanes.trainers[other].enqueue(tasks(1, f"other{round_}-"))
            (attempt,) = one.claim(1, timeout=20)
            assert attempt.run == other
            assert one.submit(attempt, b"x").accepted
            if other == lanes.train:
                assert lanes.trainer.next_batch(timeout=20)
                lanes.trainer.advance()
                one.worker.policy = {old: gone, other: lanes.current(other)}
        assert set(asked) <= {old}
        loads = True
        (attempt,) = one.claim(1, timeout=20)
        assert (attempt.run, attempt.policy, asked[-1]) == (old, lanes.current(old), old)
        assert one.submit(attempt, b"x").accepted


def test_a_hook_without_a_run_is_asked_for_each_run_that_is_stale(lanes: Lanes):
    """A hook without a parameter `run` works with several runs, too: it tells the runs apart by the epoch."""
    asked: list[Policy] = []

    def load(policy: Policy, blob: bytes | None, device: str = "cuda:0") -> Policy:
        assert (blob, device) == (None, "cuda:0")
        asked.append(policy)
        return policy

    gone = Policy(version=0, epoch="1.of0another0history")
    with Worker(lanes.lab.url, lanes.runs, policy=dict.fromkeys(lanes.runs, gone), on_weights_stale=load) as worker:
        for trainer in lanes.trainers.values():
            trainer.enqueue(tasks(1))
        got = {attempt.run for _ in range(2) for attempt in worker.claim(1, timeout=20)}
        assert got == set(lanes.runs)
    assert asked == [lanes.current(run) for run in lanes.runs]


def test_runs_that_are_left_out_have_no_named_weights(lanes: Lanes, opened: Opened):
    lanes.evaluator.enqueue(tasks(1))
    with opened(policy={lanes.train: lanes.current(lanes.train)}) as one:
        assert one.worker.policy == {lanes.train: lanes.current(lanes.train), lanes.evaluation: None}
        assert one.claim(1, timeout=20)[0].run == lanes.evaluation
        one.worker.policy = {}
        assert one.worker.policy is None
        with pytest.raises(TypeError):
            one.worker.policy = {lanes.train: lanes.current(lanes.train)}
            one.worker.policy[lanes.train] = None


def test_a_policy_that_cannot_be_meant_is_refused(lanes: Lanes, opened: Opened):
    """One for several runs names weights that only one of them can have."""
    policy = lanes.current(lanes.train)
    wrong: list[tuple[Any, str]] = [
        (policy, "each run has versions and epochs of its own"),
        ({"another": policy}, f"for runs of this worker .*{lanes.train}.*not for 'another'"),
        ({lanes.train: 3}, "broker.Policy"),
        (3, "policy"),
    ]
    for given, says in wrong:
        with pytest.raises(BadArgument, match=says), opened(policy=given):
            pass
    with opened() as one:
        for given, says in wrong:
            with pytest.raises(BadArgument, match=says):
                one.worker.policy = given
        assert one.worker.policy is None


def test_the_only_run_may_be_named_or_not(lanes: Lanes):
    policy = lanes.current(lanes.train)
    for given in (policy, {lanes.train: policy}):
        with Worker(lanes.lab.url, lanes.train, policy=given) as worker:
            assert worker.policy == policy


def test_a_worker_that_runs_a_handler_serves_both_lanes_with_a_hook_that_is_awaited(lanes: Lanes):
    """`run` of an asyncio worker ended in the middle where the hook was an `async def`."""

    async def scenario() -> None:
        loaded: list[str] = []
        there = asyncio.Event()

        async def load(policy: Policy, _: bytes | None, *, run: str) -> Policy:
            await asyncio.sleep(0.01)
            loaded.append(run)
            return policy

        async def handler(attempt: Attempt) -> bytes:
            if attempt.task == "last":
                there.set()
            return b"x"

        gone = Policy(version=0, epoch="1.of0another0history")
        policies = dict.fromkeys(lanes.runs, gone)
        async with aio.Worker(lanes.lab.url, lanes.runs, policy=policies, on_weights_stale=load) as worker:
            running = asyncio.create_task(worker.run(handler, concurrency=4))
            for trainer in lanes.trainers.values():
                await asyncio.to_thread(trainer.enqueue, tasks(1))
            for trainer in lanes.trainers.values():
                assert await asyncio.to_thread(trainer.next_batch, timeout=20)
            worker.stop()
            await running
        assert set(loaded) == set(lanes.runs)  # once a batch is sealed, no weights are new enough for the next one

    asyncio.run(scenario())


# -- one of several runs fails -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["train", "evaluation"])
def test_a_run_that_is_gone_takes_nothing_from_the_others(
    lanes: Lanes, opened: Opened, gone: str, caplog: pytest.LogCaptureFixture
):
    """Which of them is preferred does not matter. The one that is gone is served again when it is back."""
    away, other = (lanes.train, lanes.evaluation) if gone == "train" else (lanes.evaluation, lanes.train)
    lanes.trainers[other].enqueue(tasks(1, "other", samples=3))
    with opened() as one, Operator(lanes.lab.url) as operator:
        (held,) = one.claim(1, timeout=20)
        session = one.worker.sessions[other]
        operator.purge(away)
        for _ in range(2):
            (attempt,) = one.claim(1, timeout=20)
            assert attempt.run == other
            assert one.submit(attempt, b"x").accepted
        assert one.claim(1, timeout=0) == []
        assert one.worker.sessions == {away: "", other: session}
        assert caplog.text.count("waiting for the run to come back") == 1
        assert not held.cancelled
        assert one.submit(held, b"x").accepted
        with Trainer(lanes.lab.url, away, RunConfig(consumer_batch_size=1)) as again:
            again.enqueue(tasks(1, "back"))
            (attempt,) = one.claim(1, timeout=20)
            assert (attempt.run, attempt.task) == (away, "back0")


#: For how long each call was tried that failed, seconds; infinity: as long as the worker's patience lasts.
tried: list[float] = []


@pytest.fixture
def unanswered(monkeypatch: pytest.MonkeyPatch) -> dict[str, BrokerError]:
    """Errors by run: a call of such a run fails with it, as where the run's server in a cluster does."""
    errors: dict[str, BrokerError] = {}
    tried.clear()
    execute = BaseTransport.execute

    async def executed(self: BaseTransport, calls: Any, *options: Any) -> list[Any]:
        for call in calls:
            if (error := errors.get(keys.run_of(call.keys[0]) or "")) is not None:
                tried.append(*options or (math.inf,))
                raise error
        return await execute(self, calls, *options)

    monkeypatch.setattr(BaseTransport, "execute", executed)
    monkeypatch.setattr("broker.worker.lanes.NOT_ANSWERING_AGAIN_S", 0.3)
    return errors


AWAY = ServerUnavailable(url="redis+cluster://", seconds=30, error="10.0.0.1:6379: no answer")


@pytest.mark.parametrize("away", ["train", "evaluation"])
def test_a_run_whose_server_does_not_answer_takes_nothing_from_the_others(
    lanes: Lanes, opened: Opened, unanswered: dict[str, BrokerError], away: str, caplog: pytest.LogCaptureFixture
):
    gone, other = (lanes.train, lanes.evaluation) if away == "train" else (lanes.evaluation, lanes.train)
    lanes.trainers[other].enqueue(tasks(1, "other", samples=4))
    lanes.trainers[gone].enqueue(tasks(1, "gone"))
    with opened(heartbeat=False) as one:
        unanswered[gone] = AWAY
        for _ in range(3):
            (attempt,) = one.claim(1, timeout=20)
            assert attempt.run == other
            assert one.submit(attempt, b"x").accepted
        (attempt,) = one.claim(2, timeout=20)
        assert attempt.run == other
        assert caplog.text.count(f"goes on without the run {gone} for now") == 1
        assert one.claim(1, timeout=0.7) == []
        del unanswered[gone]
        (back,) = one.claim(1, timeout=20)
        assert back.run == gone
        assert one.submit(back, b"x").accepted
        assert one.submit(attempt, b"x").accepted


def test_where_no_runs_server_answers_it_is_an_error(lanes: Lanes, opened: Opened, unanswered: dict[str, BrokerError]):
    lanes.evaluator.enqueue(tasks(1))
    with opened(heartbeat=False) as one:
        unanswered.update(dict.fromkeys(lanes.runs, AWAY))
        for _ in range(2):  # the patience of one run is enough for all, each time
            with pytest.raises(ServerUnavailable):
                one.claim(1, timeout=20)
        assert tried == [math.inf, 1.0] * 2
        unanswered.clear()
        (attempt,) = one.claim(1, timeout=20)
        assert one.submit(attempt, b"x").accepted


def test_a_run_that_fails_after_another_has_the_whole_patience_too(
    lanes: Lanes, opened: Opened, unanswered: dict[str, BrokerError]
):
    lanes.evaluator.enqueue(tasks(2))
    with opened(heartbeat=False) as one:
        unanswered[lanes.train] = AWAY
        (attempt,) = one.claim(1, timeout=20)
        unanswered[lanes.evaluation] = AWAY
        with pytest.raises(ServerUnavailable):
            one.claim(1, timeout=20)
        assert sorted(tried) == [1.0, math.inf, math.inf]
        unanswered.clear()
        assert one.submit(attempt, b"x").accepted


def test_a_worker_of_one_run_has_its_whole_patience_in_each_claim(lanes: Lanes, unanswered: dict[str, BrokerError]):
    with Worker(lanes.lab.url, lanes.train, heartbeat=False) as worker:
        unanswered[lanes.train] = AWAY
        for _ in range(2):
            with pytest.raises(ServerUnavailable):
                worker.claim(1, timeout=20)
        assert tried == [math.inf, math.inf]
        unanswered.clear()


def test_a_permanent_failure_of_one_run_is_told_though_another_has_work(
    lanes: Lanes, opened: Opened, unanswered: dict[str, BrokerError]
):
    lanes.evaluator.enqueue(tasks(1))
    with opened(heartbeat=False) as one:
        unanswered[lanes.train] = AuthenticationFailed(url="redis://", error="no permissions")
        with pytest.raises(AuthenticationFailed):
            one.claim(1, timeout=20)
        unanswered.clear()
        (attempt,) = one.claim(1, timeout=20)
        assert one.submit(attempt, b"x").accepted


def test_what_is_held_in_the_other_runs_is_given_back_where_one_run_refuses(lanes: Lanes, opened: Opened):
    """The preferred run's state key has another type: every call there fails."""
    lanes.evaluator.enqueue(tasks(2, "eval"))
    lanes.trainer.enqueue(tasks(1, "train"))
    with opened() as one:
        train, *evaluation = one.claim(3, timeout=20)
        lanes.lab.command("DEL", keys.state(lanes.train))
        lanes.lab.command("SET", keys.state(lanes.train), "somebody else's")
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            one.release([train, evaluation[0]])
        assert lanes.evaluator.stats().pending == 1
    stats = lanes.evaluator.stats()
    assert (stats.sessions, stats.pending) == (0, 2)
    lanes.lab.command("DEL", keys.state(lanes.train))
