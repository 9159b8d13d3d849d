"""Log lines as JSON: one object a line, with the fields that the page lists."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from broker.cli.catalogue import CATALOGUE
from broker.cli.main import build_parser
from broker.cli.options import log_format
from broker.cli.output import Output
from broker.logs import FORMATS, LOG_FORMAT_VARIABLE, JsonFormatter
from broker.values.attempt import Attempt
from broker.values.policy import Policy
from broker.worker.activity import TELL_EVERY_S, Activity
from tests.child import finished

PAGE = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text().partition("## Logs")[2].partition("\n## ")[0]


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.told: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        assert "\n" not in line
        assert line.isascii()  # any encoding of standard error can write it
        self.told.append(json.loads(line))


@pytest.fixture
def lines() -> Any:
    handler, logger = Lines(), logging.getLogger("broker")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.told
    logger.removeHandler(handler)
    logger.setLevel(before)


def attempt() -> Attempt:
    policy = Policy(version=0, epoch="1.a")
    return Attempt("gsm8k/1#0.1.ab", "r", "gsm8k/1", slot=0, payload=None, version=0, policy=policy, samples=1, tries=0)


def test_a_line_says_when_who_and_what(lines: list[dict[str, Any]]) -> None:
    logging.getLogger("broker.x").warning("two\nlines of %s", "tëxt", extra={"run": "r", "odd": {1}})
    (line,) = lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
    assert (line["level"], line["logger"], line["message"]) == ("WARNING", "broker.x", "two\nlines of tëxt")
    assert (line["run"], line["odd"], line["thread"]) == ("r", "{1}", "MainThread")


def test_an_exception_has_its_class_and_its_traceback(lines: list[dict[str, Any]]) -> None:
    try:
        int("boom")
    except ValueError:
        logging.getLogger("broker.x").exception("it failed")
    (line,) = lines
    assert line["error"] == "builtins.ValueError"
    assert line["traceback"].splitlines()[-1] == "ValueError: invalid literal for int() with base 10: 'boom'"


def test_what_a_worker_logs_names_itself_its_run_and_the_attempt(lines: list[dict[str, Any]]) -> None:
    now = [0.0]
    activity = Activity("w1", lambda: now[0])
    activity.started("r")
    activity.claimed("r", 1)
    activity.failed()
    activity.tell_failure(attempt(), ValueError("boom"), "ValueError: boom")
    now[0] = TELL_EVERY_S
    activity.look()
    of = [{name: line[name] for name in line if name in fields()} for line in lines]
    assert of == [
        {"worker": "w1", "run": "r"},
        {"worker": "w1", "run": "r"},
        {"worker": "w1", "run": "r", "task": "gsm8k/1", "attempt": "gsm8k/1#0.1.ab"},
        {"worker": "w1", "done": 0, "failed": 1, "seconds": 60.0},
    ]


def fields() -> set[str]:
    """The fields that the page lists for the broker's own loggers."""
    rows = re.findall(r"^\| `broker\.[\w.]+` \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_page_names_loggers_that_there_are() -> None:
    names = re.findall(r"^\| `(broker\.[\w.]+)` \|", PAGE, re.MULTILINE)
    assert "broker.worker.activity" in names
    for name in names:
        if name != "broker.cli":  # the commands' own messages
            assert import_module(name)._log.name == name


@pytest.mark.parametrize("name", [entry.name for entry in CATALOGUE])
def test_every_command_takes_the_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser([name]).parse_args([name, "--help"])
    assert "--log-format {text,json}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "variable", "wanted"),
    [
        (["status", "r"], "", "text"),
        (["status", "r", "--log-format", "json"], "", "json"),
        (["--log-format=json", "status", "r"], "text", "json"),
        (["status", "r"], "json", "json"),
        (["status", "r", "--log-format", "text"], "json", "text"),
        (["cancel", "r", "--", "--log-format", "json"], "", "text"),
    ],
)
def test_the_option_goes_over_the_variable(
    argv: list[str], variable: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOG_FORMAT_VARIABLE, variable)
    assert log_format(argv) == wanted
    assert wanted in FORMATS


@pytest.mark.processes
def test_all_that_a_command_writes_to_standard_error_is_json() -> None:
    told = finished("-m", "broker", "status", "r", "--log-format", "json", "--url", "redis://127.0.0.1:1")
    assert told.code == 2
    lines = [json.loads(line) for line in told.err.splitlines()]
    assert [(line["level"], line["logger"]) for line in lines] == [
        ("WARNING", "broker.connections.outage"),
        ("ERROR", "broker.cli"),
    ]


@pytest.mark.processes
def test_a_child_of_a_command_logs_as_its_parent_does() -> None:
    code = (
        "import sys; sys.argv = ['broker', 'serve', '--log-format', 'json']; import broker.cli.main as main, os; "
        "main.main = lambda argv: print(os.environ['BROKER_LOG_FORMAT']); main.entry_point()"
    )
    assert finished("-c", code).out == "json\n"


def test_a_note_of_a_command_is_a_line_of_the_log() -> None:
    stream = io.StringIO()
    Output(log_format="json", stderr=stream).note("serving")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "broker.cli", "serving")
    assert line["process"] == os.getpid()
