"""The programs of agent-lightning 1.x as they are installed: its controller, its trainer's side, its server's tests.

They need Python 3.12. `BROKER_TEST_AGENT_LIGHTNING_1` names one that has `agentlightning` 1.x, NumPy and what the
broker needs. `BROKER_TEST_AGENT_LIGHTNING_1_SOURCE` names a checkout of its repository, for its server's tests.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.agent_lightning_1.serving import Client

PYTHON_VARIABLE, SOURCE_VARIABLE = "BROKER_TEST_AGENT_LIGHTNING_1", "BROKER_TEST_AGENT_LIGHTNING_1_SOURCE"
ROOT = Path(__file__).resolve().parents[3]

#: The agent of the tests. It notes each execution, asks the model, waits, and reports its reward.
AGENT = """
import json, os, time, urllib.request

def post(url, body):
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
        return json.load(reply)

class Agent:
    def run(self):
        with open(os.environ["EXECUTIONS"], "a") as file:
            file.write(os.environ["QUESTION"] + "\\n")
        if os.environ.get("ASKS"):
            post(os.environ["AGL_OPENAI_BASE_URL"] + "/chat/completions", {"messages": []})
        time.sleep(float(os.environ.get("RUNS_S", "0")))
        post(os.environ["AGL_EVENT_URL"], {"event_type": "reward", "data": {"value": 1.0}})
        if os.environ["QUESTION"] == "bad":
            raise SystemExit(3)
"""


def python() -> str:
    """A Python that has agent-lightning 1.x; skips the test where there is none."""
    named = os.environ.get(PYTHON_VARIABLE)
    if not named:
        pytest.skip(f"{PYTHON_VARIABLE} does not name a Python that has agentlightning 1.x")
    return named


class Stock:
    """The installed programs.

    Args:
        folder: for their files.
    """

    def __init__(self, folder: Path) -> None:
        self._python, self._folder = python(), folder
        (folder / "agents.py").write_text(AGENT)
        self._executions = folder / "executions"

    @property
    def executions(self) -> list[str]:
        """The question of each execution of an agent."""
        return self._executions.read_text().split() if self._executions.exists() else []

    @property
    def local(self) -> dict[str, Any]:
        """The config of rollouts for the local controller."""
        return {"local": {"agent_class": "agents:Agent", "env_map": {"QUESTION": "input.q"}}}

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join([str(self._folder), str(ROOT)])
        return {**os.environ, "PYTHONPATH": path, "EXECUTIONS": str(self._executions), **more}

    @contextmanager
    def controller(self, client: Client, size: int = 8, **environment: str) -> Generator[subprocess.Popen[bytes]]:
        """The stock local controller, as a process."""
        command = [
            *(self._python, "-m", "agentlightning.controller", "runner_type=local"),
            *(f"agl_server.url={client.endpoint}", f"local_runner.maximum_size={size}"),
            *("local_runner.poll_interval=0.2", f"hydra.run.dir={self._folder}", "hydra.output_subdir=null"),
        ]
        log = (self._folder / "controller.log").open("ab")
        process = subprocess.Popen(
            command, cwd=self._folder, env=self.environment(**environment), stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()

    def script(self, source: str, *arguments: str) -> Any:
        """Runs a script. Returns the JSON on the last line that it prints."""
        done = subprocess.run(
            [self._python, "-c", source, *arguments],
            cwd=self._folder,
            env=self.environment(),
            capture_output=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        return json.loads(done.stdout.decode().splitlines()[-1])

    def pytest(self, folder: Path, names: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs tests of its own."""
        return subprocess.run(
            [self._python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names],
            cwd=folder,
            env={**self.environment(**environment), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
