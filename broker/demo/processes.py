"""Starts, kills, freezes and replaces the demo's child processes, and reports their failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import broker
from broker.demo.child import LEAVE_S

#: How much of a child's standard error a failure shows, bytes.
_SHOWN_BYTES: Final = 4_000


class DemoFailed(Exception):
    """The demo could not start, or could not go on. The message says why and what to do."""


class Child(subprocess.Popen[bytes]):
    """One process that runs `python -m <module>`.

    The child leads its own process group, so that Ctrl-C reaches the supervisor only. When the supervisor dies, the
    group is orphaned, and the kernel wakes a frozen child. The child ends when its standard input is closed
    (`--lifeline`), which happens however the supervisor ends.

    Args:
        name: for messages.
        module: the Python module to run.
        arguments: of its command line.
        url: the server; passed in the environment, because all users can read a command line.

    Attributes:
        name: as given.
        is_frozen: whether it was stopped by `freeze`.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], url: str) -> None:
        self.name = name
        self.is_frozen = False
        self._line = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        super().__init__(
            # -P: no file of the current directory can replace a module.
            [sys.executable, "-P", "-m", module, *arguments, "--lifeline"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(url),
            process_group=0,
        )
        assert self.stdout is not None, "opened as a pipe"
        self._output = self.stdout
        os.set_blocking(self._output.fileno(), False)

    def lines(self) -> list[str]:
        """The lines that it printed since the last call."""
        *lines, self._line = (self._line + (self._output.read() or b"")).split(b"\n")
        return [line.decode() for line in lines]

    def failure(self) -> str:
        """How it ended, in words, with the end of its standard error."""
        code = self.returncode
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        size = os.fstat(self._errors.fileno()).st_size
        said = os.pread(self._errors.fileno(), _SHOWN_BYTES, max(0, size - _SHOWN_BYTES)).decode(errors="replace")
        said = said.strip() or "(it wrote nothing to standard error)"
        return f"the demo's {self.name} (process {self.pid}) {how}:\n{said}"

    def freeze(self) -> None:
        """SIGSTOP."""
        self.send_signal(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self.send_signal(signal.SIGCONT)
        self.is_frozen = False

    def end(self, within_s: float = 0.0) -> list[str]:
        """Waits until it has ended, kills it after `within_s` with SIGKILL, and closes its pipes.

        Returns:
            The lines that it printed since the last call of `lines`.
        """
        try:
            self.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()
        with self, self._errors:
            return self.lines()


class Processes:
    """A trainer and a fixed number of workers; killed processes are replaced.

    Args:
        workers: how many workers; they are named w1, w2 and so on, and a replacement has a new name.
        start: starts the process of a name, `trainer` or a worker's.

    Attributes:
        trainer: the present trainer.
        workers: the workers that should be alive.
        trainers_killed, workers_killed: SIGKILLs sent so far.
    """

    def __init__(self, workers: int, start: Callable[[str], Child]) -> None:
        self._start = start
        self._said: list[str] = []
        self._hired = 0
        self.workers: list[Child] = []
        self.trainers_killed = self.workers_killed = 0
        self.trainer = start("trainer")
        try:
            for _ in range(workers):
                self._add_worker()
        except BaseException:
            self.end()
            raise

    def replace_worker(self, worker: Child) -> Child:
        """Kills a worker with SIGKILL and starts another in its place."""
        self.workers.remove(worker)
        worker.end()
        self.workers_killed += 1
        return self._add_worker()

    def replace_trainer(self) -> None:
        """Kills the trainer with SIGKILL and starts another in its place."""
        self._said += self.trainer.end()
        self.trainers_killed += 1
        self.trainer = self._start("trainer")

    def lines(self) -> list[str]:
        """The lines that trainers printed since the last call."""
        said, self._said = self._said, []
        return said + self.trainer.lines()

    def are_done(self) -> bool:
        """Whether the trainer ended as it should.

        Raises:
            DemoFailed: the trainer failed, or a worker ended that was not killed.
        """
        is_done = self.trainer.poll() == 0
        for child in self.workers if is_done else (self.trainer, *self.workers):
            if child.poll() is not None:
                raise DemoFailed(child.failure())
        return is_done

    def end(self) -> None:
        """Asks all processes to end, waits for all together, and kills those that do not end."""
        children = [self.trainer, *self.workers]
        for child in children:
            child.thaw()
            child.terminate()
        deadline = time.monotonic() + LEAVE_S
        for child in children:
            self._said += child.end(max(0.0, deadline - time.monotonic()))

    def _add_worker(self) -> Child:
        self._hired += 1
        worker = self._start(f"w{self._hired}")
        self.workers.append(worker)
        return worker


def _environment(url: str) -> dict[str, str]:
    """The environment of a child: it can import this package, and uses one thread for its tiny matrices."""
    root = str(Path(broker.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths), "BROKER_URL": url}
