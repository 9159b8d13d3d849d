"""Each fault that the tests of the tests put into the scripts still changes them; whether it is found takes longer to know."""

from pathlib import Path

import pytest

from broker.protocol import scripts
from tests.conformance import mutants as directed
from tests.properties import mutants as walked

LUA = Path(__file__).parents[2] / "lua"


@pytest.mark.parametrize("fault", walked.MUTANTS, ids=lambda fault: fault.name)
def test_a_fault_for_the_walk_changes_a_script(fault: walked.Mutant):
    sources = {name: scripts.load(name, True).source for name in scripts.names()}
    assert any(fault.apply(name, source) != source for name, source in sources.items())


@pytest.mark.parametrize("name", directed.MUTANTS)
def test_a_directed_fault_changes_its_file(name: str):
    fault = directed.MUTANTS[name]
    in_library = fault.file == directed.LIBRARY
    text = scripts.library().source.decode() if in_library else (LUA / fault.file).read_text(encoding="utf-8")
    assert fault.apply(text) != text
