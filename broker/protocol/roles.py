"""What each role of a run may do on the server, as ACL rules: a worker, a trainer, a gateway, an observer, an admin.

A rule names the scripts that a role calls. The commands inside a script run with the caller's rights, so the user has
to have these, too, and may also call them by hand on the run's keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from broker.protocol import keys, rights, scripts

Name = Literal["trainer", "worker", "gateway", "observer", "admin"]

#: What every client sends beside its scripts: the greeting, and what a cluster or a numbered database needs.
_ALWAYS = "asking client|setname cluster|slots hello info ping script|load select"

_OF_WORKERS = (*rights.ENTRIES["join"], "rights", "stats")
#: What a trainer does, and the command line for it.
_OF_TRAINERS = (
    *rights.ENTRIES["open"],
    *rights.ENTRIES["recover_begin"],
    *rights.ENTRIES["admission_open"],
    "cancel",
    "commit",
    "configure",
    "discard",
    "finish",
    "forget",
    "pause",
    "prioritise",
    "readmit",
    "repair",
    "retry",
    *sorted(rights.READING),
)
_OF_GATEWAYS = (*_OF_WORKERS, *_OF_TRAINERS, "note_deleted", "note_ends", "note_given", "note_status")
#: Commands by which views read: events, lists of tasks, sizes.
_VIEWS = "hget hgetall hkeys hlen hmget hscan mget strlen xlen xrange xrevrange zcard zrange zrevrange"


@dataclass(frozen=True, slots=True)
class Role:
    """One role.

    Attributes:
        name: of the role.
        does: what it is for, in words.
        scripts: those that it calls; empty: all.
        commands: that it sends itself.
        only_reads: whether it may only read the keys.
    """

    name: Name
    does: str
    scripts: tuple[str, ...]
    commands: str
    only_reads: bool = False


ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role(
            "trainer",
            "opens the run, enqueues, takes batches, makes checkpoints and recovers; also a rank of AReaL",
            tuple(dict.fromkeys(_OF_TRAINERS)),
            f"{_VIEWS} bzpopmin function|load get getrange set",
        ),
        Role("worker", "claims, renews, submits", _OF_WORKERS, "bzpopmin set zadd"),
        Role(
            "gateway",
            "`broker gateway`: what a trainer and a worker may do, and the gateway's own keys",
            tuple(dict.fromkeys(_OF_GATEWAYS)),
            f"{_VIEWS} bzpopmin del function|load get getrange hdel hincrby hset hsetnx lindex lpush lrange lrem lset "
            "ltrim pexpire rpush set unlink zadd zcount zrangebyscore zrem zremrangebyscore zscan zscore",
        ),
        Role(
            "observer",
            "looks: status, explain, tail, audit, verify, metrics; writes nothing",
            tuple(sorted(rights.READING)),
            _VIEWS,
            only_reads=True,
        ),
        Role("admin", "everything on the keys of the run, purge and functions too", (), ""),
    )
}


def rules(role: Role, name: str, *, is_prefix: bool = False) -> list[str]:
    """The ACL rules of a role for Redis 7 and later, or Valkey, without the password.

    Scripts are named as this release calls them: after an upgrade the rules are made anew.

    Args:
        role: the role.
        name: of the run, or the beginning of the names of several runs.
        is_prefix: whether it is the beginning.
    """
    pattern = f"rb{keys.SCHEMA}:{{{name}*" if is_prefix else keys.pattern_of_run(name)
    where = f"%R~{pattern}" if role.only_reads else f"~{pattern}"
    if not role.scripts:
        return [where, "+@all", "-@admin", "-@dangerous", "+info", "+config|get", "+cluster|slots"]
    plain = {*_ALWAYS.split(), *role.commands.split()}
    if is_prefix and role.only_reads:
        plain.add("scan")  # `broker runs`: it reads the names of all keys on the server
    inside = {command.lower() for script in role.scripts for command in rights.commands(script)}
    return [where, *(f"+{command}" for command in sorted(plain | inside)), *_calls(role.scripts)]


def _calls(names: tuple[str, ...]) -> list[str]:
    """The rules that allow calls of scripts, as functions and by their hashes."""
    functions = scripts.library().functions
    allowed: list[str] = []
    for name in names:
        apart = "_ro" if name in rights.READING else ""
        allowed += [f"+fcall{apart}|{functions[name]}", f"+evalsha{apart}|{scripts.load(name, True).sha1}"]
    return allowed
