"""Scripts as functions of a library."""

from __future__ import annotations

import re

import pytest

from broker.protocol import scripts
from broker.protocol.function_library import LuaFile, NameClash, SourceLine, as_library

INCLUDE = """local SIZE = #KEYS[1]
local seen = {}
local later
local function twice(n)
  local answer = { seen = n, [1] = 'seen -- not a name' }
  answer.seen = answer.seen * SIZE
  return answer.seen
end
later = function(n) return twice(n) end
"""
SCRIPT = """local LIMIT = 9
local count = 0
local function bounded(n) return n < LIMIT end
return bounded(1) and later(tonumber(ARGV[1])) + count
"""


def source(text: str, file: str = "f.lua", **more: object) -> LuaFile:
    lines = tuple(SourceLine(line, file, number) for number, line in enumerate(text.splitlines(), 1))
    return LuaFile(lines, **more)  # type: ignore[arg-type]


def library(include: str = INCLUDE, script: str = SCRIPT) -> list[SourceLine]:
    script_source = source(script, needs=("a",), function="f", flags=("no-writes",))
    return as_library({"a": source(include, "a.lua")}, [script_source])


def text_of(lines: list[SourceLine]) -> str:
    return "\n".join(line.text for line in lines)


def test_each_line_says_where_it_was_written():
    origins = {line.text: (line.file, line.number) for line in library() if line.file}
    assert origins["  answer.seen = answer.seen * I.SIZE"] == ("a.lua", 6)
    assert origins["local function bounded(n) return n < LIMIT end"] == ("f.lua", 3)


def test_functions_are_made_once_constants_for_each_run_and_variables_at_each_call():
    # Given an include with functions, a constant, a variable and a function that is announced first, for four scripts
    others = [source("return twice(1)\n", needs=("a",), function=name) for name in "ghi"]
    own = source(SCRIPT, needs=("a",), function="f", flags=("no-writes",))
    made, rest = text_of(as_library({"a": source(INCLUDE)}, [own, *others])).split("local function begin(keys, args)")
    begin, script, *_ = rest.split("do local OWN_LAST")
    own_functions, called = script.split("callback = function(keys, args)")
    # Then functions stand outside of what is called, where variables are declared
    assert "local seen\nlocal later\nlocal function twice(n)" in made
    assert "later = function(n)" in made
    assert "local LIMIT\nlocal count\nlocal function bounded(n)" in own_functions
    # And a statement with a constant is done where the run is another one, the others always
    assert (
        begin
        == "\nKEYS, ARGV = keys, args\nif LAST ~= keys[1] then\nI.SIZE = #KEYS[1]\nLAST = keys[1]\nend\nseen = {}\nend\n"
    )
    assert "begin(keys, args)\nif OWN_LAST ~= keys[1] then\nLIMIT = 9\nOWN_LAST = keys[1]\nend\ncount = 0" in called
    assert "return bounded(1) and later(tonumber(ARGV[1])) + count" in called
    assert "flags = { 'no-writes' }" in own_functions


def test_what_one_script_alone_needs_stands_with_it():
    # When an include is needed by one script only
    shared, own = text_of(library()).split("do local OWN_LAST\n")
    # Then it is set at that script's calls, its constants in the table all the same
    assert "twice" not in shared
    assert "local function twice(n)" in own
    assert "begin(keys, args)\nif OWN_LAST ~= keys[1] then\nI.SIZE = #KEYS[1]\nLIMIT = 9" in own
    assert "\nseen = {}\ncount = 0\nreturn" in own


def test_fields_keys_and_strings_are_left_alone():
    text = text_of(library())
    assert "{ seen = n, [1] = 'seen -- not a name' }" in text
    assert "answer.seen = answer.seen * I.SIZE" in text


def test_a_script_may_have_a_name_of_an_include_that_it_does_not_need():
    includes = {"a": source(INCLUDE, "a.lua"), "b": source("local function other() return 1 end\n", "b.lua")}
    script = source("local function twice() return other() end\nreturn twice()\n", needs=("b",), function="f")
    assert "local function twice() return other() end" in text_of(as_library(includes, [script]))


@pytest.mark.parametrize(
    "inner",
    ["local SIZE = 1", "local a, SIZE = 1, 2", "for _, SIZE in pairs({}) do end", "local g = function(SIZE) end"],
)
def test_a_nested_name_that_hides_a_top_level_one_is_refused(inner: str):
    with pytest.raises(NameClash, match="SIZE"):
        library(script=f"local function f()\n  {inner}\nend\nreturn f()\n")


@pytest.mark.parametrize("text", ["local LAST = 1\nreturn LAST\n", "local function begin() end\nreturn begin()\n"])
def test_names_of_the_library_are_refused(text: str):
    with pytest.raises(NameClash, match="library's"):
        library(script=text)


def test_two_includes_with_the_same_name_are_refused():
    with pytest.raises(NameClash, match="twice"):
        as_library({"a": source(INCLUDE), "b": source("local function twice() end\n")}, [])


def test_every_script_is_in_the_library_by_name():
    made = scripts.library()
    for name in scripts.names():
        assert f"function_name = '{made.functions[name]}'".encode() in made.source


def test_each_include_is_in_the_library_once():
    assert scripts.library().source.count(b"function load_state(") == 1


def test_there_is_room_for_more_local_names():
    """Lua allows 200 local names at a time, and refuses a library with more."""
    shared, *scripts_own = scripts.library().source.decode().split("do local OWN_LAST")
    declared = re.compile(r"^(?:do )?local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)

    def count(part: str) -> int:
        return sum(len(names.split(", ")) for names in declared.findall(part))

    before = [own.split("redis.register_function", 1)[0] for own in scripts_own]
    assert count(shared) + max(1 + count(own) for own in before) <= 190


def test_a_script_may_not_declare_a_name_of_its_includes_again():
    """Set at each call, the include's variable would be the script's, and its own never set."""
    include = source("local seen = 0\nlocal function see() return seen end\n", "a.lua")
    script = source("local seen = 'mine'\nreturn see() .. seen\n", needs=("a",), function="f")
    with pytest.raises(NameClash, match="seen"):
        as_library({"a": include}, [script])


def test_each_script_alone_has_room_for_its_local_names():
    """A server without functions gets the plain scripts, whose constants are local names, too."""
    declared = re.compile(rb"^local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)
    for name in scripts.names():
        source = scripts.load(name, shebang=False).source
        assert sum(len(names.split(b", ")) for names in declared.findall(source)) <= 198, name
