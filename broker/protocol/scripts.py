"""Loads the Lua scripts and resolves their includes.

A script is `lua/<name>.lua`. A line `-- @include <name>` stands for `lua/include/<name>.lua`, which may include others;
each file comes in once, where it is named first. The header of a script has a line `-- Flags: ...` with the flags of
its `#!lua` line (`allow-oom`, `no-writes`, ..., or `none`). Servers older than Redis 7 do not know that line; they get
another line with the same effect.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType

from broker.protocol import function_library
from broker.protocol.function_library import LuaFile, NameClash, SourceLine, as_library
from broker.protocol.keys import NEVER_THERE

_INCLUDE = re.compile(r"^\s*--\s*@include\s+(\S+)\s*$")
_FLAGS = re.compile(r"^--\s*Flags:\s*(.*?)\s*$")
_KNOWN_FLAGS = frozenset({"allow-oom", "no-writes", "allow-stale", "no-cluster", "allow-cross-slot-keys"})

#: The folders of the Lua files, in the installed package or in a source checkout; the package is looked at first.
_PACKAGE = Path(__file__).parent.parent
_PLACES = (_PACKAGE / "lua", _PACKAGE.parent / "lua")

_LIBRARY_NAME = re.compile(r"broker_[0-9a-f]{12}\Z")
#: Stands for the library's name until its hash is known.
_LIBRARY = "broker_library_name"


class ScriptError(Exception):
    """A Lua file is missing, includes itself or an unknown file, or lacks its header: a fault of the installation."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script, ready for `SCRIPT LOAD`.

    Attributes:
        name: the name that script calls use: `claim` for `lua/claim.lua`.
        source: the text that the server gets, without comments and blank lines but with a first line for the flags.
        sha1: its name for EVALSHA, 40 hexadecimal digits.
        flags: the flags of its header; empty for `none`.
        lines: for each line of `source`, the file and line that it came from.
    """

    name: str
    source: bytes
    sha1: str
    flags: tuple[str, ...]
    lines: tuple[tuple[str, int], ...]

    def origin(self, line: int) -> str:
        """The file and line of line `line` (counted from 1, as in the server's error messages): `claim.lua:12`."""
        if not 1 <= line <= len(self.lines):
            return f"{self.name}.lua"
        file, number = self.lines[line - 1]
        return f"{file}:{number}"


def lua_directory() -> Path:
    """The directory of the Lua scripts, in an installed package or in a source checkout.

    Raises:
        ScriptError: neither folder exists.
    """
    for place in _PLACES:
        if place.is_dir():
            return place
    raise ScriptError(f"no Lua scripts in {' or '.join(map(str, _PLACES))}: install rollout-broker again")


def names() -> list[str]:
    """The names of all scripts, sorted."""
    return sorted(path.stem for path in lua_directory().glob("*.lua"))


@cache
def load(name: str, shebang: bool) -> Script:
    """Reads a script and its includes.

    Args:
        name: the script's name, without `.lua`.
        shebang: begin with a `#!lua flags=...` line (Redis 7 and later, Valkey); else a script that writes begins
            with a command.

    Raises:
        ScriptError: a file or its header is missing; an include is unknown or includes itself.
    """
    flags, lines = _assembled(name)
    if first := _shebang(flags) if shebang else _instead_of_shebang(flags):
        lines.insert(0, SourceLine(first, f"{name}.lua", 1))
    source = ("\n".join(line.text for line in lines) + "\n").encode()
    origins = tuple((line.file, line.number) for line in lines)
    return Script(name, source, hashlib.sha1(source).hexdigest(), flags, origins)


def _shebang(flags: tuple[str, ...]) -> str:
    return "#!lua" + (f" flags={','.join(flags)}" if flags else "")


def _instead_of_shebang(flags: tuple[str, ...]) -> str:
    """The first line of a script for servers before Redis 7.

    A full server refuses the first write of a script if that write needs memory, and no later write. So `allow-oom`
    becomes a first write that needs no memory, on a key that never exists. Without the flag the first write needs
    memory and writes nothing. A server that replicates the calls of scripts, not their writes, refuses writes after
    the time was read, so it is told to replicate the writes.
    """
    if "no-writes" in flags:
        return ""
    name = f"KEYS[1] .. '{NEVER_THERE}'"
    write = f"'UNLINK', {name}" if "allow-oom" in flags else f"'SETRANGE', {name}, 0, ''"
    return f"if redis.replicate_commands then redis.replicate_commands() end redis.call({write})"


@dataclass(frozen=True)
class Library:
    """All scripts as one function library, for servers that have functions (Redis 7 and later, Valkey).

    Its text is made when it is asked for first: most clients find the library on the server and need only its names.

    Attributes:
        name: of the library; contains a hash of the files that its source is made from and by, so that clients of
            different releases do not disturb each other.
        functions: the name of each script's function, for FCALL.
    """

    name: str
    functions: Mapping[str, str]

    @cached_property
    def source(self) -> bytes:
        """The argument of FUNCTION LOAD.

        Raises:
            ScriptError: as `load`; or a name is declared inside a function and at the top level of a script.
        """
        body = "".join(f"{line.text}\n" for line in self._lines)
        return f"#!lua name={self.name}\n{body}".replace(_LIBRARY, self.name).encode()

    def origin(self, line: int) -> str:
        """The file and line of line `line` (counted from 1, as in the server's error messages): `claim.lua:12`."""
        made = self._lines[line - 2] if 2 <= line <= len(self._lines) + 1 else None
        return f"{made.file}:{made.number}" if made and made.file else "the function library"

    @cached_property
    def _lines(self) -> list[SourceLine]:
        """The lines after the first."""
        includes: dict[str, LuaFile] = {}
        functions: list[LuaFile] = []
        for name in self.functions:
            flags, assembled = _assembled(name)
            files: dict[str, list[SourceLine]] = {}
            for line in assembled:
                files.setdefault(line.file, []).append(line)
            own = tuple(files.pop(f"{name}.lua"))
            for file, lines in files.items():
                if file not in includes:
                    includes[file] = LuaFile(tuple(lines), _needs(file))
            functions.append(LuaFile(own, tuple(files), f"{_LIBRARY}_{name}", flags))
        try:
            return as_library(includes, functions)
        except NameClash as error:
            raise ScriptError(str(error)) from error


@cache
def library() -> Library:
    """The function library of all scripts.

    Raises:
        ScriptError: no folder of scripts exists.
    """
    directory = lua_directory()
    made_from = sorted(directory.rglob("*.lua"))
    made_by = [Path(__file__), Path(function_library.__file__)]
    digest = hashlib.sha1()
    for path in [*made_from, *made_by]:
        text = path.read_bytes()
        digest.update(f"{path.name} {len(text)}\n".encode())
        digest.update(text)
    # The names of the functions contain the hash too, so that releases on one server never replace each other's.
    name = f"broker_{digest.hexdigest()[:12]}"
    return Library(name, MappingProxyType({script: f"{name}_{script}" for script in names()}))


def is_library_name(name: str) -> bool:
    """Whether a function library's name is the broker's, of any release."""
    return _LIBRARY_NAME.match(name) is not None


def _assembled(name: str) -> tuple[tuple[str, ...], list[SourceLine]]:
    """The flags of a script, and its lines with those of its includes."""
    directory = lua_directory()
    path = directory / f"{name}.lua"
    if not path.is_file():
        raise ScriptError(f"no script {name!r} in {directory}; there are: {', '.join(names()) or 'none'}")
    flags = _flags(path)
    lines: list[SourceLine] = []
    _collect(directory, path.name, [], set(), lines)
    return flags, lines


def _needs(file: str) -> tuple[str, ...]:
    """The files that a file includes, also indirectly."""
    lines: list[SourceLine] = []
    _collect(lua_directory(), file, [], set(), lines)
    return tuple(dict.fromkeys(line.file for line in lines if line.file != file))


def _flags(path: Path) -> tuple[str, ...]:
    """The flags that the header of a script names."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if match := _FLAGS.match(line):
            flags = tuple(word for word in re.split(r"[\s,]+", match[1]) if word)
            if flags == ("none",):
                return ()
            unknown = [flag for flag in flags if flag not in _KNOWN_FLAGS]
            if unknown or not flags:
                raise ScriptError(f"{path}:{number}: unknown flags {match[1]!r}; write 'none' for no flags")
            return flags
        if line.strip() and not line.startswith("--"):
            break
    raise ScriptError(f"{path}:1: the header comment has no line '-- Flags: ...' (allow-oom, no-writes or none)")


def _collect(directory: Path, file: str, parents: list[str], seen: set[str], out: list[SourceLine]) -> None:
    """Appends the lines of a file, a path below the directory, to `out`, with the lines of its includes in place."""
    seen.add(file)
    for lines, name, number in _parts(directory, file):
        out += lines
        if not name:
            break
        target = f"include/{name}.lua"
        if target == file or target in parents:
            circle = " -> ".join(Path(each).stem for each in [*parents, file, target])
            raise ScriptError(f"{directory / file}:{number}: include goes in circles: {circle}")
        if target not in seen:
            if not (directory / target).is_file():
                raise ScriptError(
                    f"{directory / file}:{number}: unknown include {name!r}: there is no {directory / target}"
                )
            _collect(directory, target, [*parents, file], seen, out)


@cache
def _parts(directory: Path, file: str) -> list[tuple[list[SourceLine], str, int]]:
    """The lines of a file before each include, with its name and line number; last, those after all includes."""
    parts: list[tuple[list[SourceLine], str, int]] = []
    lines: list[SourceLine] = []
    for number, line in enumerate((directory / file).read_text(encoding="utf-8").splitlines(), 1):
        if match := _INCLUDE.match(line):
            parts.append((lines, match[1], number))
            lines = []
        elif line.strip() and not _is_comment(line):
            lines.append(SourceLine(line.rstrip(), file, number))
    return [*parts, (lines, "", 0)]


def _is_comment(line: str) -> bool:
    """Whether a line holds only a one-line comment. A comment of `--[[` may be longer, and is left to Lua."""
    text = line.lstrip()
    return text.startswith("--") and not text.startswith("--[")
