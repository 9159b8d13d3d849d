"""The lab for tests of recoveries, after which a run may lack bytes of its last step."""

from collections.abc import Generator

import pytest

from broker.inspection.verification import verify
from broker.protocol import anyone
from tests.conformance.lab import Lab
from tests.conformance.state_checks import leftovers


@pytest.fixture
def lab(lab: Lab) -> Generator[Lab]:
    """A lab that checks its runs at the end, and allows for a recovery, unless `checks_state` is False."""
    yield lab
    lab.close_clients()
    if lab.checks_state:
        for run in sorted(lab.runs):
            if lab.command("EXISTS", f"rb1:{{{run}}}:state"):
                check_run(lab, run)
    lab.checks_state = False  # it was checked just now


def check_run(lab: Lab, run: str) -> None:
    """Fails if counters, sets, records or result keys contradict each other."""
    drift = {name: pair for name, pair in lab.do(anyone.audit(run)).items() if pair[0] != pair[1]}
    assert not drift, f"counters of {run} drifted (stored, recomputed): {drift}"
    assert verify(lab.transport, run, keeps_config=lab.keeps_config).breaches == []
    dump = lab.dump(run)
    names = [name.decode() for name in dump.get("tasks", {})]
    for at in range(0, len(names), 1000):
        problems = lab.do(anyone.check(run, names[at : at + 1000]))
        assert problems == []
    # The lost future may have advanced twice, which freed the bytes of the last surviving step. No reader needs them.
    version = int(dump["state"][b"version"])
    last = {name.decode() for name, record in dump.get("tasks", {}).items() if _consumed_last(record, version)}
    found = [line for line in leftovers(dump) if not _of_last_step(line, last)]
    assert found == []


def _consumed_last(record: bytes, version: int) -> bool:
    parts = record.decode().split(",")
    return parts[0] == "B" and int(parts[11]) == version - 1


def _of_last_step(line: str, tasks: set[str]) -> bool:
    name = line.removeprefix("no bytes of a result: result:")
    return name != line and name.partition("#")[0] in tasks
