import io
import json
import logging
import re
import sys
from types import SimpleNamespace

import pytest
from rich.live import Live

from broker.cli.output import Output, Table

TABLE = Table(("run", "version"), [("math-7b", "12"), ("[b]x", "7")], title="runs", numeric=frozenset({1}))


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_aligned_text() -> None:
    stream = io.StringIO()
    Output(stdout=stream).table(TABLE)
    assert stream.getvalue().splitlines() == ["runs", "run      version", "math-7b       12", "[b]x           7"]


def test_a_table_without_headings_or_rows_prints() -> None:
    stream = io.StringIO()
    Output(stdout=stream).tables([Table(("", ""), [("a", "b")]), Table(("x",), [])])
    assert stream.getvalue() == "a  b\n\nx\n"


def test_a_terminal_gets_a_drawn_table_and_names_are_not_markup() -> None:
    stream = _Terminal()
    Output(stdout=stream).table(TABLE)
    assert "[b]x" in stream.getvalue()
    assert "─" in stream.getvalue()


WIDE = Table(
    ("run", "version", "next step", "pending", "claims"),
    [("math-7b/with-a-long-name/of-forty-characters", "12", "13", "40,000", "draining")],
    numeric=frozenset({1, 2, 3}),
    optional=(2, 3),
)


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        ("120", ["run", "version", "next", "step", "pending", "claims"]),
        ("90", ["run", "version", "pending", "claims"]),
        ("78", ["run", "version", "claims"]),
        ("40", ["run", "version", "claims"]),
    ],
)
def test_a_narrow_terminal_leaves_columns_out_and_breaks_no_name(
    width: str, headings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    stream = _Terminal()
    Output(stdout=stream).table(WIDE)
    lines = [re.sub("\x1b\\[[0-9]*m", "", line).split() for line in stream.getvalue().splitlines() if line.strip()]
    assert lines[0] == headings
    assert lines[-1][0] == "math-7b/with-a-long-name/of-forty-characters"
    assert lines[-1][-1] == "draining"


def test_without_rich_a_terminal_gets_aligned_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "rich" or name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    stream = _Terminal()
    output = Output(stdout=stream)
    output.table(TABLE)
    with output.screen() as console:
        assert console is None
    assert stream.getvalue().count("math-7b       12") == 1


def test_json_is_one_line_and_keeps_text_readable() -> None:
    stream = io.StringIO()
    Output(as_json=True, stdout=stream).json({"name": "über", "bytes": b"x"})
    assert stream.getvalue() == '{"name": "über", "bytes": "x"}\n'
    assert json.loads(stream.getvalue())["name"] == "über"


def told_after_a_second(told: tuple[int, ...], stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    """What work of more than a second shows before it ends."""
    now = iter([100.0, 100.5, 101.1])
    monkeypatch.setattr("broker.cli.progress.time", SimpleNamespace(monotonic=lambda: next(now)))
    with Output(stderr=stream).progress("tasks") as tell:
        tell(*told)
        assert stream.getvalue() == "", "nothing is shown of what does not take a second"
        tell(*told)
        return stream.getvalue()


@pytest.mark.parametrize(("told", "shown"), [((7, 9), "7/9 tasks"), ((7,), "7/? tasks")])
def test_long_work_shows_a_bar(told: tuple[int, ...], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _Terminal()
    seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told_after_a_second(told, stream, monkeypatch))
    assert shown in seen
    assert "━" in seen
    assert stream.getvalue().endswith("\x1b[2K"), "the bar is taken away"


@pytest.mark.parametrize(("told", "shown"), [((7, 9), "\r7 of 9 tasks"), ((7,), "\r7 tasks")])
def test_without_rich_it_shows_numbers(told: tuple[int, ...], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    stream = _Terminal()
    assert told_after_a_second(told, stream, monkeypatch) == shown
    assert stream.getvalue() == f"{shown}\r\033[K"


def test_work_whose_standard_error_is_no_terminal_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    assert told_after_a_second((7, 9), stream, monkeypatch) == ""


def test_what_is_logged_during_a_picture_stands_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, errors = _Terminal(), io.StringIO()
    handler = logging.StreamHandler(errors)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    with Output(stdout=stream).screen() as console, Live(console=console):
        logging.getLogger("broker").warning("the server is away")
    assert "the server is away" in stream.getvalue()
    assert errors.getvalue() == ""
    logging.getLogger("broker").warning("afterwards")
    assert errors.getvalue() == "afterwards\n"
