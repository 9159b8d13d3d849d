"""Runs luacheck over each Lua script as the server gets it, with its includes in place, and reports by source line.

An include is a list of local functions, so it cannot be checked alone. A name of an include counts as unused only if no
script uses it. Usage: python .ci/lua_check.py. Without luacheck on PATH it checks nothing, and says so.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from broker.protocol import scripts

_WARNING = re.compile(r"^(?P<file>.+?):(?P<line>\d+):(?P<column>\d+): \((?P<code>\w+)\) (?P<text>.*)$")
#: Unused, never set, only set or only mutated, value unused: such names of an include may be used by other scripts.
_UNUSED = frozenset({"W211", "W221", "W231", "W241", "W311"})
_REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> int:
    """Print every warning; 1 if there are any."""
    luacheck = shutil.which("luacheck")
    if luacheck is None:
        sys.stdout.write("luacheck is not on PATH: left out (Debian: apt-get install lua-check)\n")
        return 0
    names = scripts.names()
    found = _check_assembled(luacheck, names) + _check_layout(luacheck)
    sys.stdout.write("".join(f"{line}\n" for line in found))
    sys.stdout.write(f"luacheck: {len(names)} scripts, {len(found)} warnings\n")
    return 1 if found else 0


def _check_assembled(luacheck: str, names: list[str]) -> list[str]:
    """Warnings of the assembled scripts, each once, at its place in the source."""
    reported: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    included: dict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as folder:
        loaded = {name: scripts.load(name, shebang=False) for name in names}
        for name, script in loaded.items():
            Path(folder, f"{name}.lua").write_bytes(script.source)
            for file, _ in script.lines:
                included[file].add(name)
        # _check_layout checks line lengths, in the source files
        for warning in _run(luacheck, "--no-max-line-length", folder):
            name = Path(warning["file"]).stem
            place = loaded[name].origin(int(warning["line"]))
            reported[place, warning["code"], warning["text"]].add(name)
    return sorted(
        f"{place}: ({code}) {text}"
        for (place, code, text), users in reported.items()
        if code not in _UNUSED or users == included[place.rpartition(":")[0]]
    )


def _check_layout(luacheck: str) -> list[str]:
    """Line lengths and white space of the source files."""
    warnings = _run(luacheck, "--only", "6", "--", str(_REPOSITORY / "lua"))
    return [f"{w['file']}:{w['line']}: ({w['code']}) {w['text']}" for w in warnings]


def _run(luacheck: str, *arguments: str) -> list[dict[str, str]]:
    finished = subprocess.run(
        [luacheck, "--config", str(_REPOSITORY / ".luacheckrc"), "--formatter", "plain", "--codes", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode > 2:
        sys.exit(finished.stderr or finished.stdout)
    return [match.groupdict() for match in map(_WARNING.match, finished.stdout.splitlines()) if match]


if __name__ == "__main__":
    sys.exit(main())
