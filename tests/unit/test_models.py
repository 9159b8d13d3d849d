from __future__ import annotations

import json
import math
import pickle
import re
import threading
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BadArgument, BadName, BrokerError
from broker.inspection.stats import Stats
from broker.protocol.scripts import lua_directory
from broker.values.attempt import Attempt
from broker.values.config import MAX_BATCH_SIZE, MAX_STALENESS, RunConfig
from broker.values.policy import Policy
from broker.values.rollout import Rollout, Sample
from broker.values.task import Task
from tests.child import finished
from tests.threads import PATIENCE_S, in_threads


def attempt(**changes: Any) -> Attempt:
    fields: dict[str, Any] = {
        "id": "t1#0.1.f00",
        "run": "math",
        "task": "t1",
        "slot": 0,
        "payload": {"prompt": np.zeros(3)},
        "version": 4,
        "policy": Policy(version=4, epoch="1.abc"),
        "samples": 8,
        "tries": 0,
    }
    return Attempt(**(fields | changes))


def test_the_smallest_config_has_the_documented_defaults() -> None:
    config = RunConfig(consumer_batch_size=256)
    assert config.max_staleness == 0
    assert config.max_concurrent_rollouts == 256
    assert (config.batch_size, config.concurrency) == (256, 256)
    assert config.on_stale == "requeue"
    assert config.max_payload_bytes == 16 * 1024**2


def test_zero_sizes_count_as_one() -> None:
    config = RunConfig(consumer_batch_size=0)
    assert (config.batch_size, config.concurrency, config.max_concurrent_rollouts) == (1, 1, 1)
    assert RunConfig(consumer_batch_size=0, max_concurrent_rollouts=0).concurrency == 1


@pytest.mark.parametrize("name", [name for name in RunConfig.model_fields if name != "on_stale"])
@pytest.mark.parametrize("value", [-1, 2**53, 10**400, math.nan, math.inf, True, "3", 3.0, np.int64(3), b"3", [3]])
def test_a_number_that_is_none_or_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    given_fields: dict[str, Any] = {"consumer_batch_size": 4} | {name: value}
    with pytest.raises(BadArgument) as caught:
        RunConfig(**given_fields)
    text = str(caught.value)
    assert f"RunConfig: {name} must be " in text
    assert "pydantic" not in text
    assert len(text.splitlines()) == 1
    assert len(text) < 250


def test_a_bad_argument_is_a_value_error_without_pydantics_traceback() -> None:
    with pytest.raises(ValueError, match="consumer_batch_size must be 0 or more, not -1") as caught:
        RunConfig(consumer_batch_size=-1)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("model", [RunConfig, Task, Policy, Stats])
@pytest.mark.parametrize("named", [{}, {"id": "a", "consumer_batch_size": 4}])
def test_a_model_that_is_given_values_by_position_asks_for_names(model: Any, named: dict[str, Any]) -> None:
    with pytest.raises(BadArgument) as caught:
        model(4, **named)
    text = str(caught.value)
    assert text.startswith(f"{model.__name__}: name its arguments: {model.__name__}({next(iter(model.model_fields))}=")
    assert all(name in text for name in model.model_fields)


def test_each_bad_field_has_a_line() -> None:
    wrong: Any = {"consumer_batch_size": 2, "on_stale": "x", "max_staleness": -1, "lease_ms": 0}
    with pytest.raises(BadArgument) as caught:
        RunConfig(**wrong)
    assert len(caught.value.fields["problems"]) == len(str(caught.value).splitlines()) == 3
    assert "on_stale must be one of 'requeue', 'drop', 'keep' or 'wait', not 'x'" in str(caught.value)


def test_a_misspelt_field_gets_a_suggestion() -> None:
    wrong: Any = {"consumer_batchsize": 2}
    with pytest.raises(BadArgument) as caught:
        RunConfig(**wrong)
    assert "consumer_batchsize is not a field; did you mean consumer_batch_size?" in str(caught.value)
    assert "consumer_batch_size is required" in str(caught.value)


def test_the_largest_config_stays_exact_in_the_servers_numbers() -> None:
    config = RunConfig(consumer_batch_size=MAX_BATCH_SIZE, max_staleness=MAX_STALENESS)
    assert config.max_staleness is not None
    assert config.batch_size * (config.max_staleness + 8 * 10**9 + 1) < 2**53


def test_validating_a_mapping_raises_the_same_error() -> None:
    with pytest.raises(BadArgument, match="must be 0 or more"):
        RunConfig.model_validate({"consumer_batch_size": -1})
    with pytest.raises(BadArgument, match="must be 0 or more"):
        RunConfig.model_validate_json('{"consumer_batch_size": -1}')
    assert RunConfig.model_validate_json('{"consumer_batch_size": 3}') == RunConfig(consumer_batch_size=3)


@given(
    size=st.integers(0, MAX_BATCH_SIZE),
    staleness=st.none() | st.integers(0, MAX_STALENESS - 9),
    above=st.none() | st.integers(0, 9),
    concurrent=st.none() | st.integers(0, 10**9),
    on_stale=st.sampled_from(["requeue", "drop", "keep"]),
)
def test_a_config_survives_storage(
    size: int, staleness: int | None, above: int | None, concurrent: int | None, on_stale: Any
) -> None:
    config = RunConfig(
        consumer_batch_size=size,
        max_staleness=staleness,
        staleness_limit=None if staleness is None or above is None else staleness + above,
        max_concurrent_rollouts=concurrent,
        on_stale=on_stale,
    )
    fields = config.to_fields()
    assert all(type(text) is str for text in fields.values())
    assert set(fields) == config.model_fields_set
    assert RunConfig.from_fields(fields) == config
    assert RunConfig.from_document(json.loads(json.dumps(config.to_document()))) == config


def test_only_what_was_given_is_sent() -> None:
    assert RunConfig(consumer_batch_size=4, max_staleness=0).to_fields() == {
        "consumer_batch_size": "4",
        "max_staleness": "0",
    }


def test_nobody_gave_the_concurrency_that_is_none() -> None:
    config = RunConfig(consumer_batch_size=4, max_concurrent_rollouts=None)
    assert config.to_fields() == {"consumer_batch_size": "4"}
    assert config.to_document()["max_concurrent_rollouts"] is None
    assert config.max_concurrent_rollouts == config.concurrency == 4


def test_the_concurrency_of_an_older_release_tells_by_its_number_who_gave_it() -> None:
    stored = {"consumer_batch_size": "4", "max_concurrent_rollouts": "4"}
    assert "max_concurrent_rollouts" not in RunConfig.from_fields(stored).to_fields()
    for other in (stored | {"concurrency_given": "1"}, stored | {"max_concurrent_rollouts": "5"}):
        fields = RunConfig.from_fields(other).to_fields()
        assert fields["max_concurrent_rollouts"] == other["max_concurrent_rollouts"]


def test_a_document_of_another_release_may_lack_fields_and_have_others() -> None:
    assert RunConfig.from_document({"consumer_batch_size": 4, "of_tomorrow": [1]}) == RunConfig(consumer_batch_size=4)


def test_the_scripts_have_the_same_defaults() -> None:
    source = (lua_directory() / "include" / "defaults.lua").read_text(encoding="utf-8")
    of_lua = dict(re.findall(r"(\w+) = '([^']*)'", source))
    config = RunConfig(consumer_batch_size=1)
    all_given = RunConfig(**{name: getattr(config, name) for name in RunConfig.model_fields}).to_fields()
    assert of_lua == {
        name: text
        for name, text in all_given.items()
        if name not in ("consumer_batch_size", "max_concurrent_rollouts", "staleness_limit")
    }


def test_a_bound_on_samples_alone_takes_the_place_of_that_on_tasks() -> None:
    alone = RunConfig(consumer_batch_size=4, max_concurrent_samples=8)
    both = RunConfig(consumer_batch_size=4, max_concurrent_samples=8, max_concurrent_rollouts=3)
    assert (alone.bounds_tasks, both.bounds_tasks, both.concurrency) == (False, True, 3)
    stored = alone.to_fields() | {"max_concurrent_rollouts": str(alone.concurrency)}
    assert RunConfig.from_fields(stored).to_fields() == alone.to_fields()
    assert RunConfig.from_document(alone.to_document()) == alone
    with pytest.raises(BadArgument, match="max_concurrent_samples must be 1 or more, not 0"):
        RunConfig(consumer_batch_size=4, max_concurrent_samples=0)


def test_no_bound_on_staleness_is_stored_as_the_empty_string() -> None:
    fields = RunConfig(consumer_batch_size=4, max_staleness=None).to_fields()
    assert fields["max_staleness"] == ""
    assert RunConfig.from_fields(fields).max_staleness is None


def test_the_limit_of_staleness_follows_the_staleness_where_nobody_gave_it() -> None:
    def limit(**fields: Any) -> int | None:
        return RunConfig(consumer_batch_size=4, **fields).oldest_trained

    assert (limit(), limit(max_staleness=3), limit(max_staleness=None)) == (0, 12, None)
    assert (limit(max_staleness=2, staleness_limit=2), limit(staleness_limit=5)) == (2, 5)
    with pytest.raises(BadArgument, match=r"staleness_limit must be max_staleness \(2\) or more, not 1"):
        limit(max_staleness=2, staleness_limit=1)
    with pytest.raises(BadArgument, match="staleness_limit must be None where max_staleness is None, not 7"):
        limit(max_staleness=None, staleness_limit=7)


def test_the_limit_of_staleness_of_an_older_release_is_the_staleness() -> None:
    stored = {"consumer_batch_size": "4", "max_staleness": "2"}
    document = {"consumer_batch_size": 4, "max_staleness": 2}
    for config in (RunConfig.from_fields(stored), RunConfig.from_document(document)):
        assert (config.staleness_limit, config.oldest_trained) == (2, 2)
    assert RunConfig.from_document(document | {"max_staleness": None}).oldest_trained is None


def test_a_limit_of_staleness_that_an_update_left_below_counts_as_the_staleness() -> None:
    stored = {"consumer_batch_size": "4", "max_staleness": "5", "staleness_limit": "2"}
    assert RunConfig.from_fields(stored).oldest_trained == 5
    assert RunConfig.from_fields(stored | {"max_staleness": ""}).oldest_trained is None


def test_stored_fields_may_stand_among_others_and_be_incomplete() -> None:
    config = RunConfig.from_fields({"schema": "1", "version": "7", "consumer_batch_size": "4"})
    assert config == RunConfig(consumer_batch_size=4)


@pytest.mark.parametrize("text", ["", "x", "1.5", "-1", "1e3", "9" * 5000, "٣", " 1"])
def test_stored_fields_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(BadArgument) as caught:
        RunConfig.from_fields({"consumer_batch_size": text})
    assert "consumer_batch_size" in str(caught.value)


def test_a_config_is_a_value() -> None:
    config = RunConfig(consumer_batch_size=4)
    assert hash(config) == hash(RunConfig(consumer_batch_size=4))
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - what was just written
    with pytest.raises(ValueError, match="frozen"):
        config.lease_ms = 3  # type: ignore[misc]


def test_the_samples_that_are_enough_are_the_fewest_that_are_needed() -> None:
    assert (Task(id="a", samples=8, enough=6).needed, Task(id="a", samples=8, enough=6, min_samples=2).needed) == (6, 2)
    with pytest.raises(BadArgument, match="enough must not be above samples, which is 8, not 9"):
        Task(id="a", samples=8, enough=9)
    with pytest.raises(BadArgument, match="min_samples must not be above enough, which is 6, not 7"):
        Task(id="a", samples=8, enough=6, min_samples=7)
    with pytest.raises(BadArgument, match="enough must be 1 or more"):
        Task(id="a", samples=8, enough=0)


def test_a_task_needs_all_its_samples_unless_told_otherwise() -> None:
    assert Task(id="a", samples=8).needed == 8
    assert Task(id="a", samples=8, min_samples=3).needed == 3
    assert Task(id="a").min_samples == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"samples": 0}, "samples must be 1 or more, not 0"),
        ({"samples": 1025}, "samples must be 1024 or less"),
        ({"samples": 2, "min_samples": 3}, "min_samples must not be above samples, which is 2, not 3"),
        ({"min_samples": 0}, "min_samples must be 1 or more"),
        ({"priority": -1001}, "priority must be -1000 or more"),
        ({"priority": 1001}, "priority must be 1000 or less"),
        ({"priority": 1.5}, "priority must be a whole number"),
    ],
)
def test_a_task_that_could_not_run_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(BadArgument) as caught:
        Task(id="a", **wrong)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "x" * 201, 5, None, b"x"])
def test_a_bad_task_id_is_a_bad_name(name: Any) -> None:
    with pytest.raises(BadName) as caught:
        Task(id=name)
    assert caught.value.fields["kind"] == "task"


def test_a_bad_task_id_among_other_faults_is_one_of_the_lines() -> None:
    with pytest.raises(BadArgument) as caught:
        Task(id="a b", samples=0)
    assert len(str(caught.value).splitlines()) == 2


def test_a_payload_is_kept_as_the_same_object() -> None:
    payload = {"x": np.zeros(3), "y": [object()]}
    assert Task(id="a", payload=payload).payload is payload


def test_a_value_whose_repr_fails_is_still_refused_clearly() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    wrong: Any = Hostile()
    with pytest.raises(BadArgument, match="its repr raises RuntimeError"):
        Task(id="a", samples=wrong)


def test_a_policy_is_a_value() -> None:
    assert Policy(version=3, epoch="1.a") == Policy(version=3, epoch="1.a")
    assert len({Policy(version=3, epoch="1.a"), Policy(version=3, epoch="2.b")}) == 2
    with pytest.raises(BadArgument):
        Policy(version=-1, epoch="1.a")
    with pytest.raises(BadArgument):
        Policy(version=1, epoch="")


def test_stats_hold_what_the_server_says_even_when_its_counters_are_off() -> None:
    counts = ["version", "step_next", "accepted", "running", "pending", "delayed", "ready", "batched", "consumed"]
    counts += ["dead", "rejected", "sessions"]
    fields: dict[str, Any] = dict.fromkeys(counts, -1)
    stats = Stats(run="a", epoch="1.a", capacity=-5, config=RunConfig(consumer_batch_size=1), **fields)
    assert stats.capacity == -5
    assert (stats.paused, stats.recovering, stats.floor, stats.totals) == ("", None, None, {})


def test_an_attempt_is_cancelled_once_and_keeps_the_first_reason() -> None:
    one = attempt()
    assert (one.cancelled, one.cancel_reason) == (False, None)
    assert one.mark_cancelled("stale")
    assert not one.mark_cancelled("expired")
    assert (one.cancelled, one.cancel_reason) == (True, "stale")


def test_of_many_threads_one_cancels() -> None:
    one = attempt()
    begin = threading.Barrier(8)

    def cancel(reason: str) -> str:
        begin.wait(PATIENCE_S)
        return reason if one.mark_cancelled(reason) else ""

    won = in_threads(*(partial(cancel, str(i)) for i in range(8)))
    assert [reason for reason in won if reason] == [one.cancel_reason]


def test_attempts_and_rollouts_with_arrays_can_be_compared_hashed_and_shown() -> None:
    one, other = attempt(), attempt(payload={"prompt": np.zeros(100_000)}, blob=b"x" * 100_000)
    assert one != other
    assert len({one, other}) == 2
    assert len(repr(other)) < 300
    sample = Sample("t1#0.1.f00", 0, np.zeros(3), 4, 5, "w1")
    rollout = Rollout("t1", {"p": np.zeros(3)}, [sample], 4, 5, 6, 2, 0)
    assert rollout != Rollout("t1", {"p": np.zeros(3)}, [sample], 4, 5, 6, 2, 0)
    assert rollout.results == [sample.result]
    assert "payload" not in repr(rollout)


def test_an_attempt_can_be_sent_to_another_process() -> None:
    one = attempt(payload=1)
    one.mark_cancelled("stale")
    copy = pickle.loads(pickle.dumps(one))  # noqa: S301 - what was just written
    assert (copy.id, copy.policy, copy.cancel_reason) == (one.id, one.policy, "stale")


def test_importing_the_models_and_the_codec_leaves_numpy_and_zstandard_alone() -> None:
    program = (
        "import sys, broker, broker.values.task, broker.values.config, broker.values.rollout, broker.values.codec; broker.values.codec.encode({'a': [1, 'x']}); "
        "print([m for m in ('numpy', 'zstandard') if m in sys.modules])"
    )
    assert finished("-c", program).out.strip() == "[]"


def test_every_refusal_of_the_edge_is_an_error_of_the_broker() -> None:
    makers: list[Any] = [RunConfig, Task, Policy, Stats]
    for make in makers:
        with pytest.raises(BrokerError):
            make(nothing=None)


@pytest.mark.parametrize(
    "given_fields",
    [
        {"id": "a"},
        {"id": "a/1", "payload": {"x": 1}, "samples": 8, "min_samples": 3, "priority": -5},
        {"id": "a", "samples": 4},
    ],
)
def test_a_plain_task_is_what_the_validator_makes_of_it(given_fields: dict[str, Any]) -> None:
    task = Task(**given_fields)
    validated = Task.__new__(Task)
    Task.__pydantic_validator__.validate_python(given_fields, self_instance=validated)
    assert task == validated
    assert task.model_dump() == validated.model_dump()
    assert task.model_fields_set == validated.model_fields_set
    assert (repr(task), pickle.loads(pickle.dumps(task))) == (repr(validated), task)  # noqa: S301 - as above
    assert task.model_copy(update={"priority": 7}).priority == 7
    with pytest.raises(ValueError, match="frozen"):
        task.samples = 3  # type: ignore[misc]


def test_a_task_of_a_users_own_class_has_its_own_fields() -> None:
    class Prompt(Task, frozen=True):
        difficulty: int = 3

    assert Prompt(id="a").difficulty == 3
    assert Prompt(id="a", samples=2).needed == 2
    with pytest.raises(BadArgument, match="difficulty must be a whole number"):
        Prompt(id="a", difficulty="x")  # type: ignore[arg-type]
