"""Other queues, each in a virtual environment of its own that is made on demand."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, NotRunError
from benchmarks.lab import Lab
from benchmarks.quantiles import quantile

NAMES = (
    "huey", "dramatiq", "rq", "celery", "arq", "saq", "taskiq", "streaq", "docket", "bullmq_node", "bullmq_python",
)  # fmt: skip

#: How many seconds an installation, and one measurement, may take.
INSTALL_S, MEASURE_S = 300.0, 110.0
#: Pause before each task in the latency scenario, in seconds, as for the broker.
IDLE_S = 0.01
_HERE = Path(__file__).parent


def cases(lab: Lab, scenario: str) -> list[Case]:
    """The peers' cases of a scenario."""
    found: list[Case] = []
    for name in lab.peers:
        few = 5 if _constant(name, "SLOW") else 1
        if scenario == "enqueue":
            count = lab.size(1000, 200) // few
            found += [
                Case("enqueue", "one at a time", name, partial(_ask, lab, name, "enqueue", count=count, n=1)),
                Case("enqueue", "batches of 64", name, partial(_ask, lab, name, "enqueue", count=4 * count, n=64)),
            ]
        elif scenario == "cycle":
            for processes in (1, 4):
                count = lab.size(2000 if processes == 1 else 4000, 300) // few
                label = "a worker process" if processes == 1 else f"{processes} processes"
                found.append(
                    Case("cycle", label, name, partial(_ask, lab, name, "cycle", count=count, processes=processes))
                )
        elif scenario == "latency":
            found.append(
                Case("latency", "an idle worker", name, partial(_latency, lab, name, lab.size(200, 30) // few))
            )
    return found


def _latency(lab: Lab, name: str, count: int) -> dict[str, float]:
    told = _ask(lab, name, "latency", count=count, idle_s=IDLE_S)
    return {
        f"{what}_p{round(share * 100)}_ms": quantile(told[f"{what}s"], share) * 1000
        for what in ("start", "result")
        for share in (0.5, 0.99)
    }


def prepare(lab: Lab) -> dict[str, str]:
    """Makes the environments of all peers. Returns for each what is installed, or why it is not."""
    told: dict[str, str] = {}
    for name in lab.peers:
        try:
            told[name] = _installed(lab, name)
        except NotRunError as reason:
            told[name] = f"not run: {reason}"
    return told


def needs(name: str) -> list[str]:
    """The packages of a peer, pip's and npm's."""
    return [*(_constant(name, "PACKAGES") or []), *(_constant(name, "NODE_PACKAGES") or [])]


def _constant(name: str, constant: str) -> Any:
    """A constant of a peer's module, read from its text, because the peer is not installed in this environment."""
    for node in ast.parse((_HERE / f"{name}_peer.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == constant for t in node.targets):
            return ast.literal_eval(node.value)
    return None


def _directory(lab: Lab, name: str) -> Path:
    return lab.directory / name


def _installed(lab: Lab, name: str) -> str:
    """Makes the peer's environment if there is none. Returns the versions in it."""
    directory = _directory(lab, name)
    note = directory / "installed.txt"
    if not note.exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        _run([sys.executable, "-m", "venv", str(directory)], cwd=directory)
        packages, node = _constant(name, "PACKAGES") or [], _constant(name, "NODE_PACKAGES") or []
        python = str(directory / "bin" / "python")
        if packages:
            _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], cwd=directory)
        if node:
            if not shutil.which("node") or not shutil.which("npm"):
                raise NotRunError("needs node and npm")
            _run(["npm", "install", "--silent", "--no-audit", "--no-fund", *node], cwd=directory)
        listed = _run([python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"], cwd=directory)
        if node:
            listed += _run(["npm", "ls", "--depth=0"], cwd=directory)
        note.write_text(listed, encoding="utf-8")
    wanted = {part.split("[")[0].lower() for part in (_constant(name, "PACKAGES") or [])}
    lines = note.read_text(encoding="utf-8").splitlines()
    python = [line for line in lines if line.split("==")[0].lower() in wanted]
    return ", ".join(python + [line.split()[-1] for line in lines if "@" in line and "──" in line])


def _run(command: list[str], cwd: Path) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, cwd=cwd, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotRunError(f"could not be installed: {error}") from None
    if done.returncode:
        tail = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NotRunError(f"could not be installed: {' '.join(command[:4])} ...: {' '.join(tail)}")
    return done.stdout


def _ask(lab: Lab, name: str, do: str, **given: Any) -> dict[str, Any]:
    """Runs `runner.py` once in the peer's environment, and returns its answer."""
    _installed(lab, name)
    directory = _directory(lab, name)
    command = [str(directory / "bin" / "python"), str(_HERE / "runner.py"), f"{name}_peer", do]
    command.append(json.dumps({"url": lab.url, **given}))
    environment = {**os.environ, "BENCHMARK_NODE": str(directory / "node_modules"), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=MEASURE_S, env=environment, cwd=directory, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotRunError(f"did not finish in {MEASURE_S:g} s") from None
    if done.returncode:
        raise NotRunError(f"failed: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    if "not_run" in told:
        raise NotRunError(told["not_run"])
    return told
