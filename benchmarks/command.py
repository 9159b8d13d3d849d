"""The command line: `python -m benchmarks`."""

# ruff: noqa: T201 - printing is its purpose

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from benchmarks import peers, report, scenarios
from benchmarks.lab import Lab
from benchmarks.rounds import run_rounds

#: How many rounds, if `--repeat` is not given.
REPEAT = 3


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        "python -m benchmarks", description="Measures the broker, its peers and the limit."
    )
    options.add_argument("--server", default="", metavar="PATH", help="a redis-server or valkey-server to run")
    options.add_argument("--scenarios", default="all", help=f"comma-separated: {', '.join(scenarios.NAMES)}")
    options.add_argument("--cases", default="", help="only cases whose label holds one of these, comma-separated")
    options.add_argument("--peers", default="all", help="all, none, or names, comma-separated")
    options.add_argument("--repeat", type=_rounds, default=REPEAT, help="rounds, each with every case once")
    options.add_argument("--quick", action="store_true", help="small sizes, to see that everything works")
    options.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    options.add_argument("--plot", type=Path, metavar="DIR", help="write PNG plots (needs matplotlib)")
    default = Path(tempfile.gettempdir()) / "rollout-broker-benchmarks"
    options.add_argument("--environments", type=Path, default=default, metavar="DIR", help="where peers are installed")
    return options


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _unusable(given: argparse.Namespace) -> str:
    """A fault of the options that would else show after the measurement, or as a traceback; empty if there is none."""
    if given.server and which(given.server) is None:
        return f"--server: {given.server} is not a program that can be run"
    try:
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            there = given.json.exists()
            with given.json.open("a", encoding="utf-8"):
                pass
            if not there:
                given.json.unlink()
        if given.plot:
            given.plot.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"cannot write {error.filename}: {error.strerror}"
    if given.plot and find_spec("matplotlib") is None:
        return "--plot needs matplotlib: pip install 'rollout-broker[bench]'"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    given = parser().parse_args(argv)
    if problem := _unusable(given):
        print(problem, file=sys.stderr)
        return 2
    names = list(scenarios.NAMES) if given.scenarios == "all" else given.scenarios.split(",")
    unknown = [name for name in names if name not in scenarios.NAMES]
    if unknown:
        print(f"unknown scenarios: {', '.join(unknown)}; there are {', '.join(scenarios.NAMES)}", file=sys.stderr)
        return 2
    asked = {"all": list(peers.NAMES), "none": []}.get(given.peers, given.peers.split(","))
    if strangers := [name for name in asked if name not in peers.NAMES]:
        print(f"unknown peers: {', '.join(strangers)}; there are {', '.join(peers.NAMES)}", file=sys.stderr)
        return 2
    lab = Lab(given.server, quick=given.quick, peers=asked, directory=given.environments)
    started = time.perf_counter()
    try:
        about = {**lab.about(), "peers": peers.prepare(lab)}
        cases = [case for name in names for case in scenarios.cases_of(name, lab)]
        if given.cases:
            cases = [case for case in cases if any(part in case.label for part in given.cases.split(","))]
        if not cases:
            print(f"no case of {', '.join(names)} has {given.cases!r} in its label", file=sys.stderr)
            return 2
        outcomes = run_rounds(lab, cases, given.repeat)
    finally:
        lab.close()
    about["seconds"] = round(time.perf_counter() - started, 1)
    told = report.document(outcomes, about)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(report.table(outcomes))
    if told["goals"]:
        print("\n" + report.goals_table(told["goals"]) + "\n")
    if told["ref_per_s"]:
        print("ref: {median:,.0f} pairs/s ({min:,.0f}-{max:,.0f})".format(**told["ref_per_s"]))
    if given.json:
        report.write_json(given.json, told)
    if given.plot:
        from benchmarks.plots import write_plots

        for path in write_plots(told, given.plot):
            print(path)
    return 0
