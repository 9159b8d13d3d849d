"""The picture of a run for a terminal: what it does, how fast, what holds it up, who works on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from broker.cli.drawing import as_sentence, grid, name_list, sparkline, window
from broker.errors.words import count, duration
from broker.inspection import transitions
from broker.inspection.capacity import terms_of
from broker.inspection.history import History, ended, left, results, waste
from broker.inspection.reasons import next_claim, untrained
from broker.inspection.situation import situation
from broker.inspection.times import compared, quantiles_told
from broker.protocol.ids import attempt_id, worker_of

if TYPE_CHECKING:
    from broker.inspection.explanation import Explanation
    from broker.inspection.stats import Stats
    from broker.inspection.timeline import Timeline
    from broker.protocol.anyone import HeldRow, SessionRow

#: From this width on the numbers stand in two columns.
_WIDE = 96
#: Lines of each list, where the terminal does not say how high it is.
_LINES = 5
#: The most versions behind that the bars show.
_BEHIND = 6
_BINDING = {
    "none": "capacity is open",
    "samples": "max_concurrent_samples binds",
    "concurrency": "max_concurrent_rollouts binds",
    "staleness": "max_staleness binds",
}


@dataclass(slots=True)
class Cursor:
    """What the keys have selected.

    Attributes:
        of: the list: `workers` or `slots`.
        row: the place in it.
        is_open: whether the selected row is shown with all that is known.
        from_list: whether the run was opened from the list of all runs.
    """

    of: str = "workers"
    row: int = 0
    is_open: bool = False
    from_list: bool = False


def picture(
    explanation: Explanation, history: History, timeline: Timeline, cursor: Cursor, *, width: int, lines: int = _LINES
) -> RenderableType:
    """The picture.

    Args:
        explanation: the newest look.
        history: this look and those before it.
        timeline: of the event log.
        cursor: what is selected.
        width: of the terminal, in columns.
        lines: of each list.
    """
    stats = explanation.stats
    parts: list[RenderableType] = [_heading(stats), _what_goes_on(explanation), _progress(history, stats, width)]
    numbers, rates = _numbers(explanation), _rates(history, stats, timeline, width)
    if width >= _WIDE:
        both = Table.grid(expand=True, padding=(0, 2))
        both.add_column(ratio=1)
        both.add_column(ratio=1)
        both.add_row(numbers, rates)
        parts.append(both)
    else:
        parts += [numbers, rates]
    if not stats.admission:
        parts += [_workers(explanation, timeline, cursor, lines, width), _slots(explanation, cursor, lines, width)]
    if cursor.is_open:
        parts.append(_detail(explanation, cursor))
    parts.append(_last(timeline, lines))
    back = "   esc back" if cursor.from_list else ""
    parts.append(Text(f"q quit{back}   tab list   ↑ ↓ select   enter details", style="dim"))
    return Group(*parts)


def _heading(stats: Stats) -> Text:
    text = Text(f"run {stats.run}", style="bold", overflow="fold")
    text.append(f"   version {stats.version}, next step {stats.step_next}", style="not bold")
    return text


def _what_goes_on(explanation: Explanation) -> Text:
    found, claim = situation(explanation), next_claim(explanation)
    style = {"working": "green", "finished": "green"}.get(found.word, "yellow")
    if found.word in ("halted", "no_worker", "quarantined"):
        style = "bold red"
    text = Text(as_sentence(found.sentence), style=style)
    if claim.reason != "open" and found.word != "finished":
        text.append(f"\n{as_sentence(claim.sentence)}", style="default")
        for remedy in claim.remedies[:2]:
            text.append(f"\n- {remedy}", style="dim")
    for sentence in untrained(explanation.stats)[:1]:
        text.append(f"\n{sentence}", style="dim")
    return text


def _progress(history: History, stats: Stats, width: int) -> RenderableType:
    if stats.admission:
        return Text("")
    progress = history.progress()
    if not progress.ended + progress.left:
        return Text("no task has been enqueued", style="dim")
    when = "" if progress.left_s is None or not progress.left else f", about {duration(progress.left_s)} left"
    told = f"{progress.share:4.0%}  {progress.ended:,} of {progress.ended + progress.left:,} tasks ended{when}"
    row = Table.grid(padding=(0, 1))
    row.add_row(
        Bar(1.0, 0.0, progress.share, width=max(8, min(30, width - len(told) - 2)), color="green", bgcolor="grey30"),
        told,
    )
    return row


def _numbers(explanation: Explanation) -> RenderableType:
    stats, terms = explanation.stats, terms_of(explanation.stats)
    connected = stats.sessions - stats.lapsed
    silent = f", {stats.lapsed:,} silent" if stats.lapsed else ""
    rows: list[tuple[str, RenderableType]] = [
        ("capacity", f"{stats.capacity:,}: {_BINDING[terms.binding]}"),
        ("processes" if stats.admission else "workers", f"{connected:,} connected{silent}"),
    ]
    if stats.admission:
        rows.append(("running", f"{stats.running:,}"))
        return grid(rows)
    holding = explanation.holding
    rows += [
        ("slots held", f"{holding.held:,} by {count(holding.busy, 'worker')}"),
        ("waiting", f"{stats.pending:,}" + (f", and {stats.delayed:,} after an error" if stats.delayed else "")),
        ("running", f"{stats.running:,}"),
        ("ready", f"{stats.ready + stats.batched:,} of {stats.config.batch_size:,}"),
        ("trained on", f"{stats.consumed:,}"),
        ("dead, rejected", f"{stats.dead:,}, {stats.rejected:,}"),
    ]
    silent_s = stats.trainer_silent_s
    if silent_s is not None:
        rows.append(("trainer's sign", f"{duration(silent_s)} ago"))
    return grid(rows)


def _rates(history: History, stats: Stats, timeline: Timeline, width: int) -> RenderableType:
    columns = max(8, min(24, width - 40))
    rows: list[tuple[str, RenderableType]] = []
    counts = (("results", results), ("tasks ended", ended)) if not stats.admission else (("accepted", results),)
    for name, of in counts:
        rate = history.rate(of)
        told_rate = "-" if rate is None else f"{rate * 60:,.1f}/min" if rate < 10 else f"{rate:,.0f}/s"
        rows.append((name, Text(f"{sparkline(history.course(of, columns))} {told_rate}", style="cyan")))
    if stats.generation_s:
        rows.append(("accepted took", quantiles_told(stats.generation_s)))
    if lost := waste(stats):
        rows.append(("in vain", ", ".join(f"{number:,} {words}" for words, number in lost.items())))
    if stats.lost_s:
        rows.append(("time lost", ", ".join(f"{cause} {duration(seconds)}" for cause, seconds in stats.lost_s.items())))
    staleness = timeline.staleness()
    for behind in sorted(staleness)[:_BEHIND]:
        share = staleness[behind] / staleness.total()
        bar = Table.grid(padding=(0, 1))
        bar.add_row(Bar(1.0, 0.0, share, width=max(6, columns - 6), color="cyan"), f"{share:4.0%}")
        rows.append((f"{behind} behind", bar))
    return grid(rows)


def workers_in_order(explanation: Explanation) -> list[SessionRow]:
    """The listed workers: those that hold most first."""
    return sorted(explanation.sessions, key=lambda row: (-row.held, row.session))


def slots_in_order(explanation: Explanation) -> list[HeldRow]:
    """The listed slots: those held longest first."""
    return sorted(explanation.held, key=lambda row: row.at_ms)


def _held_since(explanation: Explanation, timeline: Timeline) -> dict[str, int]:
    """Since when each session has held its oldest attempt; of a session that holds nothing, none."""
    since = {row.session: row.at_ms for row in reversed(slots_in_order(explanation))}
    for held in timeline.held.values():
        since[held.session] = min(held.since_ms, since.get(held.session, held.since_ms))
    return {row.session: since[row.session] for row in explanation.sessions if row.held and row.session in since}


def _failed(timeline: Timeline, session: str) -> str:
    """How many of a session's attempts failed, as far as the event log goes."""
    seen = timeline.workers.get(session)
    if seen is None or not seen.done + seen.failed:
        return "-"
    return f"{seen.failed / (seen.failed + seen.done):.0%} of {seen.failed + seen.done:,}"


def _workers(explanation: Explanation, timeline: Timeline, cursor: Cursor, lines: int, width: int) -> RenderableType:
    rows, since, now_ms = workers_in_order(explanation), _held_since(explanation, timeline), explanation.now_ms
    at = min(cursor.row, max(0, len(rows) - 1)) if cursor.of == "workers" else 0
    shown = window(len(rows), at, lines)
    cells = [
        (
            worker_of(row.session),
            f"{row.held}",
            duration(max(0, now_ms - since[row.session]) / 1000) if row.session in since else "-",
            _failed(timeline, row.session),
            _worker_state(explanation, row),
        )
        for row in (rows[i] for i in shown)
    ]
    more = max(0, explanation.stats.sessions - len(cells))
    title = "workers" + (f", and {more:,} more" if more else "")
    selected = shown.index(at) if cursor.of == "workers" and rows else None
    return name_list(title, ("name", "holds", "for", "failed", "last claim"), cells, selected, width=width)


def _worker_state(explanation: Explanation, row: SessionRow) -> str:
    if row.deadline_ms <= explanation.now_ms:
        return "silent"
    quarantined = explanation.stats.quarantine.get(row.session)
    if quarantined is not None:
        return f"quarantined for {duration(quarantined)}"
    return {None: "-", "": "got all"}.get(row.reason, row.reason or "")


def _slots(explanation: Explanation, cursor: Cursor, lines: int, width: int) -> RenderableType:
    rows, stats = slots_in_order(explanation), explanation.stats
    at = min(cursor.row, max(0, len(rows) - 1)) if cursor.of == "slots" else 0
    shown = window(len(rows), at, lines)
    cells: list[tuple[str, str, str]] = []
    for row in (rows[i] for i in shown):
        held_s = (explanation.now_ms - row.at_ms) / 1000
        slow = compared(held_s, stats.generation_s.get("p50"), stats.timed)
        cells.append(
            (attempt_id(row.attempt_id).task, worker_of(row.session), duration(held_s) + (f", {slow}" if slow else ""))
        )
    more = max(0, explanation.holding.held + explanation.holding.lost - len(cells))
    title = "held longest" + (f", and {more:,} slots more" if more else "")
    selected = shown.index(at) if cursor.of == "slots" and rows else None
    return name_list(title, ("task", "worker", "for"), cells, selected, width=width, names=2)


def _detail(explanation: Explanation, cursor: Cursor) -> RenderableType:
    """All that is known of the selected row."""
    rows: list[tuple[str, RenderableType]] = []
    if cursor.of == "workers":
        sessions = workers_in_order(explanation)
        if not sessions:
            return Text("no worker", style="dim")
        row = sessions[min(cursor.row, len(sessions) - 1)]
        sign_s = (explanation.now_ms - row.deadline_ms + row.lease_ms) / 1000
        held = [slot.attempt_id for slot in slots_in_order(explanation) if slot.session == row.session]
        rows = [
            ("session", Text(row.session, overflow="fold")),
            ("last sign of life", f"{duration(max(0.0, sign_s))} ago, its lease is {duration(row.lease_ms / 1000)}"),
            ("last claim", _worker_state(explanation, row)),
            ("holds", Text("\n".join(held[:10]) or f"{row.held}", overflow="fold")),
        ]
    else:
        slots = slots_in_order(explanation)
        if not slots:
            return Text("no slot is held", style="dim")
        slot = slots[min(cursor.row, len(slots) - 1)]
        rows = [
            ("attempt", Text(slot.attempt_id, overflow="fold")),
            ("session", Text(slot.session, overflow="fold")),
            ("version", f"{slot.version}"),
            ("more", f"broker dead {explanation.stats.run} show {attempt_id(slot.attempt_id).task}"),
        ]
    return grid(rows)


def _last(timeline: Timeline, lines: int) -> RenderableType:
    text = Text("last transitions", style="bold", no_wrap=True, overflow="ellipsis")
    for told in islice(reversed(timeline.transitions), lines):
        line = f"\n{transitions.clock(told.at_ms)[:8]}  {transitions.sentence(told.kind, told.words.split())}"
        text.append(line, style="not bold")
    return text


def overview(rows: Sequence[tuple[Stats, History]], selected: int, *, width: int) -> RenderableType:
    """All runs of a server, with the selected one, in so many columns."""
    cells: list[tuple[str, ...]] = []
    for stats, history in rows:
        rate = history.rate(results)
        state = "finished" if stats.finished else "halted" if stats.halted else stats.paused or "open"
        told = "-" if rate is None else f"{rate * 60:,.0f}/min"
        cells.append(
            (stats.run, f"{stats.version}", f"{stats.sessions - stats.lapsed}", f"{left(stats):,}", told, state)
        )
    title = f"{count(len(rows), 'run')}"
    columns = ("run", "version", "workers", "left", "results", "state")
    table = name_list(title, columns, cells, min(selected, len(rows) - 1) if rows else None, width=width)
    return Group(table, Text("q quit   ↑ ↓ select   enter open", style="dim"))
