"""One quick run of the smallest scenarios: the command, its table, its JSON, and the budget of the operations."""

import json
from pathlib import Path

import pytest

from benchmarks import scenarios
from benchmarks.cases import Case
from benchmarks.command import main
from benchmarks.commandstats import spent
from benchmarks.lab import Lab
from benchmarks.rounds import run_rounds
from broker import RunConfig, Task, Trainer, Worker


@pytest.fixture
def lab(tmp_path: Path):
    made = Lab("", quick=True, peers=[], directory=tmp_path)
    yield made
    made.close()


def test_the_command_writes_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "run.json"
    code = main(["--quick", "--repeat", "1", "--scenarios", "enqueue", "--peers", "none", "--json", str(file)])
    assert code == 0
    assert "enqueue/ours/one at a time" in capsys.readouterr().out
    told = json.loads(file.read_text())
    assert told["ref_per_s"]["median"] > 0
    assert {case["who"] for case in told["cases"]} == {"ours", "limit"}


def test_unknown_scenarios_and_peers_are_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["--scenarios", "nonsense"]) == 2
    assert main(["--peers", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--json", "{file}/below-a-file.json"], "cannot write {file}: File exists"),
        (["--json", "{folder}"], "cannot write {folder}: Is a directory"),
        (["--plot", "{file}"], "cannot write {file}: File exists"),
        (["--server", "{folder}/no-server"], "--server: {folder}/no-server is not a program that can be run"),
        (["--cases", "nothing-like-it"], "no case of codec has 'nothing-like-it' in its label"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_end_well_is_refused_before_anything_is_measured(
    argv: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a-file").touch()
    names = {"file": tmp_path / "a-file", "folder": tmp_path}
    given = [part.format(**names) for part in argv]
    assert main(["--quick", "--repeat", "1", "--scenarios", "codec", "--peers", "none", *given]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == told.format(**names) + "\n"


def test_rounds_are_at_least_one(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--repeat", "0"])
    assert ended.value.code == 2
    assert "'0' is not a whole number from 1 on" in capsys.readouterr().err


def test_every_scenario_has_cases_of_ours(lab: Lab):
    for name in scenarios.NAMES:
        assert any(case.who == "ours" for case in scenarios.cases_of(name, lab)), name


def test_the_limit_of_the_steady_scenario_trains_all_that_it_enqueues(lab: Lab):
    (limit,) = (case for case in scenarios.cases_of("steady", lab) if case.who == "limit")
    assert limit.run()["rate_per_s"] > 0
    assert lab.control.call("KEYS", "bare:task:*") == []


def test_a_case_that_fails_is_told_and_ends_nothing(lab: Lab):
    def fails() -> dict[str, float]:
        raise RuntimeError("broken")

    bad, good = run_rounds(lab, [Case("x", "bad", "peer", fails), Case("x", "good", "ours", lambda: {"n_count": 1})], 1)
    assert "broken" in bad.not_run
    assert good.values("n_count") == [1]


def test_the_limit_scripts_do_a_whole_cycle(lab: Lab):
    lab.bare.seed(3)
    claimed = lab.control.call(*lab.bare.claim_call(3))
    assert lab.control.call(*lab.bare.submit_call(claimed)) == [b"accepted"] * 3
    lab.clean()
    lab.bare.seed_many(3)
    claimed = lab.control.call(*lab.bare.claim_many_call(3))
    assert lab.control.call(*lab.bare.submit_many_call(claimed)) == [b"accepted"] * 3


class TestBudget:
    """What docs/performance.md promises: script calls and round trips of each operation."""

    SIZE = 64

    @pytest.fixture
    def trainer(self, lab: Lab):
        with Trainer(lab.url, "r", RunConfig(consumer_batch_size=self.SIZE, max_staleness=1)) as made:
            yield made

    def test_tasks_are_enqueued_in_one_call(self, lab: Lab, trainer: Trainer):
        with spent(lab.control) as used:
            trainer.enqueue(Task(id=f"t{i}") for i in range(self.SIZE))
        assert used.script_calls == 1

    def test_a_batch_is_claimed_and_submitted_in_one_call_each(self, lab: Lab, trainer: Trainer):
        trainer.enqueue(Task(id=f"t{i}") for i in range(self.SIZE))
        with Worker(lab.url, "r", heartbeat=False) as worker:
            with spent(lab.control) as claiming:
                attempts = worker.claim(self.SIZE)
            with spent(lab.control) as submitting:
                worker.submit_many([(attempt, b"r") for attempt in attempts])
        assert (len(attempts), claiming.script_calls, submitting.script_calls) == (self.SIZE, 1, 1)

    def test_the_commands_of_a_batch_do_not_grow_with_it(self, lab: Lab, trainer: Trainer):
        trainer.enqueue(Task(id=f"t{i}") for i in range(self.SIZE))
        sent: dict[int, list[int]] = {}
        with Worker(lab.url, "r", heartbeat=False) as worker:
            for n in (8, 32):
                with spent(lab.control) as claiming:
                    attempts = worker.claim(n)
                with spent(lab.control) as submitting:
                    worker.submit_many([(attempt, b"r") for attempt in attempts])
                sent[n] = [sum(used.commands().values()) for used in (claiming, submitting)]
        assert sent[8] == sent[32]

    def test_advance_costs_the_same_for_any_batch(self, lab: Lab):
        sent: dict[int, int] = {}
        for size in (8, 64):
            with Trainer(lab.url, f"r{size}", RunConfig(consumer_batch_size=size, max_staleness=1)) as trainer:
                trainer.enqueue(Task(id=f"t{i}") for i in range(size))
                with Worker(lab.url, f"r{size}", heartbeat=False) as worker:
                    worker.submit_many([(attempt, b"r") for attempt in worker.claim(size)])
                trainer.next_batch(timeout=10)
                with spent(lab.control) as used:
                    trainer.advance()
                sent[size] = sum(used.commands().values())
        assert sent[8] == sent[64]


def test_the_clocks_in_a_script_are_there_only_while_they_measure(lab: Lab):
    for case in scenarios.cases_of("anatomy", lab):
        values = case.run()
        for name in ("lua_us", "commands_us", "load_state_us", "HMGET_us"):
            assert values[name] > 0, (case.name, name)
        sums = [sum(us for key, us in values.items() if key[:-3].isupper() == upper) for upper in (True, False)]
        assert sums[0] == pytest.approx(values["commands_us"])
        assert sums[1] == pytest.approx(2 * values["lua_us"] + values["commands_us"])
    with Trainer(lab.url, "after", RunConfig(consumer_batch_size=1)) as trainer:
        assert trainer.enqueue(Task(id="t")).added == 1
    with pytest.raises(Exception, match="not found"):
        lab.control.call("FCALL", "benchmark_spent", 0)
