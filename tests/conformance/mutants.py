"""Faults put into the Lua scripts on purpose, to see that the tests find them.

    BROKER_TEST_MUTANT=no_compare_and_set pytest tests/conformance

runs the tests with that one fault. `python -m tests.conformance.mutants` runs, for each fault, the tests that must find it, and says which
did not.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from broker import scripts

_VARIABLE = "BROKER_TEST_MUTANT"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `old` becomes `new` in a file of lua/; a test whose name has `found_by` in it must fail."""

    file: str
    old: str
    new: str
    found_by: str


MUTANTS: dict[str, Mutant] = {}


def install_from_environment() -> None:
    """Lets this process load the scripts with the fault that BROKER_TEST_MUTANT names, if it names one."""
    name = os.environ.get(_VARIABLE)
    if not name:
        return
    mutant = MUTANTS[name]
    folder = Path(tempfile.mkdtemp(prefix="broker-mutant-"), "lua")
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    shutil.copytree(scripts.lua_directory(), folder)
    path = folder / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) >= 1, f"mutant {name}: {mutant.file} has changed, the text to replace is not there"
    path.write_text(text.replace(mutant.old, mutant.new, 1))
    scripts._PLACES = (folder,)  # pyright: ignore[reportPrivateUsage]


def main() -> int:
    """Runs each mutant (or those named) against its tests."""
    survived: list[str] = []
    for name in sys.argv[1:] or MUTANTS:
        mutant = MUTANTS[name]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
        command += [
            "tests/conformance",
            "tests/processes",
            "-k",
            f"({mutant.found_by}) and not fakeredis and not redis-7",
        ]
        done = subprocess.run(command, env={**os.environ, _VARIABLE: name}, capture_output=True, text=True, check=False)
        found = done.returncode == 1 and " failed" in done.stdout
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        sys.stdout.write(
            f"{'found   ' if found else 'SURVIVED'} {name}: {(lines or done.stdout.splitlines()[-1:])[0][:200]}\n"
        )
        sys.stdout.flush()
        if not found:
            survived.append(name)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
