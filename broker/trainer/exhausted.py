"""Makes the error Exhausted: how many tasks are left, and why the others ended untrained."""

from __future__ import annotations

from typing import Any

from broker.connections.base import BaseTransport
from broker.errors import Exhausted
from broker.protocol import anyone, keys
from broker.protocol.parsing import text
from broker.trainer.state import TrainerState

#: How many tasks are asked for their reasons (the newest), how many reasons an error shows, and characters of each.
_LOOKED_AT, _TOLD, _CHARS = 20, 3, 100


async def exhausted(state: TrainerState, *, left: int, step: int, n: int) -> Exhausted:
    """The error of a run with fewer tasks left than a batch needs; it says what became of the other tasks."""
    fields: dict[str, Any] = {"left": left, "step": step, "n": n}
    stored: dict[str, str] = await state.io.call(anyone.stats(state.run, now=state.now))
    dead, rejected = int(stored["n_dead"]), int(stored["n_rejected"])
    freed = int(stored.get("total_freed_dead") or 0) + int(stored.get("total_freed_rejected") or 0)
    if stored.get("supply") == "interrupted":
        fields["supply"] = "interrupted"
    if not (dead or rejected or freed):
        return Exhausted(**fields)
    fields |= {"run": state.run, "dead": dead, "rejected": rejected}
    if freed:
        fields["freed"] = freed
    reasons = await _reasons(state.io, state.run, "dead" if dead else "rejected")
    return Exhausted(**fields, reasons=", ".join(reasons) or "their records are freed")


async def _reasons(io: BaseTransport, run: str, kind: str) -> list[str]:
    """Why the newest dead and rejected tasks ended: each reason once, the newest first."""
    ids: list[bytes] = await io.command("ZREVRANGE", keys.key(run, kind), 0, _LOOKED_AT - 1)
    if not ids:
        return []
    found: list[bytes | None] = await io.command("HMGET", keys.key(run, "reasons"), *ids)
    reasons = dict.fromkeys(text(why) for why in found if why)
    return [ascii(why[:_CHARS]) for why in list(reasons)[:_TOLD]]
