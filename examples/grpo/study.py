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
    return made


class GpuUse:
    """Samples how busy the GPUs are, where `nvidia-smi` is installed."""

    def __init__(self) -> None:
        self._program = shutil.which("nvidia-smi")
        self._samples: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while self._program and not self._ended.wait(0.3):
            query = [self._program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            said = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
            if said and all(word.isdecimal() for word in said):
                self._samples.append((time.time(), statistics.mean(map(int, said))))

    def between(self, begun: float, ended: float) -> float | None:
        """The mean use in percent; None: unknown."""
        self._ended.set()
        seen = [use for at, use in self._samples if begun <= at <= ended]
        return statistics.mean(seen) if seen else None


def train(options: argparse.Namespace, arguments: list[str], staleness: int, seed: int, kills: float) -> dict[str, Any]:
    """Runs one training, and measures it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:  # noqa: S108
        use = GpuUse()
        how = [("staleness", staleness), ("seed", seed), ("kill-every", kills), ("folder", folder)]
        how.append(("until", 0))  # all of them make as many steps
        words = [*arguments, *itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in how)]
        process = subprocess.Popen([sys.executable, "-m", "examples.grpo", *words], stdout=subprocess.DEVNULL)
        try:
            process.wait(options.one_s)
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


def main(words: list[str]) -> int:
    """Trains what is left, as long as there is time; writes all results."""
    options, arguments = parser().parse_known_args(words)
    begun, longest = time.monotonic(), 0.0
    options.out.mkdir(parents=True, exist_ok=True)
    stored = options.out / "study.json"
    runs: list[dict[str, Any]] = json.loads(stored.read_text(encoding="utf-8"))["runs"] if stored.exists() else []
    done = {(run["kill_every_s"], run["seed"], run["staleness"]) for run in runs}
    left = [key for key in itertools.product(options.kills, options.seeds, options.staleness) if key not in done]
    while left and time.monotonic() - begun + max(longest, 1.0) < options.limit_s:
        kills, seed, staleness = left.pop(0)
        options.one_s = min(options.one_s, options.limit_s - (time.monotonic() - begun))
        started = time.monotonic()
        runs.append(train(options, arguments, staleness, seed, kills))
        longest = max(longest, time.monotonic() - started)
        shown = {name: value for name, value in runs[-1].items() if name not in {"curve", "evaluations"}}
        print(json.dumps(shown), flush=True)
        stored.write_text(json.dumps({"arguments": arguments, "runs": runs}), encoding="utf-8")
        (options.out / "table.md").write_text(table(runs), encoding="utf-8")
        (options.out / "plot.svg").write_text(plot(runs), encoding="utf-8")
    print(table(runs) + (f"{len(left)} trainings are left: start the command again" if left else "all done"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
