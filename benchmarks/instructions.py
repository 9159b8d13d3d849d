"""Instructions that a process executes, counted by `perf stat` if the machine allows it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_EVENT = "instructions:u"


@contextmanager
def counted(pid: int | None) -> Iterator[list[int]]:
    """Counts while the block runs. After that the list has the count, or is empty if perf does not work."""
    result: list[int] = []
    if pid is None or not _works():
        yield result
        return
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "perf.csv"
        process = subprocess.Popen(_command(pid, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.1)  # perf does not say when it has attached
        yield result
        process.send_signal(2)
        process.wait(10)
        result += _read(output)


def _command(pid: int, output: Path, *more: str) -> list[str]:
    return ["perf", "stat", "-x", ",", "-e", _EVENT, "-o", str(output), "-p", str(pid), *more]


def _read(output: Path) -> list[int]:
    lines = output.read_text().splitlines() if output.exists() else []
    return [int(line.split(",")[0]) for line in lines if _EVENT in line and line.split(",")[0].isdecimal()]


@cache
def _works() -> bool:
    if shutil.which("perf") is None:
        return False
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "perf.csv"
        command = ["perf", "stat", "-x", ",", "-e", _EVENT, "-o", str(output), "true"]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return bool(_read(output))
