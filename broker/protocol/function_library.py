"""Makes one function library of all Lua scripts. Its Lua functions are made once, and called often.

A script is one chunk that runs anew with every call. Each call makes all its functions again, which costs several
times the work of a small call itself (see docs/performance.md). In a function library they are made once, when the
library is loaded. Each include is declared once; an include that few scripts need is declared with each of these.
A call sets only the top-level variables. Names in capitals are constants of a run (the names of its keys): they are
set again only when the call before was for another run. The constants of includes are fields of a table, as Lua
allows 200 local names; so are the functions of an include with a table for them, whose name is a capitalised word.
The Lua files themselves stay plain scripts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

_TOKEN = re.compile(
    r"""--\[\[.*?\]\]|--[^\n]*|\[\[.*?\]\]|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
    r"""|[A-Za-z_]\w*|\d[\w.]*|[=~<>]=|\.\.\.|\.\.|\S""",
    re.DOTALL,
)
_FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
_ASSIGNED_FUNCTION = re.compile(r"(?:[A-Z][a-z]\w*\.)?\w+ = function\(")
#: A table of functions, which are made once with it. Its other fields are set at each call.
_TABLE_OF_FUNCTIONS = re.compile(r"local [A-Z][a-z]\w* = \{\}\s*$")
_VARIABLES = re.compile(r"^local ((?:I\.)?\w+(?:, (?:I\.)?\w+)*)( *=| *(?:--.*)?$)", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*\Z")
_CONSTANT = re.compile(r"[A-Z][A-Z_]*\Z")
#: A constant in a statement: a name, or a field of a table of functions.
_CONSTANT_NAME = r"(?:[A-Z][a-z]\w*\.|I\.)?[A-Z][A-Z_]*\b"
#: A statement that sets constants of a run.
_CONSTANTS = re.compile(rf"{_CONSTANT_NAME}(?:, {_CONSTANT_NAME})* *=")
#: The table of the includes' constants.
_TABLE = "I"
#: Globals of a script, and arguments of a library's function.
_ARGUMENTS = ("KEYS", "ARGV")
#: An include that at most this many scripts need is declared with each of these scripts. Lua allows 200 local names,
#: and with the names of all includes only three would be left for the largest script.
_FEW = 3
#: Names of the library: the table, the runs that constants were set for, and the function that begins a call.
_LAST, _OWN_LAST = "LAST", "OWN_LAST"
_RESERVED = frozenset({_TABLE, _LAST, _OWN_LAST, "begin"})


class SourceLine(NamedTuple):
    """A line of Lua, and where it was written.

    Args:
        text: the line.
        file: path below `lua/`; empty for a line that no file has.
        number: of the line in its file, from 1; 0 where no file has it.
    """

    text: str
    file: str = ""
    number: int = 0


class NameClash(Exception):
    """A nested declaration has the name of a constant, two includes declare one name, or a name is the library's."""


@dataclass(frozen=True, slots=True)
class LuaFile:
    """A Lua file without comments and includes: top-level functions and variables, and in a script one `return`.

    Args:
        lines: its lines.
        needs: the includes whose names it may use, also indirectly.
        function: the name of a script's function; empty for an include.
        flags: of a script, as on the shebang line.
    """

    lines: tuple[SourceLine, ...]
    needs: tuple[str, ...] = ()
    function: str = ""
    flags: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(line.text for line in self.lines) + "\n"

    def names(self) -> list[str]:
        """The top-level names that the file declares."""
        declared = _FUNCTION.findall(self.text)
        for names, _ in _VARIABLES.findall(self.text):
            declared += names.split(", ")
        return declared


@dataclass(slots=True)
class _Split:
    """The parts of a file: declared once, set for each run, executed at each call."""

    declared: list[SourceLine]
    constants: list[SourceLine]
    statements: list[SourceLine]


def as_library(includes: Mapping[str, LuaFile], scripts: Sequence[LuaFile]) -> list[SourceLine]:
    """A library that registers each script as a function.

    Args:
        includes: by name, each after those that it needs.
        scripts: all includes that they need are given.

    Raises:
        NameClash: a parameter or nested local has the name of a constant, two includes declare the same name, a script
            declares one of its includes' again, or a name is taken by the library.
    """
    declared = {name: include.names() for name, include in includes.items()}
    names = [*_ARGUMENTS, *chain.from_iterable(declared.values())]
    if twice := sorted(name for name, n in Counter(names).items() if n > 1):
        raise NameClash(f"{', '.join(twice)}: declared by two includes")
    if taken := sorted(_RESERVED.intersection(names + [name for script in scripts for name in script.names()])):
        raise NameClash(f"the name {taken[0]} is the library's")
    for script in scripts:
        if again := sorted(
            set(chain.from_iterable(declared[need] for need in script.needs)).intersection(script.names())
        ):
            raise NameClash(f"{script.function} declares {again[0]!r} again, which an include of it declares")
    uses = Counter(name for script in scripts for name in script.needs)
    in_table = {name for name in names if _CONSTANT.match(name)}.difference(_ARGUMENTS)
    shared = [_split(include, in_table) for name, include in includes.items() if uses[name] > _FEW]
    library: list[SourceLine] = [SourceLine(f"do local {_TABLE}, {_LAST}, {', '.join(_ARGUMENTS)} = {{}}")]
    for part in shared:
        library += part.declared
    library += [
        SourceLine("local function begin(keys, args)"),
        SourceLine("KEYS, ARGV = keys, args"),
        *_once_a_run(_LAST, [line for part in shared for line in part.constants]),
        *(line for part in shared for line in part.statements),
        SourceLine("end"),
    ]
    for script in scripts:
        hidden = set(script.names())
        parts = [_split(includes[name], in_table) for name in script.needs if uses[name] <= _FEW]
        parts.append(_split(script, in_table - hidden))
        quoted = ", ".join(f"'{flag}'" for flag in script.flags)
        library += [
            SourceLine(f"do local {_OWN_LAST}"),
            *(line for part in parts for line in part.declared),
            SourceLine(f"redis.register_function{{ function_name = '{script.function}', flags = {{ {quoted} }},"),
            SourceLine("callback = function(keys, args)"),
            SourceLine("begin(keys, args)"),
            *_once_a_run(_OWN_LAST, [line for part in parts for line in part.constants]),
            *(line for part in parts for line in part.statements),
            SourceLine("end } end"),
        ]
    return [*library, SourceLine("end")]


def _once_a_run(last: str, constants: list[SourceLine]) -> list[SourceLine]:
    if not constants:
        return []
    return [SourceLine(f"if {last} ~= keys[1] then"), *constants, SourceLine(f"{last} = keys[1]"), SourceLine("end")]


def _split(source: LuaFile, in_table: Collection[str]) -> _Split:
    """Splits a file into its parts; names of `in_table` become fields of the table."""
    text = _prefixed(source.text, in_table)
    parts = _Split([], [], [])
    for part in _top_level(text):
        lines = [source.lines[number - 1]._replace(text=line) for line, number in part if line]
        first = lines[0].text
        names = _VARIABLES.match(first)
        if _FUNCTION.match(first) or _ASSIGNED_FUNCTION.match(first) or _TABLE_OF_FUNCTIONS.match(first):
            parts.declared += lines
        elif names is None:
            into = parts.constants if _CONSTANTS.match(first) else parts.statements
            into += lines
        else:
            if not names[1].startswith(f"{_TABLE}."):
                parts.declared.append(lines[0]._replace(text=f"local {names[1]}"))
            # Without a value it declares a function that is assigned later, once: a call must not clear it.
            if "=" in names[2]:
                lines[0] = lines[0]._replace(text=names[1] + names[2] + first[names.end() :])
                into = parts.constants if _CONSTANTS.match(lines[0].text) else parts.statements
                into += lines
    return parts


def _top_level(source: str) -> list[list[tuple[str, int]]]:
    """The top-level statements. Each begins in the first column; its inner lines and its `end` begin no other."""
    parts: list[list[tuple[str, int]]] = []
    for number, line in enumerate(source.splitlines(), 1):
        goes_on = not line or line[0] in " )}" or line.startswith("end")
        if goes_on and parts:
            parts[-1].append((line, number))
        else:
            parts.append([(line, number)])
    return parts


def _prefixed(source: str, in_table: Collection[str]) -> str:
    tokens = list(_TOKEN.finditer(source))
    texts = [match[0] for match in tokens]
    out: list[str] = []
    brackets: list[str] = []
    at = 0
    for i, match in enumerate(tokens):
        text = texts[i]
        before, after = texts[i - 1] if i else "", texts[i + 1] if i + 1 < len(texts) else ""
        if text in {"{", "(", "["}:
            brackets.append(text)
        elif text in {"}", ")", "]"} and brackets:
            brackets.pop()
        elif text in {"local", "for", "function"}:
            if match.start() and source[match.start() - 1] != "\n":
                _refuse_clash(texts, i, in_table)
        elif text in in_table and before not in {".", ":"}:
            is_key = after == "=" and before in {"{", ",", ";"} and bool(brackets) and brackets[-1] == "{"
            if not is_key:
                out.append(source[at : match.start()] + f"{_TABLE}.")
                at = match.start()
    out.append(source[at:])
    return "".join(out)


def _refuse_clash(texts: list[str], i: int, in_table: Container[str]) -> None:
    """Checks that the names which a nested `local`, `for` or `function` at position i declares are new."""
    position = i + 1
    if texts[i] == "local" and texts[position] == "function":
        position += 1
    if texts[i] == "function":
        while texts[position] != "(":
            position += 1
        position += 1
    while _WORD.match(texts[position]):
        if texts[position] in in_table or texts[position] == _TABLE:
            raise NameClash(f"{texts[position]!r} is declared inside a function and at the top level; rename one")
        if texts[position + 1] != ",":
            break
        position += 2
