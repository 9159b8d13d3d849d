"""The link of a checkpoint path, while several writers point it to their files, at any speeds."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.recovery import checkpoint_files
from broker.recovery.checkpoint_files import Member, belongs, point_to

#: What a writer does to files, one step each.
_STEPS = ("symlink", "readlink", "replace", "unlink", "listdir", "link")
_SCHEDULES = 200
#: A file of a release before families, which gets a name in the family.
OLD = Path(__file__).parents[1] / "recovery" / "old_files" / "plain.json"


class _Writer:
    """A thread that calls `point_to`, and waits before each step until it is told to go on."""

    def __init__(self, path: Path, mine: Member) -> None:
        self.mine = mine
        self._may_step, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self.ended = False
        self._thread = threading.Thread(target=self._write, args=(path,), daemon=True)
        self._thread.start()
        assert self._stands.acquire(timeout=30)

    def _write(self, path: Path) -> None:
        _writers[threading.get_ident()] = self
        try:
            point_to(path, self.mine)
        finally:
            self.ended = True
            self._stands.release()

    def pause(self) -> None:
        """Called from its own thread, before a step."""
        self._stands.release()
        assert self._may_step.acquire(timeout=30)

    def step(self) -> None:
        """Lets it take one step, and waits until it stands before the next one or has ended."""
        self._may_step.release()
        assert self._stands.acquire(timeout=30)


_writers: dict[int, _Writer] = {}


@pytest.fixture(autouse=True)
def _stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepwise(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            writer = _writers.get(threading.get_ident())
            if writer is not None:
                writer.pause()
            return real(*args, **options)

        return call

    _writers.clear()
    for name in _STEPS:
        monkeypatch.setattr(os, name, stepwise(getattr(os, name)))


def _member(path: Path, number: int, epoch: int, *, by_operator: bool = False) -> Member:
    member = checkpoint_files.named(path, number, f"{epoch}.abc", number, by_operator=by_operator)
    member.path.touch()
    return member


def _rank(member: Member) -> tuple[bool, int, int]:
    return not member.by_operator, member.number, member.epoch_number


@pytest.mark.parametrize("plain", [False, True], ids=["anew", "over a plain file"])
def test_the_link_never_goes_back_behind_a_writer_that_is_done(tmp_path: Path, plain: bool):
    """Writers stop for any time between any steps, and some for ever, as frozen or killed processes do."""
    for seed in range(_SCHEDULES):
        chance = random.Random(seed)
        path = tmp_path / str(seed) / "broker.json"
        path.parent.mkdir()
        if plain:
            path.write_bytes(OLD.read_bytes())
        members = [
            _member(path, 1, 1), _member(path, 2, 1), _member(path, 2, 2), _member(path, 3, 2, by_operator=True)
        ]  # fmt: skip
        writers = [_Writer(path, member) for member in members]
        killed = chance.choice([None, *writers])
        done: list[Member] = []
        while going := [
            writer for writer in writers if not writer.ended and (writer is not killed or chance.random() < 0.9)
        ]:
            writer = chance.choice(going)
            for _ in range(chance.choice([1, 1, 1, 5, 50])):
                if not writer.ended:
                    writer.step()
            if writer.ended:
                done.append(writer.mine)
            if trainers := [member for member in done if not member.by_operator]:
                there = belongs(path, str(path.readlink()))
                assert there is not None, seed
                assert _rank(there) >= max(map(_rank, trainers)), seed
                olds = [member.path.read_bytes() for member in checkpoint_files.members(path) if not member.number]
                assert olds == [OLD.read_bytes()] * plain, seed
        if killed is None:
            assert path.readlink() == Path(members[2].path.name), seed
            assert not list(path.parent.glob(".*")), "no temporary link is left"
        elif not killed.ended:
            while not killed.ended:
                killed.step()
