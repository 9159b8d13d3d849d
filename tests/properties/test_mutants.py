"""Tests of the tests: the walker finds every fault of `mutants.py` within a bounded number of steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.protocol import scripts
from tests.servers import real_kinds

from .driver import Connection, OperationDriver, Scripts
from .mutants import MUTANTS, Mutant
from .servers import server
from .walk import walk

#: Within so many calls a fault must be found, starting with this seed. The rarest need 30_000 on an average.
STEPS = 150_000
SEED = 1


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    """A private server for all mutants."""
    if not real_kinds():
        pytest.skip("no server is installed")
    with server(real_kinds()[0]) as path:
        yield path


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_walker_finds_the_fault(mutant: Mutant, socket: str) -> None:
    # Given
    changed = [name for name in scripts.names() if mutant.apply(name, _source(name)) != _source(name)]
    assert changed, f"mutant {mutant.name!r} does not apply any more: give it the new text of the scripts"
    connection = Connection(socket)
    sources = Scripts(mutant.apply)
    # When, then
    try:
        with pytest.raises(AssertionError):
            walk(lambda: OperationDriver(connection, sources), SEED, STEPS)
    finally:
        connection.close()


def _source(name: str) -> bytes:
    return scripts.load(name, True).source
