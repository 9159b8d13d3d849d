"""Finds the source of a recovery: one of our checkpoints, or another trainer's file."""

from __future__ import annotations

import os
from pathlib import Path

from broker.errors import BadArgument, CheckpointError
from broker.recovery.checkpoint import Checkpoint, read_checkpoint, reason_of
from broker.recovery.checkpoint_files import History, Member, belongs, candidates, member_of, members
from broker.recovery.foreign import ForeignCheckpoint, foreign_checkpoint
from broker.recovery.tasks_file import verify_tasks_file
from broker.values.arguments import path_of

#: How often a file is looked for again when a newer one replaced it while it was read.
_LOOKS = 10
#: How many links of the user's are followed.
_MOST_LINKS = 20


def load_source(
    source: Checkpoint | str | os.PathLike[str], run: str, history: History | None = None
) -> Checkpoint | ForeignCheckpoint:
    """Reads a checkpoint, ours or another trainer's.

    A path stands for all checkpoints that were written under it: the newest on the surviving history is taken, a
    trainer's before an operator's. The name of one of their files stands for that file alone.

    Other trainers' are AReaL's `recover_info/`, Hugging Face's `trainer_state.json`, and Megatron's or verl's
    `latest_checkpointed_iteration.txt`.

    Args:
        source: the checkpoint, or its path.
        run: name of the run.
        history: what the server knows of the run's past; None: nothing.

    Raises:
        CheckpointError: the source cannot be used; says why.
    """
    if isinstance(source, Checkpoint):
        return _checked(source, run)
    path = path_of("source", source)
    try:
        foreign = foreign_checkpoint(path)
        if foreign is not None:
            return foreign
        path = _without_own_links(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(path=str(path), problem=f"could not be read: {reason_of(error)}") from error
    if member_of(path) is not None:
        return _checked(read_checkpoint(path), run)
    return _newest(path, run, history or History())


def _without_own_links(path: Path) -> Path:
    """Follows the user's links, such as `latest.json` to another folder, but not the links of a family."""
    for _ in range(_MOST_LINKS):
        if not path.is_symlink() or members(path) or belongs(path, str(path.readlink())):
            break
        path = path.parent / path.readlink()
    return path


def _newest(path: Path, run: str, history: History) -> Checkpoint:
    for look in range(_LOOKS):
        try:
            found = candidates(path, history)
        except CheckpointError as error:
            raise _with_another(error, candidates(path, history, with_plain=False), run, history) from error
        if not found:
            return _checked(_alone(path), run)
        try:
            return _read_member(found[0], run)
        except CheckpointError as error:
            if look + 1 < _LOOKS and candidates(path, history) != found:
                continue  # a newer checkpoint was made meanwhile, and the older file deleted
            raise _with_another(error, found[1:], run, history) from error
    raise AssertionError("the last look answers or raises")


def _alone(path: Path) -> Checkpoint:
    if path.is_symlink() and not path.exists():
        problem = f"is a link to {path.readlink()}, which is not there: copy the files beside it, or with `cp -L`"
        raise CheckpointError(path=str(path), problem=problem)
    return read_checkpoint(path)


def _read_member(member: Member, run: str) -> Checkpoint:
    made = read_checkpoint(member.path)
    if (made.epoch, made.version) != (member.epoch, member.version):
        raise CheckpointError(
            path=str(member.path), problem=f"is of version {made.version}, epoch {made.epoch}, not what its name says"
        )
    return _checked(made, run)


def _with_another(error: CheckpointError, others: list[Member], run: str, history: History) -> CheckpointError:
    """The error when the newest file cannot be used. It names another, which belongs to other weights."""
    for member in others:
        if member.version < history.floor or history.undid(member):
            continue
        try:
            made = _read_member(member, run)
        except CheckpointError:
            continue
        advice = f"version {made.version} can be recovered from {made.path}, given by that name, with its own weights"
        return CheckpointError(path=error.fields["path"], problem=f"{error.fields['problem']}; {advice}")
    return error


def _checked(made: Checkpoint, run: str) -> Checkpoint:
    if made.run != run:
        raise CheckpointError(path=str(made.path), problem=f"is of run {made.run}, not of {run}")
    if made.tasks_file is not None and made.tasks_path is not None:
        verify_tasks_file(made.tasks_path, made.tasks_file)
    return made


def exists(source: Checkpoint | str | os.PathLike[str]) -> bool:
    """Whether the path exists (even as a link that leads nowhere), or has a family."""
    if isinstance(source, Checkpoint):
        return True
    path = path_of("source", source)
    try:
        path.lstat()
    except FileNotFoundError:
        return bool(members(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(path=str(source), problem=f"could not be read: {reason_of(error)}") from error
    return True


def check_in_flight(in_flight: str) -> str:
    """Checks for `keep` or `requeue`; raises BadArgument for anything else."""
    if in_flight not in ("keep", "requeue"):
        raise BadArgument(argument="in_flight", given=in_flight, expected="keep or requeue")
    return in_flight
