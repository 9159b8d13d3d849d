"""Makes one function library of all Lua scripts, whose functions are made once and called often.

A script is one chunk that runs anew with every call: all its functions are made again each time, which costs several
times what a small call does with its data (see docs/performance.md). In a function library they are made once, when the
library is loaded. For that top-level names become fields of a table, one for all includes and one for each script, so
that variables can be set anew at the beginning of each call while the functions stay. Names in capitals are constants
of a run (the names of its keys): they are set anew only when a call is for another run than the one before. The Lua
files themselves stay plain scripts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""--\[\[.*?\]\]|--[^\n]*|\[\[.*?\]\]|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
    r"""|[A-Za-z_]\w*|\d[\w.]*|[=~<>]=|\.\.\.|\.\.|\S""",
    re.DOTALL,
)
_FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
_VARIABLES = re.compile(r"^local (\w+(?:, \w+)*)( *=| *(?:--.*)?$)", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*\Z")
#: The table of the includes' names, and that of a script's own.
INCLUDES, OWN = "I", "M"
#: A statement that gives constants of a run their values.
_CONSTANTS = re.compile(r"[IM]\.[A-Z][A-Z_]*\b(?:, [IM]\.[A-Z][A-Z_]*\b)* *=")
#: What a script finds as globals, and a function of a library gets as arguments.
_ARGUMENTS = ("KEYS", "ARGV")
#: The tables; in them the key that the constants were set for; what begins a call.
_RESERVED = frozenset({INCLUDES, OWN, "LAST", "begin"})

#: A line and where it was written; None for a line of this module.
Origin = tuple[str, int]
Line = tuple[str, Origin | None]


class NameClash(Exception):
    """A nested declaration has the name of a top-level one, or two includes declare the same."""


@dataclass(frozen=True, slots=True)
class Source:
    """A Lua file without comments and includes: top-level functions and variables, in a script then one `return`.

    Args:
        lines: each with where it was written.
        needs: the includes that it may use names of, also those that they include.
        function: what the function of a script is called by; an include has none.
        flags: of a script, as on the shebang line.
    """

    lines: tuple[tuple[str, Origin], ...]
    needs: tuple[str, ...] = ()
    function: str = ""
    flags: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(line for line, _ in self.lines) + "\n"

    def names(self) -> list[str]:
        """The top-level names that it declares."""
        declared = _FUNCTION.findall(self.text)
        for names, _ in _VARIABLES.findall(self.text):
            declared += names.split(", ")
        return declared


@dataclass(slots=True)
class _Split:
    """The parts of a source: made once, set for each run, done at each call."""

    functions: list[Line]
    constants: list[Line]
    statements: list[Line]


def as_library(includes: Mapping[str, Source], scripts: Sequence[Source]) -> list[Line]:
    """A library that registers each script as a function.

    Args:
        includes: by name, each after those that it needs.
        scripts: every include that they need is there.

    Raises:
        NameClash: a parameter or nested local has the name of a top-level one, two includes declare the same name, or
            a name is taken by the library.
    """
    names = {name: include.names() for name, include in includes.items()}
    everywhere = [*_ARGUMENTS, *(name for declared in names.values() for name in declared)]
    if twice := sorted(name for name, n in Counter(everywhere).items() if n > 1):
        raise NameClash(f"{', '.join(twice)}: declared by two includes")

    def split(source: Source, own: Sequence[str], table: str) -> _Split:
        tables = dict.fromkeys((*_ARGUMENTS, *(name for need in source.needs for name in names[need])), INCLUDES)
        tables |= dict.fromkeys(own, table)
        if taken := sorted(_RESERVED.intersection(tables)):
            raise NameClash(f"the name {taken[0]} is the library's")
        return _split(source, tables)

    shared = [split(include, names[name], INCLUDES) for name, include in includes.items()]
    library: list[Line] = [(f"do local {INCLUDES} = {{}}", None)]
    for part in shared:
        library += part.functions
    library += [
        (f"function {INCLUDES}.begin(keys, args)", None),
        (f"{INCLUDES}.KEYS, {INCLUDES}.ARGV = keys, args", None),
        *_once_a_run(INCLUDES, [line for part in shared for line in part.constants]),
        *(line for part in shared for line in part.statements),
        ("end", None),
    ]
    for script in scripts:
        part = split(script, script.names(), OWN)
        quoted = ", ".join(f"'{flag}'" for flag in script.flags)
        library += [
            (f"do local {OWN} = {{}}", None),
            *part.functions,
            (f"redis.register_function{{ function_name = '{script.function}', flags = {{ {quoted} }},", None),
            ("callback = function(keys, args)", None),
            (f"{INCLUDES}.begin(keys, args)", None),
            *_once_a_run(OWN, part.constants),
            *part.statements,
            ("end } end", None),
        ]
    return [*library, ("end", None)]


def _once_a_run(table: str, constants: list[Line]) -> list[Line]:
    if not constants:
        return []
    return [
        (f"if {table}.LAST ~= keys[1] then", None),
        *constants,
        (f"{table}.LAST = keys[1]", None),
        ("end", None),
    ]


def _split(source: Source, tables: Mapping[str, str]) -> _Split:
    """Rewrites a source, in which each name of `tables` becomes a field of its table."""
    text = _FUNCTION.sub(lambda match: f"function {tables[match[1]]}.{match[1]}", source.text)
    text = _prefixed(_VARIABLES.sub(_assignment, text), tables)
    parts = _Split([], [], [])
    for part in _top_level(text):
        first = part[0][0]
        into = parts.functions if _defines_function(first) else parts.statements
        if _CONSTANTS.match(first):
            into = parts.constants
        into += [(line, source.lines[number - 1][1]) for line, number in part if line]
    return parts


def _assignment(match: re.Match[str]) -> str:
    # Without a value it announces a function that is assigned later: set once, it must not be cleared at each call.
    return match[1] + match[2] if "=" in match[2] else ""


def _defines_function(line: str) -> bool:
    # A function that is assigned to a variable declared before counts, too: it is made once.
    return re.match(r"function [IM]\.|[IM]\.\w+ = function\(", line) is not None


def _top_level(source: str) -> list[list[tuple[str, int]]]:
    """The top-level statements: each begins in the first column, its inner lines and its last one do not begin one."""
    parts: list[list[tuple[str, int]]] = []
    for number, line in enumerate(source.splitlines(), 1):
        goes_on = not line or line[0] in " )}" or line.startswith("end")
        if goes_on and parts:
            parts[-1].append((line, number))
        else:
            parts.append([(line, number)])
    return parts


def _prefixed(source: str, tables: Mapping[str, str]) -> str:
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
            _refuse_clash(texts, i, tables)
        elif text in tables and before not in {".", ":"}:
            is_key = after == "=" and before in {"{", ",", ";"} and bool(brackets) and brackets[-1] == "{"
            if not is_key:
                out.append(source[at : match.start()] + f"{tables[text]}.")
                at = match.start()
    out.append(source[at:])
    return "".join(out)


def _refuse_clash(texts: list[str], i: int, names: Container[str]) -> None:
    """The names that `local`, `for` or `function` at position i declares must be new."""
    position = i + 1
    if texts[i] == "local" and texts[position] == "function":
        position += 1
    if texts[i] == "function":
        while texts[position] != "(":
            position += 1
        position += 1
    while _WORD.match(texts[position]):
        if texts[position] in names or texts[position] in {INCLUDES, OWN}:
            raise NameClash(f"{texts[position]!r} is declared inside a function and at the top level; rename one")
        if texts[position + 1] != ",":
            break
        position += 2
