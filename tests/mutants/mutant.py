"""Puts the faults of the table into the Lua scripts, one at a time.

    BROKER_TEST_MUTANT=no_fence pytest tests/conformance

runs the tests with that one fault. `pytest -m mutants` runs, for each fault, the tests that have to find it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

from broker.protocol import scripts
from broker.protocol.function_library import LuaFile, SourceLine, as_library
from tests.child import ROOT
from tests.mutants.table import EVERY, EVERYWHERE, FAULTS, LIBRARY

#: The environment variable that names the fault of a process.
VARIABLE = "BROKER_TEST_MUTANT"
#: Where the directed tests are.
_FOLDERS = ("tests/conformance", "tests/processes", "tests/recovery")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `old` becomes `new` in a file of lua/, and each of `found_by` has to fail; see `table.py`."""

    name: str
    file: str
    old: str
    new: str
    found_by: tuple[str, ...]

    def apply(self, text: str) -> str:
        """The changed text of the file."""
        there = text.count(self.old)
        assert there == 1 or (there and self.name in EVERYWHERE), (
            f"{self.file} has changed: the text of fault {self.name}, {self.old!r}, is there {there} times"
        )
        return text.replace(self.old, self.new)

    @contextmanager
    def installed(self) -> Generator[None]:
        """Scripts that this process loads for the first time within the block have the fault."""
        with ExitStack() as stack:
            if self.file == LIBRARY:
                stack.enter_context(mock.patch.object(scripts, "as_library", self._as_library))
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="broker-mutant-")), "lua")
                shutil.copytree(scripts.lua_directory(), folder)
                for path in self._files(folder):
                    path.write_text(self.apply(path.read_text(encoding="utf-8")), encoding="utf-8")
                stack.enter_context(mock.patch.object(scripts, "_PLACES", (folder,)))
            yield

    def sources(self) -> dict[str, bytes]:
        """The scripts with the fault, by name, as a server gets them."""
        with self.installed():
            return {name: scripts.load.__wrapped__(name, True).source for name in scripts.names()}

    def _files(self, folder: Path) -> list[Path]:
        if self.file != EVERY:
            return [folder / self.file]
        return [path for path in folder.rglob("*.lua") if self.old in path.read_text(encoding="utf-8")]

    def _as_library(self, includes: Mapping[str, LuaFile], functions: Sequence[LuaFile]) -> list[SourceLine]:
        lines = as_library(includes, functions)
        self.apply("\n".join(line.text for line in lines))
        return [line._replace(text=line.text.replace(self.old, self.new)) for line in lines]


MUTANTS = {
    name: Mutant(name, file, old, new, tuple(found_by))
    for file, faults in FAULTS.items()
    for name, (old, new, *found_by) in faults.items()
}


def files_with(words: str) -> list[Path]:
    """The files of the directed tests that have one of these words in their names, given as `one or other`."""
    return [
        path for path, tests in _tests().items() if any(word in test for word in words.split(" or ") for test in tests)
    ]


@cache
def _tests() -> dict[Path, list[str]]:
    files = [path for folder in _FOLDERS for path in (ROOT / folder).rglob("test_*.py")]
    return {path: re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8").lower()) for path in files}


#: Open until the process ends.
_of_this_process = ExitStack()


def install_from_environment() -> None:
    """Puts the fault that BROKER_TEST_MUTANT names, if any, into the scripts of this process."""
    if name := os.environ.get(VARIABLE):
        _of_this_process.enter_context(MUTANTS[name].installed())
