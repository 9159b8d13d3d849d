"""The trainer's side: writes the weights of each version, whole or not there, and removes old ones."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from broker.errors import BadArgument
from broker.values.arguments import check_type, whole
from broker.values.hooks import check_plain_hook, plain_answer
from broker.weights.reference import MANIFEST, NAME, WEIGHTS, Reference, measured
from broker.weights.serving import WeightsServer

#: A version that is pinned has an empty file of its name and this ending beside it.
_PIN = ".pin"


class Publisher:
    """Publishes the weights of a run's versions in a folder, and by HTTP where workers do not share it.

        with Publisher("/shared/math-7b") as publisher:

            def publish(version):
                return publisher.publish(version, lambda path: torch.save(model.state_dict(), path))

            trainer.recover(checkpoint, missing_ok=True, blob=publish)
            for batch in trainer.batches(checkpoint=checkpoint, save=save, blob=publish):
                ...

    Each run has a folder of its own. Of two publishers at one folder, the later one removes what the earlier one had
    published by then; the earlier one removes nothing of the later.

    Args:
        folder: where the publications are; it is made if it is not there.
        keep: how many publications stay: the newest ones, at least 2, since workers still read the current version
            while the next one is published. Pinned ones stay besides.
        listen: address and port to serve the files from, such as `0.0.0.0:8400` (port 0: any that is free); None: all
            workers see the folder. Clients show a token that they get with the blob. The bytes are not encrypted.
        url: what workers call instead of that address, such as `http://trainer-0:8400`; None: the address, or this
            host's name where it is `0.0.0.0` or `[::]`.
        checksum: whether copies are compared with the SHA-256 of each file, which takes the trainer about a second for
            each gigabyte. False: their sizes alone are compared, which is enough where all workers read in the folder.

    Raises:
        BadArgument: an argument cannot be used.
        OSError: the folder cannot be written, or the address cannot be listened on.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 3,
        listen: str | None = None,
        url: str | None = None,
        checksum: bool = True,
    ) -> None:
        check_type("folder", folder, (str, os.PathLike), "a path")
        self._folder = Path(folder).absolute()
        self._keep, self._checksum = whole("keep", keep, 2, 1_000_000), checksum
        if url is not None:
            check_type("url", url, str, "a URL, or None")
            if listen is None:
                raise BadArgument(argument="url", given=url, expected="given together with `listen`")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._life, self._count = secrets.token_hex(8), 0
        for draft in self._folder.glob(".v*"):  # of a trainer that was killed
            shutil.rmtree(draft, ignore_errors=True)
        self._published = deque(self._found())
        self._server = None if listen is None else WeightsServer(self._folder, listen)
        self._url = "" if self._server is None else (url or self._server.url).rstrip("/")

    def _found(self) -> list[str]:
        """The publications of earlier lives, the oldest first."""
        there = (path.name for path in self._folder.iterdir() if NAME.fullmatch(path.name))
        names = [name for name in there if (self._folder / name / MANIFEST).exists()]
        return sorted(names, key=lambda name: (self._folder / name / MANIFEST).stat().st_mtime_ns)

    def publish(self, version: int, writer: Callable[[Path], Any], *, pin: bool = False) -> bytes:
        """Writes the weights of a version. Workers see them whole, once their blob is the current one.

        Args:
            version: the version.
            writer: called with a path at which nothing is: it writes a file there, or makes a folder and writes files
                into it.
            pin: keep these weights until `unpin`, for example for an evaluation.

        Returns:
            The blob that says where they are: for `advance`, `recover`, or a `Judged`.

        Raises:
            BadArgument: the writer wrote nothing.
            OSError: they cannot be written; nothing is published.
        """
        version = whole("version", version, 0, 2**53 - 1)
        check_plain_hook("writer", writer)
        self._count += 1
        name = f"v{version}.{self._life}-{self._count}"
        draft = self._folder / f".{name}"
        try:
            draft.mkdir()
            _write(writer, draft / WEIGHTS, version)
            manifest = measured(draft, checksum=self._checksum).encode()
            (draft / MANIFEST).write_bytes(manifest)
            if pin:
                (self._folder / f"{name}{_PIN}").touch()
            draft.rename(self._folder / name)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            (self._folder / f"{name}{_PIN}").unlink(missing_ok=True)
            raise
        self._published.append(name)
        self._forget()
        token = "" if self._server is None else self._server.token
        digest = hashlib.sha256(manifest).hexdigest()
        return Reference(version, name, str(self._folder), digest, self._url, token).encode()

    def unpin(self, version: int) -> None:
        """Lets go of pinned weights of a version, also of those that an earlier life pinned."""
        for pin in self._folder.glob(f"v{whole('version', version, 0, 2**53 - 1)}.*{_PIN}"):
            pin.unlink(missing_ok=True)
        self._forget()

    def _forget(self) -> None:
        """Removes the oldest publications. What another life published after this one began is not this one's."""
        pinned = {pin.name.removesuffix(_PIN) for pin in self._folder.glob(f"v*{_PIN}")}
        old = list(self._published)[: -self._keep]
        for name in old:
            if name not in pinned:
                self._published.remove(name)
                with suppress(OSError):  # a reader meets all of it or nothing
                    (self._folder / name).rename(self._folder / f".{name}")
                shutil.rmtree(self._folder / f".{name}", ignore_errors=True)

    def close(self) -> None:
        """Stops serving. The files stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write(writer: Callable[[Path], Any], path: Path, version: int) -> None:
    plain_answer("writer", writer, writer(path))
    if not path.exists():
        raise BadArgument(problem=f"the writer of version {version} wrote nothing at the path that it was given")
