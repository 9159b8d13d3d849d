"""Commands that look at a run."""

from __future__ import annotations

import json
import re
import secrets
import signal
import time
from contextlib import ExitStack
from typing import Any

import pytest

from broker import Policy, RunConfig, Task, Trainer, Worker
from broker.connections import open_transport
from broker.errors import BrokerError
from broker.protocol import admission, keys
from broker.protocol import worker as worker_calls
from broker.protocol.admission import Counted, OwnerReport, Recovery
from tests.child import Ended
from tests.conformance.cli.commands import RUN, started
from tests.waiting import wait_until


def test_runs_lists_every_run_with_its_counters(broker: Any, trainer: Trainer, url: str) -> None:
    with Trainer(url, run="another", config=RunConfig(consumer_batch_size=1)):
        listed = broker("runs")
        assert listed.code == 0
        assert [line.split()[0] for line in listed.out.splitlines()] == ["run", "another", RUN]
        assert [row["run"] for row in broker("runs", "--json").json_lines] == ["another", RUN]


def test_runs_lists_the_others_where_one_key_is_none_of_ours(broker: Any, trainer: Trainer, url: str) -> None:
    with open_transport(url) as transport:
        transport.command("SET", keys.state("foreign"), "somebody else's")
        transport.command("HSET", keys.state("newer"), "schema", "99")
        listed = broker("runs")
        assert listed.code == 0
        assert [line.split()[0] for line in listed.out.splitlines()] == ["run", RUN]
        assert [line.partition(":")[0] for line in listed.err.splitlines()] == ["run foreign", "run newer"]
        transport.command("DEL", keys.state("foreign"), keys.state("newer"))


def test_runs_of_an_empty_server_are_none(broker: Any) -> None:
    assert broker("runs") == Ended(0, "", "no runs on this server\n")
    assert broker("runs", "--json").out == ""


def test_status_shows_what_stats_say(broker: Any, trainer: Trainer, worker: Worker) -> None:
    worker.claim(3)
    shown = broker("status", RUN)
    assert shown.code == 0
    assert re.search(r"^running +2$", shown.out, flags=re.MULTILINE)
    assert re.search(r"^pending +3$", shown.out, flags=re.MULTILINE)
    assert broker("status", RUN, "--json").json["capacity"] == trainer.stats().capacity == 0


@pytest.mark.parametrize("command", ["status", "explain"])
def test_what_was_generated_in_vain_is_said_in_words(
    command: str, broker: Any, trainer: Trainer, worker: Worker
) -> None:
    assert "Generated in vain" not in broker(command, RUN).out
    worker.claim(2)
    time.sleep(0.06)
    trainer.cancel(["t0"])
    told = " ".join(broker(command, RUN).out.split())
    assert re.search(r"Generated in vain: cancelled 0\.\d s\.", told)
    assert re.search(
        r"was generated in vain for \d+ ms: cancelled", broker("tail", RUN, "--from", "start", "--no-follow").out
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_watch_ends_cleanly(number: int, code: int, trainer: Trainer) -> None:
    with started("status", RUN, "--watch", "--interval", "0.05", "--json") as process:
        assert json.loads(process.read_line())["run"] == RUN
        assert json.loads(process.read_line())["pending"] == 5
        process.send(number)
        result = process.end()
        assert (result.code, result.err) == (code, "")


def test_a_watch_prints_again_and_again_into_a_pipe(trainer: Trainer) -> None:
    with started("status", RUN, "--watch", "--interval", "0.05") as process:

        def titles() -> list[str]:
            return [line for line in process.out if line.startswith("run ")]

        process.wait_until(lambda: len(titles()) > 1, "it prints a second time")
        assert titles()[0] == titles()[1]


def test_explain_tells_who_holds_what_and_what_binds(broker: Any, worker: Worker) -> None:
    first, *_ = worker.claim(4)
    told = broker("explain", RUN)
    assert told.code == 0
    assert "No: 2 tasks are running, max_concurrent_rollouts allows 2.  [max_concurrent]" in told.out
    assert "min(2 - 2, (1 + 0 + 1) * 2 - (0 + 2))" in told.out
    assert "The term of max_concurrent_rollouts is the one that binds." in told.out
    assert "1 worker connected, 4 slots held" in told.out
    assert re.search(
        rf"^{re.escape(first.id)} +w1 +0 +\d\.\d s +none +0 of 3 +(\d+ s|1 min) left$", told.out, flags=re.MULTILINE
    )
    assert "a lease ends, unless its worker renews it" in told.out


def test_explain_begins_with_whether_work_is_going_on(broker: Any, url: str, trainer: Trainer) -> None:
    def first() -> list[str]:
        return broker("explain", RUN).out.splitlines()[1:4]

    assert first() == ["", "Is work going on?", "  No: no worker is connected."]
    assert broker("explain", RUN, "--json").json["work"]["word"] == "no_worker"
    with Worker(url, RUN, policy=Policy(version=0, epoch=trainer.epoch)) as worker:
        attempts = worker.claim(2)
        assert first()[2] == "  Yes: 1 of 1 connected worker holds 2 slots."
        for attempt in attempts:
            worker.release(attempt)
        assert first()[2] == "  No: 1 worker is connected and holds nothing, though tasks may be handed out."
        for _ in range(5):  # beyond staleness_limit, which is 4
            trainer.advance(allow_empty=True)
        assert worker.claim(1) == []
        assert worker.claim_reason == "weights_stale"
        assert first()[2] == (
            "  No: 1 worker is connected and holds nothing."
            " The weights of 1 of 1 worker looked at were too old at the last claim: the run is at version 5."
            " Workers get work again once they have loaded newer weights."
        )


def test_explain_counts_all_workers_and_says_that_its_list_is_shorter(broker: Any, url: str, trainer: Trainer) -> None:
    config = RunConfig(consumer_batch_size=200, max_concurrent_rollouts=200)
    with Trainer(url, "many", config) as many, ExitStack() as stack:
        many.enqueue(Task(id=f"t{i}") for i in range(130))
        workers = [stack.enter_context(Worker(url, "many", name=f"w{i}", lease_s=60.0)) for i in range(61)]
        for worker in workers[:60]:
            assert len(worker.claim(2)) == 2
        assert workers[60].claim(1)
        told = broker("explain", "many")
        assert "Yes: 61 of 61 connected workers hold 121 slots." in told.out
        assert "Who holds what: 61 workers connected, 121 slots held." in told.out
        assert "and 71 more, which are not listed: of tasks that started later" in told.out
        assert len(re.findall(r"left$", told.out, flags=re.MULTILINE)) == 50, "each listed slot has its lease"
        facts = broker("explain", "many", "--json").json
        assert facts["holding"] == {"counted": 61, "busy": 61, "held": 121, "lost": 0}
        assert len(facts["sessions"]) == len(facts["held"]) == 50


def test_workers_that_fell_silent_are_not_called_connected(broker: Any, url: str, trainer: Trainer) -> None:
    with open_transport(url) as transport:
        (joined,) = transport.execute([worker_calls.join(RUN, "w", secrets.token_hex(4), 1500)])
        assert not isinstance(joined, BrokerError)
        transport.execute([worker_calls.claim(RUN, joined.session, 1, 2, "r")])
    # Nobody is left who would write anything, and so move the lease clock on: to look must be enough. The trainer's own
    # signs of life, every 10 s, move it on by a third of the lease each.
    wait_until(lambda: trainer.stats().lapsed == 1, "it has been silent for longer than its lease", 9.0)
    explained = broker("explain", RUN)
    assert "1 more worker has been silent for longer than a lease" in explained.out
    assert re.search(r"passed \d+\.\d s ago$", explained.out, re.MULTILINE)
    assert "now, with the next claims: a lease ends" in explained.out
    assert re.search(r"^workers +0, and 1 silent for longer than their lease$", broker("status", RUN).out, re.MULTILINE)
    assert [row["sessions"] for row in broker("runs", "--json").json_lines] == [1]
    assert broker("runs").out.splitlines()[1].split()[-2:] == ["0", "open"]
    assert (
        "No: no worker is connected. 1 worker has been silent for longer than a lease; the next claims" in explained.out
    )
    assert "Yes: the next claims take back 2 slots of workers that are silent" in explained.out
    with Worker(url, RUN) as worker:
        wait_until(lambda: worker.claim(1), "claims hand out what the silent worker held")


def test_explain_in_json_has_the_facts_and_the_words(broker: Any, worker: Worker) -> None:
    worker.claim(1)
    told = broker("explain", RUN, "--json").json
    assert told["reason"] == "open"
    assert told["sentence"] == "Yes: 1 running task has open slots, which need no capacity."
    assert told["stats"]["running"] == 1
    assert [row["session"].partition("~")[0] for row in told["held"]] == ["w1"]
    assert told["oldest_pending"] == "t1"


@pytest.mark.parametrize("before", ["paused", "empty", "at_capacity"])
def test_explain_agrees_with_what_claim_answers(before: str, broker: Any, trainer: Trainer, worker: Worker) -> None:
    if before == "paused":
        trainer.pause()
    elif before == "empty":
        trainer.cancel([f"t{i}" for i in range(5)])
    else:
        for attempt in [*worker.claim(4), *worker.claim(4)]:
            worker.submit(attempt, 1)
        for attempt in worker.claim(4):
            worker.submit(attempt, 1)
    worker.claim(1)
    assert worker.claim_reason == before
    assert broker("explain", RUN, "--json").json["reason"] == before


def test_explain_tells_that_the_newest_weights_are_too_old_for_the_next_batch(broker: Any, url: str) -> None:
    with Trainer(url, run="strict", config=RunConfig(consumer_batch_size=1, max_staleness=0)) as trainer:
        trainer.enqueue([Task(id="a"), Task(id="b")])
        with Worker(url, run="strict", name="w") as worker:
            (attempt,) = worker.claim(1)
            worker.submit(attempt, 1)
            trainer.next_batch(timeout=10.0)
            assert worker.claim(1) == []
            told = broker("explain", "strict", "--json").json
            assert told["reason"] == worker.claim_reason == "at_capacity"
            assert "too stale for step 1" in told["sentence"]
            trainer.advance()
            assert broker("explain", "strict", "--json").json["reason"] == "open"


def test_tail_tells_what_happened_in_order(broker: Any, worker: Worker) -> None:
    (attempt,) = worker.claim(1)
    worker.submit(attempt, "result")
    told = broker("tail", RUN, "--from", "start", "--no-follow")
    assert told.code == 0
    kinds = [line.split()[1] for line in told.out.splitlines()]
    assert [kind for kind in kinds if kind != "enqueue"] == ["open", "join", "start", "claim", "done"]
    assert kinds.count("enqueue") == 5


def test_tail_in_json_names_the_fields_and_stops_at_the_count(broker: Any, worker: Worker) -> None:
    (attempt,) = worker.claim(1)
    lines = broker("tail", RUN, "--from", "start", "--no-follow", "--json").json_lines
    (claim,) = [line for line in lines if line["event"] == "claim"]
    assert claim["attempt"] == attempt.id
    assert claim["session"].startswith("w1~")
    assert claim["at_ms"] == int(claim["id"].partition("-")[0])
    assert broker("tail", RUN, "--from", "start", "--count", "3", "--json").json_lines == lines[:3]
    after = broker("tail", RUN, "--from", claim["id"], "--no-follow", "--json").json_lines
    assert all(line["id"] > claim["id"] for line in after)


def test_tail_follows(trainer: Trainer) -> None:
    with started("tail", RUN, "--count", "2", "--json") as process:

        def act() -> bool:
            trainer.pause()
            trainer.resume()
            return process.has_ended(0.1)

        wait_until(act, "it has seen enough")
        result = process.end()
        assert result.code == 0
        assert {line["event"] for line in result.json_lines} == {"pause", "resume"}


def test_tail_of_a_run_without_events_says_how_to_get_some(broker: Any, url: str) -> None:
    with Trainer(url, run="silent", config=RunConfig(consumer_batch_size=1, events_maxlen=0)):
        result = broker("tail", "silent", "--no-follow")
        assert result.code == 2
        assert "events_maxlen" in result.err


# -- verify --------------------------------------------------------------------------------------------------------------


def test_verify_of_a_run_that_went_well_is_fine(broker: Any, trainer: Trainer, worker: Worker) -> None:
    for attempt in worker.claim(4):
        worker.submit(attempt, "x")
    trainer.next_batch(timeout=5)
    trainer.advance()
    told = broker("verify", RUN)
    assert (told.code, told.err) == (0, "")
    assert "the whole log" in told.out
    assert "5 tasks enqueued, 2 starts, 4 results accepted, 0 refused, 2 tasks trained on, 0 recoveries" in told.out
    assert told.out.splitlines()[-1] == "nothing is broken"
    found = broker("verify", RUN, "--json").json
    assert (found["ok"], found["breaches"], found["unseen"]) == (True, [], [])
    assert found["tally"]["consumed"] == 2


def test_verify_names_what_is_broken(broker: Any, url: str, trainer: Trainer, worker: Worker) -> None:
    (attempt,) = worker.claim(1)
    worker.submit(attempt, "x")
    with open_transport(url) as transport:
        transport.command("XADD", keys.key(RUN, "events"), "*", "done", f"{attempt.id} 0")
        transport.command("HINCRBY", keys.state(RUN), "accepted", 1)
    told = broker("verify", RUN)
    assert told.code == 1
    assert f"  G2       slot t0#0 has a second accepted result, by {attempt.id}  (" in told.out
    assert "accepted is stored as 1, the sets in the server come to 0" in told.out
    assert told.out.splitlines()[-1].startswith("broken: G2 and counters; please report it")
    assert [breach["guarantee"] for breach in broker("verify", RUN, "--json").json["breaches"]][:1] == ["G2"]


def test_verify_says_what_was_trimmed(broker: Any, url: str, trainer: Trainer) -> None:
    with open_transport(url) as transport:
        trainer.enqueue([Task(id="last")])
        transport.command("XTRIM", keys.key(RUN, "events"), "MAXLEN", 1)
        told = broker("verify", RUN)
        assert told.code == 0
        assert "What it could not see:\n  - the log does not begin with the run" in told.out
        assert told.out.splitlines()[-1] == "nothing is broken, as far as this can be seen"
        transport.command("DEL", keys.key(RUN, "events"))
        assert broker("verify", RUN).code == 2


def test_verify_of_a_run_without_events_says_how_to_get_some(broker: Any, url: str) -> None:
    with Trainer(url, run="silent", config=RunConfig(consumer_batch_size=1, events_maxlen=0)):
        result = broker("verify", "silent")
        assert (result.code, result.out) == (2, "")
        assert "events_maxlen" in result.err


@pytest.fixture
def admission_run(url: str) -> str:
    """The name of a run with one process that has one rollout running."""
    with open_transport(url) as transport:
        config = RunConfig(consumer_batch_size=1).to_fields()
        opening = admission.open_owner("areal", "owner", 60_000, "0123456789", config, Counted(0, 0))
        report = OwnerReport(1, 1, 0, 2, 0, 0, False, 0, Recovery())
        for answer in transport.execute([opening, admission.report("areal", "owner", 60_000, report)]):
            assert not isinstance(answer, BrokerError)
    return "areal"


@pytest.mark.parametrize("command", ["verify", "tail"])
def test_what_reads_events_says_that_an_admission_run_has_none_of_tasks(
    broker: Any, admission_run: str, command: str
) -> None:
    result = broker(command, admission_run)
    assert (result.code, result.out) == (2, "")
    assert "is an admission run: it holds no tasks, and its events tell of none" in result.err


def test_status_of_an_admission_run_shows_what_is_counted(broker: Any, admission_run: str) -> None:
    told = broker("status", admission_run).out
    rows = {line.rpartition(" ")[0].strip(): line.rpartition(" ")[2] for line in told.splitlines()}
    assert (rows["processes"], rows["running"], rows["accepted (counter)"]) == ("1", "1", "2")
    assert not {"workers", "pending", "ready", "consumed"} & set(rows)


def test_pausing_an_admission_run_speaks_of_no_task(broker: Any, admission_run: str) -> None:
    told = broker("pause", admission_run).out + broker("explain", admission_run).out
    told += broker("resume", admission_run).out
    assert "nothing new is started" in told
    assert "task" not in told.replace("holds no tasks", "")
