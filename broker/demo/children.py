"""Child processes of the demo: started, killed, frozen, and heard when they fail."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import broker

#: How long a child gets to end by itself before it is killed, seconds.
LEAVE_S: Final = 5.0

#: How much of a child's standard error a failure shows, bytes.
_SHOWN_BYTES: Final = 4_000


class Child:
    """One process that runs `python -m <module>`.

    It leads a process group of its own, so that Ctrl-C reaches the supervisor only; one that is frozen when the
    supervisor dies is woken by the kernel then, because its group becomes an orphan.

    Args:
        name: for messages.
        module: what it runs.
        arguments: of its command line.
        url: the server; in the environment, because everybody can read a command line.

    Attributes:
        name: as given.
        frozen: whether it was stopped by `freeze`.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], url: str = "") -> None:
        self.name = name
        self.frozen = False
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            # -P: nothing in the current directory can stand in for a module.
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(url),
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, name=f"lines of {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended (minus the signal that ended it); None while it runs."""
        return self._process.poll()

    def lines(self) -> list[str]:
        """What it printed since the last call, by lines."""
        got: list[str] = []
        while True:
            try:
                got.append(self._lines.get_nowait())
            except queue.Empty:
                return got

    def last_lines(self) -> list[str]:
        """The rest of what it printed, once it has ended."""
        self._reader.join(LEAVE_S)
        return self.lines()

    def errors(self) -> str:
        """The end of what it wrote to standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        start = max(0, size - _SHOWN_BYTES)
        return os.pread(self._errors.fileno(), size - start, start).decode(errors="replace").strip()

    def kill(self) -> None:
        """SIGKILL, and waits for its end."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)
        self.frozen = False

    def ask_to_leave(self) -> None:
        """SIGTERM, and closes its lifeline."""
        if self.exit_code is None:
            self.thaw()
            self._process.terminate()

    def reap(self, timeout_s: float) -> None:
        """Waits until it is gone, kills it after `timeout_s`, and frees what belongs to it."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(LEAVE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._errors.close()

    def _read(self) -> None:
        assert self._process.stdout is not None, "opened as a pipe"
        for line in self._process.stdout:
            self._lines.put(line.decode(errors="replace").rstrip("\n"))


def _environment(url: str) -> dict[str, str]:
    """The environment of a child: this package importable, and one thread for linear algebra on tiny matrices."""
    root = str(Path(broker.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths), "BROKER_URL": url}
