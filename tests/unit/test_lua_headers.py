"""The Lua scripts agree with their headers and with the Python wrappers."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

from broker import protocol
from broker.protocol import (
    admission,
    anyone,
    gateway,
    recovery,
    result_bytes,
    rights,
    scripts,
    task_row,
    trainer,
    worker,
)
from broker.protocol.admission import Counted, OwnerReport, Recovery
from broker.protocol.recovery import Begin
from broker.protocol.script_call import ScriptCall
from broker.protocol.task_options import TaskOptions
from broker.protocol.trainer import NewTask, operator_call_id, trainer_call_id
from broker.protocol.worker import Submission

LUA = scripts.lua_directory()
HEADER = ["Transition", "KEYS", "ARGV", "Returns", "Errors", "Bound", "Flags"]

CALL_ID = trainer_call_id("token123", 7)
RUN = "run"
REPORT = OwnerReport(1, 2, 3, 4, 5, 6, asks=True, version=7, recovery=Recovery())
#: Calls of every wrapper: without optional arguments, and with all of them and two of each repetition.
CALLS: dict[str, list[ScriptCall[Any]]] = {
    "open": [trainer.open_run(RUN, "token123", None), trainer.open_run(RUN, "token123", {"a": "1", "b": "2"}, now=5)],
    "beat": [trainer.beat(RUN, "token123"), trainer.beat(RUN, "token123", now=5)],
    "enqueue": [
        trainer.enqueue(RUN, CALL_ID, []),
        trainer.enqueue(
            RUN,
            operator_call_id("r"),
            [NewTask("a", b""), NewTask("b", b"x", TaskOptions(samples=2, min_samples=1, priority=3))],
            "{}",
            now=5,
        ),
    ],
    "take": [trainer.take(RUN, CALL_ID, 1, 2, limit=3, seal=True, short=True, now=5)],
    "discard": [trainer.discard(RUN, CALL_ID, "why", ["a", "b"], now=5)],
    "cancel": [trainer.cancel(RUN, CALL_ID, ["a", "b"], now=5)],
    "forget": [trainer.forget(RUN, CALL_ID, ["a", "b"], now=5)],
    "retry": [trainer.retry(RUN, CALL_ID, ["a", "b"], now=5)],
    "advance": [trainer.advance(RUN, CALL_ID, 1, "-"), trainer.advance(RUN, CALL_ID, 1, "ff", blob=b"b", now=5)],
    "pause": [trainer.pause(RUN, CALL_ID, "paused", now=5)],
    "configure": [trainer.configure(RUN, CALL_ID, {"a": "1", "b": "2"}, now=5)],
    "prioritise": [trainer.prioritise(RUN, CALL_ID, [("a", 1), ("b", -1)], now=5)],
    "finish": [trainer.finish(RUN, CALL_ID, now=5)],
    "readmit": [trainer.readmit(RUN, CALL_ID), trainer.readmit(RUN, CALL_ID, ["a", "b"], now=5)],
    "repair": [trainer.repair(RUN, CALL_ID, now=5)],
    "join": [worker.join(RUN, "w", "n", 5, now=5)],
    "leave": [worker.leave(RUN, "s", 5, now=5)],
    "claim": [worker.claim(RUN, "s", 1, 1, "r"), worker.claim(RUN, "s", 1, 1, "r", policy=(1, "1.x"), now=5)],
    "renew": [worker.renew(RUN, "s", 1, []), worker.renew(RUN, "s", 1, ["a", "b"], now=5)],
    "submit": [
        result_bytes.submit_call(
            RUN, [Submission("a", "accept", b"x"), Submission("b", "reject", b"x", (1, "1.x"))], now=5
        )
    ],
    "release": [worker.release(RUN, ["a", "b"], now=5)],
    "fail": [worker.fail(RUN, "a", "boom", may_retry=True, now=5)],
    "requeue": [anyone.requeue(RUN, 5, now=5)],
    "trim": [anyone.trim(RUN, 5, now=5)],
    "stats": [anyone.stats(RUN, now=5)],
    "audit": [anyone.audit(RUN, now=5)],
    "check": [anyone.check(RUN, ["a", "b"], now=5)],
    "batch": [anyone.batch(RUN, 1, 2, 3, now=5)],
    "task": [task_row.task(RUN, "a", now=5)],
    "explain": [anyone.facts(RUN, 5, now=5)],
    "recover_begin": [
        recovery.begin(RUN, "token123", Begin(1), None),
        recovery.begin(RUN, "token123", Begin(1, policies={0: "1.x", 1: "2.y"}), {"a": "1", "b": "2"}, now=5),
    ],
    "recover_sweep": [recovery.sweep(RUN, CALL_ID, ["a", "b"], lambda _: True, now=5)],
    "recover_preview": [
        recovery.preview(RUN, Begin(1, policies={0: "1.x", 1: "2.y"}), ["a", "b"], lambda _: True, now=5)
    ],
    "recover_commit": [recovery.end(RUN, CALL_ID, now=5)],
    "admission_open": [
        admission.open_owner(RUN, "o", 5, "token123", {}, Counted()),
        admission.open_owner(RUN, "o", 5, "token123", {"a": "1", "b": "2"}, Counted(1, 2, 3), now=5),
    ],
    "admission_report": [admission.report(RUN, "o", 5, REPORT, now=5)],
    "admission_leave": [admission.leave(RUN, "o", 5, REPORT, now=5)],
    "note_deleted": [gateway.note_deleted(RUN, ["a", "b"], now=5)],
    "note_given": [
        gateway.note_given(RUN, "c", ", 1]", {"a#0.1.x": "held"}),
        gateway.note_given(RUN, "c", ", 1]", {f"a#{i}.1.x": "held" for i in (0, 1)}, now=5),
    ],
    "note_status": [
        gateway.note_status(RUN, gateway.StatusChange("a", "", "", "old", "new", "")),
        gateway.note_status(
            RUN, gateway.StatusChange("a", "a#0.1.x", "H", "old", "new", "c", "held", "1.5", ended=True), now=5
        ),
    ],
    "note_ends": [gateway.note_ends(RUN, ["a"]), gateway.note_ends(RUN, ["a", "b"], now=5)],
    "rights": [rights.missing(RUN, ["ZADD"]), rights.missing(RUN, ["ZADD", "ZREM"], now=5)],
    "commit": [recovery.commit(RUN, CALL_ID, 3), recovery.commit(RUN, operator_call_id("r"), 3, "1.x", now=5)],
}


def header(name: str) -> dict[str, str]:
    """The lines of a script's header by their first word; the purpose is under `""`."""
    found: dict[str, str] = {}
    for line in (LUA / f"{name}.lua").read_text().splitlines():
        if not line.startswith("-- ") or line.startswith("-- @include"):
            break
        word, colon, rest = line[3:].partition(": ")
        if colon and word in HEADER:
            found[word] = rest
        else:
            found[""] = f"{found.get('', '')} {line[3:]}".strip()
    if found["ARGV"].startswith("as of "):
        found["ARGV"] = header(found["ARGV"].split()[-1])["ARGV"]
    return found


def without_notes(text: str) -> str:
    """Removes notes in parentheses, after replacing the count `gate (3)`."""
    text = re.sub(r"\bgate \(3\)", "kind, id, call", text)
    while (shorter := re.sub(r"\([^()]*\)", "", text)) != text:
        text = shorter
    return text


def argument_counts(text: str) -> tuple[int, int]:
    """The counts of an ARGV line: its fixed arguments, and the arguments of each repetition (0: none)."""
    text = without_notes(text)
    fixed, repeated = 0, 0
    head, then, tail = text.partition("then ")
    if then:
        repeated = len(re.sub(r"^(per \w+|pairs of [^,]*?(?=\w+, )|)[: ]*", "", tail).split(","))
        if tail.startswith("pairs of"):
            repeated = 2
    for part in (part.strip() for part in head.split(",")):
        if part.endswith("..."):
            repeated = 1
        elif part:
            fixed += 1
    return fixed, repeated


@pytest.mark.parametrize("name", scripts.names())
def test_a_script_has_a_whole_header(name: str):
    found = header(name)
    assert list(found) == ["", *HEADER], "the lines of the header, in order"
    assert found[""].endswith(".")
    assert all(found.values())
    assert found["KEYS"] == "state"


@pytest.mark.parametrize("name", scripts.names())
def test_flags_are_those_that_the_loader_reads(name: str):
    flags = scripts.load(name, shebang=True).flags
    assert header(name)["Flags"] == (", ".join(flags) or "none")
    source = scripts.load(name, shebang=False).source.decode()
    writes = re.search(r"\bflush\(\)|remember\(", source.rpartition("return ")[0]) is not None
    if "no-writes" in flags:
        body = (LUA / f"{name}.lua").read_text()
        assert "flush()" not in body
        assert "gated(" not in body
    else:
        assert writes


@pytest.mark.parametrize("name", scripts.names())
def test_a_script_that_frees_memory_runs_on_a_full_server(name: str):
    """Which scripts a full server must still run (submit, take, advance, requeue, ...), and which it must refuse."""
    grows = {"open", "enqueue", "claim", "retry", "recover_begin"}
    flags = scripts.load(name, shebang=True).flags
    assert flags in ((), ("allow-oom",), ("no-writes",))
    if name in {
        "submit",
        "take",
        "advance",
        "requeue",
        "release",
        "fail",
        "renew",
        "leave",
        "discard",
        "cancel",
        "forget",
        "trim",
    }:
        assert flags == ("allow-oom",)
    if name in grows - {"recover_begin"}:
        assert flags == ()


def test_every_script_has_a_wrapper_and_every_wrapper_a_script():
    assert sorted(CALLS) == scripts.names()
    for name, calls in CALLS.items():
        assert {script_call.script for script_call in calls} == {name}
    modules = [module.name for module in pkgutil.iter_modules(protocol.__path__, f"{protocol.__name__}.")]
    wrappers = {
        f"{module.__name__}.{function.__name__}"
        for module in map(importlib.import_module, modules)
        for _, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and "ScriptCall" in str(inspect.signature(function).return_annotation)
    }
    assert len(wrappers) == len(CALLS), sorted(wrappers)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_arguments_are_as_many_as_the_header_says(name: str):
    fixed, repeated = argument_counts(header(name)["ARGV"])
    for script_call in CALLS[name]:
        assert script_call.keys == ("rb1:{run}:state",)
        count = len(script_call.args)
        if name in {"recover_begin", "recover_preview"}:
            assert count >= fixed  # policies and the config are both of any number
        elif repeated:
            assert count >= fixed
            assert (count - fixed) % repeated == 0, f"{count} arguments: {fixed} and a multiple of {repeated}"
        else:
            assert count == fixed


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_clock_is_the_first_argument(name: str):
    assert header(name)["ARGV"].split(",")[0].strip() == "now"
    assert CALLS[name][-1].args[0] == 5
    for script_call in CALLS[name][:-1]:
        assert script_call.args[0] == ""


@pytest.mark.parametrize("name", scripts.names())
def test_the_errors_that_a_script_raises_are_in_its_header(name: str):
    source = (LUA / f"{name}.lua").read_text()
    said = set(re.findall(r"\b[A-Z]{4,}\b", header(name)["Errors"]))
    if "gate's" in header(name)["Errors"]:
        said |= {"FENCED", "OLDCALL", "REWOUND", "BADARG", "NORUN", "SCHEMA"}
    raised = set(re.findall(r"fail\('([A-Z]+)'", source))
    if re.search(r"\bint_arg\(", source):
        raised.add("BADARG")
    if "refuse_while_recovering()" in source:
        raised.add("RECOVERING")
    assert raised <= said, f"not in the header: {raised - said}"


#: The includes that read arguments by number, and which: these are the same in each script.
FRAME = {"timers": {1}, "gate": {2, 3, 4}}


@pytest.mark.parametrize("path", sorted((LUA / "include").glob("*.lua")), ids=lambda path: path.stem)
def test_an_include_reads_no_argument_by_its_number(path: Path):
    """An include is part of several scripts with different arguments: each script passes the position, or the argument."""
    code = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
    read = {int(a or b) for a, b in re.findall(r"\bARGV\s*\[\s*(\d+)|\bint_arg\(\s*(\d+)", code)}
    assert read <= FRAME.get(path.stem, set())
    named = set(re.findall(r"^local ([A-Z][A-Z_]*) = \d+", code, re.MULTILINE)) - {"FIRST_ARG"}
    assert not any(re.search(rf"\bARGV\[{name}\b|\bint_arg\({name}\b", code) for name in named)


def test_numbers_from_the_server_are_never_written_with_an_exponent():
    """`..` of a number above 1e14 gives an exponent in Lua: milliseconds and counters go through int_text."""
    for path in LUA.rglob("*.lua"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not re.search(r"(\.\. now\b|\bnow \.\.|num\('\w+'\) \.\.|\.\. num\()", line), f"{path.name}:{number}"
