"""The page and the plots are made of a run's document, and of nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page, report
from benchmarks.cases import Case, Outcome, Repetition


@pytest.fixture
def told() -> dict[str, Any]:
    about = {"date": "today", "server": "valkey 9", "allocator": "jemalloc", "cores": 2, "load": 0.5, "seconds": 12.0}
    outcomes = [
        Outcome(Case("cycle", "loop", "ours", dict), [Repetition(0, {"rate_per_s": 4321.0}, 1000.0, 1.0)]),
        Outcome(Case("cycle", "pairs", "limit", dict), [Repetition(0, {"rate_per_s": 1000.0}, 1000.0, 1.0)]),
        Outcome(Case("cycle", "a worker process", "rq", dict), not_run="could not be installed"),
    ]
    return json.loads(json.dumps(report.document(outcomes, about)))


def test_only_the_measured_part_is_replaced(tmp_path: Path, told: dict[str, Any]):
    document, run = tmp_path / "performance.md", tmp_path / "run.json"
    document.write_text("before\n<!-- measured -->\nold numbers\n<!-- /measured -->\nafter\n")
    run.write_text(json.dumps(told))
    assert page.main([str(document), str(run)]) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old numbers" not in text
    assert "4,321" in text
    assert "4.32" in text
    assert "could not be installed" in text
    assert page.main([str(document), str(run)]) == 0
    assert document.read_text() == text


def test_a_readme_gets_the_few_numbers_beside_the_best_peer(tmp_path: Path, told: dict[str, Any]):
    for who, rate in (("slow", 50.0), ("fast", 70.0)):
        metrics = {"rate_per_s": {"median": rate, "min": rate, "max": rate}}
        told["cases"].append({"scenario": "cycle", "who": who, "name": "a worker process", "metrics": metrics})
    told["cases"].append({**told["cases"][0], "name": "batches of 64"})
    document, run = tmp_path / "README.md", tmp_path / "run.json"
    document.write_text("before\n<!-- numbers -->\n<!-- /numbers -->\nafter\n")
    run.write_text(json.dumps(told))
    assert page.main([str(document), str(run)]) == 0
    lines = document.read_text().splitlines()
    assert "| claimed, done, accepted: one worker, 64 a call | 4,321/s | fast: 70.0/s |" in lines
    assert "| the same, one at a time | 4,321/s |  |" in lines
    assert not any("MiB" in line for line in lines), "nothing is told of what was not measured"


def test_a_page_without_marks_is_left_alone(tmp_path: Path, told: dict[str, Any]):
    document, run = tmp_path / "page.md", tmp_path / "run.json"
    document.write_text("words")
    run.write_text(json.dumps(told))
    assert page.main([str(document), str(run)]) == 2
    assert document.read_text() == "words"


def test_plots_are_png_files(tmp_path: Path, told: dict[str, Any]):
    pytest.importorskip("matplotlib")
    from benchmarks.plots import write_plots

    (path,) = write_plots(told, tmp_path / "plots")
    assert path.name == "cycle.png"
    assert path.read_bytes().startswith(b"\x89PNG")
