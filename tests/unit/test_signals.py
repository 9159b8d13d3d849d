"""Processes that tests start have default signals, also if the tests were started with some ignored or blocked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Ignored and blocked, as a script in the background or a supervisor may leave them; then the program is executed.
_STARTED_WITHOUT = """
import os, signal, sys
numbers = signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1
for number in numbers:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_child_has_default_signals_and_none_blocked() -> None:
    # `cat` changes none of its own. SIGKILL and the like are in no mask; real-time signals of libc's are in neither.
    status = subprocess.check_output(["cat", "/proc/self/status"], text=True, timeout=60)
    masks = {name: int(mask, 16) for name, _, mask in (line.partition(":") for line in status.splitlines())
             if name in ("SigBlk", "SigIgn")}  # fmt: skip
    assert masks == {"SigBlk": 0, "SigIgn": 0}


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["", "with a worker process"])
def test_so_it_is_where_the_tests_are_started_with_signals_ignored_and_blocked(options: tuple[str, ...]) -> None:
    this = f"{Path(__file__)}::{test_a_child_has_default_signals_and_none_blocked.__name__}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, this]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-c", _STARTED_WITHOUT, *command],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], env=clean, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
