"""Saves the state that this release leaves in a server. `test_other_releases` opens that state with later releases.

    python -m tests.conformance.stored.make NAME

makes tests/conformance/stored/NAME with `runs.json` (each key of two runs: type, contents, milliseconds to live),
`checkpoint` with its tasks file, and `library.lua.gz`, this release's scripts. Run it once, with the code of a release,
and add NAME to the test. The keys are saved as plain data, because only servers of the same version read a DUMP.
"""

from __future__ import annotations

import gzip
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from broker import BrokerError, RunConfig, Task
from broker.operator import Operator
from broker.protocol import admission, keys, scripts
from broker.protocol.admission import Counted, OwnerReport, Recovery
from tests.conformance.lab import Lab
from tests.servers import ServerUnderTest, real_kinds

HERE = Path(__file__).parent
#: The runs: of tasks in every state, and of AReaL's processes.
TASKS, ADMISSION = "stored", "stored-admission"
OWNER, LEASE_MS = "owner-1", 60_000
#: The config of the first run's trainer, and that of the second run's owner.
CONFIG: dict[str, Any] = {
    "consumer_batch_size": 2,
    "max_staleness": 4,
    "max_concurrent_rollouts": 9,
    "max_attempts": 2,
    "attempt_timeout_ms": 500_000,
}
ADMISSION_CONFIG: dict[str, Any] = {"consumer_batch_size": 4, "max_staleness": 2, "max_concurrent_rollouts": 10}


def make(folder: Path) -> None:
    """Fills a folder."""
    folder.mkdir()
    with ServerUnderTest(real_kinds()[0]) as server, Lab(server, TASKS) as lab:
        _tasks_in_every_state(lab, folder)
        _admission(lab)
        found = {"clock": lab.now, TASKS: read_run(lab, TASKS), ADMISSION: read_run(lab, ADMISSION)}
        (folder / "runs.json").write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")
    (folder / "library.lua.gz").write_bytes(gzip.compress(scripts.library().source, 9, mtime=0))


def _tasks_in_every_state(lab: Lab, folder: Path) -> None:
    """Leaves a run at version 2, whose batch is sealed and the next one not, and a checkpoint of version 1."""
    one = lab.trainer(**CONFIG)
    hands = lab.raw_worker("w1")
    one.enqueue([Task(id=f"t{i:02}", payload={"n": i}) for i in range(24)], cursor={"row": 24})
    for version in (0, 1):
        if version:
            one.checkpoint(folder / "checkpoint", full=True)
        hands.work(2)
        one.next_batch(2, timeout=1)
        one.advance(f"weights-{version}".encode())
    hands.work(2)
    one.next_batch(2, timeout=1)  # sealed
    hands.work(1)
    with suppress(BrokerError):
        one.next_batch(2, prefetch=True, timeout=0.05)  # one of two: the batch stays unsealed
    hands.work(1)
    dead, retried, rejected, *held = (granted.attempt_id for granted in hands.claim(5).granted)
    hands.fail(dead, may_retry=False)
    hands.fail(retried)
    hands.submit(rejected, b"no reward", verdict="reject")
    assert len(held) == 2
    lab.pass_ms(10)
    one.enqueue([Task(id="group", payload=b"g", samples=3, min_samples=2, priority=5)], cursor={"row": 25})
    members = [granted.attempt_id for granted in hands.claim(3, random="r2").granted]
    hands.submit(members[0], b"member")
    hands.release(members[1])
    with Operator(lab.url) as operator:
        operator.pause(lab.run)
        operator.resume(lab.run)
        operator.cancel(lab.run, ["t23"])


def _admission(lab: Lab) -> None:
    lab.runs.add(ADMISSION)
    config = RunConfig(**ADMISSION_CONFIG).to_fields()
    lab.do(admission.open_owner(ADMISSION, OWNER, LEASE_MS, "a" * 8, config, Counted(), now=lab.now))
    report = OwnerReport(1, 3, 1, 5, 1, 0, asks=True, version=1, recovery=Recovery())
    lab.do(admission.report(ADMISSION, OWNER, LEASE_MS, report, now=lab.now))


def read_run(lab: Lab, run: str) -> dict[str, Any]:
    """Every key of a run: type, contents, milliseconds to live (-1: for ever); each byte is one character of text."""
    prefix = keys.key(run, "")
    found: dict[str, Any] = {}
    for name in sorted(lab.command("KEYS", keys.pattern_of_run(run))):
        kind = lab.command("TYPE", name).decode()
        contents = lab.command(*READ[kind](name))
        found[name.decode()[len(prefix) :]] = [kind, _as_text(contents), lab.command("PTTL", name)]
    return found


def _as_text(value: Any) -> Any:
    return [_as_text(part) for part in value] if isinstance(value, list) else value.decode("latin-1")  # pyright: ignore[reportUnknownVariableType]


READ: dict[str, Any] = {
    "hash": lambda name: ("HGETALL", name),
    "zset": lambda name: ("ZRANGE", name, 0, -1, "WITHSCORES"),
    "set": lambda name: ("SMEMBERS", name),
    "stream": lambda name: ("XRANGE", name, "-", "+"),
    "string": lambda name: ("GET", name),
}


if __name__ == "__main__":
    make(HERE / sys.argv[1])
