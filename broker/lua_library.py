"""Turns a Lua script into a function of a library, made once and called often.

A script is one chunk that runs anew with every call: all its functions are made again each time, which costs several
times what a small call does with its data (see docs/performance.md). In a function library they are made once, when the
library is loaded. For that the top-level names become fields of one table, so that variables can be set anew at the
beginning of each call while the functions stay. Names in capitals are constants of a run (the names of its keys): they
are set anew only when a call is for another run than the one before. The Lua files themselves stay plain scripts.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""--\[\[.*?\]\]|--[^\n]*|\[\[.*?\]\]|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
    r"""|[A-Za-z_]\w*|\d[\w.]*|[=~<>]=|\.\.\.|\.\.|\S""",
    re.DOTALL,
)
_FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
_VARIABLES = re.compile(r"^local (\w+(?:, \w+)*)( *=| *(?:--.*)?$)", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*\Z")
#: The table.
TABLE = "M"
#: A statement that gives constants of a run their values.
_CONSTANTS = re.compile(rf"{TABLE}\.[A-Z][A-Z_]*\b(?:, {TABLE}\.[A-Z][A-Z_]*\b)* *=")
#: What a script finds as globals, and a function of a library gets as arguments.
_ARGUMENTS = frozenset({"KEYS", "ARGV"})
#: The table, and in it the key that the constants were set for.
_RESERVED = frozenset({TABLE, "LAST"})


class NameClash(Exception):
    """A nested declaration has the name of a top-level one."""


def as_function(source: str, name: str, flags: tuple[str, ...]) -> list[tuple[str, int]]:
    """A block of a library that registers the script as a function.

    Args:
        source: a resolved script without a shebang line: top-level functions and variables, then one `return`.
        name: what the function is called by.
        flags: as on the shebang line.

    Returns:
        Its lines, each with the number of the source's line that it was made of, 0 for none.

    Raises:
        NameClash: a parameter or nested local has the name of a top-level one, or the name of the table is taken.
    """
    names = set(_FUNCTION.findall(source)) | _ARGUMENTS
    for declared, _ in _VARIABLES.findall(source):
        names.update(declared.split(", "))
    if not names.isdisjoint(_RESERVED):
        raise NameClash(f"the names {' and '.join(sorted(_RESERVED))} are the library's")
    source = _FUNCTION.sub(rf"function {TABLE}.\1", source)
    source = _VARIABLES.sub(_assignment, source)
    functions: list[tuple[str, int]] = []
    constants: list[tuple[str, int]] = []
    statements: list[tuple[str, int]] = []
    for part in _top_level(_prefixed(source, names)):
        first = part[0][0]
        (functions if _defines_function(first) else constants if _CONSTANTS.match(first) else statements).extend(part)
    quoted = ", ".join(f"'{flag}'" for flag in flags)
    return [
        (f"do local {TABLE} = {{}}", 0),
        *functions,
        (f"redis.register_function{{ function_name = '{name}', flags = {{ {quoted} }},", 0),
        ("callback = function(keys, args)", 0),
        (f"{TABLE}.KEYS, {TABLE}.ARGV = keys, args", 0),
        (f"if {TABLE}.LAST ~= keys[1] then", 0),
        *constants,
        (f"{TABLE}.LAST = keys[1]", 0),
        ("end", 0),
        *statements,
        ("end } end", 0),
    ]


def _assignment(match: re.Match[str]) -> str:
    # Without a value it announces a function that is assigned later: set once, it must not be cleared at each call.
    return match[1] + match[2] if "=" in match[2] else ""


def _defines_function(line: str) -> bool:
    # A function that is assigned to a variable declared before counts, too: it is made once.
    return line.startswith(f"function {TABLE}.") or re.match(rf"{TABLE}\.\w+ = function\(", line) is not None


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


def _prefixed(source: str, names: set[str]) -> str:
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
            _refuse_clash(texts, i, names)
        elif text in names and before not in {".", ":"}:
            is_key = after == "=" and before in {"{", ",", ";"} and bool(brackets) and brackets[-1] == "{"
            if not is_key:
                out.append(source[at : match.start()] + f"{TABLE}.")
                at = match.start()
    out.append(source[at:])
    return "".join(out)


def _refuse_clash(texts: list[str], i: int, names: set[str]) -> None:
    """The names that `local`, `for` or `function` at position i declares must be new."""
    position = i + 1
    if texts[i] == "local" and texts[position] == "function":
        position += 1
    if texts[i] == "function":
        while texts[position] != "(":
            position += 1
        position += 1
    while _WORD.match(texts[position]):
        if texts[position] in names or texts[position] == TABLE:
            raise NameClash(f"{texts[position]!r} is declared inside a function and at the top level; rename one")
        if texts[position + 1] != ",":
            break
        position += 2
