"""What `trim` may forget, and when. How much a call does is its choice: the model follows, and checks its right."""

from __future__ import annotations

from .breaker import streak
from .ghost import Ghost, require
from .state import Run, Task
from .view import View, unwanted_results


def follow_freed(run: Run, aside: View) -> None:
    """Bytes of batches two steps back may go at any time, and come again by a repeated submit, until the next trim."""
    for attempt in unwanted_results(run):
        if attempt in aside["stray"]:
            run.results.setdefault(attempt, aside["stray"][attempt][0])
        else:
            run.results.pop(attempt, None)


def drop_old_policies(run: Run, view: View) -> None:
    """Policies that nobody may use any more, because they are too old, may be kept or not."""
    for version in [version for version in view["policies"] if version not in run.policies and run.too_old(version)]:
        del view["policies"][version]


def follow_trim(run: Run, ghost: Ghost, view: View) -> None:
    """Removes from model and ghost what the server forgot; raises Violation where it was still needed."""
    gone = [run.tasks[name] for name in run.tasks.keys() - view["tasks"].keys()]
    for task in gone:
        require(_may_forget(run, view, task), f"G1: {task} was forgotten")
    for task in gone:
        del run.tasks[task.id]
        run.finished[task.id] = task.state != "batched"
        if task.state != "batched":
            run.count(f"freed_{task.state}")
        if task.step in run.batches and task.state == "batched":
            run.batches[task.step].tasks.remove(task.id)
        ghost.forget(task.id)
        ghost.settled.add(task.id)
    for step in [step for step, batch in run.batches.items() if batch.sealed and step not in view["sealed"]]:
        require(step < run.floor and not run.batches[step].tasks, f"G1: batch {step} was forgotten")
        del run.batches[step]
    for version in run.policies.keys() - view["policies"].keys():
        require(version < run.floor and run.too_old(version), f"G3: policy {version} was forgotten")
        del run.policies[version]


def _may_forget(run: Run, view: View, task: Task) -> bool:
    if task.state == "batched":
        return task.step is not None and task.step < run.floor
    if task.state not in ("dead", "rejected"):
        return False
    if task.step is not None and task.step >= run.floor:
        return False  # a recovery may bring it back
    if task.id in streak(run):
        return False  # it lives again where the run is halted
    kept = [run.tasks[name] for name in view[task.state]]
    older = all(task.ended_ms <= other.ended_ms for other in kept)
    return len(kept) >= run.config.max_finished and older
