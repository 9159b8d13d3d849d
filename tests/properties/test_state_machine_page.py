"""The tables of docs/state_machine.md have every move of a task that random walks over the reference model make."""

from __future__ import annotations

import re
from pathlib import Path

from .calls import Answer, Call
from .state import Run
from .walk import walk
from .world import ModelDriver

PAGE = Path(__file__).resolve().parents[2] / "docs" / "state_machine.md"
STATES = "pending|delayed|running|ready|unsealed batch|sealed batch|consumed|dead|rejected|–"
#: Script, state before, state after.
Move = tuple[str, str, str]


def moves_on_the_page() -> set[Move]:
    """From the rows `| from | to | when | script ... |` with states in both of the first cells."""
    moves: set[Move] = set()
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or not re.match(STATES, cells[0]):
            continue
        before, after = (re.findall(STATES, cell) for cell in cells[:2])
        scripts = re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", cells[3]))
        assert before, line
        assert after, line
        assert scripts, line
        moves |= {(script, one, other) for script in scripts for one in before for other in after}
    return moves


def with_passing_through(moves: set[Move]) -> set[Move]:
    """One call may move a task twice: a claim takes back what expired and hands it out."""
    found = set(moves)
    while True:
        longer = {(script, a, d) for script, a, b in found for other, c, d in moves if script == other and b == c}
        if longer <= found:
            return found
        found |= longer


def states_of(run: Run | None) -> dict[str, str]:
    """The state of each task in the words of the page."""
    states: dict[str, str] = {}
    for name, task in run.tasks.items() if run is not None else ():
        states[name] = task.state
        if run is not None and task.state == "batched":
            assert task.step is not None
            sealed = "consumed" if task.step < run.version else "sealed batch"
            states[name] = "unsealed batch" if task.step >= run.step_next else sealed
    return states


class Watched(ModelDriver):
    """Notes every move of a task."""

    seen: set[Move]

    def apply(self, call: Call, now_ms: int) -> Answer:
        before = states_of(self.model.run)
        try:
            return super().apply(call, now_ms)
        finally:
            after = states_of(self.model.run)
            script = re.sub(r"(?<=.)([A-Z])", r"_\1", type(call).__name__).lower()
            for name in before | after:
                move = (script, before.get(name, "–"), after.get(name, "–"))
                if move[1] != move[2]:
                    self.seen.add(move)


def test_every_move_of_a_task_is_on_the_page() -> None:
    Watched.seen = set()
    walk(Watched, seed=1, steps=12_000)
    assert len(Watched.seen) > 40
    missing = Watched.seen - with_passing_through(moves_on_the_page())
    assert not missing, sorted(missing)
