import hashlib
from collections.abc import Generator
from pathlib import Path

import pytest

from broker.protocol import function_library, scripts


@pytest.fixture
def lua(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """An empty directory of scripts."""
    (tmp_path / "include").mkdir()
    monkeypatch.setattr(scripts, "_PLACES", (tmp_path,))
    scripts.load.cache_clear()
    scripts.library.cache_clear()
    yield tmp_path
    scripts.load.cache_clear()
    scripts.library.cache_clear()


def write(lua: Path, name: str, *lines: str) -> None:
    (lua / f"{name}.lua").write_text("\n".join(lines) + "\n")


def test_source_starts_with_the_flags_of_the_header(lua: Path):
    write(lua, "claim", "-- Claims.", "-- Flags: allow-oom", "return 1")

    script = scripts.load("claim", shebang=True)

    assert script.source == b"#!lua flags=allow-oom\nreturn 1\n"
    assert script.flags == ("allow-oom",)
    assert script.sha1 == hashlib.sha1(script.source).hexdigest()


def test_none_gives_a_shebang_without_flags(lua: Path):
    write(lua, "claim", "-- Flags: none", "return 1")
    assert scripts.load("claim", shebang=True).source == b"#!lua\nreturn 1\n"


def test_old_servers_get_no_shebang(lua: Path):
    write(lua, "claim", "-- Flags: no-writes", "return 1")
    assert scripts.load("claim", shebang=False).source == b"return 1\n"


@pytest.mark.parametrize(("flags", "first"), [("none", "'SETRANGE'"), ("allow-oom", "'UNLINK'")])
def test_old_servers_are_told_by_a_first_command_what_the_flags_say(lua: Path, flags: str, first: str):
    write(lua, "claim", f"-- Flags: {flags}", "return 1")

    script = scripts.load("claim", shebang=False)

    line, rest = script.source.decode().split("\n", 1)
    assert "redis.replicate_commands()" in line
    assert f"redis.call({first}, KEYS[1] .. ':none'" in line
    assert rest == "return 1\n"
    assert [script.origin(number) for number in (1, 2)] == ["claim.lua:1", "claim.lua:2"]
    assert b"SETRANGE" not in scripts.library().source
    assert b"UNLINK" not in scripts.library().source


def test_several_flags_are_joined_by_commas(lua: Path):
    write(lua, "claim", "-- Flags: no-writes, allow-oom", "return 1")
    assert scripts.load("claim", shebang=True).source.startswith(b"#!lua flags=no-writes,allow-oom\n")


def test_includes_come_in_once_where_they_are_named_first(lua: Path):
    write(lua, "include/base", "local base = 1")
    write(lua, "include/left", "-- @include base", "local left = base")
    write(lua, "include/right", "-- @include base", "local right = base")
    write(lua, "claim", "-- Flags: no-writes", "-- @include left", "-- @include right", "return left + right")

    assert scripts.load("claim", shebang=False).source.decode().splitlines() == [
        "local base = 1",
        "local left = base",
        "local right = base",
        "return left + right",
    ]


def test_comments_go_but_not_what_only_looks_like_one(lua: Path):
    write(lua, "claim", "-- Flags: no-writes", "", "  -- why", "local a = 1 -- kept", "--[[ long", "]]", "return '--'")
    assert scripts.load("claim", shebang=False).source == b"local a = 1 -- kept\n--[[ long\n]]\nreturn '--'\n"


def test_a_line_of_an_error_leads_back_to_its_file(lua: Path):
    write(lua, "include/base", "-- a comment", "local base = 1")
    write(lua, "claim", "-- Flags: none", "-- @include base", "", "return base")

    script = scripts.load("claim", shebang=True)

    assert [script.origin(line) for line in (1, 2, 3)] == ["claim.lua:1", "include/base.lua:2", "claim.lua:4"]
    assert script.origin(99) == "claim.lua"


@pytest.mark.parametrize(
    ("files", "place", "problem"),
    [
        ({"claim": ["-- Flags: none", "-- @include nothing"]}, "claim.lua:2", "unknown include 'nothing'"),
        (
            {
                "claim": ["-- Flags: none", "-- @include a"],
                "include/a": ["x", "-- @include b"],
                "include/b": ["-- @include a"],
            },
            "include/b.lua:1",
            "circles: claim -> a -> b -> a",
        ),
        ({"claim": ["-- Flags: none", "-- @include a"], "include/a": ["-- @include a"]}, "a.lua:1", "circles"),
        ({"claim": ["-- Flags: quick", "return 1"]}, "claim.lua:1", "unknown flags 'quick'"),
        ({"claim": ["-- Flags:", "return 1"]}, "claim.lua:1", "unknown flags ''"),
        ({"claim": ["-- Claims.", "return 1", "-- Flags: none"]}, "claim.lua:1", "no line '-- Flags: ...'"),
    ],
)
def test_faults_name_file_and_line(lua: Path, files: dict[str, list[str]], place: str, problem: str):
    for name, lines in files.items():
        write(lua, name, *lines)

    with pytest.raises(scripts.ScriptError) as caught:
        scripts.load("claim", shebang=True)

    assert place in str(caught.value)
    assert problem in str(caught.value)


def test_an_unknown_script_is_told_with_the_known_ones(lua: Path):
    write(lua, "claim", "-- Flags: none", "return 1")
    with pytest.raises(scripts.ScriptError, match=r"no script 'clam' .* there are: claim"):
        scripts.load("clam", shebang=True)


def test_names_are_those_of_the_scripts_not_of_the_includes(lua: Path):
    write(lua, "include/base", "local base = 1")
    write(lua, "take", "-- Flags: none")
    write(lua, "claim", "-- Flags: none")
    assert scripts.names() == ["claim", "take"]


def test_an_installation_without_scripts_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scripts, "_PLACES", (tmp_path / "nowhere",))
    with pytest.raises(scripts.ScriptError, match="install rollout-broker again"):
        scripts.lua_directory()


def test_the_package_wins_over_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "checkout").mkdir()
    monkeypatch.setattr(scripts, "_PLACES", (tmp_path / "package", tmp_path / "checkout"))
    assert scripts.lua_directory() == tmp_path / "package"


@pytest.mark.parametrize("shebang", [True, False])
@pytest.mark.parametrize("name", scripts.names())
def test_every_script_of_the_broker_loads(name: str, shebang: bool):
    assert scripts.load(name, shebang).source


def test_who_finds_the_library_on_the_server_does_not_make_its_text(lua: Path, monkeypatch: pytest.MonkeyPatch):
    write(lua, "claim", "-- Flags: none", "return 1")
    monkeypatch.setattr(scripts, "as_library", None)
    made = scripts.library()
    assert made.functions == {"claim": f"{made.name}_claim"}


@pytest.mark.parametrize("changed", ["claim", "include/base", "what makes it"])
def test_a_library_of_other_files_has_another_name(lua: Path, monkeypatch: pytest.MonkeyPatch, changed: str):
    write(lua, "claim", "-- Flags: none", "-- @include base", "return base")
    write(lua, "include/base", "local base = 1")
    names = [scripts.library().name]
    for _ in range(2):
        scripts.library.cache_clear()
        names.append(scripts.library().name)
        if changed == "what makes it":
            monkeypatch.setattr(function_library, "__file__", str(lua / "claim.lua"))
        else:
            write(lua, changed, "-- Flags: none", "local base = 2")
    assert names[0] == names[1]
    assert names[1] != names[2]
