"""Commands that change a run."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker import RunConfig, Task, Trainer, Worker
from broker.cli.output import Output
from broker.cli.progress import ShowProgress
from broker.connections import open_transport
from broker.protocol import keys
from tests.child import Ended
from tests.conformance.cli.commands import RUN


def test_audit_finds_nothing_in_a_sound_run(broker: Any, worker: Worker) -> None:
    worker.claim(2)
    result = broker("audit", RUN)
    assert result.code == 0
    assert "the counters agree" in result.out
    assert broker("audit", RUN, "--json").json["drift"] == {}


def test_commands_that_may_take_long_tell_how_far_they_are(
    broker: Any, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, int] = {}

    @contextmanager
    def progress(_output: Output, what: str) -> Generator[ShowProgress]:
        yield lambda done, _total=None: told.update({what: done})

    monkeypatch.setattr(Output, "progress", progress)
    assert broker("audit", RUN, "--deep").code == 0
    assert told == {"tasks looked at": 5}
    assert broker("purge", RUN, "--yes").code == 0
    assert told["keys deleted"] > 3


def test_audit_finds_drift_and_repairs_it(broker: Any, url: str, trainer: Trainer) -> None:
    with open_transport(url) as transport:
        transport.command("HINCRBY", keys.state(RUN), "accepted", 7)
    found = broker("audit", RUN)
    assert found.code == 1
    assert re.search(r"^accepted +7 +0$", found.out, flags=re.MULTILINE)
    assert broker("audit", RUN, "--json").json["drift"] == {"accepted": [7, 0]}
    repaired = broker("audit", RUN, "--repair")
    assert repaired.code == 1
    assert "rewritten" in repaired.out
    assert broker("audit", RUN).code == 0
    assert broker("audit", RUN, "--repair").code == 0


def test_dead_tasks_are_listed_shown_and_retried(broker: Any, worker: Worker) -> None:
    (attempt,) = worker.claim(1)
    worker.fail(attempt, "out of disk", retry=False)
    listed = broker("dead", RUN, "list")
    assert listed.code == 0
    assert "t0" in listed.out
    assert "out of disk" in listed.out
    assert [row["id"] for row in broker("dead", RUN, "--json").json_lines] == ["t0"]

    shown = broker("dead", RUN, "show", "t0")
    assert shown.code == 0
    assert attempt.id in shown.out
    assert "out of disk" in shown.out
    assert broker("dead", RUN, "show", "t0", "--json").json["state"] == "dead"

    retried = broker("dead", RUN, "retry", "t0")
    assert (retried.code, retried.out) == (0, "t0: retried\n")
    assert broker("dead", RUN).out == ""


def test_all_dead_tasks_can_be_retried_and_rejected_ones_too(broker: Any, trainer: Trainer) -> None:
    trainer.cancel(["t1", "t2"])
    assert [row["id"] for row in broker("dead", RUN, "--rejected", "--json").json_lines] == ["t2", "t1"]
    assert broker("dead", RUN, "retry", "--all", "--json").json == {"retried": [], "refused": {}}
    assert sorted(broker("dead", RUN, "retry", "--all", "--rejected", "--json").json["retried"]) == ["t1", "t2"]
    assert trainer.stats().rejected == 0


@pytest.mark.parametrize("max_finished", [0, 2_000_000])
def test_all_that_are_kept_can_be_retried_however_many_those_may_be(
    broker: Any, url: str, trainer: Trainer, max_finished: int
) -> None:
    with Trainer(url, RUN, trainer.config.model_copy(update={"max_finished": max_finished}), update=True):
        assert broker("dead", RUN, "retry", "--all", "--json").json == {"retried": [], "refused": {}}
        assert broker("dead", RUN, "--count", "2000000").code == 0


def test_more_dead_tasks_than_max_finished_can_be_retried_at_once(broker: Any, url: str, trainer: Trainer) -> None:
    with Trainer(url, RUN, trainer.config.model_copy(update={"max_finished": 1}), update=True) as again:
        again.cancel(["t1", "t2", "t3"])
        assert broker("dead", RUN, "retry", "--all", "--rejected", "--json").json["retried"] == ["t3", "t2", "t1"]


def test_what_was_freed_untrained_is_told(broker: Any, url: str, trainer: Trainer) -> None:
    changed = {"max_finished": 0, "retention_steps": 0}
    with Trainer(url, RUN, trainer.config.model_copy(update=changed), update=True) as again:
        again.cancel(["t1", "t2"])
        again.advance(allow_empty=True)
        again.advance(allow_empty=True)
        refused = broker("dead", RUN, "retry", "t1")
        assert refused.code == 1
        assert "again=True" in refused.out
        assert "0 dead and 2 rejected tasks more were freed" in broker("explain", RUN).out
        assert "freed rejected" in broker("status", RUN).out
        assert "task t1, which was rejected, is forgotten" in broker("tail", RUN, "--from", "start", "--no-follow").out
        assert again.enqueue(Task(id="t1"), again=True).added == 1
        assert broker("explain", RUN, "--json").json["untrained"]


def test_what_cannot_be_retried_or_shown_is_a_finding(broker: Any, trainer: Trainer) -> None:
    refused = broker("dead", RUN, "retry", "t0", "no-such-task")
    assert refused.code == 1
    assert refused.out.splitlines() == [
        "t0: not retried, it is pending",
        "no-such-task: not retried, no such task in this run",
    ]
    assert broker("dead", RUN, "show", "no-such-task").code == 1


def test_pause_drain_and_resume(broker: Any, trainer: Trainer, worker: Worker) -> None:
    assert broker("pause", RUN).code == 0
    assert trainer.stats().paused == "paused"
    assert worker.claim(1) == []
    assert "already" in broker("pause", RUN).out
    assert broker("pause", RUN, "--drain", "--json").json == {"run": RUN, "claims": "draining", "before": "paused"}
    assert broker("resume", RUN, "--json").json == {"run": RUN, "claims": "open", "before": "draining"}
    assert trainer.stats().paused == ""
    assert "was not paused" in broker("resume", RUN).out


def test_cancel_says_what_became_of_each_task(broker: Any, trainer: Trainer, worker: Worker) -> None:
    (attempt,) = worker.claim(1)
    assert broker("cancel", RUN, attempt.task, "t4") == Ended(0, "t0: cancelled\nt4: cancelled\n", "")
    again = broker("cancel", RUN, "t3", "t4", "--json")
    assert again.code == 1
    assert again.json == {"cancelled": ["t3"], "refused": {"t4": "rejected"}}
    assert trainer.stats().rejected == 3


def test_cancel_forgets_on_request(broker: Any, trainer: Trainer, worker: Worker) -> None:
    (attempt,) = worker.claim(1)
    broker("cancel", RUN, "t4")
    assert broker("cancel", RUN, attempt.task, "t4", "--forget") == Ended(0, "t0: forgotten\nt4: forgotten\n", "")
    again = broker("cancel", RUN, "t3", "t4", "--forget", "--json")
    assert again.code == 1
    assert again.json == {"forgotten": ["t3"], "refused": {"t4": "freed_untrained"}}
    assert trainer.stats().rejected == 0


def test_purge_needs_a_yes(broker: Any, trainer: Trainer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = broker("purge", RUN)
    assert refused.code == 2
    assert "--yes" in refused.err

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdin, "readline", lambda: "n\n")
    asked = broker("purge", RUN)
    assert asked.code == 1
    assert "5 waiting tasks" in asked.err
    assert trainer.stats().pending == 5

    monkeypatch.setattr(sys.stdin, "readline", lambda: f"{RUN}\n")
    assert broker("purge", RUN).code == 0
    with open_transport(url) as transport:
        assert transport.command("KEYS", keys.pattern_of_run(RUN)) == []


def test_purge_leaves_other_runs_alone(broker: Any, trainer: Trainer, url: str) -> None:
    with Trainer(url, run=f"{RUN}/2", config=RunConfig(consumer_batch_size=1)):
        result = broker("purge", RUN, "--yes", "--json")
        assert result.code == 0
        assert result.json["keys_deleted"] > 3
        assert [row["run"] for row in broker("runs", "--json").json_lines] == [f"{RUN}/2"]


@pytest.mark.parametrize("options", [(), ("--full",)], ids=["", "full"])
def test_a_checkpoint_needs_the_name_of_a_file(
    options: tuple[str, ...], broker: Any, trainer: Trainer, tmp_path: Path
) -> None:
    empty = broker("checkpoint", RUN, "", *options)
    assert (empty.code, empty.out) == (2, "")
    assert "the path is empty: name a file" in empty.err
    assert "the path is empty: name a file" in broker("recover", RUN, "--checkpoint", "", "--yes").err
    directory = broker("checkpoint", RUN, str(tmp_path), *options)
    assert (directory.code, directory.out) == (2, "")
    assert f"{tmp_path} could not be written, this is a directory: name a file in it" in directory.err
    assert list(tmp_path.iterdir()) == []
    assert not list(tmp_path.parent.glob(".*.tmp"))


def test_a_recovery_tells_where_the_data_loader_goes_on(broker: Any, trainer: Trainer, tmp_path: Path) -> None:
    path = tmp_path / "broker.json"
    assert broker("checkpoint", RUN, str(path)).code == 0
    without = broker("recover", RUN, "--checkpoint", str(path), "--dry-run").out
    assert "no cursor is stored" in without
    assert "None" not in without
    trainer.enqueue([], cursor=17)
    assert broker("checkpoint", RUN, str(path)).code == 0
    assert (
        "the data loader goes on from cursor 17" in broker("recover", RUN, "--checkpoint", str(path), "--dry-run").out
    )


def test_function_libraries_are_listed_and_old_ones_deleted(
    broker: Any, url: str, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = "broker_0123456789ab"
    with open_transport(url) as transport:
        source = f"#!lua name={old}\nredis.register_function('{old}_claim', function() return 1 end)"
        transport.command("FUNCTION", "LOAD", "REPLACE", source)

    listed = broker("functions")
    assert listed.code == 0
    assert re.search(rf"^{old} .* another release$", listed.out, flags=re.MULTILINE)
    assert len(re.findall(r" this release$", listed.out, flags=re.MULTILINE)) == 1

    refused = broker("functions", "--delete-old")
    assert (refused.code, refused.out) == (2, "")
    assert "--yes" in refused.err

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdin, "readline", lambda: "no\n")
    assert broker("functions", "--delete-old").code == 1

    deleted = broker("functions", "--delete-old", "--yes", "--json").json_lines
    assert {line["library"]: line["deleted"] for line in deleted} == {
        line["library"]: not line["this_release"] for line in deleted
    }
    assert old in {line["library"] for line in deleted}
    assert [line["this_release"] for line in broker("functions", "--json").json_lines] == [True]
    assert broker("functions", "--delete-old").code == 0
    assert trainer.stats().version == 0


def test_a_recovery_names_the_file_that_it_goes_by(broker: Any, trainer: Trainer, tmp_path: Path) -> None:
    """Of several files under one name, recovery takes an operator's only if there is no trainer's."""
    path = tmp_path / "broker.json"
    by_hand = broker("checkpoint", RUN, str(path), "--json").json
    assert (Path(by_hand["path"]).exists(), by_hand["version"]) == (True, trainer.version)
    told = broker("recover", RUN, "--checkpoint", str(path), "--dry-run")
    assert f"by {by_hand['path']}\n" in told.out
    assert f"{by_hand['path']}: version 0, epoch {trainer.epoch}, written by an operator: its trainer saved" in told.err
    made = trainer.checkpoint(path)
    told = broker("recover", RUN, "--checkpoint", str(path), "--dry-run", "--json")
    assert (told.json["source"], told.json["source_by_operator"]) == (str(made.path), False)
    assert f"{made.path}: version 0, epoch {trainer.epoch}, written by the run's trainer.\n" in told.err
    assert broker("recover", RUN, "--checkpoint", by_hand["path"], "--yes", "--json").json["source"] == by_hand["path"]
    assert "operators' checkpoints" in broker("status", RUN).out


def test_the_last_error_is_shown_with_its_traceback(broker: Any, worker: Worker) -> None:
    (attempt,) = worker.claim(1)
    try:
        _ = {}["reward"]
    except KeyError as error:
        worker.fail(attempt, error, "worker")
    shown = broker("dead", RUN, "show", "t0")
    assert "a fault of its worker" in shown.out
    assert "Traceback" in shown.out
    assert "KeyError: 'reward'" in shown.out
    assert broker("dead", RUN, "show", "t0", "--json").json["last_failure"]["kind"] == "worker"


def test_a_halt_is_told_and_ended_only_by_name(broker: Any, trainer: Trainer, worker: Worker) -> None:
    while attempts := worker.claim():
        worker.fail(attempts[0], "no engine", retry=False)
    failures = trainer.stats().halted
    assert failures > 1
    assert f"{failures} failures without an accepted result" in broker("status", RUN).out
    told = broker("explain", RUN).out
    assert "[halted]" in told
    assert "no engine" in told
    assert f"broker resume {RUN} --halted" in told

    broker("pause", RUN)
    refused = broker("resume", RUN)
    assert refused.code == 1
    assert "the run was paused, and is now only halted" in refused.out
    assert broker("resume", RUN).out.startswith(f"run {RUN} is halted: {failures} failures")
    assert broker("resume", RUN, "--json").json == {"run": RUN, "claims": "halted", "before": ""}
    ended = broker("resume", RUN, "--halted")
    assert (ended.code, ended.out) == (0, f"run {RUN} starts work again (was halted)\n")
    assert trainer.stats().halted == 0


def test_finish_says_what_is_left_and_the_run_says_that_it_is_finished(broker: Any, trainer: Trainer) -> None:
    waiting = trainer.stats().pending
    told = broker("finish", RUN)
    assert told.code == 0
    assert told.out.startswith(f"run {RUN} is finished: workers end, and no further batch is formed. What is left")
    assert broker("finish", RUN, "--json").json == {"run": RUN, "claims": "finished", "left": waiting}
    assert "finished" in broker("status", RUN).out
    assert "finished" in broker("runs").out
    explained = broker("explain", RUN).out
    assert "No: The run is finished: nothing more is handed out" in explained
    assert f"What is left stays as it is: {waiting} waiting" in explained
    assert "[finished]" in explained
    assert "the run is finished" in broker("tail", RUN, "--from", "start", "--no-follow").out


def test_configure_says_what_changed_and_when(broker: Any, trainer: Trainer) -> None:
    before = trainer.config.max_concurrent_rollouts
    told = broker("configure", RUN, "max_concurrent_rollouts=77", "max_attempts=3")
    assert (told.code, told.out.splitlines()) == (
        0,
        [
            f"max_concurrent_rollouts: {before} -> 77. It takes effect with the next claim; what is running goes on.",
            "max_attempts was 3 already",
        ],
    )
    found = broker("configure", RUN, "max_staleness=none", "on_stale=drop", "--json").json
    assert (found["before"]["on_stale"], found["config"]["on_stale"]) == ("requeue", "drop")
    assert found["config"]["max_staleness"] is None
    assert trainer.pause() == "", "the trainer is not fenced"
    assert (
        f"before it was: max_concurrent_rollouts {before}" in broker("tail", RUN, "--from", "start", "--no-follow").out
    )
    told = broker("configure", RUN, "max_concurrent_samples=9")
    assert (
        told.out == "max_concurrent_samples: none -> 9. It takes effect with the next claim; what is held stays so.\n"
    )
    assert "max_concurrent_samples 9, " in broker("status", RUN).out
    for wrong in (
        "max_concurrent_samples=0",
        "max_attempts",
        "max_attempts=few",
        "max_attempts=0",
        "speed=3",
        "max_concurrent_rollouts=none",
    ):
        refused = broker("configure", RUN, wrong)
        assert (refused.code, "BADARG" in refused.err) == (2, True), wrong
    assert broker("verify", RUN).code == 0


def test_readmit_gives_work_again_to_a_worker_in_quarantine(broker: Any, url: str) -> None:
    config = RunConfig(consumer_batch_size=9, quarantine_after=1)
    with (
        Trainer(url, run=RUN, config=config) as trainer,
        Worker(url, run=RUN, name="good") as good,
        Worker(url, run=RUN, name="sick") as sick,
    ):
        trainer.enqueue(Task(id=f"t{i}") for i in range(9))
        held = sick.claim(2)
        sick.fail(held[0], "no engine")
        good.submit(good.claim(1)[0], b"x")
        sick.fail(held[1], "no engine")
        told = broker("status", RUN).out
        assert "sick for" in told
        assert f"broker readmit {RUN}" in told
        assert "sick for" in broker("explain", RUN).out
        assert broker("readmit", RUN, "good").code == 1
        ended = broker("readmit", RUN, "sick")
        assert (ended.code, ended.out) == (0, "1 worker gets work again: sick\n")
        assert trainer.stats().quarantined == 0


def test_prioritise_says_which_could_not_be_changed(broker: Any, worker: Worker) -> None:
    (attempt,) = worker.claim(1)
    told = broker("prioritise", RUN, "t1=7", f"{attempt.task}=7", "nobody=-1", "--json")
    refused = {attempt.task: "running", "nobody": "unknown"}
    assert (told.code, told.json) == (1, {"prioritised": ["t1"], "refused": refused})
    assert broker("prioritise", RUN, "t1=8").code == 0
    assert "priority 8" in broker("dead", RUN, "show", "t1").out
    assert "task t1 has the priority 8 now" in broker("tail", RUN, "--from", "start", "--no-follow").out
    for wrong in ("t1", "t1=high", "=3", "t1=1001"):
        assert broker("prioritise", RUN, wrong).code == 2
