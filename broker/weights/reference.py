"""What the blob of a version says of its weights, and what a publication contains."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

#: The name of a publication: its version, and the life of the publisher with a number.
NAME = re.compile(r"v\d{1,16}\.[0-9a-f]{16}-\d{1,9}")
#: The list of the files of a publication, and the weights: one file, or a folder of files.
MANIFEST, WEIGHTS = "manifest.json", "weights"
#: How many files are read at the same time for their digests.
_AT_ONCE = 4
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where the weights of a version are.

    Args:
        version: the version.
        name: of the publication, unique.
        folder: the publisher's folder, an absolute path; workers that see it read there.
        digest: SHA-256 of the manifest, in hexadecimal digits.
        url: where workers without the folder get the files; "": nowhere.
        token: what they show there.
    """

    version: int
    name: str
    folder: str
    digest: str
    url: str = ""
    token: str = ""

    def encode(self) -> bytes:
        """The blob."""
        return json.dumps({"broker_weights": 1, **asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, blob: bytes | None) -> Reference | None:
        """What a blob says; None: it says nothing of weights."""
        if not blob or not blob.startswith(b'{"broker_weights":1,'):
            return None
        try:
            fields = cast("dict[str, Any]", json.loads(blob))
            made = cls(**{name: kind(fields[name]) for name, kind in _FIELDS.items()})
        except (ValueError, KeyError, TypeError):
            return None
        return made if NAME.fullmatch(made.name) and _DIGEST.fullmatch(made.digest) else None


_FIELDS: dict[str, type[Any]] = {"version": int, "name": str, "folder": str, "digest": str, "url": str, "token": str}


@dataclass(frozen=True, slots=True)
class File:
    """One file of a publication.

    Args:
        path: below the publication, with slashes: `weights`, or `weights/...`.
        size: in bytes.
        sha256: its digest, in hexadecimal digits; "": it was not made.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a publication, and its folders, empty ones too."""

    files: tuple[File, ...]
    folders: tuple[str, ...]

    def encode(self) -> bytes:
        """The manifest as it is stored."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, stored: bytes) -> Manifest:
        """Reads a manifest.

        Raises:
            ValueError: it cannot be read, or names files outside of the publication.
        """
        try:
            fields = cast("dict[str, Any]", json.loads(stored))
            files = tuple(File(str(f["path"]), int(f["size"]), str(f["sha256"])) for f in fields["files"])
            folders = tuple(str(folder) for folder in fields["folders"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no manifest: {error!r}") from error
        for path in [*folders, *(file.path for file in files)]:
            parts = PurePosixPath(path).parts
            if parts[:1] != (WEIGHTS,) or ".." in parts or "\0" in path:
                raise ValueError(f"it names {path!r}, which is no place in a publication")
        return cls(files, folders)


def measured(publication: Path, *, checksum: bool = True) -> Manifest:
    """The manifest of what was written into a publication's folder."""
    weights, folders = publication / WEIGHTS, list[str]()
    paths = list(_files_below(weights, folders, publication)) if weights.is_dir() else [weights]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        files = tuple(pool.map(functools.partial(_file, publication, checksum), paths))
    return Manifest(files, tuple(folders))


def _files_below(weights: Path, folders: list[str], publication: Path) -> Iterator[Path]:
    for at, _, names in os.walk(weights):
        folders.append(Path(at).relative_to(publication).as_posix())
        yield from (Path(at, name) for name in sorted(names))


def _file(publication: Path, has_digest: bool, path: Path) -> File:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest() if has_digest else ""
        return File(path.relative_to(publication).as_posix(), os.fstat(stream.fileno()).st_size, digest)


def is_whole(publication: Path, digest: str) -> bool:
    """Whether a publication is in its place. It is put there in one step, after all of its files are written."""
    try:
        return hashlib.sha256((publication / MANIFEST).read_bytes()).hexdigest() == digest
    except OSError:
        return False
