import fnmatch

import pytest

from broker.protocol import keys
from broker.protocol.scripts import lua_directory

NAMES = ["a", "math-7b", "math-7b/eval", "a.b_c:d@e+f", "x" * 200]


@pytest.mark.parametrize("run", NAMES)
def test_all_keys_of_a_run_share_one_hash_tag(run: str):
    for name in ("state", "tasks", "session:w~1.abc", "result:t#0.1.ff", "batch:7"):
        key = keys.key(run, name)
        assert key == f"rb1:{{{run}}}:{name}"
        assert key[key.index("{") + 1 : key.index("}")] == run
    assert keys.state(run) == keys.key(run, "state")
    assert keys.result(run, "t#0.1.ff") == keys.key(run, "result:t#0.1.ff")


@pytest.mark.parametrize("run", NAMES)
def test_the_run_of_a_state_key(run: str):
    assert keys.run_of(keys.state(run)) == run


@pytest.mark.parametrize(
    "key",
    ["", "rb1:{a}:tasks", "rb2:{a}:state", "rb1:{}:state", "rb1:{a}b}:state", "xrb1:{a}:state", "rb1:{a}:state:x"],
)
def test_what_is_no_state_key_names_no_run(key: str):
    assert keys.run_of(key) is None


def test_the_pattern_of_a_run_matches_its_keys_only():
    pattern = keys.pattern_of_run("a")
    assert fnmatch.fnmatchcase(keys.key("a", "tasks"), pattern)
    assert not fnmatch.fnmatchcase(keys.key("ab", "tasks"), pattern)
    assert not fnmatch.fnmatchcase(keys.key("b", "a}:tasks"), pattern)
    assert fnmatch.fnmatchcase(keys.state("a"), keys.pattern_of_runs())
    assert not fnmatch.fnmatchcase(keys.key("a", "tasks"), keys.pattern_of_runs())


def test_signs_with_a_meaning_in_patterns_are_escaped():
    assert keys.pattern_of_run("a*[b]?\\") == "rb1:{a\\*\\[b\\]\\?\\\\}:*"


def test_both_sides_name_the_same_keys():
    """The Lua side derives its keys from the state key; the names that it uses are those that keys.py documents."""
    documented = keys.key.__doc__ or ""
    text = "".join(
        path.read_text() for path in [*lua_directory().glob("*.lua"), *lua_directory().glob("include/*.lua")]
    )
    for part in text.split("key('")[1:]:
        name = part.split("'")[0]
        assert f"`{name}" in documented, f"{name} is not in the docstring of keys.key"
