"""The options of a task: the same in what users give, in calls, in records, and in Lua."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from broker.protocol.scripts import lua_directory
from broker.protocol.task_options import HAVE_PLACES, TaskOptions
from broker.protocol.task_record import task_record
from broker.protocol.task_row import TaskRow
from broker.protocol.trainer import NewTask, enqueue, operator_call_id
from broker.values.config import MAX_ATTEMPTS, MAX_TIME_MS
from broker.values.task import MAX_PRIORITY, MAX_SAMPLES, Task

GIVEN = [
    Task(id="a"),
    Task(id="b", samples=8, enough=6, timeout_ms=0),
    Task(id="c", samples=3, min_samples=2, priority=-5, timeout_ms=9_000, max_attempts=2),
]
SAID = [
    "",
    "samples=8,enough=6,min_samples=6,timeout_ms=0",
    "samples=3,min_samples=2,priority=-5,timeout_ms=9000,max_attempts=2",
]


def test_each_option_is_a_field_of_a_task_and_of_its_row() -> None:
    names = {field.name for field in fields(TaskOptions)}
    assert names == set(Task.model_fields) - {"id", "payload"}
    assert names < {field.name for field in fields(TaskRow)}


def test_the_scripts_have_the_same_options_defaults_and_bounds() -> None:
    source = (lua_directory() / "include" / "task_options.lua").read_text(encoding="utf-8")
    rows = re.findall(
        r"^  (\w+) = \{ (?:default = (-?\d+), )?low = (-?\d+), high = (\d+)(, has_place = true)? \}",
        source,
        re.MULTILINE,
    )
    numbers = {name: tuple(map(int, (default or 0, low, high))) for name, default, low, high, _ in rows}
    none = TaskOptions()
    bounds = {
        "samples": (1, MAX_SAMPLES),
        "min_samples": (1, MAX_SAMPLES),
        "enough": (1, MAX_SAMPLES),
        "priority": (-MAX_PRIORITY, MAX_PRIORITY),
        "timeout_ms": (0, MAX_TIME_MS),
        "max_attempts": (1, MAX_ATTEMPTS),
    }
    assert numbers == {name: (getattr(none, name) or 0, *bound) for name, bound in bounds.items()}
    assert {name for name, *_, placed in rows if placed} == set(HAVE_PLACES)


def test_a_call_names_the_options_that_are_not_the_default() -> None:
    sent = enqueue("run", operator_call_id("r"), [NewTask.of(task, b"") for task in GIVEN]).args[-9:]
    assert sent[::3] == ("a", "b", "c")
    assert list(sent[2::3]) == SAID


@pytest.mark.parametrize("order", [b"7", b"9/7"])
def test_a_record_gives_the_options_back(order: bytes) -> None:
    record = task_record(
        b"R,-5," + order + b",3,2/timeout_ms=9000/max_attempts=2,1,40,6,7,0,2,-1,OHF;1,1,x,6,1.e,s,0,,6,1.e"
    )
    options = TaskOptions.of(GIVEN[2])
    assert NewTask("c", b"", record).options.text == options.text
    assert (record.state, record.step, record.letters) == ("R", -1, "OHF")
