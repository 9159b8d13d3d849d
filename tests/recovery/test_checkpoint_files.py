"""Checkpoint files that are not what they should be: a clear error, and a server on which nothing has changed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import stat
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from broker import Trainer, Worker
from broker.errors import BadArgument, CheckpointError
from broker.operator import Operator
from broker.recovery.checkpoint import read_checkpoint
from tests.conformance.lab import Lab, tasks
from tests.recovery.story import judge_once, train, train_to_the_end

Document = dict[str, Any]


@pytest.fixture
def saved(lab: Lab, tmp_path: Path) -> tuple[Trainer, Worker, Path]:
    """A run at version 4 with a checkpoint of version 2."""
    trainer, worker = lab.trainer(max_staleness=2, max_concurrent_rollouts=3), lab.worker()
    trainer.enqueue(tasks(12), cursor={"row": 12, "of": "naïve"})
    train(trainer, worker, 2)
    path = tmp_path / "broker.json"
    trainer.checkpoint(path)
    train(trainer, worker, 2)
    return trainer, worker, path


def _sealed(document: Document) -> bytes:
    """The file of a document, with a checksum that is right."""
    document = {name: value for name, value in document.items() if name != "checksum"}
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    document["checksum"] = "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps(document).encode()


def _refused(lab: Lab, trainer: Trainer, path: Any, error: type[Exception] = CheckpointError) -> Exception:
    """Recovering from it fails, in earnest and dry; nothing has changed."""
    before, version, epoch, cursor = lab.dump(), trainer.version, trainer.epoch, trainer.cursor
    with pytest.raises(error) as refused:
        trainer.recover(path)
    with pytest.raises(error):
        trainer.recover(path, dry_run=True, missing_ok=True)
    assert lab.dump() == before
    assert (trainer.version, trainer.epoch, trainer.cursor) == (version, epoch, cursor)
    trainer.pause()  # it still leads
    trainer.resume()
    return refused.value


def test_bit_flips_anywhere_are_noticed(saved: tuple[Trainer, Worker, Path]):
    """Or do not matter: what is read is then what was written."""
    _, _, path = saved
    raw, good = path.read_bytes(), read_checkpoint(path)
    rng, harmless = random.Random(8), 0
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read = read_checkpoint(path)
        except CheckpointError as error:
            assert str(path) in str(error)
            continue
        harmless += 1
        for name in ("run", "version", "epoch", "order", "config", "cursor", "blob", "policies", "unfinished"):
            assert getattr(read, name) == getattr(good, name), f"byte {at}"
    assert harmless < len(raw) / 50


@pytest.mark.parametrize("kept", [0, 1, 2, 10, 100, 0.1, 0.25, 0.5, 0.75, 0.9, -100, -10, -3, -2])
def test_truncated_files_are_refused(lab: Lab, saved: tuple[Trainer, Worker, Path], kept: float):
    """-2: without its last brace; without the newline alone it is whole."""
    trainer, _, path = saved
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw)) if isinstance(kept, float) else kept])
    _refused(lab, trainer, path)


def _with(**fields: Any) -> Callable[[Document], bytes]:
    return lambda document: _sealed(document | fields)


def _without(name: str) -> Callable[[Document], bytes]:
    return lambda document: _sealed({key: value for key, value in document.items() if key != name})


def _packed(names: str) -> str:
    return base64.b64encode(zlib.compress(names.encode())).decode()


def _twice_flipped(document: Document) -> bytes:
    raw = bytearray(json.dumps(document).encode())
    raw[40] ^= 1
    raw[400] ^= 4
    return bytes(raw)


BAD_FILES: dict[str, Callable[[Document], bytes]] = {
    "blank": lambda _: b" \n\t\n",
    "zeros": lambda _: bytes(5_000),
    "two flips": _twice_flipped,
    "no JSON": lambda _: b"\x80\x04\x95 pickle, not JSON",
    "latin-1": lambda _: '{"format": "é"}'.encode("latin-1"),
    "a number": lambda _: b"7",
    "a list": lambda _: b"[]",
    "null": lambda _: b"null",
    "deep lists": lambda _: b"[" * 200_000,
    "deep objects": lambda _: b'{"a":' * 200_000,
    "deep cursor": lambda document: json.dumps(document)[:-1].encode() + b',"cursor":' + b"[" * 990 + b"]" * 990 + b"}",
    "infinite": lambda document: json.dumps(document).replace('"order": ', '"order": 1e999, "x": ').encode(),
    "long integer": lambda _: b'{"version": ' + b"9" * 100_000 + b"}",
    "foreign": lambda _: b'{"global_step": 7}',
    "no format": _without("format"),
    "other format": _with(format="somebody's checkpoint"),
    "older schema": _with(schema=0),
    "newer schema": _with(schema=2),
    "schema as text": _with(schema="1"),
    "schema as truth": _with(schema=True),
    "schema as float": _with(schema=1.0),
    "no checksum": lambda document: json.dumps({k: v for k, v in document.items() if k != "checksum"}).encode(),
    "checksum null": lambda document: json.dumps(document | {"checksum": None}).encode(),
    "wrong run": _with(run="another"),
    "run of another type": _with(run=7),
    "no run": _without("run"),
    "no list": _without("unfinished"),
    "negative version": _with(version=-1),
    "version as float": _with(version=2.0),
    "version as text": _with(version="2"),
    "version as truth": _with(version=True),
    "version too large": _with(version=2**53),
    "negative order": _with(order=-1),
    "order too large": _with(order=2**53),
    "no epoch": _with(epoch=""),
    "epoch without number": _with(epoch="x.abc"),
    "epoch with space": _with(epoch="1.ab c"),
    "config of another type": _with(config=[]),
    "config incomplete": _with(config={"max_staleness": 1}),
    "config out of range": _with(config={"consumer_batch_size": -1}),
    "counters of another type": _with(counters={"accepted": "many"}),
    "policies of another type": _with(policies=["1"]),
    "policy without number": _with(policies={"one": "1.abcdefgh"}),
    "policy below 0": _with(policies={"-1": "1.abcdefgh"}),
    "policy of the future": _with(policies={"9": "1.abcdefgh"}),
    "too many policies": _with(policies={str(version): "1.abcdefgh" for version in range(20_000)}),
    "blob not base64": _with(blob="***"),
    "blob of another type": _with(blob=[1]),
    "list not base64": _with(unfinished="***"),
    "list not ASCII": _with(unfinished="ü"),
    "list not compressed": _with(unfinished=base64.b64encode(b"t1\nt2").decode()),
    "list cut short": lambda document: _sealed(
        document | {"unfinished": base64.b64encode(base64.b64decode(document["unfinished"])[:-3]).decode()}
    ),
    "list with more behind": lambda document: _sealed(
        document | {"unfinished": base64.b64encode(base64.b64decode(document["unfinished"]) + b"more").decode()}
    ),
    "list not UTF-8": _with(unfinished=base64.b64encode(zlib.compress(b"\xff\xfe")).decode(), unfinished_count=1),
    "list of another length": _with(unfinished_count=3),
    "list shorter than announced": _with(unfinished=_packed("a\nb"), unfinished_count=10**9),
    "names that are none": _with(unfinished=_packed("a b\n\n{x}"), unfinished_count=3),
    "negative count": _with(unfinished_count=-1),
    "tasks file elsewhere": _with(tasks_file={"name": "../../etc/passwd", "sha256": "0" * 64, "tasks": 1}),
    "tasks file missing": _with(tasks_file={"name": "gone.tasks", "sha256": "0" * 64, "tasks": 1}),
    "tasks file is the folder": _with(tasks_file={"name": "..", "sha256": "0" * 64, "tasks": 1}),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_not_what_it_should_be_is_refused(lab: Lab, saved: tuple[Trainer, Worker, Path], kind: str):
    trainer, _, path = saved
    path.write_bytes(BAD_FILES[kind](json.loads(path.read_bytes())))
    error = _refused(lab, trainer, path)
    assert str(path.parent) in str(error)
    assert "nothing was changed" in str(error)


def test_a_file_of_another_release_is_good_for_a_recovery_while_its_schema_is_known(
    lab: Lab, saved: tuple[Trainer, Worker, Path]
):
    """Fields that this release does not know change nothing that it has to know; those that are missing have defaults."""
    trainer, _, path = saved
    document = json.loads(path.read_bytes())
    del document["config"]["max_finished"]
    config = document["config"] | {"of_tomorrow": "x"}
    path.write_bytes(_sealed(document | {"of_tomorrow": {"a": 1}, "config": config}))
    assert trainer.recover(path).version_to == 2
    trainer.close()
    lab.purge()
    with Operator(lab.url) as operator:
        assert operator.recover(lab.run, path).version_to == 2  # creates the run
        assert operator.stats(lab.run).config.max_finished == 10_000
    assert lab.command("HMGET", lab.key("state"), "of_tomorrow", "max_finished") == [None, b"10000"]


def test_a_list_that_swells_is_refused_before_it_fills_the_memory(lab: Lab, saved: tuple[Trainer, Worker, Path]):
    """A bomb: 600 MB in 600 kB, announced as a handful of names."""
    trainer, _, path = saved
    packer = zlib.compressobj(9)
    packed = b"".join([*(packer.compress(b"x" * (1 << 20)) for _ in range(600)), packer.flush()])
    document = json.loads(path.read_bytes())
    path.write_bytes(_sealed(document | {"unfinished": base64.b64encode(packed).decode(), "unfinished_count": 3}))
    tracemalloc.start()
    try:
        _refused(lab, trainer, path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024**2, f"{peak / 1024**2:.0f} MB"


def test_the_file_that_was_written_is_readable_by_people(saved: tuple[Trainer, Worker, Path]):
    _, _, path = saved
    document = json.loads(path.read_text())
    assert (document["format"], document["schema"], document["version"]) == ("rollout-broker checkpoint", 1, 2)
    assert document["cursor"] == {"row": 12, "of": "naïve"}
    assert path.read_text().count("\n") > 20
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


# -- places ------------------------------------------------------------------------------------------------------------


@contextmanager
def _as_nobody() -> Generator[Path]:
    """A folder, and this process without the rights of root; root may read and write everything."""
    folder = Path(tempfile.mkdtemp(prefix="broker-test-"))
    folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_files_that_may_not_be_read_are_refused(lab: Lab, saved: tuple[Trainer, Worker, Path]):
    trainer, _, path = saved
    raw = path.read_bytes()
    with _as_nobody() as folder:
        (folder / "file").write_bytes(raw)
        (folder / "file").chmod(0)
        _refused(lab, trainer, folder / "file")
        (folder / "locked").mkdir()
        (folder / "locked" / "file").write_bytes(raw)
        (folder / "locked").chmod(0)
        told = _refused(lab, trainer, folder / "locked" / "file")
        assert "locked/file could not be read: Permission denied" in str(told)
        for full in (False, True):
            with pytest.raises(CheckpointError, match="locked/file could not be written: Permission denied"):
                trainer.checkpoint(folder / "locked" / "file", full=full)
        (folder / "locked").chmod(0o755)


def test_a_folder_that_may_not_be_written_keeps_its_old_file(lab: Lab, saved: tuple[Trainer, Worker, Path]):
    trainer, worker, path = saved
    raw, floor = path.read_bytes(), lab.stat("floor")
    with _as_nobody() as folder:
        (folder / "file").write_bytes(raw)
        folder.chmod(0o555)
        before = lab.dump()
        for full in (False, True):
            with pytest.raises(CheckpointError) as refused:
                trainer.checkpoint(folder / "file", full=full)
            assert "could not be written" in str(refused.value)
            with pytest.raises(CheckpointError):
                trainer.checkpoint(folder / "new" / "file", full=full)
        assert lab.dump() == before
        assert lab.stat("floor") == floor
        assert (folder / "file").read_bytes() == raw
        assert [file.name for file in folder.iterdir()] == ["file"]
        trainer.recover(folder / "file")
    assert trainer.version == 2
    judge_once(dict(enumerate(_names(train_to_the_end(lab, trainer, worker)))), [f"t{i}" for i in range(2, 12)])


def _names(history: dict[int, list[str]]) -> list[list[str]]:
    return list(history.values())


def test_places_that_are_no_files_are_refused(lab: Lab, saved: tuple[Trainer, Worker, Path], tmp_path: Path):
    trainer, _, path = saved
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path / "folder", path / "below a file", "/dev/null", tmp_path / "loop", "x" * 5_000):
        _refused(lab, trainer, place)
    with pytest.raises(CheckpointError):
        trainer.recover(tmp_path / "missing")
    for place in ("a\0b", "\ud800"):  # no file can have that name
        _refused(lab, trainer, place)
    for call in (trainer.recover, trainer.checkpoint):
        with pytest.raises(CheckpointError, match="'' has no name"):
            call("")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "folder", path / "below a file", tmp_path / "pipe", "x" * 5_000, "a\0b"):
        before = lab.dump()
        for full in (False, True):
            with pytest.raises(CheckpointError, match="could not be written"):
                trainer.checkpoint(place, full=full)
        assert lab.dump() == before
    assert (tmp_path / "pipe").is_fifo()
    with (tmp_path / "open").open("w") as file:
        place = Path(f"/proc/self/fd/{file.fileno()}")
        if place.is_symlink():  # as /dev/stdout is, of a file
            with pytest.raises(CheckpointError, match="this is a device"):
                trainer.checkpoint(place)
            (tmp_path / "name of an open file").symlink_to(place)
            with pytest.raises(CheckpointError, match="this is a device"):
                trainer.checkpoint(tmp_path / "name of an open file")
            assert (tmp_path / "name of an open file").readlink() == place


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="this system keeps no files in memory")  # noqa: S108
def test_a_folder_in_memory_takes_checkpoints(lab: Lab, saved: tuple[Trainer, Worker, Path]):
    """The name of a checkpoint is a link there, below /dev: it must not be taken for the name of an open file."""
    trainer, _, _ = saved
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "broker.json"
        for _ in range(2):
            trainer.checkpoint(path)
        assert path.is_symlink()
        trainer.recover(path)
        assert trainer.version == 4


@pytest.mark.parametrize(
    "arguments",
    [
        {"in_flight": "drop"},
        {"in_flight": None},
        {"version": -1},
        {"version": 2**53},
        {"version": 10**18},
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    lab: Lab, saved: tuple[Trainer, Worker, Path], arguments: dict[str, Any]
):
    trainer, _, path = saved
    before = lab.dump()
    with pytest.raises(BadArgument):
        trainer.recover(**arguments)
    with pytest.raises(BadArgument):
        trainer.recover(path, version=2)
    assert lab.dump() == before


# -- the tasks of a full checkpoint --------------------------------------------------------------------------------------


def _piece(rows: Any) -> bytes:
    body: bytes = msgpack.packb(rows)
    return len(body).to_bytes(4, "big") + body


BAD_TASKS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda raw: raw[:-5],
    "cut in a length": lambda raw: raw + b"\x00\x00",
    "huge length": lambda raw: raw + b"\xff\xff\xff\xff" + b"x",
    "large length": lambda raw: raw + b"\x7f\xff\xff\xff" + b"x",
    "no msgpack": lambda raw: raw + b"\x00\x00\x00\x02\xc1\xc1",
    "more behind": lambda raw: raw + b"\x00\x00\x00\x03\x90\x90\x90",
    "no list": lambda _: _piece({"a": 1}),
    "short rows": lambda _: _piece([["t5", 0]]),
    "rows of other types": lambda _: _piece([[5, "x", None, [], {}]]),
    "samples below 1": lambda _: _piece([[f"t{i}", 0, 0, 1, b""] for i in range(12)]),
    "priority out of range": lambda _: _piece([[f"t{i}", 10**6, 1, 1, b""] for i in range(12)]),
    "names that are none": lambda raw: raw + _piece([["a b", 0, 1, 1, b""]]),
    "deep": lambda raw: raw + (5_000).to_bytes(4, "big") + b"\x91" * 4_999 + b"\x90",
    "fewer than announced": lambda _: _piece([["t5", 0, 1, 1, b""]]),
}


@pytest.mark.parametrize("kind", BAD_TASKS)
@pytest.mark.parametrize("signed", [True, False], ids=["checksum right", "checksum wrong"])
def test_tasks_that_are_not_what_they_should_be_are_refused_before_anything_is_changed(
    lab: Lab, saved: tuple[Trainer, Worker, Path], kind: str, signed: bool
):
    """Even where somebody has signed them, and also where the server has lost everything."""
    trainer, _, path = saved
    made = trainer.checkpoint(path, full=True)
    assert made.tasks_path is not None
    raw = BAD_TASKS[kind](made.tasks_path.read_bytes())
    made.tasks_path.write_bytes(raw)
    if signed:
        document = json.loads(path.read_bytes())
        document["tasks_file"]["sha256"] = hashlib.sha256(raw).hexdigest()
        path.write_bytes(_sealed(document))
    for name in lab.command("KEYS", lab.key("*")):
        lab.command("DEL", name)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            trainer.recover(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lab.dump() == {}
    assert peak < 64 * 1024**2, f"{peak / 1024**2:.0f} MB"


# -- what others leave behind --------------------------------------------------------------------------------------------

FOREIGN: dict[str, tuple[str, str, int]] = {
    "AReaL": (
        "recover_info/step_info.json",
        '{"epoch": 0, "epoch_step": 6, "global_step": 6, "steps_per_epoch": 90}',
        7,
    ),
    "HF": ("trainer_state.json", '{"epoch": 0.1, "global_step": 7, "log_history": [], "best_metric": NaN}', 7),
    "Megatron": ("latest_checkpointed_iteration.txt", "7", 7),
    "verl": ("latest_checkpointed_iteration.txt", "7\n", 7),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("given", ["file", "folder", "parent"])
@pytest.mark.parametrize("in_flight", ["keep", "requeue"])
def test_the_version_comes_from_what_other_trainers_leave_behind(
    lab: Lab, tmp_path: Path, kind: str, given: str, in_flight: str
):
    name, text, version = FOREIGN[kind]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    if given == "parent" and file.parent == tmp_path:
        pytest.skip("it stands in no folder of its own")
    trainer = lab.trainer(consumer_batch_size=4, max_staleness=9, max_concurrent_rollouts=100)
    worker = lab.worker()
    trainer.enqueue(tasks(30))
    held = worker.claim(5)

    report = trainer.recover({"file": file, "folder": file.parent, "parent": tmp_path}[given], in_flight=in_flight)

    running = 5 if in_flight == "keep" else 0
    assert (report.version_to, trainer.version) == (version, version)
    assert (report.accepted[1], report.running[1], report.capacity[1]) == (version * 4, running, 40 - running)
    worker.renew()
    assert [attempt.cancelled for attempt in held] == [in_flight == "requeue"] * 5


@pytest.mark.parametrize("name", ["step_info.json", "trainer_state.json", "latest_checkpointed_iteration.txt"])
@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "x", "-1", "1.5", "null", "[]", "{}", '"7"', "٣", "7 8", "0x7", "1e3", "9" * 40, "release"),
        *('{"global_step": "7"}', '{"global_step": -1}', '{"global_step": 1.5}', '{"global_step": true}'),
        *('{"global_step": null}', '{"global_step": 9007199254740991}', '{"global_step": 7', "[" * 100_000),
        *('{"global_step": ' + "9" * 5_000 + "}", "\x00\x01", "\udcff"),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_foreign_files_that_say_no_version_are_refused(
    lab: Lab, saved: tuple[Trainer, Worker, Path], tmp_path: Path, name: str, text: str
):
    trainer, _, _ = saved
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    _refused(lab, trainer, tmp_path / name)
