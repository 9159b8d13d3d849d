"""The scripts of an admission run, call by call, on a simulated clock."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from typing import Any

import pytest

from broker import RunConfig, Task, Trainer
from broker.connections import Transport, open_transport
from broker.errors import BadArgument, BrokerError, ConfigMismatch, NoRun, NoSession
from broker.operator import Operator
from broker.protocol import admission
from broker.protocol.admission import Counted, Opened, OwnerReport, Recovery, Standing
from broker.protocol.script_call import ScriptCall

LEASE_MS = 900
CONFIG = RunConfig(consumer_batch_size=4, max_staleness=2, max_concurrent_rollouts=10)


class Desk:
    """Sends script calls to one run at a time of its own."""

    def __init__(self, transport: Transport, run: str) -> None:
        self.transport, self.run, self.now = transport, run, 1_000_000

    def send(self, script_call: ScriptCall[Any]) -> Any:
        answer = self.transport.execute([script_call])[0]
        if isinstance(answer, BrokerError):
            raise answer
        return answer

    def open(self, owner: str, *, before: Counted | None = None, config: RunConfig = CONFIG, **settings: Any) -> Opened:
        return self.send(
            admission.open_owner(
                self.run, owner, LEASE_MS, "a" * 8, config.to_fields(), before or Counted(), now=self.now, **settings
            )
        )

    def report(self, owner: str, number: int, running: int = 0, accepted: int = 0, **more: Any) -> Standing:
        values: dict[str, Any] = {"enqueued": 0, "rejected": 0, "held": 0, "asks": False, "version": -1}
        values |= {"recovery": Recovery()} | more
        report = OwnerReport(number=number, running=running, accepted=accepted, **values)
        return self.send(admission.report(self.run, owner, LEASE_MS, report, now=self.now))

    def leave(self, owner: str, number: int, accepted: int = 0) -> bool:
        report = OwnerReport(number, 0, 0, accepted, 0, 0, False, -1, Recovery())
        return self.send(admission.leave(self.run, owner, LEASE_MS, report, now=self.now))

    def dump(self) -> dict[str, Any]:
        names = sorted(self.transport.command("KEYS", f"rb1:{{{self.run}}}:*"))
        return {name: self.transport.command("DUMP", name) for name in names}


@pytest.fixture
def desk(areal_url: str, run: str) -> Generator[Desk]:
    with open_transport(areal_url) as transport:
        yield Desk(transport, run)


def test_the_same_report_twice_counts_once_and_gets_the_same_answer(desk: Desk) -> None:
    desk.open("a")
    first = desk.report("a", 1, running=3, accepted=2, rejected=1, asks=True, version=2)
    before = desk.dump()
    assert desk.report("a", 1, running=3, accepted=2, rejected=1, asks=True, version=2) == first
    assert desk.dump() == before
    assert (first.accepted, first.running, first.rejected, first.granted) == (2, 3, 1, True)


def test_a_report_says_all_that_lost_ones_said(desk: Desk) -> None:
    desk.open("a")
    desk.report("a", 1, running=3)
    assert desk.report("a", 7, running=1, accepted=5).accepted == 5


def test_a_late_report_changes_nothing(desk: Desk) -> None:
    desk.open("a")
    desk.report("a", 5, running=1, accepted=5)
    standing = desk.report("a", 4, running=9, accepted=4, asks=True, version=50, recovery=Recovery(1, 40, 0))
    assert (standing.running, standing.accepted, standing.version, standing.granted) == (1, 5, 0, False)


def test_a_late_report_does_not_bring_back_an_owner_that_left(desk: Desk) -> None:
    desk.open("a")
    desk.open("b")
    desk.report("a", 1, running=3, accepted=1)
    assert desk.leave("a", 2, accepted=2)
    assert not desk.leave("a", 2, accepted=2)
    assert desk.report("a", 1, running=3, accepted=1).running == 0
    assert desk.report("a", 2, running=3, accepted=1).running == 0
    assert desk.report("b", 1).accepted == 2


def test_a_late_open_does_not_bring_back_an_owner_that_left(desk: Desk) -> None:
    desk.open("a")
    desk.leave("a", 1, accepted=3)
    before = desk.dump()
    desk.open("a")
    assert desk.dump() == before


def test_an_owner_that_is_silent_for_its_lease_is_counted_out_and_comes_back_with_its_numbers(desk: Desk) -> None:
    desk.open("a")
    desk.open("b")
    desk.report("a", 1, running=3, accepted=2, held=2)
    standings: list[Standing] = []
    for number in range(1, 5):
        desk.now += LEASE_MS // 3
        standings.append(desk.report("b", number))
    assert [standing.running for standing in standings] == [3, 3, 0, 0]
    assert standings[-1].capacity == standings[-1].spare == 10
    desk.now += 1
    assert desk.report("a", 2, running=2, accepted=3).running == 2
    assert desk.report("b", 5).accepted == 3


def test_owners_that_die_before_they_report_are_ended_by_the_next_that_opens(desk: Desk) -> None:
    """A process that crashes as it starts, again and again: 1000 owners are the most that a run has."""
    for i in range(1003):
        desk.open(f"crashed{i}")
        desk.now += LEASE_MS
    leases = desk.transport.command("ZRANGE", f"rb1:{{{desk.run}}}:owner_leases", 0, -1)
    assert len(leases) < 5  # of each silence a part is forgiven


def test_an_owner_that_opens_takes_back_what_a_dead_one_had(desk: Desk) -> None:
    desk.open("a")
    desk.report("a", 1, running=10)
    for _ in range(4):  # of a longer silence a part is forgiven
        desk.now += LEASE_MS
        desk.open("b")
    assert desk.report("b", 1, asks=True).granted
    assert desk.transport.command("HGET", f"rb1:{{{desk.run}}}:state", "running") == b"0"


def test_a_silence_of_all_costs_no_owner_its_lease(desk: Desk) -> None:
    for owner in "abc":
        desk.open(owner)
        desk.report(owner, 1, running=3)
    desk.now += 100 * LEASE_MS  # the server was away
    assert desk.report("a", 2, running=3).running == 9
    for number in (3, 4):  # b comes back, c was lost with the server
        desk.now += LEASE_MS // 3
        desk.report("a", number, running=3)
        desk.report("b", number, running=3)
    desk.now += LEASE_MS // 3
    assert desk.report("a", 5, running=3).running == 6


def test_a_survivor_that_is_slow_itself_still_counts_the_dead_out(desk: Desk) -> None:
    desk.open("a")
    desk.open("dead")
    desk.report("dead", 1, running=3)
    number = 0
    while desk.report("a", (number := number + 1)).running:
        assert number < 10
        desk.now += LEASE_MS * 2 // 3


def test_no_more_slots_are_promised_than_there_are(desk: Desk) -> None:
    for owner in "abc":
        desk.open(owner)
    desk.report("a", 1, running=8)
    answers = [desk.report(owner, 2, running=8 if owner == "a" else 0, asks=True) for owner in "abc"]
    assert [answer.granted for answer in answers] == [True, True, False]
    assert [answer.capacity for answer in answers] == [2, 2, 2]
    assert [answer.spare for answer in answers] == [1, 0, 0]
    desk.report("a", 3, running=9)  # it used its slot
    assert desk.report("b", 3, running=0, held=0).spare == 1  # it gave its up
    assert desk.report("c", 3, asks=True).granted


def test_as_many_owners_are_woken_as_there_are_slots_and_first_those_that_have_work(desk: Desk) -> None:
    for owner in ("busy", "idle", "first", "second"):
        desk.open(owner)
    desk.report("busy", 1, running=10)
    for owner, enqueued in (("idle", 0), ("first", 5), ("second", 5)):
        desk.now += 1
        assert not desk.report(owner, 1, enqueued=enqueued, asks=True).granted
    desk.report("busy", 2, running=8)
    woken = [name.decode() for name in desk.transport.command("KEYS", f"rb1:{{{desk.run}}}:wake:owner:*")]
    assert sorted(name.rpartition(":")[2] for name in woken) == ["first", "second"]


def test_an_owner_that_has_not_heard_of_a_recovery_cannot_bring_its_version_back(desk: Desk) -> None:
    desk.open("a")
    desk.open("b")
    desk.report("a", 1, version=268)
    desk.report("b", 1, version=268)
    after = desk.report("a", 2, version=100, recovery=Recovery(1, 100, 0))
    assert (after.version, after.accepted, after.capacity) == (100, 400, 10)
    assert desk.report("b", 2, version=268).version == 100
    assert desk.report("b", 3, version=100).version == 100
    assert desk.report("b", 4, version=101).version == 101


def test_a_recovery_by_an_operator_rewrites_the_counters_and_leaves_running(desk: Desk, areal_url: str) -> None:
    desk.open("a")
    desk.report("a", 1, running=3, accepted=7, version=9)
    with Operator(areal_url) as operator:
        operator.recover(desk.run, version=268)
    standing = desk.report("a", 2, running=3, accepted=8, version=9)
    assert (standing.version, standing.accepted, standing.running) == (268, 268 * 4 + 1, 3)
    assert standing.capacity == min(10 - 3, 12 - 3 - 1)


def test_a_run_of_tasks_is_refused_and_left_alone(desk: Desk, areal_url: str) -> None:
    with Trainer(areal_url, run=desk.run, config=CONFIG) as trainer:
        trainer.enqueue([Task(id="t")])
    before = desk.dump()
    with pytest.raises(ConfigMismatch):
        desk.open("a")
    with pytest.raises(ConfigMismatch):
        desk.report("a", 1)
    assert desk.dump() == before


def test_an_owner_that_was_forgotten_joins_anew_with_what_was_counted(desk: Desk) -> None:
    desk.open("a")
    desk.report("a", 4, running=2, accepted=5, recovery=Recovery(1, 0, 0))
    with pytest.raises(NoSession):
        desk.report("unknown", 1)
    desk.open("b", before=Counted(accepted=5, recovery=1))
    assert desk.report("b", 1, running=2, accepted=6, recovery=Recovery(1, 0, 0)).accepted == 6


def test_ended_owners_are_kept_to_a_bound(desk: Desk) -> None:
    for i in range(1005):
        desk.open(f"o{i}")
        desk.leave(f"o{i}", 1)
    desk.open("last")
    assert desk.transport.command("HLEN", f"rb1:{{{desk.run}}}:owners") == 1001


@pytest.mark.parametrize(
    "bad",
    [{"running": "0.5"}, {"accepted": -1}, {"held": -1}, {"version": -2}, {"number": 0}, {"rejected": "x"}],
)
def test_malformed_arguments_are_refused_and_change_nothing(desk: Desk, bad: dict[str, Any]) -> None:
    desk.open("a")
    values: dict[str, Any] = {"number": 1, **bad}
    before = desk.dump()
    with pytest.raises(BadArgument):
        desk.report("a", **values)
    assert desk.dump() == before


def test_a_run_that_is_not_there_and_one_of_another_schema_are_refused(desk: Desk) -> None:
    with pytest.raises(NoRun):
        desk.report("a", 1)
    desk.transport.command("HSET", f"rb1:{{{desk.run}}}:state", "schema", "9")
    for call in (lambda: desk.open("a"), lambda: desk.report("a", 1), lambda: desk.leave("a", 1)):
        with pytest.raises(BrokerError) as refused:
            call()
        assert refused.value.code == "SCHEMA"


def test_a_run_that_the_server_lost_goes_on_from_the_version_it_had(desk: Desk) -> None:
    opened = desk.open(f"a-{secrets.token_hex(2)}", lost_version=268)
    assert opened == Opened(version=268, accepted=268 * 4, created=True)
