"""The events of a run in words, and as named fields.

An event is a kind and words. The protocol fixes the order of the words; this module gives them names.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import unquote

#: The names of the words of each kind of event. The last name takes all words that are left.
FIELDS: dict[str, tuple[str, ...]] = {
    "enqueue": ("task",),
    "start": ("task", "first"),
    "claim": ("attempt", "version", "epoch", "session"),
    "done": ("attempt", "newest"),
    "ready": ("task",),
    "batch": ("task", "step", "oldest"),
    "wait": ("step", "version", "tasks"),
    "seal": ("step", "size", "digest"),
    "advance": ("version", "epoch"),
    "requeue": ("task", "why"),
    "ended": ("attempt", "why"),
    "late": ("attempt", "answer", "by"),
    "lost": ("attempt", "cause", "ms"),
    "dead": ("task", "why"),
    "rejected": ("task", "why"),
    "freed": ("task", "state", "why"),
    "join": ("session",),
    "leave": ("session", "why"),
    "open": ("epoch",),
    "pause": ("mode",),
    "resume": (),
    "configure": ("before",),
    "priority": ("task", "priority"),
    "finish": (),
    "reopen": (),
    "halt": ("failures",),
    "halt_ended": ("failures",),
    "quarantine": ("session", "until"),
    "readmit": ("session",),
    "retry": ("task",),
    "repair": ("changes",),
    "commit": ("version", "floor"),
    "operator_commit": ("version", "floor"),
    "recover": ("version", "epoch"),
    "recovered": ("version", "epoch"),
}

_SENTENCES = {
    "enqueue": "task {task} was enqueued",
    "start": "task {task} started, as number {first}",
    "claim": "{session} claimed {attempt} with version {version} of epoch {epoch}",
    "done": "{attempt} was accepted, newest version {newest}",
    "ready": "task {task} is ready",
    "batch": "task {task} is in the batch of step {step}, oldest version {oldest}",
    "wait": "the batch of step {step} waits for tasks of version {version} or older: {tasks}",
    "seal": "the batch of step {step} is sealed with {size}, digest {digest}",
    "advance": "version {version}, made in epoch {epoch}",
    "requeue": "task {task} went back to waiting: {why}",
    "ended": "{attempt} ended: {why}",
    "late": "{attempt} came late and was refused: {answer}",
    "lost": "{attempt} was generated in vain for {ms} ms: {cause}",
    "dead": "task {task} is dead: {why}",
    "rejected": "task {task} is rejected: {why}",
    "freed": "task {task}, which was {state}, is forgotten; why it was: {why}",
    "join": "worker session {session} joined",
    "leave": "worker session {session} left: {why}",
    "open": "a trainer opened the run with epoch {epoch}",
    "pause": "the run is {mode}",
    "resume": "tasks are handed out again",
    "configure": "the config was changed, before it was: {before}",
    "priority": "task {task} has the priority {priority} now",
    "finish": "the run is finished",
    "reopen": "the finished run is open again",
    "halt": "the run is halted: {failures} failures without an accepted result",
    "quarantine": "worker session {session} is quarantined until {until} ms of the run's clock",
    "readmit": "worker session {session} is let out of quarantine",
    "halt_ended": "the halt after {failures} failures has ended",
    "retry": "task {task} starts over",
    "repair": "counters were rewritten (name, before, after): {changes}",
    "commit": "a checkpoint of version {version} is committed, the oldest that is recoverable is {floor}",
    "operator_commit": "an operator wrote a checkpoint of version {version}, the oldest recoverable one stays {floor}",
    "recover": "a recovery to version {version} began, with epoch {epoch}",
    "recovered": "the run goes on from version {version}, with epoch {epoch}",
}


def named(kind: str, words: Sequence[str]) -> dict[str, str]:
    """The words of an event by name; words of a kind that this version does not know are one field, `words`."""
    names = FIELDS.get(kind)
    if names is None:
        return {"words": " ".join(words)} if words else {}
    if len(words) > len(names) > 0:
        words = [*words[: len(names) - 1], " ".join(words[len(names) - 1 :])]
    fields = dict(zip(names, words, strict=False))
    if "why" in fields:  # free text of a worker or trainer, percent-encoded into one word
        fields["why"] = unquote(fields["why"])
    return fields


def sentence(kind: str, words: Sequence[str]) -> str:
    """An event as a sentence."""
    fields = named(kind, words)
    template = _SENTENCES.get(kind)
    if template is None or len(fields) < len(FIELDS[kind]):
        return " ".join(words)
    text = template.format_map(fields)
    if kind == "late" and fields["by"] not in ("", "-"):
        text += f" by {fields['by']}"
    return text


def clock(at_ms: int) -> str:
    """A moment as local time of day with milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]
