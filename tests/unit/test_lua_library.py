"""Scripts as functions of a library."""

from __future__ import annotations

import pytest

from broker import scripts
from broker.lua_library import Line, NameClash, Source, as_library

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


def source(text: str, file: str = "f.lua", **more: object) -> Source:
    lines = tuple((line, (file, number)) for number, line in enumerate(text.splitlines(), 1))
    return Source(lines, **more)  # type: ignore[arg-type]


def library(include: str = INCLUDE, script: str = SCRIPT) -> list[Line]:
    script_source = source(script, needs=("a",), function="f", flags=("no-writes",))
    return as_library({"a": source(include, "a.lua")}, [script_source])


def text_of(lines: list[Line]) -> str:
    return "\n".join(line for line, _ in lines)


def test_each_line_says_where_it_was_written():
    origins = {line: origin for line, origin in library() if origin}
    assert origins["  answer.seen = answer.seen * I.SIZE"] == ("a.lua", 6)
    assert origins["function M.bounded(n) return n < M.LIMIT end"] == ("f.lua", 3)


def test_functions_are_made_once_constants_for_each_run_and_variables_at_each_call():
    # Given an include and a script with functions, constants, variables and a function that is announced first
    made, rest = text_of(library()).split("function I.begin(keys, args)")
    begin, script = rest.split("do local M = {}")
    own, called = script.split("callback = function(keys, args)")
    # Then functions stand outside of what is called
    assert "function I.twice(n)" in made
    assert "I.later = function(n)" in made
    assert "function M.bounded(n)" in own
    # And a statement with a constant is done where the run is another one, the others always
    assert "if I.LAST ~= keys[1] then\nI.SIZE = #I.KEYS[1]\nI.LAST = keys[1]\nend\nI.seen = {}" in begin
    assert "I.begin(keys, args)\nif M.LAST ~= keys[1] then\nM.LIMIT = 9\nM.LAST = keys[1]\nend\nM.count = 0" in called
    assert "return M.bounded(1) and I.later(tonumber(I.ARGV[1])) + M.count" in called
    assert "flags = { 'no-writes' }" in own


def test_variables_are_set_at_each_call():
    begin = text_of(library("local seen, n = {}, 0\n", "return n\n")).split("function I.begin(keys, args)")[1]
    assert "I.KEYS, I.ARGV = keys, args\nI.seen, I.n = {}, 0\nend" in begin


def test_fields_keys_and_strings_are_left_alone():
    text = text_of(library())
    assert "{ seen = n, [1] = 'seen -- not a name' }" in text
    assert "answer.seen = answer.seen * I.SIZE" in text


def test_a_script_may_have_a_name_of_an_include_that_it_does_not_need():
    includes = {"a": source(INCLUDE, "a.lua"), "b": source("local function other() return 1 end\n", "b.lua")}
    script = source("local function twice() return other() end\nreturn twice()\n", needs=("b",), function="f")
    assert "function M.twice() return I.other() end" in text_of(as_library(includes, [script]))


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
        assert f"function_name = '{made.function(name)}'".encode() in made.source


def test_each_include_is_in_the_library_once():
    assert scripts.library().source.count(b"function I.load_state(") == 1
