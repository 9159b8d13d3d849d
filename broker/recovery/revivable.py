"""Dead tasks that are not finished: they died of failures that may halt the run, and then live again."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from broker.connections.base import BaseTransport
from broker.protocol import keys
from broker.protocol.parsing import texts
from broker.protocol.task_record import TaskRecord, task_record


async def may_live_again(
    io: BaseTransport, run: str, dead: Collection[str], before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, TaskRecord]:
    """The records of tasks that died since the last accepted result, or that lived again during a scan.

    Args:
        io: sends the commands.
        run: the run.
        dead: tasks that a scan found dead.
        before: the stored state before the scan.
        after: the same after it.
    """
    counts = bool(dead) and after.get("streak_results") == after.get("total_results", "0")
    streak = set(texts(await io.command("HKEYS", keys.key(run, "streak")))) if counts else set[str]()
    suspects = set(dead) if before.get("total_halts") != after.get("total_halts") else streak.intersection(dead)
    if not suspects:
        return {}
    raw: list[bytes | None] = await io.command("HMGET", keys.key(run, "tasks"), *suspects)
    records = {task: task_record(record) for task, record in zip(suspects, raw, strict=True) if record}
    version = int(after["version"])
    return {task: record for task, record in records.items() if task in streak or record.unfinished(version)}
