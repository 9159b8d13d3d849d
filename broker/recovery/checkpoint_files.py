"""The files of one checkpoint path: each checkpoint under a name that no other writer can have.

A user's `broker.json` stands for a family of files beside it:

    broker.json.<number>.e<epoch number>-<token>.v<version>                     of a trainer
    broker.json.<number>.operator-<random>.e<epoch number>-<token>.v<version>   of an operator
    ....<random>.tasks                                                          the tasks of a full checkpoint
    broker.json                                                                 a link to the newest of a trainer

No file is ever overwritten, so a trainer that was replaced while it wrote cannot damage its successor's files. The
number is one more than the largest that the writer found. The writer looks for it before it makes sure that it still
leads. So a later trainer has a larger number, or the same number with a later epoch. Epoch numbers alone are not
enough: they start again at 1 when a server lost everything. The link is a convenience: a recovery uses the family.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from broker.errors import CheckpointError
from broker.recovery.checkpoint import read_checkpoint, reason_of

_log = logging.getLogger(__name__)

_MEMBER = re.compile(
    r"\.(?P<number>\d{1,15})\.(?:operator-(?P<by>[0-9a-f]+)\.)?e(?P<epoch>\d{1,15})-(?P<token>\w+)\.v(?P<version>\d{1,10})"
)
#: What may follow the name of a member: the tasks file's ending, or that of a temporary file of a killed writer.
_TASKS = re.compile(r"\.[0-9a-f]{8}\.tasks")
_TEMPORARY = re.compile(r"\..*\.tmp")
#: How the name of a link ends that is not in its place yet.
_LINK = ".link.tmp"
#: How often a writer puts its link in its place again, because an earlier writer was just in time to replace it.
_MOST_TURNS = 10


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a family, described by its name.

    Args:
        path: the file.
        number: of the checkpoint in its family, from 1; 0: written by a release that did not number them.
        epoch: the trainer's epoch, `<number>.<token>`.
        version: the policy's version.
        by_operator: whether an operator wrote it.
    """

    path: Path
    number: int
    epoch: str
    version: int
    by_operator: bool = False

    @property
    def epoch_number(self) -> int:
        """The number of the epoch, without its token."""
        return number_of(self.epoch)


@dataclass(frozen=True, slots=True)
class History:
    """What the server knows of a run's past, to choose a file by.

    Args:
        tokens: of the epochs that had the run.
        recoveries: epoch number and version of the recoveries that count.
        floor: the oldest version still recoverable.
    """

    tokens: frozenset[str] = frozenset()
    recoveries: tuple[tuple[int, int], ...] = ()
    floor: int = 0

    def knows(self, member: Member) -> bool:
        """Whether the file's epoch had the run on this server."""
        return member.epoch.partition(".")[2] in self.tokens

    def undid(self, member: Member) -> bool:
        """Whether a later recovery went to a version before the file's: the server would refuse it (`UNDONE`)."""
        return any(by > member.epoch_number and member.version > to for by, to in self.recoveries)


def number_of(epoch: str) -> int:
    """The number of an epoch, without its token."""
    return int(epoch.partition(".")[0])


def named(path: Path, number: int, epoch: str, version: int, *, by_operator: bool = False) -> Member:
    """The member of a path's family for a new checkpoint."""
    by = f"operator-{secrets.token_hex(4)}." if by_operator else ""
    name = f"{path.name}.{number}.{by}e{epoch.replace('.', '-', 1)}.v{version}"
    return Member(path.parent / name, number, epoch, version, by_operator)


def member_of(path: Path) -> Member | None:
    """The member, of any family, that has this name; None: the name is not a member's."""
    found = list(_MEMBER.finditer(path.name))
    if not found or found[-1].end() != len(path.name) or found[-1].start() == 0:
        return None
    return _member(path, found[-1])


def _member(path: Path, match: re.Match[str]) -> Member:
    epoch = f"{int(match['epoch'])}.{match['token']}"
    return Member(path, int(match["number"]), epoch, int(match["version"]), match["by"] is not None)


def members(path: Path) -> list[Member]:
    """The files of a family, found by their names, without the path itself. Raises CheckpointError."""
    return [member for name in _beside(path, path.name) if (member := belongs(path, name)) is not None]


def belongs(path: Path, name: str) -> Member | None:
    """The member of that name; None: the name does not belong to this family."""
    match = _MEMBER.fullmatch(name, len(path.name))
    return None if match is None else _member(path.parent / name, match)


def _beside(path: Path, beginning: str) -> list[str]:
    try:
        return [name for name in os.listdir(path.parent) if name.startswith(beginning)]  # noqa: PTH208 - names are wanted
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise CheckpointError(path=str(path), problem=f"could not be read: {reason_of(error)}") from error


def plain(path: Path) -> Member | None:
    """The path itself if it is a file: of a release before families, or a copy. None: no file, or a link.

    Raises:
        CheckpointError: the file is not a whole checkpoint.
    """
    if path.is_symlink() or not path.is_file():
        return None
    made = read_checkpoint(path)
    return Member(path, made.number, made.epoch, made.version, made.by_operator)


def next_number(path: Path) -> int:
    """The number for the next checkpoint. Raises CheckpointError."""
    numbers = [member.number for member in members(path)]
    with suppress(CheckpointError):  # a file that cannot be read has no number
        numbers += [own.number for own in (plain(path),) if own is not None]
    return max(numbers, default=0) + 1


def candidates(path: Path, history: History, *, with_plain: bool = True) -> list[Member]:
    """The files that a recovery may use, best first: newest first, trainers' before operators', undone ones last.

    Args:
        path: of the family.
        history: what the server knows.
        with_plain: also the path itself, if it is a file.

    Raises:
        CheckpointError: the path itself is a file, but not a whole checkpoint.
    """

    def age(member: Member) -> tuple[int, bool, int, int]:
        return member.number, history.knows(member), member.epoch_number, member.version

    found = sorted(members(path), key=age, reverse=True)
    own = plain(path) if with_plain else None
    if own is not None and not any(_is_same(own, member) for member in found):
        found.insert(_place(own, found, history), own)
    return sorted(found, key=lambda member: (history.undid(member), member.by_operator))


def _is_same(one: Member, other: Member) -> bool:
    return (one.number, one.epoch, one.version, one.by_operator) == (
        other.number,
        other.epoch,
        other.version,
        other.by_operator,
    )


def _place(own: Member, found: list[Member], history: History) -> int:
    """The place of a plain file among the members, newest first.

    A file without number is of a release before families: it is older than the members, unless that release was run
    again later.
    """
    if own.number:
        return sum(member.number >= own.number for member in found)

    def age(member: Member) -> tuple[bool, int, int]:
        return history.knows(member), member.epoch_number, member.version

    return 0 if not found or age(own) > age(found[0]) else len(found)


def point_to(path: Path, mine: Member) -> None:
    """Makes the user's path a link to a committed file, if possible; a link to a later file stays.

    A writer that was frozen in here, and goes on after a later one is done, changes nothing. Its new link has to exist
    before it looks where the path leads. The later writer deletes that link after the path leads to its own file, and
    looks once more. So the earlier one has nothing to put there, unless it looks after the later one, and sees it.
    """
    link = path.parent / f".{mine.path.name}.{secrets.token_hex(4)}{_LINK}"
    try:
        for _ in range(_MOST_TURNS):
            link.symlink_to(mine.path.name)
            if _may_point(path, mine):
                with suppress(FileNotFoundError):  # a later writer has deleted it: this one looks again
                    _put_in_place(link, path)
            else:
                link.unlink(missing_ok=True)
            before = _target(path)
            for name, other in _new_links(path):
                if _rank(other) < _rank(mine):
                    (path.parent / name).unlink(missing_ok=True)
            if _target(path) == before and not _may_point(path, mine):
                break
    except (OSError, CheckpointError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else error
        _log.debug("%s could not be made a link to %s: %s", path, mine.path.name, reason)
    finally:
        with suppress(OSError):
            link.unlink(missing_ok=True)


def _may_point(path: Path, mine: Member) -> bool:
    """Whether the path is to lead to a file: it leads nowhere, or to an earlier file. A plain file gets a name."""
    if (target := _target(path)) is not None:
        current = belongs(path, target)
        return current is None or _rank(current) < _rank(mine) or not path.exists()
    if path.exists():
        if mine.by_operator:
            return False
        _adopt(path)
    return True


def _target(path: Path) -> str | None:
    """What a link leads to; None: there is no link."""
    return str(path.readlink()) if path.is_symlink() else None


def _rank(member: Member) -> tuple[bool, int, int]:
    """The order of what the path may lead to. An operator's file never replaces a trainer's."""
    return not member.by_operator, member.number, member.epoch_number


def _put_in_place(link: Path, path: Path) -> None:
    link.replace(path)


def _new_links(path: Path) -> list[tuple[str, Member]]:
    """The links of a family that are not in their place yet: their names, and the files that they lead to."""
    found: list[tuple[str, Member]] = []
    for name in _beside(path, f".{path.name}."):
        match = _MEMBER.match(name, len(path.name) + 1)
        if match is not None and name.endswith(_LINK):
            found.append((name, _member(path.parent / name[1 : match.end()], match)))
    return found


def _adopt(path: Path) -> None:
    """Gives a plain file the name of a member, as it may still be needed. Raises OSError."""
    with suppress(CheckpointError):  # no recovery can use a file that is not whole
        own = plain(path)
        if own is not None and not any(_is_same(own, member) for member in members(path)):
            member = named(path, own.number, own.epoch, own.version, by_operator=own.by_operator).path
            try:
                member.hardlink_to(path)
            except FileExistsError:  # another writer has done it meanwhile: a rename could rename its link
                pass
            except OSError:  # a file system without hard links
                path.rename(member)


def tidy(path: Path, mine: Member, floor: int) -> None:
    """Deletes files before a committed one that no recovery can use any more, and their tasks files.

    Only files of the same kind of writer are deleted, with a smaller number and no later epoch. They are below the
    floor, or of the same version of the same trainer. No file of a successor has a smaller number.
    """

    def is_over(member: Member) -> bool:
        return (
            member.number < mine.number
            and member.by_operator == mine.by_operator
            and member.epoch_number <= mine.epoch_number
            and (member.version < floor or (member.version, member.epoch) == (mine.version, mine.epoch))
        )

    there = {member.path.name: member for member in members(path)}
    doomed = [name for name, member in there.items() if is_over(member)]
    kept = there.keys() - set(doomed)
    for name in _beside(path, path.name):
        match = _MEMBER.match(name, len(path.name))
        if match is not None and _TASKS.fullmatch(name, match.end()):
            base = name[: match.end()]
            if base not in kept and is_over(_member(path.parent / base, match)):
                doomed.append(name)
        elif match is None and _TASKS.fullmatch(name, len(path.name)):
            is_of_plain = not path.is_symlink() or any(member.number == 0 for member in there.values())
            doomed += [] if is_of_plain else [name]
    for name in _beside(path, f".{path.name}."):
        match = _MEMBER.match(name, len(path.name) + 1)
        if match is not None and _TEMPORARY.fullmatch(name, match.end()) and match["by"] is None:
            left = _member(path.parent / name, match)
            if left.number < mine.number and left.epoch_number < mine.epoch_number:
                doomed.append(name)
    for name in doomed:
        try:
            (path.parent / name).unlink(missing_ok=True)
        except OSError as error:
            _log.debug("the old file %s could not be deleted: %s", path.parent / name, reason_of(error))
