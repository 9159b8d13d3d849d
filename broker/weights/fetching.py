"""The worker's side: weights in the publisher's folder where a host sees it, else in a cache that a host has once."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

from broker.errors import BadArgument, WeightsUnavailable
from broker.weights.host_cache import Entry, HostCache
from broker.weights.reference import MANIFEST, WEIGHTS, File, Manifest, Reference, is_whole

#: How long the trainer's host may be silent, seconds.
_SILENT_S = 30.0
_PIECE = 1 << 20
# Proxies of the environment are for other hosts than the trainer's.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def fetched(blob: bytes | None, cache: str | os.PathLike[str] | None = None) -> Generator[Path]:
    """The weights that a blob names, for as long as the block lasts.

    A `Worker` with `load_weights` does this by itself. A handler does it for the weights of an evaluation:
    `with fetched(attempt.blob) as path: ...`.

    Args:
        blob: what `Publisher.publish` returned.
        cache: a folder of this host in which to keep copies, fetched once for all of its processes; None: weights are
            read in the publisher's folder, and where this host does not see that, they are kept in a folder of the
            system's temporary directory.

    Yields:
        The path, of a file or folder as the writer made it.

    Raises:
        BadArgument: the blob says nothing of weights.
        WeightsUnavailable: they were removed, or their host does not answer.
    """
    reference = Reference.decode(blob)
    if reference is None:
        raise BadArgument(argument="blob", given="without weights", expected="what Publisher.publish returned")
    with Fetched(reference, cache) as there:
        yield there.path


class Fetched:
    """Weights that can be read until `close`.

    Args:
        reference: says which.
        cache: as `fetched`.
        stopping: asked at times; True: nobody needs them any more.

    Raises:
        WeightsUnavailable: they cannot be had, or nobody needs them any more.
    """

    def __init__(
        self,
        reference: Reference,
        cache: str | os.PathLike[str] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._reference, self._entry = reference, None
        self._source = Path(reference.folder, reference.name)
        if cache is None and is_whole(self._source, reference.digest):
            self.path = self._source / WEIGHTS
            return
        try:
            self._entry: Entry | None = HostCache(Path(cache or default_cache())).entry(
                reference.name, lambda draft: fill(draft, reference, stopping), stopping
            )
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise WeightsUnavailable(name=reference.name, problem=_words(error)) from error
        self.path = self._entry.path / WEIGHTS

    @property
    def are_there(self) -> bool:
        """Whether they are still whole: the publisher removes old ones, also while they are read in its folder."""
        return self._entry is not None or is_whole(self._source, self._reference.digest)

    def close(self) -> None:
        """They may be removed from now on."""
        if self._entry is not None:
            self._entry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def default_cache() -> Path:
    """Where a host keeps weights by default: a folder of the user's alone."""
    return Path(tempfile.gettempdir(), f"broker-weights-{os.getuid()}")


def fill(draft: Path, reference: Reference, stopping: Callable[[], bool]) -> None:
    """Brings all files of a publication into a folder, and compares each with its digest."""
    source = Path(reference.folder, reference.name)
    origin = _Folder(source) if is_whole(source, reference.digest) else _Http(reference)
    with origin.open(MANIFEST) as stream:
        stored = stream.read()
    if hashlib.sha256(stored).hexdigest() != reference.digest:
        raise ValueError("its manifest is another one than the blob names")
    manifest = Manifest.decode(stored)
    for folder in manifest.folders:
        (draft / folder).mkdir(parents=True, exist_ok=True)
    for file in manifest.files:
        with origin.open(file.path) as stream, (draft / file.path).open("xb") as target:
            _copy(stream, target, file, stopping)
    (draft / MANIFEST).write_bytes(stored)


def _copy(stream: IO[bytes], target: IO[bytes], file: File, stopping: Callable[[], bool]) -> None:
    digest, size = hashlib.sha256(), 0
    while piece := stream.read(_PIECE):
        if stopping():
            raise ValueError("the worker ends")
        digest.update(piece)
        target.write(piece)
        size += len(piece)
    if size != file.size or (file.sha256 and digest.hexdigest() != file.sha256):
        raise ValueError(f"{file.path} came with {size} of {file.size} bytes, or with others than were published")


class _Folder:
    """The publisher's folder, as this host sees it."""

    def __init__(self, publication: Path) -> None:
        self._publication = publication

    def open(self, path: str) -> IO[bytes]:
        """A file."""
        return (self._publication / path).open("rb")


class _Http:
    """The trainer's host."""

    def __init__(self, reference: Reference) -> None:
        if not reference.url.startswith(("http://", "https://")):
            raise ValueError(f"this host does not see {reference.folder}, and the publisher serves nothing by HTTP")
        self._reference = reference

    def open(self, path: str) -> Any:
        """A file, as it is received."""
        reference = self._reference
        request = urllib.request.Request(  # noqa: S310 - its scheme is checked above
            f"{reference.url}/{reference.name}/{quote(path)}", headers={"Authorization": f"Bearer {reference.token}"}
        )
        return _opener.open(request, timeout=_SILENT_S)


def _words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the publisher answered {error.code}: it has removed them, or it is another one"
    if isinstance(error, urllib.error.URLError):
        return f"the publisher does not answer: {error.reason}"
    return str(error) or type(error).__name__
