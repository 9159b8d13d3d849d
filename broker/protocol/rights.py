"""Which commands the scripts call: the user of a client needs the right to each of them.

A script that meets a command which its user may not call ends there, and what it has written stays. So a client asks
first, with the script `rights`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from broker.protocol import keys
from broker.protocol.parsing import texts
from broker.protocol.script_call import Now, ScriptCall

#: Of every script that writes.
_WRITING = "HDEL HGET HMGET HSET PEXPIRE TIME UNLINK XADD ZADD ZCARD ZRANGE ZREM"
#: Of every script that only reads.
_READING = "HGET HMGET TIME ZCARD ZRANGE"
#: The other commands of each script that writes. A test compares them with the Lua files.
_OTHERS = {
    "admission_leave": "",
    "admission_open": "HLEN",
    "admission_report": "",
    "advance": "",
    "beat": "",
    "cancel": "ZSCORE",
    "claim": "HGETALL HKEYS ZCOUNT ZRANGEBYSCORE ZSCORE",
    "commit": "",
    "configure": "",
    "discard": "ZSCORE",
    "enqueue": "SISMEMBER SREM ZRANGEBYSCORE",
    "fail": "HGETALL HKEYS ZCOUNT ZRANGEBYSCORE ZSCORE",
    "finish": "",
    "forget": "SADD SISMEMBER ZSCORE",
    "join": "ZRANGEBYSCORE",
    "leave": "ZRANGEBYSCORE ZSCORE",
    "note_deleted": "",
    "note_ends": "INCR ZSCORE",
    "note_given": "",
    "note_status": "EXISTS HINCRBY INCR MSET PERSIST ZRANGEBYSCORE ZSCORE",
    "open": "",
    "pause": "HGETALL HKEYS ZRANGEBYSCORE",
    "prioritise": "",
    "readmit": "",
    "recover_begin": "HGETALL HKEYS",
    "recover_commit": "HKEYS",
    "recover_sweep": "EXISTS SADD SREM ZRANGEBYSCORE ZSCORE",
    "release": "ZRANGEBYSCORE ZSCORE",
    "renew": "ZMSCORE ZRANGEBYSCORE ZSCORE",
    "repair": "HLEN",
    "requeue": "HGETALL HKEYS ZCOUNT ZRANGEBYSCORE ZSCORE",
    "retry": "SISMEMBER ZRANGEBYSCORE",
    "submit": "EXISTS HINCRBY MSET PERSIST ZRANGEBYSCORE ZSCORE",
    "take": "HGETALL HKEYS MGET STRLEN ZCOUNT ZRANGEBYSCORE ZSCORE",
    "trim": "HEXISTS HGETALL HKEYS HLEN SADD",
}
#: The same for those that only read.
_OTHERS_READING = {
    "audit": "HLEN",
    "batch": "",
    "check": "ZSCORE",
    "explain": "HGETALL ZRANGEBYSCORE ZSCORE",
    "recover_preview": "EXISTS HGETALL",
    "stats": "HGETALL HLEN ZCOUNT ZRANGEBYSCORE",
    "task": "",
}
#: Of no script, but of the client itself: a worker sends the bytes of results ahead.
_BEFORE = {"submit": "SET"}

#: The scripts that only read.
READING = frozenset({*_OTHERS_READING, "rights"})

#: The scripts that a client is about to call when it calls the first of them: it asks about all of them at once.
ENTRIES: dict[str, tuple[str, ...]] = {
    "join": ("join", "claim", "renew", "submit", "fail", "release", "leave", "requeue"),
    "open": ("open", "beat", "enqueue", "take", "advance", "trim", "requeue"),
    "recover_begin": ("recover_begin", "recover_sweep", "recover_commit"),
    "admission_open": ("admission_open", "admission_report", "admission_leave"),
}


@cache
def commands(script: str) -> tuple[str, ...]:
    """The commands that a script calls, sorted; none of one that calls none."""
    if script in _OTHERS:
        return tuple(sorted(f"{_WRITING} {_OTHERS[script]} {_BEFORE.get(script, '')}".split()))
    if script in _OTHERS_READING:
        return tuple(sorted(f"{_READING} {_OTHERS_READING[script]}".split()))
    return ()


def writes(script: str) -> bool:
    """Whether a script writes, so that it must not be stopped on its way."""
    return script in _OTHERS


@cache
def needed(scripts: tuple[str, ...]) -> dict[str, str]:
    """The commands that some scripts call, with the first of the scripts that calls it."""
    found: dict[str, str] = {}
    for script in scripts:
        for command in commands(script):
            found.setdefault(command, script)
    return dict(sorted(found.items()))


def missing(run: str, asked: Iterable[str], *, now: Now = "") -> ScriptCall[Sequence[str]]:
    """Which of some commands the caller's user may not call on the run's keys: `denied ZADD`, `unknown ZADD`."""
    return ScriptCall("rights", (keys.state(run),), (now, *asked), texts)
