"""Servers for the tests, a lab on each of them, and a guard against threads, processes and sockets that tests leave."""

import gc
import re
import secrets
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.connections import server_info
from tests.conformance.lab import Lab
from tests.mutants.mutant import install_from_environment
from tests.servers import FAKE, ServerKind, ServerUnderTest, server_kinds
from tests.signals import give_defaults_to_children
from tests.waiting import wait_until

install_from_environment()
give_defaults_to_children()

#: All tests run on the first server. On each other one the first MANY_CASES cases of a test and every SAMPLE-th do. In
#: fakeredis, which is for users' own tests and several times slower, so many tests of a file do.
MANY_CASES, SAMPLE = 2, 6

#: How many seconds threads, processes and connections may take to end after a test.
_ENDING_S = 5.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests on all servers but the first, to save time: all servers run the same scripts.

    A case that the command line names runs on every server.
    """
    if any("[" in argument for argument in config.args):
        return
    first = str(server_kinds()[0])
    cases = Counter[str]()
    left_out: list[pytest.Item] = []
    for item in items:
        name, _, parameters = item.nodeid.partition("[")
        kind = re.match(r"(fakeredis|(?:redis|valkey)-[\d.]+)[-\]]", parameters)
        if kind is None or kind[1] == first:
            continue
        counted = kind[1] + (str(item.path) if kind[1] == str(FAKE) else name)
        cases[counted] += 1
        if cases[counted] > MANY_CASES and cases[counted] % SAMPLE:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def _children() -> set[int]:
    """The processes that this one started and that have not been waited for."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(int(pid) for pid in (task / "children").read_text().split())
        except OSError:  # the thread has ended
            continue
    return found


def _sockets() -> set[str]:
    found: set[str] = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:  # the descriptor of the listing itself
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def _threads() -> set[threading.Thread]:
    return set(threading.enumerate())


@pytest.fixture(autouse=True)
def _warns_anew() -> None:
    """Each server is warned of once, and a server of another test may have had the port of this one."""
    server_info._warned.clear()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Generator[None]:
    """Fails a test that leaves threads, child processes or sockets behind.

    A connection to a server is a socket of this process, so none can stay open unnoticed. The lab checks keys.
    """
    before = _threads(), _children(), _sockets()
    yield
    if request.node.get_closest_marker("shares_resources"):
        return

    def more() -> list[object]:
        after = _threads(), _children(), _sockets()
        return [thing for kind, old in zip(after, before, strict=True) for thing in kind - old]

    if more():
        gc.collect()
        wait_until(lambda: not more(), f"the test has ended what it started; more are {more()}", _ENDING_S)


@pytest.fixture(scope="session")
def _servers() -> Generator[dict[ServerKind, ServerUnderTest]]:
    """One server of each kind for all tests together, started with the first test that needs one."""
    with ExitStack() as stack:
        yield {kind: stack.enter_context(ServerUnderTest(kind)) for kind in server_kinds()}


@pytest.fixture(params=server_kinds(), ids=str)
def server(request: pytest.FixtureRequest, _servers: dict[ServerKind, ServerUnderTest]) -> ServerUnderTest:
    """A server of each kind that this machine has. Do not stop it: later tests use it."""
    return _servers[request.param]


@pytest.fixture
def run() -> str:
    """A name that no other test uses."""
    return f"run-{secrets.token_hex(4)}"


@pytest.fixture
def lab(server: ServerUnderTest, run: str) -> Generator[Lab]:
    """A lab for one run: trainers and workers on a simulated clock. At the end the lab checks the server's state."""
    with Lab(server, run) as made:
        yield made
        made.close_clients()
        made.check()
        made.purge()
    assert server.command("KEYS", "rb1:*") == []
