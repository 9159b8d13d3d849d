"""What must hold of the model's state after every call, whatever the calls were."""

from __future__ import annotations

from .state import Run, Task


def check(run: Run) -> None:
    """Raises AssertionError with the fault and its task."""
    in_batches: dict[str, int] = {}
    for batch in run.batches.values():
        for name in batch.tasks:
            assert name not in in_batches, f"G1: task {name} is in the batches {in_batches[name]} and {batch.step}"
            in_batches[name] = batch.step
    held: set[tuple[str, int]] = set()
    kept: set[str] = set()
    for task in run.tasks.values():
        _check_task(run, task)
        assert (task.state == "batched") == (task.id in in_batches), f"G1: {task}"
        assert task.state != "batched" or task.step == in_batches[task.id], f"G1: {task}"
        for index, slot in enumerate(task.slots):
            if slot.letter == "H":
                assert slot.session in run.sessions, f"held by a session that is gone: {task}"
                assert (task.id, index) not in held
                held.add((task.id, index))
            freed = task.state == "batched" and task.step is not None and run.batches[task.step].old
            if slot.letter == "D" and task.state in ("running", "ready", "batched") and not freed:
                kept.add(task.attempt_id(index))
    # There are also bytes of lost submits, until their TTL or the attempt's end.
    if run.recovering is None:
        assert kept <= run.results.keys(), f"results lost: {kept - run.results.keys()}"
    if run.config.waits and run.is_feasible and run.recovering is None:
        late = [
            task.id for task in run.tasks.values() if task.state in ("running", "ready") and run.too_old(task.oldest)
        ]
        assert not late, f"the mode wait: {late} became too old"
    assert run.version <= run.step_next <= run.version + 2, (run.version, run.step_next)
    limit = run.step_next if run.recovering is None else run.recover_limit
    for batch in run.batches.values():
        assert batch.sealed == (batch.step < limit), batch
        assert batch.size or not batch.sealed, batch


def _check_task(run: Run, task: Task) -> None:
    where = f"{task}"
    assert len(task.slots) == task.samples, where
    possible = task.samples - task.count("F")
    match task.state:
        case "pending" | "delayed":
            assert not task.has("HDWS"), where
            assert task.oldest is None, where
            assert task.first == 0, where
            assert possible >= task.min_samples, where
            assert (task.state == "delayed") == (task.due_ms > 0), where
        case "running":
            assert task.has("HD"), where
            assert task.has("OWH"), where
            assert not task.has("S"), where
            assert task.enough is None or task.count("D") < task.enough, where
            assert possible >= task.min_samples, where
            assert task.oldest is not None, where
            assert task.first > 0, where
        case "ready" | "batched":
            assert not task.has("OWH"), where
            assert task.count("D") >= task.min_samples, where
            assert not task.has("S") or task.count("D") == task.enough, where
        case "dead":
            assert task.errors > 0, where
        case "rejected":
            pass
    if task.oldest is not None:
        versions = [slot.policy[0] for slot in task.slots if slot.letter in "HD"]
        assert not versions or task.oldest <= min(versions), where
