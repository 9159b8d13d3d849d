"""A program that begins again and again in forks of one process, since AReaL takes a minute to import."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.child import ROOT, Child

#: On a busy machine.
PATIENCE_S = 600.0


class Lives(Child):
    """The process that imports AReaL, and forks (`in_lives` of `forks.py`)."""

    def __init__(self, checkout: Path, *words: str) -> None:
        super().__init__(
            "-m",
            *words,
            python=checkout / ".venv/bin/python",
            cwd=checkout,
            env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "HF_HUB_OFFLINE": "1", "BROKER_TEST_LIVES": "1"},
        )

    def begin(self) -> Life:
        """Starts a life."""
        life = Life(self, len(self.out))
        self.tell("begin")
        life.wait_for("life")
        return life


class Life:
    """One fork."""

    def __init__(self, lives: Lives, at: int) -> None:
        self._lives, self._at = lives, at

    @property
    def log(self) -> str:
        """All that it and AReaL have said."""
        return "".join(self._lives.out[self._at :])

    def said(self, word: str) -> list[dict[str, Any]]:
        """The lines of JSON that have a word; AReaL's own lines are between them."""
        lines = [json.loads(line[1:]) for line in self._lives.out[self._at :] if line.startswith("@")]
        return [line for line in lines if word in line]

    def wait_for(self, word: str, n: int = 1) -> None:
        """Waits for so many lines with a word."""
        self._lives.wait_until(lambda: len(self.said(word)) >= n or self.said("dead"), f"{n} times {word}", PATIENCE_S)
        if len(self.said(word)) < n:
            self._lives.fail(f"it ended before it said {n} times {word}")

    @property
    def steps(self) -> list[int]:
        """The steps that it trained."""
        return [line["step"] for line in self.said("step")]

    def send(self, number: int) -> None:
        """Sends it a signal, if it is alive."""
        if not self.said("dead"):
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself just now
                os.kill(self.said("life")[0]["life"], number)

    def kill(self) -> None:
        """Kills it, and waits for its end."""
        self.send(signal.SIGKILL)
        self.wait_for("dead")
