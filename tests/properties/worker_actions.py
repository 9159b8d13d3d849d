"""The actions and the faults of workers."""

from __future__ import annotations

from .calls import (
    Bytes,
    Claim,
    Fail,
    Join,
    Leave,
    Policy,
    Release,
    Renew,
    Requeue,
    SetBytes,
    Submit,
    SubmitItem,
    Verdict,
)
from .chooser import Chooser, chance, pick, some, weighted
from .transitions import parse_attempt
from .world import SessionClient, World

#: How many workers a world remembers; the sessions of the oldest are mostly over.
MOST_SESSIONS = 6
#: How results travel, by weight.
WAYS_OF_BYTES: tuple[tuple[Bytes, int], ...] = (("inline", 60), ("set", 35), ("missing", 5))


def join(world: World, choose: Chooser) -> None:
    """A worker starts."""
    worker = pick(choose, ["w1", "w2", "host:3/gpu0"])
    lease = pick(choose, [5_000, 1_000, 30_000])
    answer = world.call(Join(worker, world.fresh("n"), lease))
    if "error" not in answer and not chance(choose, 10):
        world.sessions = [*world.sessions, SessionClient(answer["session"])][-MOST_SESSIONS:]


def _session(world: World, choose: Chooser) -> SessionClient | None:
    if not world.sessions:
        join(world, choose)
    if not world.sessions:
        return None
    run = world.model.run
    alive = [s for s in world.sessions if run and s.id in run.sessions]
    if not alive and chance(choose, 70):
        join(world, choose)
        alive = world.sessions[-1:]
    return pick(choose, alive) if alive and not chance(choose, 8) else pick(choose, world.sessions)


def _policy(world: World, choose: Chooser) -> Policy | None:
    run = world.model.run
    if run is None or chance(choose, 60):
        return None
    version = max(0, run.version - pick(choose, [0, 1, 1, 2, 3]))
    if chance(choose, 5):
        version = run.version + 1
    epoch = run.policies.get(version, "9.nobody")
    if chance(choose, 4):
        epoch = "1.other"
    return (version, epoch)


def claim(world: World, choose: Chooser) -> None:
    """Claims with the next number, at times with an older one; the answer may be lost, for a while or for good."""
    session = _session(world, choose)
    if session is None:
        return
    number = session.number + 1
    if chance(choose, 4):
        number += pick(choose, [2, -2]) if number > 2 else 2
    limit = pick(choose, [100, 100, 1, 2])
    n = choose.integer(1, 3) if chance(choose, 80) else choose.integer(1, 12)
    _claim(world, choose, session, Claim(session.id, number, n, world.fresh("x"), _policy(world, choose), limit))


def claim_newest(world: World, choose: Chooser) -> None:
    """A worker that has the newest weights claims."""
    session = _session(world, choose)
    if session is not None:
        _claim(world, choose, session, Claim(session.id, session.number + 1, 3, world.fresh("x")))


def claim_with_lag(world: World, choose: Chooser, lag: int) -> None:
    """A worker claims with weights that are so many versions behind."""
    session, run = _session(world, choose), world.model.run
    if session is None or run is None:
        return
    version = max(0, run.version - lag)
    policy = (version, run.policies.get(version, "9.nobody"))
    n = choose.integer(1, 4)
    _claim(world, choose, session, Claim(session.id, session.number + 1, n, world.fresh("x"), policy))


def _claim(world: World, choose: Chooser, session: SessionClient, call: Claim) -> None:
    number = call.number
    run = world.model.run
    if run and session.id in run.sessions and number > run.sessions[session.id].number and chance(choose, 50):
        world.driver.pop_marker("wake")
    # A copy of a claim with a wrong number could run after a failover, in place of the right claim.
    answer = world.call(call, record=number == session.number + 1)
    if "error" in answer:
        return
    session.number = max(session.number, number)
    if chance(choose, 10):
        if chance(choose, 50):
            world.now_ms += pick(choose, [1, 900, 2_500])
        answer = world.call(call, record=False)
    names = [each["id"] for each in answer.get("attempts", ())]
    world.attempts += [name for name in names if name not in world.attempts]
    if not chance(choose, 8):
        session.held += [name for name in names if name not in session.held]


def renew(world: World, choose: Chooser) -> None:
    """A heartbeat with the attempts that the worker believes to hold. At times some are missing, or a claim is under way."""
    session = _session(world, choose)
    if session is None:
        return
    held = list(session.held)
    if held and chance(choose, 15):
        held.pop(choose.integer(0, len(held) - 1))
    if world.attempts and chance(choose, 8):
        held.append(pick(choose, world.attempts))
    number = 0 if chance(choose, 30) else session.number
    answer = world.call(Renew(session.id, number, tuple(dict.fromkeys(held))))
    for name in answer.get("abandon", {}):
        if name in session.held and not chance(choose, 10):
            session.held.remove(name)


def keep_alive(world: World, choose: Chooser) -> None:
    """A worker renews for a while, not always in time. Attempts that it does not name, and other leases, end."""
    session = _session(world, choose)
    if session is None:
        return
    pause_ms = pick(choose, [1_700, 333, 900, 10_000])
    for _ in range(choose.integer(1, 6)):
        world.now_ms += pause_ms
        world.call(Renew(session.id, 0, tuple(session.held)))


def leave(world: World, choose: Chooser) -> None:
    """A worker leaves."""
    session = _session(world, choose)
    if session is not None:
        world.call(Leave(session.id))


def _attempts(world: World, choose: Chooser, most: int) -> list[str]:
    """Mostly attempts that are held, sometimes any earlier attempts."""
    if world.attempts and chance(choose, 6):
        return some(choose, world.attempts[-20:], most)
    run = world.model.run
    if world.attempts and chance(choose, 3):
        return [_forged(choose, pick(choose, world.attempts[-10:]))]
    holding = [s for s in world.sessions if s.held]
    alive = [s for s in holding if run and s.id in run.sessions]
    if not holding:
        return []
    session = pick(choose, alive) if alive and not chance(choose, 25) else pick(choose, holding)
    return some(choose, session.held, most)


def _forged(choose: Chooser, attempt: str) -> str:
    """An attempt that no claim gave: one that a server which lost its last writes could have issued."""
    name, index, claims, random = parse_attempt(attempt)
    if chance(choose, 50):
        return f"{name}#{index}.{claims}.other"
    return f"{name}#{index}.{max(1, claims + pick(choose, [1, -1]))}.{random}"


def _item(world: World, choose: Chooser, attempt: str) -> SubmitItem:
    verdict: Verdict = "reject" if chance(choose, 6) else "accept"
    how = weighted(choose, WAYS_OF_BYTES)
    data = f"{attempt} result {choose.integer(0, 1)}".encode()
    policy = _policy(world, choose) if chance(choose, 15) else None
    return SubmitItem(attempt, verdict, policy, data, how, "" if verdict == "accept" else "filtered")


def submit(world: World, choose: Chooser) -> None:
    """Submits one or several results; sometimes twice in a row, sometimes of a session that is over."""
    attempts = _attempts(world, choose, 3)
    if not attempts:
        return
    call = Submit(tuple(_item(world, choose, attempt) for attempt in attempts))
    answer = world.call(call)
    if chance(choose, 10):
        answer = world.call(call, record=False)
    for attempt, each in zip(attempts, answer.get("answers", ()), strict=False):
        if each["answer"] != "noresult" and not chance(choose, 10):
            _forget(world, attempt)


def lose_submit(world: World, choose: Chooser) -> None:
    """The bytes of a result arrive by SET, and the submit never comes."""
    for attempt in _attempts(world, choose, 1):
        world.call(SetBytes(attempt, f"{attempt} result {choose.integer(0, 1)}".encode()))


def release(world: World, choose: Chooser) -> None:
    """A worker gives attempts back."""
    attempts = _attempts(world, choose, 3)
    if attempts:
        world.call(Release(tuple(attempts)))
        for attempt in attempts:
            if not chance(choose, 20):
                _forget(world, attempt)


def fail(world: World, choose: Chooser) -> None:
    """A worker reports an error."""
    for attempt in _attempts(world, choose, 1):
        error, of_worker = pick(choose, ["boom", "out of memory: 3 of 4"]), chance(choose, 40)
        world.call(Fail(attempt, error, of_worker or not chance(choose, 15), "worker" if of_worker else "task"))
        if not chance(choose, 20):
            _forget(world, attempt)


def outage(world: World, choose: Chooser) -> None:
    """Whatever workers claim fails for a while; at times one of them dies, and its lease passes."""
    for _ in range(choose.integer(1, 3)):
        session = _session(world, choose)
        if session is None:
            return
        _claim(world, choose, session, Claim(session.id, session.number + 1, choose.integer(1, 3), world.fresh("x")))
        if chance(choose, 20):
            world.now_ms += 30_000
            world.call(Requeue())
            continue
        for attempt in tuple(session.held):
            world.call(Fail(attempt, "no engine", not chance(choose, 20), pick(choose, ["task", "task", "worker"])))
            _forget(world, attempt)


def sick_worker(world: World, choose: Chooser) -> None:
    """One worker fails whatever it gets, while another one works; at times the sick one waits for the end of its quarantine."""
    run = world.model.run
    if run is None:
        return
    ailing = [session for session in world.sessions if session.id in run.ailing and session.id in run.sessions]
    sick = pick(choose, ailing) if ailing and chance(choose, 80) else _session(world, choose)
    for _ in range(choose.integer(1, 4)):
        other = _session(world, choose)
        if sick is None or other is None:
            return
        if sick.id in run.ailing and chance(choose, 40):
            world.now_ms += max(0, run.ailing[sick.id].until_ms - run.clock_ms)
            world.call(Renew(sick.id, 0, tuple(sick.held)))
        _claim(world, choose, sick, Claim(sick.id, sick.number + 1, choose.integer(1, 3), world.fresh("x")))
        for attempt in tuple(sick.held):
            world.call(Fail(attempt, "no engine", not chance(choose, 10), pick(choose, ["task", "task", "worker"])))
            _forget(world, attempt)
        if other is not sick:
            _claim(world, choose, other, Claim(other.id, other.number + 1, 1, world.fresh("x")))
            items = tuple(SubmitItem(attempt, data=f"{attempt} result 0".encode()) for attempt in other.held)
            if items:
                world.call(Submit(items))
                other.held.clear()


def all_fails(world: World, choose: Chooser) -> None:
    """Whatever can be claimed fails, some of it for good, until nothing is left or the run is halted."""
    run = world.model.run
    for _ in range(choose.integer(1, 5)):
        session = _session(world, choose)
        if run is None or session is None:
            return
        _claim(world, choose, session, Claim(session.id, session.number + 1, 12, world.fresh("x")))
        for attempt in tuple(session.held):
            if chance(choose, 15):
                world.call(Submit((SubmitItem(attempt, "reject", None, b"", "inline", "filtered"),)))
            else:
                world.call(Fail(attempt, "no engine", not chance(choose, 50), "task"))
            _forget(world, attempt)
        if chance(choose, 30):
            world.now_ms += run.config.retry_backoff_max_ms


def lose_workers(world: World, choose: Chooser) -> None:
    """Workers that have claimed all there is die one after the other, and what they held is taken back in pieces."""
    for _ in range(choose.integer(1, 4)):
        join(world, choose)
        session = world.sessions[-1] if world.sessions else None
        if session is None:
            return
        _claim(world, choose, session, Claim(session.id, session.number + 1, 12, world.fresh("x")))
        limit = pick(choose, [1, 2, 3, 100])
        # At a gap the leases lose a third of the shortest one; each piece takes one call.
        for _ in range(choose.integer(3, 9)):
            world.now_ms += 30_000
            world.call(Requeue(limit))


def _forget(world: World, attempt: str) -> None:
    for session in world.sessions:
        if attempt in session.held:
            session.held.remove(attempt)
