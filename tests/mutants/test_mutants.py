"""Tests of the tests: for each fault of the table, the tests that have to find it fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.child import finished
from tests.mutants.mutant import MUTANTS, VARIABLE, files_with
from tests.mutants.table import WALK
from tests.properties.driver import Connection, ScriptDriver, Scripts
from tests.properties.servers import server
from tests.properties.walk import walk
from tests.servers import real_kinds

pytestmark = pytest.mark.mutants

#: The servers that a directed test runs on: one kind that has functions.
_SERVERS = "not fakeredis and not redis-7"
#: How long the directed tests of a fault may take, seconds.
_PATIENCE_S = 280.0
#: The walk has to find a fault within this many calls, starting with this seed. The rarest need 60_000 on average.
STEPS, SEED = 300_000, 1

WALKED = [name for name, mutant in MUTANTS.items() if WALK in mutant.found_by]
DIRECTED = [(name, test) for name, mutant in MUTANTS.items() for test in mutant.found_by if test != WALK]


@pytest.mark.parametrize(("name", "test"), DIRECTED, ids=[name for name, _ in DIRECTED])
def test_directed_tests_find_the_fault(name: str, test: str) -> None:
    options = ["-q", "-x", "--no-header", "-p", "no:cacheprovider", "-k", f"({test}) and {_SERVERS}"]
    ended = finished("-m", "pytest", *options, *files_with(test), env={VARIABLE: name}, within_s=_PATIENCE_S)
    assert ended.code == pytest.ExitCode.TESTS_FAILED, ended.out[-2000:]


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    """A private server for all faults."""
    if not real_kinds():
        pytest.skip("no server is installed")
    with server(real_kinds()[0]) as path:
        yield path


@pytest.mark.parametrize("name", WALKED)
def test_the_walk_finds_the_fault(name: str, socket: str) -> None:
    # Given
    changed = MUTANTS[name].sources()
    connection = Connection(socket)
    sources = Scripts(lambda script, _: changed[script])
    # When, then
    try:
        with pytest.raises(AssertionError):
            walk(lambda: ScriptDriver(connection, sources), SEED, STEPS)
    finally:
        connection.close()
