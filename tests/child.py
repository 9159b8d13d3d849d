"""Python programs that a test starts as processes: the test reads their output, writes to their input, and ends them.

Every wait has a deadline, which moves while the process computes: on a busy machine its imports may take minutes. If a
process ends early, or prints another line than the test expects, the test fails at once and shows all that the process
has written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, Self, TypeVar

import pytest

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
#: How many seconds a process may take to print its next line or to end: a busy machine is several times slower.
PATIENCE_S = 60.0
#: How often a test looks whether a process that it waits for has ended, seconds.
_LOOK_EVERY_S = 0.5
#: Processor seconds per second of waiting: a process that uses more of them computes, and is none that hangs.
_COMPUTES = 0.02
#: How many seconds the output of an ended process may stay open: processes that it started may hold it.
_LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code, and what it wrote to standard output (not read before) and standard error."""

    code: int
    out: str
    err: str

    @property
    def json_lines(self) -> list[Any]:
        """The lines of standard output, decoded from JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def json(self) -> Any:
        """The only line, decoded from JSON."""
        (value,) = self.json_lines
        return value


def _cpu_s(pid: int) -> float:
    """The processor seconds that a process has used, with those of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


class _Patience:
    """The deadline of a wait for a process: so many seconds, or as many of the processor's while it computes."""

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid, self._seconds = pid, seconds
        self._began_s = self._used_s = _cpu_s(pid)
        self._deadline = time.monotonic() + seconds

    def is_over(self) -> bool:
        if time.monotonic() <= self._deadline:
            return False
        used_s = _cpu_s(self._pid)
        if used_s - self._began_s >= self._seconds or used_s - self._used_s <= _COMPUTES * self._seconds:
            return True
        self._used_s, self._deadline = used_s, time.monotonic() + self._seconds
        return False


class _Reader:
    """Reads a stream to its end in a thread of its own, so that the process never waits for a reader."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            self.lines.extend(self._stream)

    def has_ended(self, within_s: float = 0.0) -> bool:
        self._thread.join(within_s)
        return not self._thread.is_alive()


class Child:
    """A Python process, with default signals (`tests/signals.py`); it is killed at the end of a `with` block.

    Args:
        words: the words after `python`: `"-c", code`, `"-m", module`, or the path of a script, then its arguments.
        cwd: its directory; by default the repository, so that `-m` and `-c` find `tests` and `broker`.
        env: variables beside those of the tests.
        python: the interpreter; by default the tests' own.

    Attributes:
        process: the process.
        out: the lines that it has written to standard output, each with its line end.
        err: the lines of standard error.
    """

    def __init__(
        self,
        *words: str | Path,
        cwd: Path = ROOT,
        env: dict[str, str] | None = None,
        python: str | Path = sys.executable,
    ) -> None:
        self._shown = " ".join(map(str, words))[-200:]
        self.process = subprocess.Popen(
            [str(python), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._in = self.process.stdin
        self._readers = _Reader(self.process.stdout), _Reader(self.process.stderr)
        self.out, self.err = (reader.lines for reader in self._readers)
        self._n_read = 0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    # -- what it says ----------------------------------------------------------------------------------------------

    def read_line(self) -> str:
        """Waits for the next line of standard output; returns it without the line end."""
        self.wait_until(lambda: len(self.out) > self._n_read, "it says something more")
        self._n_read += 1
        return self.out[self._n_read - 1].rstrip("\n")

    def expect(self, line: str) -> None:
        """Fails the test if the next line is another one."""
        if (said := self.read_line()) != line:
            self.fail(f"it said {said!r} instead of {line!r}")

    def wait_until(self, condition: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
        """Waits until `condition` is true, and returns its value. Fails the test if the process ends before that."""
        patience = _Patience(self.pid, within_s)
        while True:
            has_said_all = self.has_ended() and all(reader.has_ended(_LAST_WORDS_S) for reader in self._readers)
            if answer := condition():
                return answer
            if has_said_all:
                self.fail(f"it ended before this was true: {what}")
            if patience.is_over():
                self.fail(f"not within {within_s:g} s: {what}")
            time.sleep(0.01)

    def fail(self, problem: str) -> NoReturn:
        """Kills the process and fails the test with what the process has written."""
        self.kill()
        pytest.fail(
            f"{problem}; process: {self._shown}; exit code: {self.process.returncode}\n"
            f"-- standard output:\n{''.join(self.out)}\n-- standard error:\n{''.join(self.err)}"
        )

    # -- what it is told -------------------------------------------------------------------------------------------

    def tell(self, line: str) -> None:
        """Writes a line to its standard input."""
        self._in.write(line + "\n")
        self._in.flush()

    def close_input(self) -> None:
        """Ends its standard input."""
        with suppress(BrokenPipeError):  # the process has ended
            self._in.close()

    def send(self, number: int) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    # -- its end ---------------------------------------------------------------------------------------------------

    def has_ended(self, within_s: float = 0.0) -> bool:
        """Whether it ends within this many seconds."""
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, within_s: float = PATIENCE_S) -> Ended:
        """Ends its standard input, waits for its end, and returns its output."""
        self.close_input()
        patience = _Patience(self.pid, within_s)
        while not self.has_ended(_LOOK_EVERY_S):
            if patience.is_over():
                self.fail(f"it has not ended within {within_s:g} s")
        if not all(reader.has_ended(within_s) for reader in self._readers):
            self.fail(f"{within_s:g} s after its end a process that it started still holds its output open")
        out = "".join(self.out[self._n_read :])
        self._n_read = len(self.out)
        return Ended(self.process.returncode, out, "".join(self.err))

    def kill(self) -> None:
        """Kills it and waits for its end."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.close_input()
        for reader in self._readers:
            reader.has_ended(_LAST_WORDS_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def finished(
    *words: str | Path,
    within_s: float = PATIENCE_S,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
    python: str | Path = sys.executable,
) -> Ended:
    """Runs a Python program to its end; see `Child`."""
    with Child(*words, cwd=cwd, env=env, python=python) as child:
        return child.end(within_s)


def read_by_head(*words: str) -> Ended:
    """Runs a Python program whose reader leaves after the first line, as `head -1` does."""
    pipeline = ["bash", "-c", '"$@" | head -1; exit "${PIPESTATUS[0]}"', "bash", sys.executable, *words]
    done = subprocess.run(pipeline, capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE_S)
    return Ended(done.returncode, done.stdout, done.stderr)


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process are stopped by SIGSTOP."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}
