"""Checks the long files of `broker/`: each has a reviewed size here, and the reason why it is one file.

There is no limit, because a file may be as long as its subject. But a long file that is new, or has grown by more than
a tenth since its review, has to be reviewed: split it, or write down its size and the reason. Usage: python
.ci/sizes.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

#: A file with more lines than this is long.
LONG = 300
_ROOT = Path(__file__).resolve().parent.parent

#: The number of lines at the review, and why it is one file.
KNOWN = {
    "broker/clients/aio_trainer.py": (443, "one class: each call of the trainer for asyncio"),
    "broker/clients/aio_worker.py": (426, "one class: each call of the worker for asyncio"),
    "broker/clients/operator.py": (450, "one class: each call of an operator"),
    "broker/clients/trainer.py": (601, "one class: each call of the trainer, with the arguments' documentation"),
    "broker/clients/worker.py": (465, "one class: each call of the worker, and its threads"),
    "broker/connections/base.py": (495, "what both transports do: find the server, send, judge, send again"),
    "broker/connections/sync.py": (370, "the blocking transport and its connection"),
    "broker/errors/kinds.py": (494, "one class for each error code"),
    "broker/inspection/judge.py": (525, "the rules of one event log: one state, a method for each kind of event"),
    "broker/inspection/verification.py": (350, "one command: a consistent cut, its replay, the comparison"),
    "broker/inspection/timeline.py": (335, "one reader of the event log: a method for each kind of event"),
    "broker/integrations/agent_lightning_1/storage.py": (345, "every key of the gateway, and the commands for it"),
    "broker/integrations/areal/installation.py": (315, "one class: AReaL's places, found, replaced and put back"),
    "broker/integrations/areal/staleness.py": (387, "one class: AReaL's surface and what is beyond it"),
    "broker/local_server/embedded.py": (400, "one server: found, started, guarded, shared, stopped"),
    "broker/planning/simulation.py": (350, "one simulated run: its workers and its trainer share the state"),
    "broker/protocol/trainer.py": (333, "the calls of the scripts of trainers and operators"),
    "broker/recovery/recover.py": (470, "making a checkpoint and recovering from one share the walk over all tasks"),
    "broker/trainer/state.py": (437, "one class: what a trainer remembers"),
    "broker/tracing.py": (336, "each span, and its context, which most of them share"),
    "broker/values/codec.py": (390, "one format, both ways"),
    "broker/web/application.py": (390, "every page and every question of the pages, with who may ask it"),
    "broker/worker/claims_and_results.py": (346, "one class: claiming, claiming ahead, handing in"),
    "broker/worker/session.py": (504, "one class: a worker's session with a run"),
}


def findings() -> Iterator[str]:
    """The files that have to be reviewed, a sentence each."""
    sizes = {
        file.relative_to(_ROOT).as_posix(): len(file.read_text("utf-8").splitlines())
        for file in _ROOT.glob("broker/**/*.py")
    }
    for name, lines in sorted(sizes.items()):
        seen, _ = KNOWN.get(name, (LONG, ""))
        if lines > max(LONG, seen * 1.1):
            yield f"{name} has {lines} lines, {seen} were looked at: split it, or write down why it is one file"
    for name in KNOWN:
        if sizes.get(name, 0) <= LONG:
            yield f"{name} is not long any more: delete its row"


if __name__ == "__main__":
    sys.exit("\n".join(findings()) or 0)
