"""The numbers of a run, in one consistent look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from broker.inspection.times import buckets_of, lost_s, mean_s, quantile_s
from broker.values.config import RunConfig
from broker.values.model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping


class Stats(Model, frozen=True):
    """One consistent look at a run. Numbers are numbers of tasks unless said otherwise.

    Args:
        run: the run's name.
        version: the current version.
        step_next: the first step whose batch is not sealed.
        epoch: the trainer that holds the run, `<number>.<token>`.
        capacity: how many tasks may be started now; may be negative.
        accepted: trained and waiting to be trained, as the capacity formula counts them (docs/protocol.md, Capacity).
        running: started, and neither ready, nor ended, nor waiting again.
        held: samples that workers work on; None where `max_concurrent_samples` is not set, so that nobody counts them.
        pending: waiting to be started.
        delayed: waiting for their backoff to pass.
        open_slots: running tasks with open slots.
        ready: rollouts that are not in a batch.
        batched: size of the unsealed batch.
        due: with `on_stale="wait"`, the first tasks that the next batch waits for, because no later batch could hold
            them; empty while it waits for none.
        due_s: how long it has waited for these, in seconds.
        awaited: tasks that the last recovery named as missing, and that nobody has enqueued again or cancelled yet.
        consumed: trained on.
        dead: ended by errors, and still kept.
        rejected: refused, dropped or cancelled, and still kept.
        sessions: workers that have not left.
        lapsed: workers among these that have been silent for longer than their lease; claims take their attempts back.
        paused: "" (open), "paused" (no claims) or "draining" (open slots only).
        finished: somebody has said that the run is over.
        halted: after how many failures without an accepted result the run was halted; 0: it is not halted.
        halted_by: where the run was halted because all its workers were quarantined: the first 100 of these sessions.
        quarantined: workers that get no work for a while, because their attempts failed while others' succeeded.
        quarantine: of the first 20 of these, how many seconds are left, by session.
        recovering: the version that a recovery under way goes back to, or None.
        floor: the oldest version to which a recovery may go; 0 in a new run. A trainer's committed checkpoints raise
            the floor; without any, it follows the version at a distance of retention_steps. None is never stored.
        operator_checkpoints: versions of the newest checkpoints of operators that are still recoverable, newest first;
            nothing is kept for them.
        config: the stored configuration.
        totals: counts over the run's life, by name.
        generation_s: how long attempts were held whose results were accepted, over the run's life, in seconds: `p50`,
            `p90` and `p99`, right within 19%. Empty before the first result.
        timed: how many attempts these are.
        time_histogram: these attempts: bucket b has the number of those that took 2^(b/2) to 2^((b+1)/2) ms.
        lost_s: how long attempts generated in vain, over the run's life, in seconds by cause: how an attempt ended
            without a result (`expired`, `stale`, `surplus`, ...), or why an accepted result was thrown away since
            (`stale`, `filtered`, `revoked`, ...); `late`: what an attempt still generated after its end.
        mean_s: the mean length of attempts in seconds: `kept` of the results that are trained on or may be, `started`
            of all attempts that ended. What was cut off counts with the time that it had, so `started` is at least so
            long. If it is larger than `kept`, what is thrown away is longer than what is trained on.
        trainer_silent_s: how long ago the trainer gave its last sign of life, in seconds. A thread gives one every
            10 s, also while the trainer computes. None: none is known (a trainer of an earlier release).
        admission: the run holds no tasks: it counts processes that start rollouts by themselves (AReaL).
    """

    run: str
    version: int
    step_next: int
    epoch: str
    capacity: int
    accepted: int
    running: int
    held: int | None = None
    pending: int
    delayed: int
    open_slots: int = 0
    ready: int
    batched: int
    due: list[str] = Field(default_factory=list[str])
    due_s: float = 0.0
    awaited: int = 0
    consumed: int
    dead: int
    rejected: int
    sessions: int
    lapsed: int = 0
    paused: Literal["", "paused", "draining"] = ""
    finished: bool = False
    halted: int = 0
    halted_by: list[str] = Field(default_factory=list[str])
    quarantined: int = 0
    quarantine: dict[str, float] = Field(default_factory=dict[str, float])
    recovering: int | None = None
    floor: int | None = None
    operator_checkpoints: list[int] = Field(default_factory=list[int])
    config: RunConfig
    totals: dict[str, int] = Field(default_factory=dict[str, int])
    generation_s: dict[str, float] = Field(default_factory=dict[str, float])
    timed: int = 0
    time_histogram: dict[int, int] = Field(default_factory=dict[int, int])
    lost_s: dict[str, float] = Field(default_factory=dict[str, float])
    mean_s: dict[str, float] = Field(default_factory=dict[str, float])
    trainer_silent_s: float | None = None
    admission: bool = False

    def by_state(self) -> dict[str, int]:
        """How many tasks are in each state, by its name."""
        return {
            "pending": self.pending,
            "delayed": self.delayed,
            "running": self.running,
            "ready": self.ready,
            "batched": self.batched,
            "consumed": self.consumed,
            "dead": self.dead,
            "rejected": self.rejected,
        }


def _seconds_left(words: list[str]) -> dict[str, float]:
    return {session: int(left_ms) / 1000 for session, left_ms in zip(words[::2], words[1::2], strict=True)}


def _silent_s(stored: Mapping[str, str]) -> float | None:
    at_ms = stored.get("trainer_at")
    return None if not at_ms else max(0, int(stored["now"]) - int(at_ms)) / 1000


def _due(stored: Mapping[str, str]) -> tuple[list[str], float]:
    """For whom the next batch waits, and for how long: the field is `step since version first task ...`."""
    words = (stored.get("wait") or "").split()
    if len(words) < 5 or words[0] != stored.get("step_next"):
        return [], 0.0
    return words[4:], max(0, int(stored["now"]) - int(words[1])) / 1000


def stats_of(run: str, stored: Mapping[str, str]) -> Stats:
    """Stats from the fields that the script answers."""

    def number(name: str) -> int:
        return int(stored.get(name) or 0)

    buckets = buckets_of(stored)
    due, due_s = _due(stored)
    quantiles = {f"p{percent}": quantile_s(buckets, percent / 100) for percent in (50, 90, 99)}
    return Stats(
        run=run,
        version=number("version"),
        step_next=number("step_next"),
        epoch=stored["epoch"],
        capacity=number("capacity"),
        accepted=number("accepted"),
        running=number("running"),
        held=number("held") if stored.get("max_concurrent_samples") else None,
        pending=number("n_pending"),
        delayed=number("n_delayed"),
        open_slots=number("n_open"),
        ready=number("n_ready"),
        batched=number("open_size"),
        due=due,
        due_s=due_s,
        awaited=number("awaited"),
        consumed=number("total_consumed"),
        dead=number("n_dead"),
        rejected=number("n_rejected"),
        sessions=number("n_sessions"),
        lapsed=number("n_lapsed"),
        paused=stored.get("paused") or "",  # pyright: ignore[reportArgumentType] -- checked by the model
        finished=bool(stored.get("finished")),
        halted=number("halted"),
        halted_by=(stored.get("halted_by") or "").split() if stored.get("halted") else [],
        quarantined=number("n_quarantined"),
        quarantine=_seconds_left(stored.get("quarantined", "").split()),
        recovering=int(stored["recovering"]) if stored.get("recovering") else None,
        floor=number("floor"),
        operator_checkpoints=[
            int(version)
            for version in (stored.get("operator_checkpoints") or "").split()
            if int(version) >= number("floor")
        ],
        config=RunConfig.from_fields(stored),
        totals={
            name.removeprefix("total_"): int(value)
            for name, value in sorted(stored.items())
            if name.startswith("total_")
        },
        generation_s={name: round(seconds, 4) for name, seconds in quantiles.items() if seconds is not None},
        timed=sum(buckets.values()),
        time_histogram=dict(sorted(buckets.items())),
        lost_s=lost_s(stored),
        mean_s={name: round(seconds, 4) for name, seconds in mean_s(stored).items()},
        trainer_silent_s=_silent_s(stored),
        admission=stored.get("admission") == "1",
    )
