"""Each fault of the table still changes the scripts, and names tests that exist. (test_mutants.py runs these tests.)"""

from __future__ import annotations

import pytest

from broker.protocol import scripts
from tests.mutants.mutant import MUTANTS, Mutant, files_with
from tests.mutants.table import FAULTS, LIBRARY, WALK


def test_each_fault_has_a_name_of_its_own():
    assert sum(map(len, FAULTS.values())) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_fault_changes_what_a_server_gets(mutant: Mutant):
    if mutant.file == LIBRARY:
        text = scripts.library().source.decode()
        assert mutant.apply(text) != text
    else:
        assert mutant.sources() != {name: scripts.load(name, True).source for name in scripts.names()}


def test_each_fault_names_tests_that_exist():
    found_by = {test for mutant in MUTANTS.values() for test in mutant.found_by}
    words = {word for test in found_by - {WALK} for word in test.split(" or ")}
    assert [word for word in sorted(words) if not files_with(word)] == []
    assert all(mutant.found_by for mutant in MUTANTS.values())
