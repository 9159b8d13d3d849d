"""A run that another release left in the server goes on with this release, also with workers of both releases."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from broker import ConfigMismatch, RunConfig, Task
from broker.errors import BadArgument, BrokerError, Exhausted, SchemaMismatch, WaitTimeout
from broker.errors.from_reply import from_reply
from broker.operator import Operator
from broker.protocol import admission, keys, result_bytes, scripts, trainer, worker
from broker.protocol.admission import Counted, OwnerReport, Recovery
from broker.protocol.script_call import ScriptCall
from tests.conformance.lab import Lab, names_of, run_one, tasks
from tests.conformance.stored.make import ADMISSION, ADMISSION_CONFIG, CONFIG, LEASE_MS, OWNER, TASKS
from tests.servers import ServerUnderTest

RELEASES = ("first",)
STORED = Path(__file__).parent / "stored"
#: Fields of the config that the makers of the runs did not give: they have their defaults.
#: What a run of that trainer has now: the release had no limit of staleness of its own.
KEPT = {**CONFIG, "staleness_limit": CONFIG["max_staleness"]}
NOT_GIVEN = set(RunConfig.model_fields) - set(CONFIG)

State = dict[str, str]


def _as_it_was(_: State) -> None:
    pass


def _without_fields_that_nobody_gave(state: State) -> None:
    """A state without some fields, as a release leaves it that did not have them."""
    for name in NOT_GIVEN:
        state.pop(name, None)


def _with_fields_of_tomorrow(state: State) -> None:
    state["of_tomorrow"] = "1"


CHANGES: tuple[Callable[[State], None], ...] = (
    _as_it_was,
    _without_fields_that_nobody_gave,
    _with_fields_of_tomorrow,
)


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Path:
    """The folder of a release."""
    return STORED / request.param


@pytest.fixture
def old(server: ServerUnderTest, release: Path) -> Generator[Lab]:
    """The runs as that release left them, at the time when it did."""
    stored = json.loads((release / "runs.json").read_text())
    with Lab(server, TASKS) as lab:
        lab.pass_ms(stored["clock"] - lab.now)
        lab.runs.add(ADMISSION)
        for run in lab.runs:
            restore(lab, run, stored[run])
        yield lab
        lab.close_clients()
        lab.check()
        lab.purge()
    assert server.command("KEYS", "rb1:*") == []


def restore(lab: Lab, run: str, found: dict[str, Any]) -> None:
    """Restores a stored run."""
    for name, (kind, contents, left_ms) in found.items():
        key = keys.key(run, name)
        match kind:
            case "hash":
                lab.command("HSET", key, *_bytes(contents))
            case "set":
                lab.command("SADD", key, *_bytes(contents))
            case "zset":
                scores = [part for i in range(0, len(contents), 2) for part in (contents[i + 1], contents[i])]
                lab.command("ZADD", key, *_bytes(scores))
            case "stream":
                for entry, fields in contents:
                    lab.command("XADD", key, entry, *_bytes(fields))
            case _:
                lab.command("SET", key, *_bytes([contents]))
        if left_ms > 0:
            lab.command("PEXPIRE", key, left_ms)


def _bytes(texts: Sequence[str]) -> list[bytes]:
    return [text.encode("latin-1") for text in texts]


def change_state(lab: Lab, change: Callable[[State], None], run: str = "") -> None:
    """Changes what the state of a run holds."""
    key = keys.key(run or lab.run, "state")
    found = lab.command("HGETALL", key)
    state = {found[i].decode(): found[i + 1].decode("latin-1") for i in range(0, len(found), 2)}
    before = set(state)
    change(state)
    gone = before - set(state)
    if gone:
        lab.command("HDEL", key, *gone)
    lab.command("HSET", key, *_bytes([part for item in state.items() for part in item]))


# -- a stored run goes on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("given", [CONFIG, {"consumer_batch_size": 2}, None], ids=["all", "least", "none"])
def test_a_stored_run_goes_on_to_its_end(old: Lab, change: Callable[[State], None], given: dict[str, Any] | None):
    change_state(old, change)
    one = old.trainer(reopen=given is None, **(given or {}))
    assert (one.version, one.config) == (2, RunConfig(**KEPT))
    states = old.states()
    assert set(states.values()) == {
        "pending",
        "delayed",
        "running",
        "ready",
        "batched",
        "dead",
        "rejected",
        "sealed",
    } | {"consumed"}
    assert names_of(one.next_batch(2, timeout=1)) == ["t04", "t05"]
    _the_old_session_goes_on(old)
    hands = old.worker(name="new")
    assert one.advance(b"weights") == 3
    finished: list[str] = []
    while True:
        for attempt in hands.claim(4, timeout=0.05):
            assert hands.submit(attempt, b"x").answer == "accepted"
        old.pass_ms(1_000)
        try:
            finished += names_of(one.next_batch(2, timeout=0.05, short=True))
        except Exhausted:
            break
        except WaitTimeout:
            continue
        one.advance()
    assert {"t06", "t07", "t09", "t11", "t12", "group", "t22"} <= set(finished)
    assert not {"t08", "t10", "t23"} & set(finished)
    assert one.stats().pending == 0
    assert old.states()["t08"] == "dead"


def _the_old_session_goes_on(old: Lab) -> None:
    """A worker of the older release that has not heard of the newer one: what it holds is its own."""
    (session,) = old.command("HKEYS", old.key("calls"))
    held = ["t11#0.1.r1", "group#2.1.r2"]
    renewed = old.call(worker.renew, session.decode(), 7, held)
    assert renewed.abandon == {}
    (answer,) = old.call(result_bytes.submit_call, [worker.Submission(held[0], "accept", b"late")])
    assert answer.word == "accepted"
    assert [one.word for one in old.call(worker.release, held[1:])] == ["released"]
    assert old.call(worker.leave, session.decode())


@pytest.mark.parametrize("change", CHANGES)
def test_a_stored_run_is_recovered(old: Lab, change: Callable[[State], None], release: Path, tmp_path: Path):
    """From the file of the release that stored it, and from one of this release."""
    change_state(old, change)
    one = old.trainer(**CONFIG)
    preview = one.recover(release / "checkpoint", dry_run=True)
    report = one.recover(release / "checkpoint")
    assert (report.version_from, report.version_to, report.missing) == (2, 1, [])
    assert (preview.ready_again, preview.requeued) == (report.ready_again, report.requeued)
    one.checkpoint(tmp_path / "checkpoint", full=True)
    one.next_batch(2, timeout=1)
    one.advance()
    assert one.recover(tmp_path / "checkpoint").version_to == 1


def test_a_file_of_an_older_release_creates_the_run(old: Lab, release: Path):
    old.keeps_config = False
    old.purge()
    with Operator(old.url) as operator:
        report = operator.recover(old.run, release / "checkpoint")
        assert report.restored > 0
        assert operator.stats(old.run).config == RunConfig(**KEPT)
    assert old.states()["t02"] == "pending"


def test_no_script_needs_a_field_of_the_config(old: Lab):
    """All of them are missing, but for the batch size, which every release had."""
    for run in (TASKS, ADMISSION):
        change_state(
            old,
            lambda state: [state.pop(name, None) for name in RunConfig.model_fields if name != "consumer_batch_size"],
            run,
        )
    old.keeps_config = False
    one = old.trainer(consumer_batch_size=2)
    assert one.config == RunConfig(consumer_batch_size=2, staleness_limit=0)
    assert one.stats().config == one.config
    assert old.call(trainer.open_run, "another0", {}).version == 2
    hands = old.raw_worker("new")
    old.call(worker.release, ["t11#0.1.r1"])
    hands.claim(3)
    old.pass_ms(600_000)
    hands.claim(3)
    assert old.states()["t12"] in ("pending", "running")  # expired or too old once: both have their defaults
    with Operator(old.url) as operator:
        assert operator.audit(TASKS).problems == []
        operator.explain(TASKS)
        assert operator.stats(ADMISSION).config == RunConfig(consumer_batch_size=4, staleness_limit=0)


@pytest.mark.parametrize("change", CHANGES)
def test_a_stored_admission_run_goes_on(old: Lab, change: Callable[[State], None]):
    change_state(old, change, ADMISSION)
    report = OwnerReport(2, 3, 0, 6, 1, 0, asks=True, version=1, recovery=Recovery())
    standing = old.do(admission.report(ADMISSION, OWNER, LEASE_MS, report, now=old.now))
    assert (standing.accepted, standing.running, standing.version) == (6, 3, 1)
    given = RunConfig(**ADMISSION_CONFIG).to_fields()
    opened = old.do(admission.open_owner(ADMISSION, "owner-2", LEASE_MS, "b" * 8, given, Counted(), now=old.now))
    assert (opened.version, opened.accepted, opened.created) == (1, 6, False)


# -- what is compared --------------------------------------------------------------------------------------------------


def test_only_what_is_given_is_compared_and_changed(lab: Lab):
    lab.keeps_config = False
    lab.trainer(consumer_batch_size=2, max_attempts=5, max_finished=7)
    assert lab.trainer(consumer_batch_size=2).config.max_attempts == 5
    with pytest.raises(ConfigMismatch) as refused:
        lab.trainer(consumer_batch_size=2, max_finished=10_000)  # the default, but somebody wrote it
    assert refused.value.fields["field"] == "max_finished"
    changed = lab.trainer(update=True, consumer_batch_size=2, max_finished=9).config
    assert (changed.max_attempts, changed.max_finished) == (5, 9)


def test_a_new_run_stores_what_nobody_gave(lab: Lab):
    """So that another default in a later release does not change it."""
    lab.trainer(consumer_batch_size=2)
    names = sorted(RunConfig.model_fields)
    assert None not in lab.command("HMGET", lab.key("state"), *names)


def test_the_concurrency_that_nobody_gave_follows_the_batch_size(lab: Lab):
    lab.keeps_config = False
    lab.trainer(consumer_batch_size=2)
    assert lab.trainer(update=True, consumer_batch_size=4).config.max_concurrent_rollouts == 4
    assert lab.stat("max_concurrent_rollouts") == 4
    lab.trainer(consumer_batch_size=4, max_concurrent_rollouts=4)  # agrees, changes nothing
    assert lab.trainer(update=True, consumer_batch_size=5).config.concurrency == 5
    lab.trainer(update=True, consumer_batch_size=5, max_concurrent_rollouts=5)
    assert lab.trainer(update=True, consumer_batch_size=6).config.concurrency == 5, "it was given"


def test_a_concurrency_that_was_given_stays(lab: Lab):
    lab.keeps_config = False
    lab.trainer(consumer_batch_size=2, max_concurrent_rollouts=2)
    assert lab.trainer(update=True, consumer_batch_size=4).config.concurrency == 2


@pytest.mark.parametrize(("stored", "then"), [(2, 4), (9, 9)])
def test_the_concurrency_of_an_older_release_follows_where_it_was_the_batch_size(old: Lab, stored: int, then: int):
    old.keeps_config = False
    change_state(old, lambda state: state.update(max_concurrent_rollouts=str(stored)))
    assert old.trainer(update=True, consumer_batch_size=4).config.concurrency == then


def test_a_field_that_no_config_has_is_refused(lab: Lab):
    with pytest.raises(BadArgument, match="version"):
        lab.call(trainer.open_run, "token000", {"consumer_batch_size": "1", "version": "7"})
    with pytest.raises(BadArgument, match="consumer_batch_size"):
        lab.call(trainer.open_run, "token000", {"max_staleness": "1"})
    assert lab.dump() == {}


# -- an older release's clients on a run of this one -------------------------------------------------------------------


def old_call(script: str, *args: str | int | bytes) -> ScriptCall[Any]:
    """A call as the first release makes it, to this release's script."""
    return ScriptCall(script, (keys.state(TASKS),), tuple(args), lambda reply: reply)


#: Each call of a worker in the first release's form; `{session}` and `{attempt}` are those of one.
OLD_CALLS: dict[str, tuple[Any, ...]] = {
    "join": ("", "w", "nonce", 0),
    "claim": ("", "{session}", 8, 1, "", "", "r9", 100, 0),
    "renew": ("", "{session}", 7, "{attempt}"),
    "submit": ("", "{attempt}", "a", "", "", "i", b"x"),
    "release": ("", "{attempt}"),
    "fail": ("", "{attempt}", "boom", 1),
    "leave": ("", "{session}", 200),
    "requeue": ("", 100),
    "stats": ("",),
}


@pytest.mark.parametrize("script", OLD_CALLS)
def test_a_call_in_the_form_of_an_older_release_is_served_or_refused_in_words(old: Lab, script: str):
    (session,) = old.command("HKEYS", old.key("calls"))
    words = {"{session}": session.decode(), "{attempt}": "t12#0.1.r1", "": str(old.now)}
    args = [
        words.get(arg, arg) if isinstance(arg, str) and i in (0, 1, 3) else arg
        for i, arg in enumerate(OLD_CALLS[script])
    ]
    (reply,) = old.transport.execute([old_call(script, *args)])
    if isinstance(reply, BrokerError):
        assert isinstance(reply, (BadArgument, SchemaMismatch)), f"no word for an old {script}: {reply}"


class OldClient:
    """A client of an older release, with its scripts beside today's."""

    def __init__(self, lab: Lab, release: Path) -> None:
        self.lab = lab
        self.source = gzip.decompress((release / "library.lua.gz").read_bytes())
        self.name = self.source.split(b"name=", 1)[1].split(b"\n", 1)[0].decode()
        lab.command("FUNCTION", "LOAD", "REPLACE", self.source)

    def call(self, script: str, *args: str | int | bytes) -> Any:
        """The reply; a refusal is raised as the client of any release does."""
        try:
            return self.lab.command(
                "FCALL", f"{self.name}_{script}", 1, self.lab.key("state"), str(self.lab.now), *args
            )
        except BrokerError as error:
            raise from_reply(str(error)) from error

    def close(self) -> None:
        """Takes its scripts away."""
        self.lab.command("FUNCTION", "DELETE", self.name)


@pytest.fixture
def old_client(lab: Lab, release: Path) -> Generator[OldClient]:
    """A client of an older release; only where there are functions: elsewhere each client brings its scripts itself."""
    if not lab.server.kind.supports_shebang:
        pytest.skip("has no functions")
    made = OldClient(lab, release)
    yield made
    made.close()


def test_an_older_worker_works_on_a_run_of_this_release(lab: Lab, old_client: OldClient):
    one = lab.trainer(consumer_batch_size=2)
    one.enqueue(tasks(6))
    session, *_ = old_client.call("join", "w", "nonce", 0)
    for number in (1, 2):
        claim = old_client.call("claim", session, number, 2, "", "", f"r{number}", 100, 0)
        ids = [f"{task.decode()}#0.1.r{number}" for task in claim[9::4]]
        assert len(ids) == 2
        old_client.call("renew", session, number, *ids)
        assert (
            old_client.call("submit", *(part for name in ids for part in (name, "a", "", "", "i", b"x")))
            == [b"accepted"] * 2
        )
        assert len(one.next_batch(2, timeout=1)) == 2
        one.advance()
    run_one(lab.worker(name="today"))
    claim = old_client.call("claim", session, 3, 1, "", "", "r3", 100, 0)
    assert old_client.call("fail", f"{claim[9].decode()}#0.1.r3", "boom", 1) == b"retried"
    old_client.call("leave", session, 200)


def test_what_an_older_release_holds_and_gives_back_is_counted(lab: Lab, old_client: OldClient):
    """Its scripts do not count. A claim that finds no slot free does, at most every ten seconds.

    Mutants: held_is_not_counted_again, held_is_counted_again_at_each_claim.
    """
    one = lab.trainer(consumer_batch_size=9, max_concurrent_samples=2)
    one.enqueue(tasks(9))
    hands = lab.worker(name="today")
    session, *_ = old_client.call("join", "w", "nonce", 0)

    def given_back(ids: list[str]) -> None:
        assert set(old_client.call("submit", *(part for name in ids for part in (name, "a", "", "", "i", b"x")))) == {
            b"accepted"
        }

    given_back([attempt.id for attempt in hands.claim(2)])
    assert one.stats().held == 2  # nobody counted
    held = hands.claim(3)
    assert len(held) == 2
    given_back([attempt.id for attempt in held])
    assert (hands.claim(1), hands.claim_reason) == ([], "max_samples")
    lab.pass_ms(10_000)
    (last,) = hands.claim(1)
    claim = old_client.call("claim", session, 1, 2, "", "", "r1", 100, 0)
    assert (len(claim[9::4]), one.stats().held) == (2, 1)
    assert len(hands.claim(9)) == 1  # it cannot know better yet
    lab.pass_ms(10_000)
    assert (hands.claim(1), hands.claim_reason, one.stats().held) == ([], "max_samples", 4)
    assert hands.submit(last, b"x").answer == "accepted"


def test_what_an_older_release_held_is_not_given_back_twice(lab: Lab, old_client: OldClient):
    """Its claims were not counted, and their ends were. Mutants: fewer_than_none_are_held."""
    one = lab.trainer(consumer_batch_size=9, max_concurrent_samples=2, lease_ms=1_000)
    one.enqueue(tasks(9))
    session, *_ = old_client.call("join", "w", "nonce", 0)
    hands = lab.worker(name="today")
    for number in (1, 2):  # also within ten seconds
        old_client.call("claim", session, number, 2, "", "", f"r{number}", 100, 0)
        lab.pass_ms(1_001)
        held = hands.claim(9)
        assert (len(held), one.stats().held) == (2, 2)
        hands.submit_many((attempt, b"x") for attempt in held)
        session, *_ = old_client.call("join", "w", f"nonce{number}", 0)


def test_an_older_trainer_goes_on_with_a_run_of_this_release(lab: Lab, old_client: OldClient):
    one = lab.trainer(consumer_batch_size=2)
    one.enqueue(tasks(6))
    given = RunConfig(consumer_batch_size=2)
    fields = {name: getattr(given, name) for name in RunConfig.model_fields if name != "of_tomorrow"}
    pairs = [part for name, value in fields.items() for part in (name, "" if value is None else str(value))]
    old_client.call("open", "oldtoken", 0, *pairs)
    hands = lab.worker()
    run_one(hands)
    run_one(hands)
    taken = old_client.call("take", "t", "oldtoken", 1, 0, 2, 500, 1, 0, 0, 0)
    digest = taken.split()[5]
    old_client.call("advance", "t", "oldtoken", 2, 0, digest, 0, 0, "")
    again = lab.trainer(consumer_batch_size=2)
    assert again.version == 1
    run_one(hands)
    run_one(hands)
    assert len(again.next_batch(2, timeout=1)) == 2


def test_a_run_of_a_schema_that_is_not_known_is_refused(lab: Lab):
    lab.trainer(consumer_batch_size=2)
    lab.command("HSET", lab.key("state"), "schema", 2)
    with pytest.raises(SchemaMismatch):
        lab.worker().claim(1)
    with pytest.raises(SchemaMismatch):
        lab.trainer(consumer_batch_size=2)
    lab.command("HSET", lab.key("state"), "schema", 1)


# -- function libraries ------------------------------------------------------------------------------------------------


def loads_counted(lab: Lab) -> int:
    """How often a function library was loaded on the server."""
    stats: bytes = lab.command("INFO", "commandstats")
    lines = [line for line in stats.splitlines() if line.startswith(b"cmdstat_function|load:")]
    return int(lines[0].split(b"calls=")[1].split(b",")[0]) if lines else 0


def other_library() -> scripts.Library:
    """Of a release whose scripts differ from this one's in a word."""
    ours, name = scripts.library(), f"broker_{0:012x}"
    functions = {script: function.replace(ours.name, name) for script, function in ours.functions.items()}
    return scripts.Library(name, functions)


def test_two_releases_take_turns_and_load_their_scripts_once(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    if not lab.server.kind.supports_shebang:
        pytest.skip("has no functions")
    one = lab.trainer(consumer_batch_size=1)
    libraries = [scripts.library(), other_library()]
    hands = [lab.worker(name=library.name) for library in libraries]
    before = loads_counted(lab)
    for turn in range(6):
        for library, each in zip(libraries, hands, strict=True):
            monkeypatch.setattr(scripts, "library", lambda library=library: library)
            one.enqueue([Task(id=f"{library.name}-{turn}")])
            run_one(each)
            assert len(one.next_batch(timeout=1)) == 1
            one.advance()
    assert loads_counted(lab) - before == 1, "the other release's; this one's was there"
    monkeypatch.undo()
    with Operator(lab.url) as operator:
        assert [old.name for old in operator.delete_old_libraries()] == [libraries[1].name]


def test_deleting_a_library_that_is_in_use_costs_its_clients_one_load(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    if not lab.server.kind.supports_shebang:
        pytest.skip("has no functions")
    one = lab.trainer(consumer_batch_size=3)
    other = other_library()
    one.enqueue(tasks(3))
    with Operator(lab.url) as operator:
        ours = [library.name for library in operator.libraries()]
        with monkeypatch.context() as patch:
            patch.setattr(scripts, "library", lambda: other)
            hands = lab.worker()
            run_one(hands)
        assert sorted(library.name for library in operator.libraries()) == sorted([*ours, other.name])
        assert [old.name for old in operator.delete_old_libraries()] == [other.name]
        before = loads_counted(lab)
        with monkeypatch.context() as patch:
            patch.setattr(scripts, "library", lambda: other)
            run_one(hands)
            run_one(hands)
        assert loads_counted(lab) - before == 1
        operator.delete_old_libraries()
        assert [library.name for library in operator.libraries()] == ours


def test_a_dead_worker_of_this_release_is_found_beside_many_of_an_older_one(lab: Lab, old_client: OldClient):
    """Mostly a client of the older release looks at the timers first. It ends no lease of this release, and stores `due`.

    Mutants: due_as_an_older_release_says.
    """
    one = lab.trainer(consumer_batch_size=2, max_concurrent_rollouts=9)
    session, *_ = old_client.call("join", "w", "nonce", 0)
    dead = lab.raw_worker()
    one.enqueue(tasks(1))
    dead.take_one()
    for number in range(1, 200):
        lab.pass_ms(1_000)
        old_client.call("claim", session, number, 1, "", "", f"r{number}", 100, 0)
        lab.pass_ms(1)
        one.requeue()
    assert lab.stat("n_sessions") == 1
