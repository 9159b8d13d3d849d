"""GRPO on a small transformer, with generators as processes of their own: `python -m examples.grpo --help`.

Starts a server, the generators and the trainer on this host, and starts again what dies. Generators on other hosts use
`--role generator --url URL` with a folder that all hosts share.

Needs the extras `embedded` and `torch`; with a URL, `embedded` is not needed.
"""

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from broker.local_server.embedded import EmbeddedServer


def parser() -> argparse.ArgumentParser:
    """The options, the same for all roles."""
    made = argparse.ArgumentParser(prog="python -m examples.grpo", description=(__doc__ or "").split("\n")[0])
    add = made.add_argument
    add("--problems", choices=("sums", "tool"), default="tool", help="adding, or adding with a tool in several turns")
    add("--steps", type=int, default=200, help="training steps at most (default: %(default)s)")
    add(
        "--until",
        type=float,
        default=0.9,
        help="end at this mean reward; 0: at --steps (default: %(default)s)",
    )
    add("--generators", type=int, default=2, help="generator processes (default: %(default)s)")
    add("--staleness", type=int, default=1, help="steps that a rollout may be behind (default: %(default)s)")
    add("--batch", type=int, default=16, help="groups of 8 samples in a step (default: %(default)s)")
    add("--size", choices=("tiny", "small", "85m"), default="small", help="the transformer (default: %(default)s)")
    add("--device", default="cpu", help="a device of PyTorch (default: %(default)s)")
    add("--generators-on", help="the device of the generators, such as cuda:1 (default: that of --device)")
    add("--places", type=int, default=64, help="samples that a generator makes at once (default: %(default)s)")
    add("--warm-up", type=float, default=0.1, help="share of right answers before GRPO begins (default: %(default)s)")
    add("--learning-rate", type=float, help="of AdamW (default: the size's own)")
    add("--evaluate-every", type=int, default=20, help="steps between two evaluations; 0: none (default: %(default)s)")
    add("--graphs", action="store_true", help="generate with CUDA graphs")
    add("--lease-ms", type=int, default=10_000, help="when the work of a killed generator is done by another")
    add("--seed", type=int, default=0)
    add("--kill-every", type=float, default=0.0, help="kill a random process every so many seconds; 0: none")
    add("--folder", help="where weights, checkpoint and curve go (default: a temporary folder)")
    add("--url", help="a server (default: an embedded one)")
    add("--run", default="grpo", help="the run's name (default: %(default)s)")
    add("--role", choices=("all", "trainer", "generator"), default="all", help="what this process is")
    add("--name", default="generator-0", help="a generator's name")
    return made


@contextlib.contextmanager
def ended_at_exit(processes: dict[str, "subprocess.Popen[bytes]"]) -> Generator[None]:
    """Ends the processes when the block ends, however it ends."""
    try:
        yield
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()


class Kills:
    """When to kill the next process.

    Kills are at least so many seconds apart, and there is a checkpoint between two of them: a machine that is so slow
    that a process does not even start in this time makes progress too.

    Args:
        every_s: seconds between two kills; 0: there are none.
        checkpoint: the path of the trainer's checkpoint.
        rng: adds up to `every_s` after the checkpoint, so that kills do not always come right behind one.
    """

    def __init__(self, every_s: float, checkpoint: Path, rng: random.Random) -> None:
        self._every_s, self._checkpoint, self._rng = every_s, checkpoint, rng
        self._last_s, self._due_s, self._seen = time.monotonic(), 0.0, self._there()

    def _there(self) -> frozenset[str]:
        """The names of the checkpoints."""
        return frozenset(path.name for path in self._checkpoint.parent.glob(f"{self._checkpoint.name}.*"))

    def is_due(self) -> bool:
        """Whether to kill one now."""
        now_s = time.monotonic()
        if not self._every_s:
            return False
        if not self._due_s:
            if (there := self._there()) != self._seen:
                self._seen = there
                self._due_s = max(self._last_s + self._every_s, now_s + self._rng.uniform(0.0, self._every_s))
            return False
        if now_s < self._due_s:
            return False
        self._last_s, self._due_s, self._seen = now_s, 0.0, self._there()
        return True


def supervise(options: argparse.Namespace, arguments: list[str]) -> int:
    """Runs the generators and the trainer until the trainer is done, and starts again what was killed."""
    rng = random.Random(options.seed)
    server = None if options.url else EmbeddedServer()
    url = server.url if server else options.url
    common = [sys.executable, "-m", "examples.grpo", *arguments, "--url", url, "--folder", options.folder]
    device = ["--device", options.generators_on or options.device]
    commands = {
        f"generator-{number}": [*common, *device, "--role", "generator", "--name", f"generator-{number}"]
        for number in range(options.generators)
    }
    commands["trainer"] = [*common, "--role", "trainer"]
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with ended_at_exit(processes):
            kills = Kills(options.kill_every, Path(options.folder, "checkpoint"), rng)
            while True:
                for name, command in commands.items():
                    process = processes.get(name)
                    if process is None:
                        processes[name] = subprocess.Popen(command)
                    elif process.poll() == -signal.SIGKILL:
                        print(f"{name} was killed: it starts again", flush=True)
                        processes[name] = subprocess.Popen(command)
                    elif process.returncode and name != "trainer":
                        print(f"{name} ended with exit code {process.returncode}", file=sys.stderr)
                        return process.returncode
                if processes["trainer"].returncode is not None:
                    return processes["trainer"].returncode
                if kills.is_due():
                    processes[rng.choice(sorted(processes))].kill()
                time.sleep(0.1)
    except KeyboardInterrupt:
        return 130
    finally:
        if server is not None:
            server.stop()


def main(arguments: list[str]) -> int:
    """Plays the role that the arguments name."""
    options = parser().parse_args(arguments)
    with contextlib.ExitStack() as stack:
        if options.folder is None:
            options.folder = stack.enter_context(tempfile.TemporaryDirectory())
        Path(options.folder).mkdir(parents=True, exist_ok=True)
        if options.role == "all":
            return supervise(options, arguments)
        if options.role == "trainer":
            from examples.grpo.trainer import train

            train(options)
        else:
            from examples.grpo.generator import generate

            generate(options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
