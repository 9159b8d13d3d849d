"""Scripts compute some values once for a call, or once for all calls of a run. They never use an outdated value."""

import pytest

from broker.errors import BadArgument
from broker.protocol import anyone, result_bytes
from broker.protocol import trainer as calls
from broker.protocol.task_options import TaskOptions
from broker.protocol.trainer import NewTask
from broker.protocol.worker import Submission
from tests.conformance.lab import Lab


def test_calls_of_runs_on_one_server_take_turns(lab: Lab):
    """Names of keys are made once for a run, where scripts are functions. Mutants: constants_of_*."""
    runs = [f"{lab.run}/{i}" for i in range(3)]
    lab.runs.update(runs)
    trainers, workers, attempts = {}, {}, {}
    for run in runs:
        lab.run = run
        trainers[run], workers[run] = lab.raw_trainer(consumer_batch_size=1), lab.raw_worker()
    for run in runs:
        lab.run = run
        trainers[run].enqueue(f"task-of-{run[-1]}")
    for run in runs:
        lab.run = run
        attempts[run] = workers[run].take_one()
    for run in reversed(runs):
        lab.run = run
        assert workers[run].renew(attempts[run]).abandon == {}
    for run in runs:
        lab.run = run
        assert workers[run].submit(attempts[run]).word == "accepted"
    for run in runs:
        lab.run = run
        taken = trainers[run].send(calls.take, 0, 1, limit=9, seal=True, rows=1, result_bytes=9)
        assert ([row.task for row in taken.rows], taken.results) == ([f"task-of-{run[-1]}"], (b"x",))
        trainers[run].enqueue(f"next-of-{run[-1]}")
        assert lab.states() == {f"task-of-{run[-1]}": "sealed", f"next-of-{run[-1]}": "pending"}
    # Then the lab's check finds each task in the sets of its own run.


def test_a_task_that_was_never_claimed_has_nothing_of_another_one(lab: Lab):
    """Tables of records are used again by the next call. Mutants: slots_of_records_of_earlier_calls."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    trainer.enqueue("claimed")
    for _ in range(3):
        (answer,) = worker.release(worker.take_one())
        assert answer.word == "released"
    trainer.enqueue("new", priority=1)
    assert worker.take_one().startswith("new#0.1.")


@pytest.mark.parametrize("by", ["renew", "submit", "claim"])
def test_what_is_too_old_is_judged_anew_by_each_call(lab: Lab, by: str):
    """Also within one millisecond, and right after a call of a run whose next step is another.

    Mutants: too_old_kept_over_calls.
    """
    run, young_run = lab.run, f"{lab.run}/young"
    lab.runs.add(young_run)
    config = {"consumer_batch_size": 4, "max_staleness": 1, "staleness_limit": 1, "max_concurrent_rollouts": 9}
    lab.run = young_run
    young_trainer, young_worker = lab.raw_trainer(**config), lab.raw_worker()
    young_trainer.enqueue("t")
    young = young_worker.take_one()
    lab.run = run
    trainer, worker = lab.raw_trainer(**config), lab.raw_worker()
    trainer.enqueue("t", samples=3)
    held = [one.attempt_id for one in worker.claim(2).granted]
    trainer.advance(0)
    trainer.advance(1)
    lab.run = young_run
    assert young_worker.renew(young).abandon == {}
    lab.run = run

    match by:
        case "renew":
            assert worker.renew(*held).abandon == dict.fromkeys(held, "stale")
        case "submit":
            assert worker.submit(held[0]).word == "stale"
        case _:
            assert [one.slot for one in worker.claim(3, random="r2").granted] == [0, 1, 2]

    assert lab.row("t").stale_requeues == 1
    lab.run = young_run
    assert young_worker.renew(young).abandon == {}
    lab.run = run


@pytest.mark.parametrize("good_first", [True, False])
@pytest.mark.parametrize("wrong", ["epoch", "version"])
def test_each_policy_in_a_call_is_judged_by_itself(lab: Lab, wrong: str, good_first: bool):
    """Mutants: policies_known_by_version, policies_known_by_epoch."""
    trainer = lab.raw_trainer(consumer_batch_size=9, max_staleness=9, max_concurrent_rollouts=9)
    worker = lab.raw_worker()
    trainer.enqueue("a", "b")
    epochs = [trainer.opened.epoch]
    trainer.advance(0)
    successor = lab.raw_trainer(token="successor", consumer_batch_size=9, max_staleness=9, max_concurrent_rollouts=9)
    epochs.append(successor.opened.epoch)
    successor.advance(1)
    successor.advance(2)
    attempts = [one.attempt_id for one in worker.claim(2).granted]
    good = (1, epochs[0])
    bad = (1, epochs[1]) if wrong == "epoch" else (2, epochs[0])
    policies = [good, bad] if good_first else [bad, good]

    answers = lab.call(
        result_bytes.submit_call,
        [Submission(attempt, "accept", b"x", policy) for attempt, policy in zip(attempts, policies, strict=True)],
    )

    assert [answer.word for answer in answers] == (["accepted", "stale"] if good_first else ["stale", "accepted"])


def test_each_task_of_a_call_has_its_own_numbers(lab: Lab):
    """Mutants: options_of_the_task_before."""
    trainer = lab.raw_trainer()
    given = [(7, 3, 2), (7, 3, 1), (7, 4, 2), (-7, 3, 2), (0, 1, 1), (7, 3, 2), (0, 12, 1), (0, 1, 1)]
    trainer.send(
        calls.enqueue,
        [
            NewTask(f"t{i}", b"", TaskOptions(samples=samples, min_samples=least, priority=priority))
            for i, (priority, samples, least) in enumerate(given)
        ],
    )
    rows = [lab.row(f"t{i}") for i in range(len(given))]
    assert [(row.priority, row.samples, row.min_samples) for row in rows] == given


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(
    ("priority", "samples", "least"), [(1_001, 3, 2), (-1_001, 3, 2), (7, 3, 4), (7, 3, 0), (7, 0, 0), (7, 1_025, 2)]
)
def test_one_task_with_bad_numbers_refuses_the_call(lab: Lab, priority: int, samples: int, least: int, position: int):
    """Wherever it stands among good ones. Mutants: only_the_first_options_checked, min_samples_may_exceed_samples."""
    trainer = lab.raw_trainer()
    given = [NewTask(f"t{i}", b"", TaskOptions(samples=3, min_samples=2, priority=7)) for i in range(2)]
    given.insert(position, NewTask("bad", b"", TaskOptions(samples=samples, min_samples=least, priority=priority)))
    with pytest.raises(BadArgument):
        trainer.send(calls.enqueue, given)
    assert lab.call(anyone.stats)["n_pending"] == "0"
    assert lab.states() == {}
