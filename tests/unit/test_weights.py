"""Weights as files: a publication is whole or not there, a host fetches it once, and what is read is not removed."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from broker.errors import BadArgument, WeightsUnavailable
from broker.weights import Publisher, fetched, fetching
from broker.weights.host_cache import Entry, HostCache
from broker.weights.reference import Manifest, Reference, measured
from tests.threads import InThread
from tests.waiting import wait_until


def one_file(path: Path) -> None:
    path.write_bytes(b"one file")


def a_folder(path: Path) -> None:
    (path / "deep" / "er").mkdir(parents=True)
    (path / "empty").mkdir()
    (path / "a name with spaces").write_bytes(b"a" * 3_000_000)
    (path / "deep" / "er" / "b").write_bytes(b"")


def there(folder: Path) -> list[str]:
    """The versions that are published in a folder."""
    return sorted(
        path.name.partition(".")[0] for path in folder.iterdir() if path.name.startswith("v") and path.is_dir()
    )


def reference_of(blob: bytes) -> Reference:
    reference = Reference.decode(blob)
    assert reference is not None
    return reference


@pytest.fixture
def served(tmp_path: Path) -> Generator[Publisher]:
    """A publisher whose folder the readers do not see: `elsewhere` changes what its blobs say."""
    with Publisher(tmp_path / "published", listen="127.0.0.1:0") as publisher:
        yield publisher


def elsewhere(blob: bytes) -> bytes:
    """The blob as a host gets it that does not see the folder."""
    return dataclasses.replace(reference_of(blob), folder="/nowhere").encode()


def test_a_reader_gets_the_file_or_folder_that_was_written(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path)
    with fetched(publisher.publish(0, one_file)) as path:
        assert path.read_bytes() == b"one file"
    with fetched(publisher.publish(1, a_folder)) as path:
        assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*")) == [
            "a name with spaces", "deep", "deep/er", "deep/er/b", "empty",
        ]  # fmt: skip


@pytest.mark.parametrize("how", ["copied", "by http"])
def test_copies_are_like_the_original(tmp_path: Path, served: Publisher, how: str) -> None:
    blob = served.publish(7, a_folder)
    with (
        fetched(blob) as original,
        fetched(blob if how == "copied" else elsewhere(blob), tmp_path / "cache") as path,
    ):
        assert path.is_relative_to(tmp_path / "cache")
        assert measured(path.parent) == measured(original.parent)
        assert (path / "empty").is_dir()
    one = served.publish(8, one_file)
    with fetched(elsewhere(one), tmp_path / "cache") as path:
        assert path.read_bytes() == b"one file"


def test_a_writer_that_fails_publishes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    def torn(path: Path) -> None:
        one_file(path)
        raise OSError("disk full")

    publisher = Publisher(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        publisher.publish(0, torn, pin=True)
    with pytest.raises(BadArgument, match="version 0 wrote nothing"):
        publisher.publish(0, lambda path: None)

    async def later(path: Path) -> None:
        one_file(path)

    with pytest.raises(BadArgument, match=r"^writer "):
        publisher.publish(0, later)
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_is_published_again_is_another_publication(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path)
    first, second = publisher.publish(0, one_file), publisher.publish(0, a_folder)
    with fetched(first) as old, fetched(second) as new:
        assert (old.is_file(), new.is_dir()) == (True, True)


def test_the_newest_stay_and_pinned_ones_besides(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, keep=2)
    blobs = [publisher.publish(version, one_file, pin=version == 1) for version in range(5)]
    assert there(tmp_path) == ["v1", "v3", "v4"]
    with fetched(blobs[1]) as path:
        assert path.exists()
    with pytest.raises(WeightsUnavailable, match="v0"), fetched(blobs[0]):
        pass
    publisher.unpin(1)
    assert there(tmp_path) == ["v3", "v4"]
    assert not list(tmp_path.glob("*.pin"))


def test_a_later_life_removes_what_it_found_and_an_earlier_one_nothing_of_the_later(tmp_path: Path) -> None:
    """A trainer that was replaced goes on until its next call is refused: it must not remove current weights."""
    earlier = Publisher(tmp_path, keep=2)
    for version in (8, 9):
        earlier.publish(version, one_file)
    (tmp_path / ".v9.0123456789abcdef-1").mkdir()
    later = Publisher(tmp_path, keep=2)
    assert there(tmp_path) == ["v8", "v9"]  # the current version may be one of these
    assert not list(tmp_path.glob(".v*"))
    current = later.publish(5, one_file)
    for version in (10, 11, 12):
        earlier.publish(version, one_file)
    with fetched(current) as path:
        assert path.exists()
    later.publish(6, one_file)
    with fetched(current) as path:
        assert path.exists()
    assert "v8" not in there(tmp_path)
    Publisher(tmp_path, keep=2).publish(0, one_file)
    assert len(there(tmp_path)) == 2


@pytest.mark.parametrize("bad", ["no port", "host:", ":1", "host:99999"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(BadArgument, match="listen"):
        Publisher(tmp_path, listen=bad)


def test_other_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="keep"):
        Publisher(tmp_path, keep=1)
    with pytest.raises(BadArgument, match="url"):
        Publisher(tmp_path, url="http://trainer")
    with pytest.raises(BadArgument, match="version"):
        Publisher(tmp_path).publish(-1, one_file)


@pytest.mark.parametrize(
    "blob", [None, b"", b"s3://weights/1", b'{"broker_weights":1,', b'{"broker_weights":1,"version":1}']
)
def test_a_blob_of_something_else_is_no_reference(blob: bytes | None) -> None:
    assert Reference.decode(blob) is None
    with pytest.raises(BadArgument, match="blob"), fetched(blob):
        pass


def test_a_reference_names_a_publication_and_no_other_place(tmp_path: Path) -> None:
    reference = reference_of(Publisher(tmp_path).publish(3, one_file))
    assert Reference.decode(reference.encode()) == reference
    assert Reference.decode(dataclasses.replace(reference, name="../v3").encode()) is None


@pytest.mark.parametrize("path", ["/etc/passwd", "weights/../../x", "manifest.json", "", "weights/\0"])
def test_a_manifest_that_names_other_places_is_refused(path: str) -> None:
    files = Manifest.decode(Manifest((), ("weights",)).encode())
    assert files.folders == ("weights",)
    with pytest.raises(ValueError, match=r"names|manifest"):
        Manifest.decode(Manifest((), (path,)).encode())


# -- HTTP --------------------------------------------------------------------------------------------------------------


def test_without_the_token_nothing_is_served_and_with_it_publications_alone(tmp_path: Path, served: Publisher) -> None:
    reference = reference_of(served.publish(0, a_folder))
    (tmp_path / "published" / "secret").write_text("no")
    (tmp_path / "published" / reference.name / "secret").write_text("no")

    def status(path: str, token: str) -> int:
        request = urllib.request.Request(f"{reference.url}/{path}", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
        try:
            with fetching._opener.open(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    whole = f"{reference.name}/weights/deep/er/b"
    assert status(whole, reference.token) == 200
    assert status(whole, "another") == 401
    assert status(whole, "") == 401
    for path in ("secret", f"{reference.name}/secret", f"{reference.name}/../secret", "", reference.name,
                 f"{reference.name}/weights", f"{reference.name}/weights/%2e%2e/manifest.json"):  # fmt: skip
        assert status(path, reference.token) == 404, path


def test_an_address_of_all_is_told_as_this_hosts_name(tmp_path: Path) -> None:
    with Publisher(tmp_path, listen="0.0.0.0:0", url="http://trainer-0:8400/") as publisher:
        assert reference_of(publisher.publish(0, one_file)).url == "http://trainer-0:8400"
    with Publisher(tmp_path, listen="0.0.0.0:0") as publisher:
        assert not reference_of(publisher.publish(0, one_file)).url.startswith("http://0.")


@pytest.mark.parametrize("damage", ["cut", "changed", "manifest", "removed", "gone"])
def test_a_download_that_is_not_what_was_published_is_not_there(tmp_path: Path, served: Publisher, damage: str) -> None:
    blob = served.publish(0, a_folder)
    reference = reference_of(blob)
    publication = tmp_path / "published" / reference.name
    file = publication / "weights" / "a name with spaces"
    match damage:
        case "cut":
            os.truncate(file, 2_000_000)
        case "changed":
            with file.open("r+b") as stream:
                stream.seek(1_500_000)
                stream.write(b"b")
        case "manifest":
            stored = (publication / "manifest.json").read_bytes()
            (publication / "manifest.json").write_bytes(stored + b" ")
        case "removed":
            shutil.rmtree(publication)
        case _:
            served.close()
    cache = tmp_path / "cache"
    with pytest.raises(WeightsUnavailable, match=reference.name), fetched(elsewhere(blob), cache):
        pass
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_without_checksums_sizes_are_compared(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "published", checksum=False)
    blob = publisher.publish(0, a_folder)
    with fetched(blob, tmp_path / "cache") as path:
        assert (path / "a name with spaces").stat().st_size == 3_000_000
    blob = publisher.publish(1, a_folder)
    with fetched(blob) as path:
        os.truncate(path / "a name with spaces", 5)
    with pytest.raises(WeightsUnavailable, match="5 of 3000000"), fetched(blob, tmp_path / "cache"):
        pass


def test_a_connection_that_breaks_in_the_middle_leaves_nothing_and_the_next_try_brings_it(
    tmp_path: Path, served: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, breaks = elsewhere(served.publish(0, a_folder)), [True]
    read = fetching._copy

    def broken(stream: object, target: object, *rest: object) -> None:
        if breaks:
            breaks.clear()
            raise ConnectionResetError("in the middle")
        read(stream, target, *rest)

    monkeypatch.setattr(fetching, "_copy", broken)
    with pytest.raises(WeightsUnavailable, match="in the middle"), fetched(blob, tmp_path / "cache"):
        pass
    with fetched(blob, tmp_path / "cache") as path:
        assert (path / "a name with spaces").stat().st_size == 3_000_000


# -- one host ----------------------------------------------------------------------------------------------------------


def test_one_of_many_readers_brings_it_and_the_others_wait(tmp_path: Path) -> None:
    cache, filled, go_on = HostCache(tmp_path), list[Path](), threading.Event()

    def fill(draft: Path) -> None:
        filled.append(draft)
        go_on.wait(30)
        (draft / "manifest.json").touch()

    name = "v1.0123456789abcdef-1"
    readers = [InThread(lambda: cache.entry(name, fill, lambda: False)) for _ in range(4)]
    wait_until(lambda: filled, "one brings it")
    go_on.set()
    entries = [reader.result() for reader in readers]
    assert len(filled) == 1
    assert {entry.path for entry in entries} == {tmp_path / name}
    for entry in entries:
        entry.close()


def test_a_reader_that_comes_second_to_bring_it_shares_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found nothing, and another process brings it and goes on reading, before this one asks to be the one."""
    name, held, flock = "v1.0123456789abcdef-1", list[Entry](), fcntl.flock

    def fill(draft: Path) -> None:
        (draft / "manifest.json").touch()

    def late(lock: IO[bytes], how: int) -> None:
        if how & fcntl.LOCK_EX and not held:
            monkeypatch.setattr(fcntl, "flock", flock)
            held.append(HostCache(tmp_path).entry(name, fill, lambda: False))
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    until = time.monotonic() + 5
    HostCache(tmp_path).entry(name, fill, lambda: time.monotonic() > until).close()
    held[0].close()


def test_a_reader_that_is_not_needed_any_more_does_not_wait(tmp_path: Path) -> None:
    cache, begun, go_on = HostCache(tmp_path), threading.Event(), threading.Event()

    def fill(draft: Path) -> None:
        begun.set()
        go_on.wait(30)
        (draft / "manifest.json").touch()

    bringing = InThread(lambda: cache.entry("v1.0123456789abcdef-1", fill, lambda: False))
    begun.wait(30)
    with pytest.raises(ValueError, match="ends"):
        cache.entry("v1.0123456789abcdef-1", fill, lambda: True)
    go_on.set()
    bringing.result().close()


def test_old_ones_are_removed_but_not_what_is_read(tmp_path: Path) -> None:
    publisher, cache = Publisher(tmp_path / "published", keep=9), tmp_path / "cache"
    blobs = [publisher.publish(version, one_file) for version in range(5)]
    (cache / ".v9.0123456789abcdef-1").mkdir(parents=True)  # of a process that was killed
    with ExitStack() as reading:
        first = reading.enter_context(fetched(blobs[0], cache))
        for blob in blobs[1:]:
            with fetched(blob, cache):
                pass
        assert first.exists()
        assert there(cache) == ["v0", "v3", "v4"]
    with fetched(publisher.publish(5, one_file), cache):
        pass
    assert there(cache) == ["v4", "v5"]
    assert not list(cache.glob(".v*"))
    assert len(list(cache.glob("*.lock"))) == 2


def test_a_cache_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = Publisher(tmp_path / "published").publish(0, one_file)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(WeightsUnavailable, match="another user's"), fetched(blob, tmp_path / "cache"):
        pass
