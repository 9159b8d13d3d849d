"""The README is true: its Python runs, its commands exist, its links work, its table is complete."""

from __future__ import annotations

import re
import signal
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest

from broker import errors
from broker.cli.catalogue import CATALOGUE
from broker.local_server.embedded import EmbeddedServer
from broker.values.config import RunConfig
from tests.child import ROOT, Child, finished
from tests.waiting import run_exists

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SERVER_IN_README = "redis://localhost:6379/0"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def url() -> Generator[str]:
    server = EmbeddedServer()
    yield server.url
    server.stop()


def start(code: str, url: str, folder: Path) -> Child:
    return Child("-c", code.replace(SERVER_IN_README, url), cwd=folder, env={"PYTHONPATH": str(ROOT)})


@pytest.mark.processes
def test_the_trainer_and_the_worker_of_the_readme_train_together(url: str, tmp_path: Path) -> None:
    trainer_code, worker_code = blocks("python")
    with start(trainer_code, url, tmp_path) as trainer:
        # A worker of a run that no trainer has created yet is told so (NORUN).
        trainer.wait_until(lambda: run_exists(url, "math-7b"), "it has created the run")
        with start(worker_code, url, tmp_path) as worker:
            ended = trainer.end()
            assert ended.code == 0, ended.err
            assert ended.out.splitlines() == [f"step {step}: 4 groups, mean reward 1.00" for step in range(10)]
            worker.send(signal.SIGTERM)
            ended = worker.end()
            assert (ended.code, ended.err) == (143, "")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "last_line"),
    [
        ("threads.py", "trained 40 tasks in 10 steps"),
        ("asyncio_rollouts.py", "trained 160 tasks, rejected 1"),
        ("evaluation.py", "trained 40 tasks, evaluated 100"),
    ],
)
def test_examples_run_to_their_end(name: str, last_line: str) -> None:
    ended = finished(ROOT / "examples" / name)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == last_line
    # The others belong to integrations, whose own tests run them.
    others = {"areal_processes.py", "agent_lightning_gateway.py", "torch_loop.py", "training_log.py"}
    found = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert found == {"threads.py", "asyncio_rollouts.py", "evaluation.py"} | others


def test_the_configuration_table_is_the_configuration() -> None:
    table = README.partition("## Configuration")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    defaults: dict[str, str] = {}
    for row in rows:
        names, values = (re.findall(r"`(\w+)`", row.split("|")[1]), row.split("|")[2].split(", "))
        defaults |= dict(zip(names, values, strict=True))
    fields = RunConfig.model_fields
    assert list(defaults) == list(fields)
    for name, shown in defaults.items():
        field = fields[name]
        if field.is_required() or name in ("max_concurrent_rollouts", "staleness_limit"):
            continue
        assert shown.strip() == stated(field.default), name


def stated(value: object) -> str:
    """A default, as the README writes it."""
    if value is None:
        return "`None`"
    if isinstance(value, str):
        return f'`"{value}"`'
    assert isinstance(value, int)
    if value and value % 1024**2 == 0:
        return f"{value // 1024**2} MiB"
    return f"{value:,}"


def test_every_command_in_the_readme_exists() -> None:
    shown = set(re.findall(r"^broker (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE))
    assert shown
    assert shown <= {entry.name for entry in CATALOGUE}


@pytest.mark.parametrize("name", ["test", "demo"])
def test_the_marked_commands_are_one_line_each(name: str) -> None:
    match = re.search(rf"^<!-- command: {name} -->\n```sh\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    assert match
    assert match[1].count("\n") == 1
    assert match[1].startswith("python3 -m venv .venv && ")


def test_the_operations_page_names_every_error() -> None:
    table = (
        (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("\n## Errors")[2].partition("\n## ")[0]
    )
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    documented = {
        pair
        for row in rows
        for pair in zip(re.findall(r"`(\w+)`", row[1]), re.findall(r"`(\w+)`", row[2]), strict=True)
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.BrokerError)]
    # An error of the server's own, and an answer that makes no sense, have no class of their own.
    classless = {("ERR", "BrokerError"), ("UNREADABLE", "BrokerError")}
    assert documented == {(kind.code, kind.__name__) for kind in kinds if kind is not errors.BrokerError} | classless


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("#"):
            continue
        assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs/integrations").glob("*.md")), ids=lambda page: page.name)
def test_the_page_of_an_integration_says_what_to_install(page: Path) -> None:
    named = re.findall(r"pip install '\.\[(\w+)\]' +# in a clone of the broker", page.read_text(encoding="utf-8"))
    assert named
    assert set(named) <= _extras().keys()


def test_the_table_of_extras_has_every_package_and_extra_that_they_bring() -> None:
    page = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    for extra, brings in _extras().items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{extra}` |"))
        if "(with the above)" in row:
            continue
        for requirement in brings:
            own = re.fullmatch(r"rollout-broker\[(.*)\]", requirement)
            names = own[1].split(",") if own else [re.split(r"[\[>]", requirement)[0]]
            assert all(f"`{name}" in row.split("|")[2] for name in names), f"{extra} brings {requirement}"


def _extras() -> dict[str, list[str]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
