"""Labs for tests whose workers and trainers are processes."""

import pytest

from tests.conformance.lab import Lab
from tests.servers import ServerKind, ServerUnderTest, real_kinds


@pytest.fixture(params=real_kinds(), ids=str)
def server(request: pytest.FixtureRequest, _servers: dict[ServerKind, ServerUnderTest]) -> ServerUnderTest:
    """A server that is a process: several processes cannot share a fakeredis."""
    return _servers[request.param]


@pytest.fixture
def live(lab: Lab) -> Lab:
    """A lab on the server's own clock, like the processes."""
    lab.go_live()
    return lab
