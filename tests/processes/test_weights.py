"""Weights between real processes: the programs of docs/weights.md, kills, hosts without the folder."""

from __future__ import annotations

import re
import signal
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker import Trainer
from broker.local_server.embedded import EmbeddedServer
from broker.weights.reference import NAME, WEIGHTS, Reference
from tests.child import ROOT, Child
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

PAGE = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
PROGRAMS = {
    name: code.replace("redis://localhost:6379/0", "URL")
    for name, code in re.findall(
        r"^<!-- program: ([\w ]+) -->\n```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE
    )
}
#: The reader's own part: weights that say of which step they are, and results that say with which weights they were made.
MODEL = """
from pathlib import Path

class Model:
    steps = 0

    def save(self, path):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(str(self.steps))

    def load(self, path):
        self.steps = int(Path(path).read_text())

    def generate(self, prompt):
        return {"reward": 1.0, "steps": self.steps}

    def step(self, rollouts):
        for rollout in rollouts:
            for sample in rollout.samples:
                assert sample.result["steps"] == sample.version, (sample.result, sample.version)
        self.steps += 1
        return sum(result["reward"] for rollout in rollouts for result in rollout.results) / len(rollouts) / 8

model = Model()
"""


@pytest.fixture
def url() -> Generator[str]:
    server = EmbeddedServer()
    yield server.url
    server.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the model, written once: a process may import it while the next one is started."""
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


def started(name: str, url: str, folder: Path) -> Child:
    env = {"PYTHONPATH": f"{ROOT}:{folder}"}
    return Child("-c", PROGRAMS[name].replace("URL", url), cwd=folder, env=env)


def test_the_first_loop_has_at_most_forty_lines() -> None:
    lines = [line for name in ("trainer", "worker") for line in PROGRAMS[name].splitlines() if line.strip()]
    assert len(lines) <= 40


@pytest.mark.parametrize("form", ["", "long "])
def test_the_programs_of_the_page_train_together(url: str, folder: Path, form: str) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(started(f"{form}worker", url, folder)) for _ in range(2)]
        trainer = stack.enter_context(started(f"{form}trainer", url, folder))
        ended = trainer.end()
        assert (ended.code, ended.out.splitlines()) == (0, [f"step {n}: reward 1.00" for n in range(10)]), ended.err
        for worker in workers:
            assert worker.end().code == 0, "the run is finished"


@pytest.mark.parametrize("form", ["", "long "])
def test_kills_of_the_trainer_and_of_workers_cost_no_step_and_mix_no_weights(url: str, folder: Path, form: str) -> None:
    """The trainer checks that each sample was made with the weights of its version."""
    with ExitStack() as stack:
        worker = stack.enter_context(started(f"{form}worker", url, folder))
        seen: list[str] = []
        for step in (2, 7, None):
            trainer = stack.enter_context(started(f"{form}trainer", url, folder))
            if step is None:
                ended = trainer.end()
                assert ended.code == 0, ended.err
                seen += ended.out.splitlines()
                break
            while f"step {step}: reward 1.00" not in seen:
                seen.append(trainer.read_line())
            trainer.kill()
            worker.kill()
            worker = stack.enter_context(started(f"{form}worker", url, folder))
        assert worker.end().code == 0
    steps = [int(line.split()[1].rstrip(":")) for line in seen]
    assert sorted(set(steps)) == list(range(10))
    assert steps[3] == 0, "no checkpoint yet"
    assert steps[-1] == 9


_TORN = """
import os, signal, sys
from pathlib import Path
from broker import RunConfig, Trainer
from broker.weights import Publisher

url, folder, when = sys.argv[1:]

def write(path):
    path.write_text("half" if when == "while it writes" else "whole")
    if when == "while it writes":
        os.kill(os.getpid(), signal.SIGKILL)

with Trainer(url, "torn", RunConfig(consumer_batch_size=1)) as trainer, Publisher(folder) as publisher:
    trainer.recover(blob=publisher.publish(0, lambda path: path.write_text("first")))
    blob = publisher.publish(1, write)
    if when == "before the pointer":
        os.kill(os.getpid(), signal.SIGKILL)
    trainer.advance(blob, allow_empty=True)
"""


@pytest.mark.parametrize(("when", "there"), [("while it writes", 1), ("before the pointer", 2)])
def test_a_trainer_killed_before_the_pointer_leaves_the_version_before(
    url: str, tmp_path: Path, when: str, there: int
) -> None:
    with Child("-c", _TORN, url, tmp_path, when) as child:
        assert child.end().code == -signal.SIGKILL
    assert len([path for path in tmp_path.iterdir() if NAME.fullmatch(path.name)]) == there
    with Child("-c", _READER, url, "torn", tmp_path / "cache", "1") as reader:
        reader.expect("ready")
        reader.tell("go")
        reader.expect("0 first")
    with Child("-c", _TORN, url, tmp_path, "never") as child:  # the next life goes on
        assert child.end().code == 0
    assert not list(tmp_path.glob(".v*"))


_READER = """
import sys
from broker import Worker

url, run, cache, count = sys.argv[1:]

def load(version, path):
    print(version, path.read_text(), flush=True)

with Worker(url, run, load_weights=load, weights_cache=cache) as worker:
    print("ready", flush=True)
    for _ in range(int(count)):
        sys.stdin.readline()
        worker.claim()
"""

_SERVING = """
import sys
from pathlib import Path
from broker import RunConfig, Trainer
from broker.weights import Publisher, serving
from broker.weights.reference import Reference

url, folder = sys.argv[1:]
send = serving._Handler.do_GET

def counted(self):
    print(self.path.rpartition("/")[2], flush=True)
    send(self)

serving._Handler.do_GET = counted
with Trainer(url, "served", RunConfig(consumer_batch_size=1)) as trainer, Publisher(folder, listen="127.0.0.1:0") as publisher:
    blob = publisher.publish(1, lambda path: path.write_text("by http"))
    trainer.advance(blob.replace(folder.encode(), b"/nowhere"), allow_empty=True)
    sys.stdin.read()
"""


def test_the_workers_of_a_host_without_the_folder_fetch_once(url: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with Child("-c", _SERVING, url, tmp_path / "published") as serving:
        wait_until(lambda: _blob(url, "served"), "the weights are published")
        with ExitStack() as stack:
            readers = [stack.enter_context(Child("-c", _READER, url, "served", cache, "1")) for _ in range(3)]
            for reader in readers:
                reader.expect("ready")
            for reader in readers:
                reader.tell("go")
            for reader in readers:
                reader.expect("1 by http")
        assert serving.out == ["manifest.json\n", f"{WEIGHTS}\n"]


def _blob(url: str, run: str) -> Reference | None:
    from broker.errors import NoRun
    from broker.protocol import keys

    try:
        with Trainer(url, run, attach=True) as trainer:
            blob = trainer._run(trainer._transport.io.command("HGET", keys.state(run), "blob"))
    except NoRun:
        return None
    return Reference.decode(blob)
