"""Compares bounds of staleness, with and without kills, over seeds: `python -m examples.grpo.study --help`.

Each training is a run of `python -m examples.grpo` of its own. What is done is in a JSON file: a command that is
started again, after its time was over, goes on with what is left. It also writes a table and a plot.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

#: A training counts as learned from the first step on whose mean reward, with the four before it, is this high.
LEARNED = 0.8


def parser() -> argparse.ArgumentParser:
    """The options; what it does not know is for `examples.grpo`."""
    made = argparse.ArgumentParser(prog="python -m examples.grpo.study", description=(__doc__ or "").split("\n")[0])
    add = made.add_argument
    add("--out", type=Path, default=Path("study"), help="folder of study.json, table.md, plot.svg (%(default)s)")
    add("--staleness", type=int, nargs="+", default=[0, 1, 2, 4], help="bounds to compare (%(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each (%(default)s)")
    add("--kills", type=float, nargs="+", default=[0.0, 10.0], help="seconds between kills; 0: none (%(default)s)")
    add("--limit-s", type=float, default=540.0, help="begin no training that may end later than this (%(default)s)")
    add("--one-s", type=float, default=150.0, help="end a training that takes longer (%(default)s)")
    add("--gpus", type=int, default=0, help="GPUs with a training of their own each (0: one training on all)")
    return made


class GpuUse:
    """Samples how busy the GPUs are, where `nvidia-smi` is installed.

    Args:
        gpu: The number of the GPU to look at; None: the mean of all.
    """

    def __init__(self, gpu: int | None) -> None:
        self._which = [] if gpu is None else [f"--id={gpu}"]
        self._program = shutil.which("nvidia-smi")
        self._samples: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while self._program and not self._ended.wait(0.3):
            query = [self._program, *self._which, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            said = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
            if said and all(word.isdecimal() for word in said):
                self._samples.append((time.time(), statistics.mean(map(int, said))))

    def between(self, begun: float, ended: float) -> float | None:
        """The mean use in percent; None: unknown."""
        self._ended.set()
        seen = [use for at, use in self._samples if begun <= at <= ended]
        return statistics.mean(seen) if seen else None


def train(
    arguments: list[str], staleness: int, seed: int, kills: float, limit_s: float, gpu: int | None
) -> dict[str, Any]:
    """Runs one training, on one GPU or on all, and measures it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:  # noqa: S108
        use = GpuUse(gpu)
        how = [("staleness", staleness), ("seed", seed), ("kill-every", kills), ("folder", folder)]
        words = [*arguments, *itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in how)]
        seen = os.environ if gpu is None else os.environ | {"CUDA_VISIBLE_DEVICES": str(gpu)}
        process = subprocess.Popen([sys.executable, "-m", "examples.grpo", *words], stdout=subprocess.DEVNULL, env=seen)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it ends what it has started
            process.wait()
        lines = [json.loads(line) for line in _lines(Path(folder, "curve.jsonl"))]
        generators = [json.loads(path.read_text()) for path in Path(folder).glob("generator-*.json")]
        evaluations = [json.loads(line) for line in _lines(Path(folder, "evaluations.jsonl"))]
        measured = {"staleness": staleness, "seed": seed, "kill_every_s": kills, "code": process.returncode}
        if len(lines) > 1:
            measured |= _measured(lines, generators) | {"gpu_busy": use.between(lines[0]["at"], lines[-1]["at"])}
        return measured | {"curve": lines, "evaluations": evaluations}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _measured(lines: list[dict[str, Any]], generators: list[dict[str, Any]]) -> dict[str, Any]:
    """What the lines of all lives of a trainer say. The first step is left out: it waits for the first programs."""
    begun, wall_s = lines[0]["at"], lines[-1]["at"] - lines[0]["at"]
    later = lines[1:]
    total = {name: sum(line[f"{name}_s"] for line in later) for name in ("waited", "published", "in_broker", "trained")}
    learned = [
        line["at"] - begun
        for number, line in enumerate(lines)
        if number >= 4 and statistics.mean(one["reward"] for one in lines[number - 4 : number + 1]) >= LEARNED
    ]
    spent = [generator["seconds"] for generator in generators]
    whole_s = sum(sum(each[name] for name in ("claim", "generate", "submit")) for each in spent) or 1.0
    return {
        "steps": lines[-1]["step"],
        "steps_trained": len(lines),
        "wall_s": wall_s,
        "learned_s": learned[0] if learned else None,
        "last_reward": statistics.mean(line["reward"] for line in lines[-5:]),
        "tokens_per_s": sum(generator["tokens"] for generator in generators) / wall_s,
        "trainer_waits": total["waited"] / wall_s,
        "publishing": total["published"] / wall_s,
        "in_broker": total["in_broker"] / wall_s,
        "generators_wait": sum(each["claim"] - each["load"] for each in spent) / whole_s,
        "generators_load": sum(each["load"] for each in spent) / whole_s,
        "generators_submit": sum(each["submit"] for each in spent) / whole_s,
    }


#: Heading of a column, what it shows, and how.
COLUMNS = [
    ("wall s", "wall_s", "{:.1f}"), ("s to reward 0.8", "learned_s", "{:.1f}"),
    ("last reward", "last_reward", "{:.2f}"),
    ("tokens/s", "tokens_per_s", "{:,.0f}"), ("trainer waits", "trainer_waits", "{:.0%}"),
    ("publishes", "publishing", "{:.0%}"), ("in the broker", "in_broker", "{:.1%}"),
    ("generators wait", "generators_wait", "{:.0%}"), ("load", "generators_load", "{:.0%}"),
    ("submit", "generators_submit", "{:.1%}"), ("GPU busy %", "gpu_busy", "{:.0f}"),
]  # fmt: skip


def table(runs: list[dict[str, Any]]) -> str:
    """A row for each bound with or without kills: medians over the seeds."""
    rows = ["| S | kills every | seeds | steps trained | " + " | ".join(name for name, _, _ in COLUMNS) + " |"]
    rows.append("| --- " * (len(COLUMNS) + 4) + "|")
    for key in sorted({(run["kill_every_s"], run["staleness"]) for run in runs}):
        alike = [run for run in runs if (run["kill_every_s"], run["staleness"]) == key and "wall_s" in run]
        cells = [str(key[1]), f"{key[0]:g} s" if key[0] else "never", str(len(alike))]
        cells.append(", ".join(str(run["steps_trained"]) for run in alike))
        for _, field, form in COLUMNS:
            values = [run[field] for run in alike if run[field] is not None]
            missed = f" ({len(values)} of {len(alike)})" if len(values) < len(alike) else ""
            cells.append((form.format(statistics.median(values)) if values else "-") + missed)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def plot(runs: list[dict[str, Any]]) -> str:
    """Reward over seconds, as an SVG: a colour for each bound, dashes where there were kills."""
    colours = dict(
        zip(sorted({run["staleness"] for run in runs}), ("#d62728", "#1f77b4", "#2ca02c", "#9467bd"), strict=False)
    )
    curves = [run for run in runs if len(run["curve"]) > 1]
    longest = max((run["wall_s"] for run in curves), default=1.0)
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 420" font-family="sans-serif" font-size="12">']
    parts.append('<rect width="760" height="420" fill="white"/>')
    for tenth in range(0, 11, 2):
        y = 380 - 34 * tenth
        parts.append(f'<path d="M50 {y}H740" stroke="#ddd"/><text x="20" y="{y + 4}">{tenth / 10:.1f}</text>')
        parts.append(f'<text x="{45 + 69 * tenth}" y="400">{longest * tenth / 10:.0f} s</text>')
    for run in curves:
        begun = run["curve"][0]["at"]
        rewards = [line["reward"] for line in run["curve"]]
        points = " ".join(
            f"{50 + 690 * (line['at'] - begun) / longest:.1f},"
            f"{380 - 340 * statistics.mean(rewards[max(0, number - 4) : number + 1]):.1f}"
            for number, line in enumerate(run["curve"])
        )
        dash = ' stroke-dasharray="5 3"' if run["kill_every_s"] else ""
        colour = colours.get(run["staleness"], "#777")
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-opacity="0.8"{dash}/>')
    for number, (staleness, colour) in enumerate(colours.items()):
        parts.append(f'<text x="60" y="{50 + 16 * number}" fill="{colour}">S = {staleness}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


class Study:
    """The trainings that are done and those that are left.

    Args:
        options: What `parser` read.
        arguments: The options of `examples.grpo`.
    """

    def __init__(self, options: argparse.Namespace, arguments: list[str]) -> None:
        self._options, self._arguments = options, arguments
        self._ends = time.monotonic() + options.limit_s
        self._longest_s = 1.0
        self._lock = threading.Lock()
        self._stored = options.out / "study.json"
        text = self._stored.read_text(encoding="utf-8") if self._stored.exists() else '{"runs": []}'
        self.runs: list[dict[str, Any]] = json.loads(text)["runs"]
        done = {(run["kill_every_s"], run["seed"], run["staleness"]) for run in self.runs}
        keys = itertools.product(options.kills, options.seeds, options.staleness)
        self.left = [key for key in keys if key not in done]

    def work(self, gpu: int | None) -> None:
        """Trains what is left, one after the other, as long as there is time."""
        while True:
            with self._lock:
                left_s = self._ends - time.monotonic()
                if not self.left or left_s < self._longest_s:
                    return
                kills, seed, staleness = self.left.pop(0)
            started = time.monotonic()
            run = train(self._arguments, staleness, seed, kills, min(self._options.one_s, left_s), gpu)
            with self._lock:
                self._longest_s = max(self._longest_s, time.monotonic() - started)
                self._keep(run)

    def _keep(self, run: dict[str, Any]) -> None:
        self.runs.append(run)
        shown = {name: value for name, value in run.items() if name not in {"curve", "evaluations"}}
        print(json.dumps(shown), flush=True)
        self._stored.write_text(json.dumps({"arguments": self._arguments, "runs": self.runs}), encoding="utf-8")
        (self._options.out / "table.md").write_text(table(self.runs), encoding="utf-8")
        (self._options.out / "plot.svg").write_text(plot(self.runs), encoding="utf-8")


def main(words: list[str]) -> int:
    """Trains what is left, as long as there is time; writes all results."""
    options, arguments = parser().parse_known_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    study = Study(options, arguments)
    with ThreadPoolExecutor() as threads:
        working = [threads.submit(study.work, gpu) for gpu in range(options.gpus) or [None]]
        try:
            for work in working:
                work.result()
        except BaseException:
            study.left.clear()
            raise
    left = len(study.left)
    print(table(study.runs) + (f"{left} trainings are left: start the command again" if left else "all done"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
