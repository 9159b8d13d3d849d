"""Names of the keys of a run; no other module makes one.

All keys of a run share one hash tag, so that a run lives in one slot of Redis Cluster. The Lua side derives the same
names from the state key
(`lua/include/frame.lua`).
"""

from __future__ import annotations

import re
from functools import lru_cache

#: Schema of the state in Redis; a client refuses a schema that it does not know.
SCHEMA = 1

#: Ends the name of a key that never exists. In a cluster, each script call also names this key, so that a node which
#: lacks some of a run's keys refuses the whole call. On servers before Redis 7, a script begins with a write to this
#: key that changes nothing, which decides whether a full server runs the script.
NEVER_THERE = ":none"

_STATE = re.compile(rf"^rb{SCHEMA}:\{{(?P<run>[^{{}}]+)\}}:state$")


def key(run: str, name: str) -> str:
    """The key `name` of a run.

    Args:
        run: name of the run, validated.
        name: one of `state`, `policies`, `tasks`, `slots`, `payloads`, `pending`, `delayed`, `retries`, `open`,
            `running`, `ready`, `sessions`, `leases`,
            `session:<id>`, `calls`, `deadlines`, `batch:<step>`, `batches`, `result:<attempt_id>`, `dead`,
            `rejected`, `reasons`, `errors`, `faults`, `streak`, `halt`, `times`, `ailing`,
            `quarantine`, `awaited`, `wake`,
            `wake:ready`, `revoked:<session>`, `events`, `requests`, `request_order`, `finished:<3 hex digits>`;
            of an admission run `owners`, `owner_leases`, `owner_shares`, `ended_owners`, `wake:owner:<id>`;
            of the gateways `gateway:ends`, `gateway:ended`, `gateway:rollouts`, `gateway:held:<controller>`,
            `gateway:heard`, `gateway:attempts:<task>`, `gateway:events:<task>:<attempt>`, and not in Lua
            `gateway:given:<slot>`, `gateway:resources`, `gateway:resources:<id>`, and what else
            `agent_lightning_1/storage.py` lists;
            of the PyTorch adapter `torch:end`.
    """
    return f"rb{SCHEMA}:{{{run}}}:{name}"


@lru_cache(maxsize=64)
def state(run: str) -> str:
    """The state key: KEYS[1] of every script."""
    return key(run, "state")


def result(run: str, attempt_id: str) -> str:
    """The key of the bytes of an attempt's result."""
    return key(run, f"result:{attempt_id}")


def wake(run: str) -> str:
    """The marker that says there may be work: workers wait on it."""
    return key(run, "wake")


def wake_ready(run: str) -> str:
    """The marker that says enough rollouts are ready: the trainer waits on it."""
    return key(run, "wake:ready")


def wake_owner(run: str, owner: str) -> str:
    """The marker that says an owner of an admission run may find a slot."""
    return key(run, f"wake:owner:{owner}")


def wake_session(run: str, session: str) -> str:
    """The marker that says the server took an attempt of a session back: its heartbeat waits on it."""
    return key(run, f"revoked:{session}")


def pattern_of_runs() -> str:
    """The SCAN pattern that finds the state key of every run."""
    return f"rb{SCHEMA}:{{*}}:state"


def pattern_of_run(run: str) -> str:
    """The SCAN pattern that finds every key of a run."""
    escaped = re.sub(r"([*?\[\]\\^])", r"\\\1", run)
    return f"rb{SCHEMA}:{{{escaped}}}:*"


def run_of(state_key: str) -> str | None:
    """The run whose state key this is; None: it is another key."""
    match = _STATE.match(state_key)
    return match["run"] if match else None
