"""The table of the commands that each script calls is what the Lua files say."""

import re
from pathlib import Path

import pytest

from broker.protocol import rights, scripts

#: The beginning of a function of a Lua file. Its end is in the same line, or alone at the left margin.
_BEGINS = re.compile(r"(?:local )?(?:function ([\w.]+)\(|([\w.]+) = function\()")
#: The commands in a piece of Lua: in a call, or as arguments of the functions that make calls for others.
_COMMANDS = re.compile(r"(?:call|call_in_pieces)\('([A-Z]+)'|_writes, '([A-Z]+)', '([A-Z]+)'")
#: Commands that a script which only reads cannot reach, though it includes functions that call them.
_WRITE = frozenset(
    ["HDEL", "HINCRBY", "HSET", "INCR", "MSET", "PERSIST", "PEXPIRE", "SADD", "SREM", "UNLINK", "XADD", "ZADD", "ZREM"]
)
_PLAIN = {"submit": {"SET"}}
LUA = scripts.lua_directory()


def functions_of(source: str) -> tuple[str, dict[str, str]]:
    """What a script does at once, and its functions by name."""
    at_once: list[str] = []
    functions: dict[str, str] = {}
    name, body = "", list[str]()
    for line in source.splitlines():
        if not name:
            begins = _BEGINS.match(line)
            name, body = ((begins[1] or begins[2]), [line]) if begins else ("", [])
            if not begins:
                at_once.append(line)
            elif line.endswith(" end"):
                functions[name], name = functions.get(name, "") + line, ""
        else:
            body.append(line)
            if line == "end":
                functions[name], name = functions.get(name, "") + "\n".join(body), ""
    assert not name, f"{name} does not end"
    return "\n".join(at_once), functions


def called_by(script: str) -> set[str]:
    """The commands that a script can reach: those in functions that it names, and in functions that these name."""
    loaded = scripts.load(script, shebang=True)
    left, functions = functions_of(loaded.source.decode())
    called, todo = set[str](), [left]
    while todo:
        text = todo.pop()
        called |= {word for words in _COMMANDS.findall(text) for word in words if word}
        todo += [functions.pop(name) for name in set(re.findall(r"[A-Za-z_][\w.]*", text)) & functions.keys()]
    return called - _WRITE if "no-writes" in loaded.flags else called


@pytest.mark.parametrize("script", scripts.names())
def test_the_table_has_the_commands_of_a_script(script: str):
    expected = called_by(script) | _PLAIN.get(script, set())
    assert set(rights.commands(script)) == expected, "mend the table in broker/protocol/rights.py"
    assert rights.writes(script) == ("no-writes" not in scripts.load(script, shebang=True).flags)


@pytest.mark.parametrize("path", sorted(LUA.rglob("*.lua")), ids=lambda path: path.stem)
def test_every_call_in_lua_names_its_command(path: Path):
    """Else the test above would not see the command."""
    code = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
    unnamed = re.findall(r"redis\.p?call\((?!'[A-Z]+')[^,)]*", code)
    assert unnamed == (["redis.call(command"] * 2 if path.stem == "frame" else [])
    by_others = re.findall(r"\bcall_in_pieces\((?!'[A-Z]+')[^,)]*", code)
    expected = {"frame": ["call_in_pieces(command"], "writes": ["call_in_pieces(remove", "call_in_pieces(add"]}
    assert by_others == expected.get(path.stem, [])
    assert len(re.findall(r"\bwrite_logs\(", code)) == len(
        re.findall(r"_writes, '[A-Z]+', '[A-Z]+'|write_logs\(writes", code)
    )


def test_a_client_asks_about_known_scripts():
    for first, others in rights.ENTRIES.items():
        assert others[0] == first
        assert all(rights.writes(script) for script in others)
        assert len(rights.needed(others)) <= 100, "lua/rights.lua looks at no more"
