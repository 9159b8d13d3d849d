"""Scripts as functions of a library."""

from __future__ import annotations

import pytest

from broker import scripts
from broker.lua_library import NameClash, as_function

SCRIPT = """local SIZE, seen = 2, {}
local later
local function twice(n)
  local answer = { seen = n, [1] = 'seen -- not a name' }
  answer.seen = answer.seen * SIZE
  return answer.seen
end
later = function(n) return twice(n) end
return later(tonumber(ARGV[1]))
"""


def _text(source: str, *flags: str) -> str:
    return "\n".join(line for line, _ in as_function(source, "f", flags))


def test_each_line_says_where_it_was_written():
    for text, number in as_function(SCRIPT, "f", ()):
        if "answer.seen *" in text:
            assert SCRIPT.splitlines()[number - 1] == "  answer.seen = answer.seen * SIZE"


def test_functions_are_made_once_and_variables_at_each_call():
    # Given a script with functions, variables and a function that is announced first
    made, called = _text(SCRIPT, "no-writes").split("callback = function(keys, args)")
    # Then the functions stand outside the callback and the variables inside
    assert "function M.twice(n)" in made
    assert "M.later = function(n)" in made
    assert "M.SIZE, M.seen = 2, {}" in called
    assert "return M.later(tonumber(M.ARGV[1]))" in called
    assert "flags = { 'no-writes' }" in made


def test_fields_keys_and_strings_are_left_alone():
    text = _text(SCRIPT)
    assert "{ seen = n, [1] = 'seen -- not a name' }" in text
    assert "answer.seen = answer.seen * M.SIZE" in text


@pytest.mark.parametrize(
    "inner",
    ["local SIZE = 1", "local a, SIZE = 1, 2", "for _, SIZE in pairs({}) do end", "local g = function(SIZE) end"],
)
def test_a_nested_name_that_hides_a_top_level_one_is_refused(inner: str):
    with pytest.raises(NameClash, match="SIZE"):
        as_function(f"local SIZE = 2\nlocal function f()\n  {inner}\nend\nreturn f()\n", "f", ())


def test_every_script_is_in_the_library_by_name():
    library = scripts.library()
    for name in scripts.names():
        assert f"function_name = '{library.function(name)}'".encode() in library.source
