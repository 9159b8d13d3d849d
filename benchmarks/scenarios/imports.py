"""Import time and memory of the client, each in a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial

from benchmarks.cases import Case
from benchmarks.lab import Lab
from benchmarks.quantiles import median

_PROGRAM = """
import json, time
started = time.perf_counter()
{statement}
seconds = time.perf_counter() - started
status = open("/proc/self/status").read()
print(json.dumps([seconds, int(status.split("VmHWM:")[1].split()[0]) * 1024]))
"""
_TIMES = 5


def cases(lab: Lab) -> list[Case]:
    """The broker, the packages that it needs, and an empty program."""
    return [
        Case("imports", "import broker", "ours", partial(_measure, lab, "import broker"), clean=False),
        # `import broker` alone loads almost nothing: a name is imported when it is first used.
        Case(
            "imports", "both clients", "ours",
            partial(_measure, lab, "from broker import RunConfig, Task, Trainer, Worker"), clean=False,
        ),
        Case("imports", "import broker.aio", "ours", partial(_measure, lab, "import broker.aio"), clean=False),
        Case("imports", "redis and pydantic", "limit", partial(_measure, lab, "import redis, pydantic"), clean=False),
        Case(
            "imports", "redis.asyncio and pydantic", "limit",
            partial(_measure, lab, "import redis, redis.asyncio, pydantic"), clean=False,
        ),
        Case("imports", "nothing", "limit", partial(_measure, lab, "pass"), clean=False),
    ]  # fmt: skip


def _measure(lab: Lab, statement: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as compiled:
        _once(statement, compiled)  # compiles everything, as an installation does
        found = [_once(statement, compiled) for _ in range(lab.size(_TIMES, 2))]
    return {
        "import_ms": median([seconds for seconds, _ in found]) * 1000,
        "memory_bytes": median([memory for _, memory in found]),
    }


def _once(statement: str, compiled: str) -> tuple[float, float]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = compiled
    program = _PROGRAM.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    return tuple(json.loads(done.stdout))
