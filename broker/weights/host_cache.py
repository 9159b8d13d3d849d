"""Publications that a host keeps: the first process that wants one brings it, and the others wait for it.

Each publication has a lock file. Who brings or removes a publication holds the lock alone, and who reads it shares the
lock. The system gives a lock back when its process dies.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from broker.weights.reference import MANIFEST, NAME

#: How many publications stay, besides those that a process reads.
_KEEP = 2
#: Between two looks at a lock that another process holds, seconds.
_LOOK_EVERY_S = 0.05


class Entry:
    """A publication that is there until `close`.

    Args:
        path: its folder.
        lock: the lock file, whose lock is shared.
    """

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path, self._lock = path, lock

    def close(self) -> None:
        """It may be removed from now on."""
        self._lock.close()


class HostCache:
    """A folder of publications.

    Args:
        folder: on a disk of this host.

    Raises:
        OSError: the folder cannot be made, or is another user's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError(f"the folder {folder} is another user's: name another one")

    def entry(self, name: str, fill: Callable[[Path], None], stopping: Callable[[], bool]) -> Entry:
        """A publication.

        Args:
            name: of the publication.
            fill: called with an empty folder, if no process of this host has brought the publication yet.
            stopping: asked at times; True: give up.

        Raises:
            ValueError: `stopping` said so. Also what `fill` raises.
        """
        while True:
            lock = self._locked(name, fcntl.LOCK_SH)
            if lock is not None:
                if self._has(name):
                    return Entry(self._folder / name, lock)
                lock.close()
                # Not waited for: another process may have brought it, and read it as long as it likes.
                lock = self._locked(name, fcntl.LOCK_EX)
            if lock is not None:
                with lock:
                    if not self._has(name):
                        self._bring(name, fill)
            elif stopping():
                raise ValueError("the worker ends")
            else:
                time.sleep(_LOOK_EVERY_S)

    def _has(self, name: str) -> bool:
        return (self._folder / name / MANIFEST).exists()

    def _bring(self, name: str, fill: Callable[[Path], None]) -> None:
        draft = self._folder / f".{name}"
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
        draft.mkdir()
        try:
            fill(draft)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        draft.rename(self._folder / name)
        self._forget(name)

    def _locked(self, name: str, how: int) -> IO[bytes] | None:
        """The lock file, locked; None: another process holds the lock."""
        path = self._folder / f"{name}.lock"
        while True:
            lock = path.open("ab")
            try:
                fcntl.flock(lock, how | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return None
            if _is(lock, path):
                return lock
            lock.close()

    def _forget(self, newest: str) -> None:
        """Removes the oldest publications that no process reads, and what killed processes left of others."""
        names = [path.name for path in self._folder.iterdir()]
        there = [name for name in names if NAME.fullmatch(name) and name != newest]
        there.sort(key=lambda name: (self._folder / name).stat().st_mtime_ns)
        left = [name[1:] for name in names if name[:1] == "." and NAME.fullmatch(name[1:]) and name[1:] not in names]
        for name in [*there[: max(0, len(there) - (_KEEP - 1))], *left]:
            lock_path, draft = self._folder / f"{name}.lock", self._folder / f".{name}"
            with lock_path.open("ab") as lock, suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is(lock, lock_path):
                    continue
                with suppress(FileNotFoundError):  # in one step, so that no reader finds a part of it
                    (self._folder / name).rename(draft)
                shutil.rmtree(draft, ignore_errors=True)
                lock_path.unlink()


def _is(lock: IO[bytes], path: Path) -> bool:
    """Whether a lock file is still the one of its name: who removed the publication removed the file, too."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False
