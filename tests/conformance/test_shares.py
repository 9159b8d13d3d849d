"""Owners of an admission run that train each step together take no slot that another needs; by the reference rule."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from broker import RunConfig, Worker, aio
from broker.errors import ConfigMismatch
from broker.protocol import admission
from broker.protocol.admission import Counted, OwnerReport, Recovery, Standing
from tests.conformance.lab import Lab
from tests.properties.shares import Bound, Part, room, shares

LEASE_MS = 900


@dataclass
class Rank:
    """One owner, with its own counts. tells: it says its version when it joins; earlier releases do not."""

    lab: Lab
    name: str
    share: int | None = None
    version: int = 0
    number: int = 0
    running: int = 0
    accepted: int = 0
    held: int = 0
    recovery: Recovery = field(default_factory=Recovery)
    tells: bool = True

    def join(self, batch: int, staleness: int = 0, concurrency: int = 99) -> Rank:
        config = RunConfig(
            consumer_batch_size=batch, max_staleness=staleness, max_concurrent_rollouts=concurrency
        ).to_fields()
        opening = admission.open_owner(
            self.lab.run, self.name, LEASE_MS, "a" * 8, config, Counted(), share=self.share,
            version=self.version if self.tells else -1, now=self.lab.now,
        )  # fmt: skip
        self.lab.do(opening)
        return self

    def report(self, *, asks: bool = False) -> Standing:
        self.number += 1
        report = OwnerReport(
            self.number, self.running, 0, self.accepted, 0, self.held, asks, self.version, self.recovery
        )  # fmt: skip
        return self.lab.do(admission.report(self.lab.run, self.name, LEASE_MS, report, now=self.lab.now))

    def starts(self) -> bool:
        """Asks for a slot and uses it."""
        granted = self.report(asks=True).granted
        self.running += granted
        return granted

    def starts_all(self) -> int:
        """How many rollouts the owner may start, one after the other."""
        for n in range(100):
            if not self.starts():
                return n
        raise AssertionError("there is no bound")

    def accepts(self, n: int) -> None:
        self.running, self.accepted = self.running - n, self.accepted + n
        self.report()

    def recovers(self, version: int) -> Standing:
        self.version = version
        self.recovery = Recovery(self.recovery.number + 1, version, self.accepted)
        return self.report()

    def leave(self) -> None:
        self.number += 1
        report = OwnerReport(self.number, 0, 0, self.accepted, 0, 0, False, self.version, self.recovery)  # fmt: skip
        self.lab.do(admission.leave(self.lab.run, self.name, LEASE_MS, report, now=self.lab.now))


def let_lease_end(lab: Lab, *others: Rank) -> None:
    """The owners that do not report here are counted out."""
    for _ in range(5):
        lab.pass_ms(LEASE_MS // 3)
        for other in others:
            other.report()


def trains(ranks: Sequence[Rank], steps: int, *, at_most: bool = False) -> None:
    """Trains so many steps of one rollout for each rank, or as many as they may start rollouts for."""
    for _ in range(steps):
        for rank in ranks:
            if rank.accepted <= rank.version and not rank.running:
                assert rank.starts() or at_most, f"rank {rank.name} waits for ever at version {rank.version}"
            if rank.running:
                rank.accepts(1)
        if any(rank.accepted <= rank.version for rank in ranks):
            return
        for rank in ranks:
            rank.version += 1
            rank.report()


@pytest.mark.parametrize(("given", "expected"), [((None, None), (5, 3)), ((6, 2), (6, 2)), ((2, 6), (2, 6))])
def test_a_fast_rank_leaves_a_share_to_the_slow_one(lab: Lab, given: tuple[int | None, ...], expected: Any) -> None:
    """S = 0, so that a step has exactly one batch."""
    batch = sum(expected)
    fast, slow = (Rank(lab, name, share).join(batch) for name, share in zip("ab", given, strict=True))
    mine = expected if given[0] else (4, 4)
    assert fast.starts_all() == mine[0]
    assert slow.starts_all() == mine[1]


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_worker_is_told_that_an_admission_run_has_no_tasks(lab: Lab, flavour: str) -> None:
    """It would wait for ever."""
    Rank(lab, "a").join(2)
    lab.go_live()
    with pytest.raises(ConfigMismatch, match="is stored with kind=admission, but kind=tasks was given"):
        if flavour == "sync":
            Worker(lab.url, lab.run)
        else:
            asyncio.run(aio.Worker(lab.url, lab.run).open())


def test_a_share_is_kept_for_a_rank_that_has_not_joined_yet(lab: Lab) -> None:
    early = Rank(lab, "a", 1).join(2)
    assert early.starts_all() == 1
    assert Rank(lab, "b", 1).join(2).starts_all() == 1


def test_what_nobody_needs_is_for_the_fast_one(lab: Lab) -> None:
    fast, slow = Rank(lab, "a", 1).join(2, 2), Rank(lab, "b", 1).join(2, 2)
    assert fast.starts_all() == 5
    assert slow.starts_all() == 1


def test_concurrency_below_the_batch_starves_no_need(lab: Lab) -> None:
    one, other = Rank(lab, "a", 2).join(4, 0, 1), Rank(lab, "b", 2).join(4, 0, 1)
    for _ in range(2):
        for rank in (one, other):
            assert rank.starts()
            rank.accepts(1)
    assert not one.starts()


def test_a_rank_whose_reports_are_late_keeps_its_share(lab: Lab) -> None:
    """What it runs by its last report was trained with the step before."""
    fast, late = Rank(lab, "a", 1).join(2), Rank(lab, "b", 1).join(2)
    for rank in (fast, late):
        assert rank.starts()
    late.report()
    fast.accepts(1)
    fast.version = 1
    assert fast.starts_all() == 1
    late.version = 1
    late.accepts(1)
    assert late.starts_all() == 1


@pytest.mark.parametrize("returns", [True, False])
def test_what_a_silent_rank_had_is_its_own_when_it_returns_and_else_its_successors(lab: Lab, *, returns: bool) -> None:
    lives, silent = Rank(lab, "a", 1).join(2), Rank(lab, "b", 1).join(2)
    lives.report()
    assert silent.starts()
    silent.accepts(1)
    heirs = [] if returns else [Rank(lab, "c", 1).join(2)]
    assert not any(heir.starts() for heir in heirs), "the silent one's lease lives"
    let_lease_end(lab, lives, *heirs)
    assert lives.report().accepted == 0
    if returns:
        assert silent.report().accepted == 1
        assert not silent.starts()
    else:
        assert heirs[0].starts_all() == 1
    assert lives.starts_all() == 1


def test_what_was_accepted_of_an_owner_that_did_not_say_its_share_stays(lab: Lab) -> None:
    lives, leaves = Rank(lab, "a").join(2, 2), Rank(lab, "b").join(2, 2)
    lives.report()
    assert leaves.starts()
    leaves.accepts(1)
    leaves.leave()
    assert lives.report().accepted == 1
    assert lives.report().share == 2


def test_an_owner_without_needs_takes_what_is_left(lab: Lab) -> None:
    trains, helps = Rank(lab, "a", 2).join(2, 1), Rank(lab, "b", 0).join(2, 1)
    assert helps.starts_all() == 2
    assert trains.starts_all() == 2


def test_the_announcement_of_a_second_rank_erases_nothing_of_the_first(lab: Lab) -> None:
    first, second = Rank(lab, "a", 2).join(4, 2), Rank(lab, "b", 2).join(4, 2)
    for rank in (first, second):
        rank.report()
    first.recovers(268)
    first.running = 3
    first.accepts(3)
    assert second.recovers(268).accepted == 268 * 4 + 3
    second.running = 1
    second.accepts(1)
    assert first.recovers(268).accepted == 268 * 4, "the same rank again: another recovery"


def test_the_announcement_of_a_rank_that_joined_when_the_run_had_gone_on_opens_no_capacity(lab: Lab) -> None:
    """The first one has trained a step since, alone."""
    first = Rank(lab, "a").join(4)
    first.recovers(268)
    assert first.starts_all() == 4
    first.accepts(4)
    first.version = 269
    first.report()
    second = Rank(lab, "b", version=269).join(4)
    second.report()
    standing = second.recovers(268)
    assert (standing.version, standing.accepted, standing.capacity) == (269, 269 * 4, 4)


def test_ranks_that_found_a_later_version_go_back_to_a_checkpoint_and_each_announces_it(lab: Lab) -> None:
    ranks = [Rank(lab, name, 2, version=300).join(4) for name in "ab"]
    for rank in ranks:
        rank.report()
    for rank in ranks:
        standing = rank.recovers(268)
    assert (standing.version, standing.accepted) == (268, 268 * 4)
    for rank in ranks:
        assert rank.starts_all() == 2


def test_a_training_that_starts_over_at_once_has_its_capacity_when_the_lease_of_the_dead_one_ends(lab: Lab) -> None:
    dead = Rank(lab, "a").join(16)
    for version in range(1, 3):
        assert dead.starts_all() == 16
        dead.accepts(16)
        dead.version = version
    new = Rank(lab, "b").join(16)
    new.report()
    let_lease_end(lab, new)
    standing = new.report()
    assert (standing.version, standing.accepted, standing.capacity) == (0, 0, 16)
    assert new.starts_all() == 16


def test_a_training_that_starts_over_later_has_its_capacity_at_once(lab: Lab) -> None:
    dead = Rank(lab, "a").join(16)
    assert dead.starts_all() == 16
    dead.accepts(16)
    dead.leave()
    assert Rank(lab, "b").join(16).starts_all() == 16


@pytest.mark.parametrize("share", [None, 1])
@pytest.mark.parametrize("steps_before", [0, 1, 3])
def test_a_training_that_starts_over_and_trains_while_the_leases_of_the_dead_live_never_deadlocks(
    lab: Lab, steps_before: int, share: int | None
) -> None:
    """It trains as many steps as it can before the leases end, and its capacity then is that of its own version."""
    dead = [Rank(lab, name, share).join(2, 1) for name in "ab"]
    trains(dead, steps_before)
    assert dead[0].starts()
    dead[0].accepts(1)
    new = [Rank(lab, name, share).join(2, 1) for name in "cd"]
    trains(new, 5, at_most=True)
    let_lease_end(lab, *new)
    standing = new[0].report()
    version = new[0].version
    ahead = sum(rank.accepted + rank.running for rank in new) - version * 2
    assert (standing.version, standing.capacity) == (version, 2 * 2 - ahead)
    trains(new, 3)
    if version:
        return
    raise AssertionError("no step was trained within the lease: the test shows nothing")


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("ends", ["before it", "beside it", "with its leases"])
@pytest.mark.parametrize("share", [None, 1])
def test_a_training_that_goes_back_and_announces_nothing_counts_from_where_it_is(
    lab: Lab, share: int | None, ends: str, *, tells: bool
) -> None:
    """AReaL's tag v1.0.4 announces no recovery. S = 0: each step needs its whole batch."""
    dead = [Rank(lab, name, share).join(2) for name in "ab"]
    trains(dead, 5)
    assert dead[0].starts()
    dead[0].accepts(1)
    if ends == "before it":
        for rank in dead:
            rank.leave()
    new = [Rank(lab, name, share, version=3, tells=tells).join(2) for name in "cd"]
    if ends == "beside it":
        for rank in dead:
            rank.leave()
    elif ends == "with its leases":
        let_lease_end(lab, *new)
    standing = new[0].report()
    assert (standing.version, standing.accepted, standing.capacity) == (3, 6, 2)
    for step in range(1, 4):
        for rank in new:
            assert rank.starts()
            rank.accepts(1)
        assert not new[0].starts()
        for rank in new:
            rank.version = 3 + step
            rank.report()


def test_what_a_training_that_goes_back_and_announces_nothing_accepted_meanwhile_counts(lab: Lab) -> None:
    dead = Rank(lab, "a", 2, version=5, accepted=10).join(2, 1)
    dead.report()
    new = Rank(lab, "b", 2, version=3).join(2, 1)
    for _ in range(2):
        assert new.starts()
    new.accepts(2)
    let_lease_end(lab, new)
    standing = new.report()
    assert (standing.version, standing.accepted, standing.capacity) == (3, 8, 2)


def test_an_owner_that_loads_its_version_later_and_outlives_the_others_opens_no_capacity_of_all_versions(
    lab: Lab,
) -> None:
    """Its first report says 0, but it trained none of the steps."""
    old = Rank(lab, "a").join(4, 2)
    old.accepted, old.version = 268 * 4, 268
    old.report()
    late = Rank(lab, "b").join(4, 2)
    late.report()
    late.version = 268
    let_lease_end(lab, late)
    standing = late.report()
    assert (standing.version, standing.capacity) == (268, 12)


def test_a_training_that_starts_over_while_a_process_of_the_dead_one_hangs_beside_it_counts_from_0_when_that_ends(
    lab: Lab,
) -> None:
    """It still reports, as a rank does that waits for a rank that died."""
    dead = [Rank(lab, name, 1).join(2, 1) for name in "ab"]
    trains(dead, 3)
    new = [Rank(lab, name, 1).join(2, 1) for name in "cd"]
    for _ in range(5):
        lab.pass_ms(LEASE_MS // 3)
        for rank in (dead[0], *new):
            rank.report()
        trains(new, 1, at_most=True)
        dead[0].report()
    dead[0].leave()
    trains(new, 3)
    assert new[0].report().version == new[0].version


def test_shares_that_an_earlier_release_stored_go_on(lab: Lab) -> None:
    """That has eight words for each owner."""
    ranks = [Rank(lab, name, 1).join(2, 1) for name in "ab"]
    trains(ranks, 2)
    key = f"rb1:{{{lab.run}}}:owner_shares"
    for owner in "ab":
        words = lab.command("HGET", key, owner).split()
        assert len(words) == 10
        lab.command("HSET", key, owner, b" ".join(words[:8]))
    trains(ranks, 3)
    new = [Rank(lab, name, 1).join(2, 1) for name in "cd"]
    let_lease_end(lab, *new)
    trains(new, 3)


@pytest.mark.parametrize("begins_at_0", [True, False])
def test_a_training_that_recovers_while_the_lease_of_the_dead_one_lives_goes_on_from_there(
    lab: Lab, *, begins_at_0: bool
) -> None:
    """Both announce the same version; what the dead one accepted since is gone with it."""
    dead = Rank(lab, "a").join(4)
    dead.recovers(268)
    assert dead.starts_all() == 4
    dead.accepts(4)
    dead.version = 269
    assert dead.starts_all() == 4
    dead.accepts(3)
    new = Rank(lab, "b").join(4)
    if begins_at_0:
        new.report()
    new.recovers(268)
    let_lease_end(lab, new)
    standing = new.report()
    assert (standing.version, standing.accepted, standing.capacity) == (268, 268 * 4, 4)


def test_a_training_that_recovers_to_the_version_of_the_dead_one_goes_on_from_there(lab: Lab) -> None:
    """It is not behind the run, but what the dead one accepted is gone. Mutant: a_new_life_that_recovered_keeps_the_counts."""
    dead = Rank(lab, "a").join(4)
    dead.recovers(268)
    assert dead.starts_all() == 4
    dead.accepts(3)
    new = Rank(lab, "b").join(4)
    new.recovers(268)
    let_lease_end(lab, new)
    standing = new.report()
    assert (standing.version, standing.accepted, standing.capacity) == (268, 268 * 4, 4)


def test_an_owner_that_reports_beside_a_newer_one_is_of_the_same_training(lab: Lab) -> None:
    one = Rank(lab, "a").join(4)
    one.running = 2
    one.accepts(2)
    other = Rank(lab, "b").join(4)
    other.report()
    one.report()
    let_lease_end(lab, other)
    assert other.report().accepted == 2


def test_what_an_owner_accepted_counts_when_it_closes_before_the_next_has_reported(lab: Lab) -> None:
    """Of two owners in the first step: the next joined beside the first one, with its version."""
    one, other = Rank(lab, "a").join(4), Rank(lab, "b").join(4)
    assert one.starts()
    one.accepts(1)
    third = Rank(lab, "c").join(4)
    one.leave()
    other.leave()
    assert third.starts_all() == 3
    assert third.report().accepted == 1


def test_the_version_of_a_first_report_takes_the_place_of_that_of_joining(lab: Lab) -> None:
    """It joined before it had loaded its checkpoint, and is of one training with the first one all the same."""
    one = Rank(lab, "a", version=3).join(4)
    one.report()
    other = Rank(lab, "b").join(4)
    other.version = 3
    other.report()
    assert one.starts()
    one.accepts(1)
    accepted = one.report().accepted
    one.leave()
    assert other.report().accepted == accepted


@pytest.mark.parametrize("seed", range(3))
def test_every_grant_is_that_of_the_rule(lab: Lab, seed: int) -> None:
    """Three ranks at random, which train steps: the server grants what the reference rule grants, to the slot."""
    chooser = random.Random(seed)
    batch, staleness, concurrency = chooser.randint(3, 6), chooser.randint(0, 2), chooser.choice([2, 5, 99])
    given = [-1, chooser.choice([-1, 0, 1, 2]), chooser.choice([-1, 0, 1, 2])]
    chooser.shuffle(given)
    split = shares(batch, given)
    ranks = [
        Rank(lab, f"r{i}", None if said < 0 else said).join(batch, staleness, concurrency)
        for i, said in enumerate(given)
    ]
    version, grants, refusals = 0, 0, 0
    for rank in ranks:
        rank.report()
    for _ in range(150):
        rank = chooser.choice(ranks)
        if rank.running and chooser.random() < 0.5:
            rank.accepts(1)
        elif all(r.accepted >= share * (version + 1) for r, share in zip(ranks, split, strict=True)):
            version += 1
            for each in ranks:
                each.version = version
                each.report()
        else:
            ahead = sum(r.accepted for r in ranks) - version * batch
            parts = [
                Part(said, split[i], ranks[i].accepted - version * split[i], ranks[i].running)
                for i, said in enumerate(given)
            ]
            allowed = room(Bound(batch, staleness, concurrency), parts, ranks.index(rank), ahead)
            standing = rank.report(asks=True)
            assert (standing.granted, standing.share) == (allowed > 0, split[ranks.index(rank)])
            rank.running += standing.granted
            grants += standing.granted
            refusals += not standing.granted
            rank.report()
    assert version >= 3
    assert grants >= version * batch
    assert refusals > 0
