"""Tasks that ended without being trained on: dead and rejected ones, as answers and errors tell of them."""

from __future__ import annotations

from typing import Any

from broker.connections.base import BaseTransport
from broker.errors import Exhausted
from broker.protocol import anyone, keys
from broker.protocol.parsing import text
from broker.trainer.state import TrainerState

#: Tasks whose reasons are looked at, the newest ones, and how many reasons an error tells, each of so many characters.
_LOOKED_AT, _TOLD, _CHARS = 20, 3, 100


async def exhausted(state: TrainerState, *, left: int, step: int, n: int) -> Exhausted:
    """The error that says that fewer tasks are left than a batch needs, and what became of the others."""
    fields: dict[str, Any] = {"left": left, "step": step, "n": n}
    stored: dict[str, str] = await state.io.call(anyone.stats(state.run, now=state.now))
    dead, rejected = int(stored["n_dead"]), int(stored["n_rejected"])
    freed = int(stored.get("total_freed_dead") or 0) + int(stored.get("total_freed_rejected") or 0)
    if not (dead or rejected or freed):
        return Exhausted(**fields)
    fields |= {"run": state.run, "dead": dead, "rejected": rejected}
    if freed:
        fields["freed"] = freed
    reasons = await _reasons(state.io, state.run, "dead" if dead else "rejected")
    return Exhausted(**fields, reasons=", ".join(reasons) or "their records are freed")


async def _reasons(io: BaseTransport, run: str, kind: str) -> list[str]:
    """Why the newest of them ended: each reason once, the newest first."""
    ids: list[bytes] = await io.command("ZREVRANGE", keys.key(run, kind), 0, _LOOKED_AT - 1)
    if not ids:
        return []
    found: list[bytes | None] = await io.command("HMGET", keys.key(run, "reasons"), *ids)
    reasons = dict.fromkeys(text(why) for why in found if why)
    return [ascii(why[:_CHARS]) for why in list(reasons)[:_TOLD]]
