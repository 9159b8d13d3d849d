"""How worker and trainer processes end: by signals, with the server there or away, and by what their own code raises."""

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.operator import Operator
from tests.child import Child
from tests.conformance.lab import Lab, tasks
from tests.lossy_proxy import LossyProxy
from tests.servers import ServerUnderTest
from tests.tls import make_certificate, tls_server
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

_HEAD = """
import asyncio, os, signal, sys, threading
from broker import Trainer, Worker, aio

url, run = sys.argv[1:]

def say(*_):
    os.write(1, b"working\\n")  # one write: two threads that print would share a line

def handler(attempt):
    say()
    threading.Event().wait()

async def awaited(attempt):
    say()
    await asyncio.Event().wait()
"""

#: What users write; each says when it works, on a task that never ends or none.
SCRIPTS = {
    "run": """
with Worker(url, run) as worker:
    worker.run(handler, concurrency=2)
""",
    "loop": """
with Worker(url, run) as worker:
    for attempt in worker:
        handler(attempt)
""",
    "waiting loop": """
with Worker(url, run) as worker:
    say()
    for attempt in worker:
        pass
""",
    "waiting claim": """
with Worker(url, run) as worker:
    say()
    worker.claim(timeout=None)
""",
    "trainer": """
with Trainer(url, run) as trainer:
    say()
    trainer.next_batch()
""",
    "aio": """
async def main():
    async with aio.Worker(url, run) as worker:
        await worker.run(awaited, concurrency=2)
asyncio.run(main())
""",
    "waiting aio loop": """
async def main():
    async with aio.Worker(url, run) as worker:
        say()
        async for attempt in worker:
            pass
asyncio.run(main())
""",
    "aio trainer": """
async def main():
    async with aio.Trainer(url, run) as trainer:
        say()
        await trainer.next_batch()
asyncio.run(main())
""",
    "exits": """
with Worker(url, run) as worker:
    for attempt in worker:
        if attempt.task == "t0":
            sys.exit("bad weights")
        worker.submit(attempt, attempt.task)
""",
    "exits in asyncio": """
async def bad(attempt):
    if attempt.task == "t0":
        sys.exit("bad weights")
    return attempt.task
async def main():
    async with aio.Worker(url, run) as worker:
        await worker.run(bad)
asyncio.run(main())
""",
    "own signal handler": """
def leave(number, frame):
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, leave)
with Worker(url, run) as worker:
    for attempt in worker:
        handler(attempt)
""",
    "cleans up badly": """
with Worker(url, run) as worker:
    for attempt in worker:
        try:
            handler(attempt)
        finally:
            raise RuntimeError("in the clean-up")
""",
}


def script(name: str, url: str, run: str) -> Child:
    """A script as a process of its own."""
    return Child("-c", _HEAD + SCRIPTS[name], url, run)


#: How Ctrl-C ends each script: its exit codes, and the most lines that it says. Python's own for `asyncio.run` are 23.
ENDINGS = {
    "run": ({0}, 0),
    "aio": ({0}, 0),
    "loop": ({130, -signal.SIGINT}, 14),
    "waiting loop": ({130, -signal.SIGINT}, 14),
    "waiting claim": ({130, -signal.SIGINT}, 14),
    "trainer": ({130, -signal.SIGINT}, 14),
    "waiting aio loop": ({130, -signal.SIGINT}, 30),
    "aio trainer": ({130, -signal.SIGINT}, 30),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_ctrl_c_ends_a_script_with_few_words(live: Lab, name: str):
    """A worker's `run` just returns, as README says; elsewhere Python tells where the script was, and not more."""
    trainer = live.trainer(consumer_batch_size=9, lease_ms=3_600_000)
    trainer.enqueue([] if "waiting" in name else tasks(9))
    with script(name, live.url, live.run) as one:
        one.expect("working")
        if "waiting" in name:
            wait_until(lambda: waits(live), "it waits for work")
        one.send(signal.SIGINT)
        ended = one.end()
    codes, lines = ENDINGS[name]
    assert ended.code in codes, ended.err
    assert len(ended.err.splitlines()) <= lines, ended.err
    if "trainer" not in name:
        assert (trainer.stats().running, trainer.stats().sessions) == (0, 0)


def waits(lab: Lab) -> bool:
    """Whether a client waits for a marker."""
    return any(b"cmd=bzpopmin" in line.encode().lower() for line in clients_of(lab))


def clients_of(lab: Lab) -> list[str]:
    return lab.command("CLIENT", "LIST").decode().splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("name", ["loop", "own signal handler", "cleans up badly"])
def test_a_signal_is_a_release_whatever_it_becomes(live: Lab, name: str, number: signal.Signals):
    live.trainer(consumer_batch_size=1, max_attempts=1, lease_ms=3_600_000).enqueue(tasks(1))
    with script(name, live.url, live.run) as one:
        one.expect("working")
        one.send(number)
        one.end()
    row = live.row("t0")
    assert (row.state, row.slots[0].tries) == ("pending", 0)


@pytest.mark.parametrize("name", ["exits", "exits in asyncio"])
def test_ten_supervised_workers_do_not_end_by_the_same_task(live: Lab, name: str):
    trainer = live.trainer(consumer_batch_size=4, max_attempts=3, retry_backoff_ms=1, lease_ms=3_600_000)
    trainer.enqueue(tasks(4))
    for started in range(1, 11):  # noqa: B007
        with script(name, live.url, live.run) as one:
            wait_until(lambda one=one: one.has_ended() or all_done(live), "it ends, or all is done")
            if not one.has_ended():
                break
            assert one.end().code == 1
    assert started == 4
    assert live.states() == {"t0": "dead", "t1": "ready", "t2": "ready", "t3": "ready"}
    with Operator(live.url) as operator:
        assert [finished.reason for finished in operator.dead(live.run)] == ["SystemExit('bad weights')"]


def all_done(lab: Lab) -> bool:
    return (lab.stat("n_ready"), lab.stat("n_dead")) == (3, 1)


@pytest.fixture
def own(server: ServerUnderTest) -> Generator[ServerUnderTest]:
    """A server that a test may freeze and stop."""
    with ServerUnderTest(server.kind) as one:
        yield one


@contextmanager
def looking(own: ServerUnderTest, run: str) -> Generator[Lab]:
    with Lab(own, run) as lab:
        lab.go_live()
        yield lab
        lab.close_clients()
        lab.checks_state = False


def begin(own: ServerUnderTest, run: str, n: int = 9) -> None:
    with looking(own, run) as lab:
        lab.trainer(consumer_batch_size=9, lease_ms=3_600_000).enqueue(tasks(n))


AWAY = ["run", "loop", "waiting claim", "aio", "trainer"]


@pytest.mark.parametrize("how", ["frozen", "gone"])
@pytest.mark.parametrize("name", AWAY)
def test_sigterm_takes_a_few_seconds_while_the_server_is_away(own: ServerUnderTest, run: str, name: str, how: str):
    begin(own, run, 0 if name == "waiting claim" else 9)
    with script(name, own.url, run) as one:
        one.expect("working")
        if name == "waiting claim":
            with looking(own, run) as lab:
                wait_until(lambda: waits(lab), "it waits for work")
        own.freeze() if how == "frozen" else own.kill()
        try:
            began = time.monotonic()
            one.send(signal.SIGTERM)
            ended = one.end()
            took = time.monotonic() - began
        finally:
            own.thaw() if how == "frozen" else own.start()
    assert ended.code in {0, 143, -signal.SIGTERM}, ended.err
    assert took < 20, f"it took {took:.1f} s: {ended.err}"
    assert "Traceback" not in ended.err
    if ended.code == 0 or (ended.code == 143 and name != "trainer"):
        assert ended.err.count("go to others only when their lease runs out") == 1, ended.err


@pytest.mark.parametrize("name", ["run", "aio"])
def test_sigterm_takes_a_few_seconds_over_tls_while_the_server_is_away(run: str, name: str, tmp_path: Path):
    make_certificate(tmp_path)
    with tls_server(tmp_path, "no") as (own, port):
        begin(own, run)
        with script(name, f"rediss://localhost:{port}?ssl_ca_certs={tmp_path}/cert.pem", run) as one:
            one.expect("working")
            own.kill()
            try:
                time.sleep(1)  # it connects again
                began = time.monotonic()
                one.send(signal.SIGTERM)
                ended = one.end()
                took = time.monotonic() - began
            finally:
                own.start()
    assert ended.code in {0, 143}, ended.err
    assert took < 20, f"it took {took:.1f} s: {ended.err}"
    assert ended.err.count("go to others only when their lease runs out") == 1, ended.err


_RESOLVER = """
import socket, time
look_up, hangs = socket.getaddrinfo, threading.Event()

def looked_up(*place, **named):
    if hangs.is_set():
        time.sleep(60)
    return look_up(*place, **named)

socket.getaddrinfo = looked_up
signal.signal(signal.SIGUSR1, lambda *_: hangs.set())
"""


@pytest.mark.parametrize("name", ["run", "aio", "trainer", "aio trainer"])
def test_sigterm_takes_a_few_seconds_while_the_resolver_hangs(own: ServerUnderTest, run: str, name: str):
    begin(own, run)
    with Child("-c", _HEAD + _RESOLVER + SCRIPTS[name], own.url.replace("127.0.0.1", "localhost"), run) as one:
        one.expect("working")
        one.send(signal.SIGUSR1)
        own.kill()
        try:
            time.sleep(1)  # it connects again, and looks for the host
            began = time.monotonic()
            one.send(signal.SIGTERM)
            ended = one.end()
            took = time.monotonic() - began
        finally:
            own.start()
    assert ended.code in {0, 143, -signal.SIGTERM}, ended.err
    assert took < 20, f"it took {took:.1f} s: {ended.err}"


@pytest.mark.parametrize("name", ["run", "aio"])
def test_what_is_left_to_the_leases_is_said_once(own: ServerUnderTest, run: str, name: str):
    """Ctrl-C ends `run`. Neither `run` nor `close` after it can give the attempts back."""
    begin(own, run)
    with script(name, own.url, run) as one:
        one.expect("working")
        own.freeze()
        try:
            one.send(signal.SIGINT)
            ended = one.end()
        finally:
            own.thaw()
    assert ended.code == 0, ended.err
    assert ended.err.count("go to others only when their lease runs out") == 1, ended.err


@pytest.mark.parametrize("name", ["run", "loop", "aio"])
def test_a_second_sigterm_ends_at_once(own: ServerUnderTest, run: str, name: str):
    """Before the worker has given up, which it would say."""
    begin(own, run)
    with script(name, own.url, run) as one:
        one.expect("working")
        own.freeze()
        try:
            wait_until(lambda: one.send(signal.SIGTERM) or one.has_ended(0.2), "it ends")
            ended = one.end()
        finally:
            own.thaw()
    assert ended.code in {143, -signal.SIGTERM}, ended.err
    assert ended.err == ""


def test_a_script_that_is_told_twice_says_nothing_of_it(live: Lab) -> None:
    """With the server there the first one is enough."""
    live.trainer(consumer_batch_size=1, lease_ms=3_600_000).enqueue(tasks(1))
    with script("loop", live.url, live.run) as one:
        one.expect("working")
        one.send(signal.SIGTERM)
        ended = one.end()
    assert (ended.code, ended.err) == (143, "")


_SWALLOWS = """
async def swallows(attempt):
    say()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def main():
    async with aio.Worker(url, run) as worker:
        await worker.run(swallows)
asyncio.run(main())
"""


@pytest.mark.parametrize("lost", [True, False], ids=["all are lost", "SIGTERM"])
def test_handlers_that_swallow_their_cancellation_do_not_keep_a_process_from_ending(live: Lab, lost: bool):
    trainer = live.trainer(consumer_batch_size=1, attempt_timeout_ms=100 if lost else 0, halt_after_failures=0)
    trainer.enqueue(tasks(1))
    with Child("-c", _HEAD + _SWALLOWS, live.url, live.run) as one:
        one.expect("working")
        if not lost:
            one.send(signal.SIGTERM)
        ended = one.end()
    assert ended.code == (1 if lost else 0), ended.err
    assert ("HandlersLost" in ended.err) is lost, ended.err
    assert "the event loop ends without it" in ended.err
    assert trainer.stats().sessions == 0


#: What users write; each is interrupted while the answer to its first join is under way.
JOINING = {
    "worker": """
with Worker(url, run) as worker:
    pass
""",
    "without a block": """
Worker(url, run)
""",
    "own signal handler": """
def leave(number, frame):
    raise OSError("an exception of the user's")
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
with Worker(url, run) as worker:
    pass
""",
    "aio": """
async def main():
    async with aio.Worker(url, run) as worker:
        pass
asyncio.run(main())
""",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("name", JOINING)
def test_a_worker_that_is_told_to_end_while_it_joins_leaves(live: Lab, name: str, number: signal.Signals):
    if name == "aio" and number is signal.SIGTERM:
        pytest.skip("asyncio has no handler of SIGTERM: it ends the process at once, except within `run`")
    trainer = live.trainer(consumer_batch_size=1)
    with LossyProxy(live.server.port) as proxy:
        proxy.delay_s = 2.0
        with Child("-c", _HEAD + JOINING[name], proxy.url, live.run) as one:
            wait_until(lambda: trainer.stats().sessions, "the server has begun its session")
            one.send(number)
            ended = one.end()
    assert trainer.stats().sessions == 0, ended.err
    assert "lease runs out" not in ended.err


def test_a_worker_that_waits_for_its_server_ends_in_a_few_seconds_and_says_nothing(own: ServerUnderTest, run: str):
    own.freeze()
    try:
        with Child("-c", _HEAD + "say()" + JOINING["worker"], own.url, run) as one:
            one.expect("working")
            time.sleep(0.5)  # it connects
            began = time.monotonic()
            one.send(signal.SIGTERM)
            ended = one.end()
            took = time.monotonic() - began
    finally:
        own.thaw()
    assert ended.code in {143, -signal.SIGTERM}, ended.err
    assert took < 20, f"it took {took:.1f} s: {ended.err}"
    assert "lease runs out" not in ended.err


_SUPERVISOR = """
from broker.demo.interrupts import Interrupts
with Interrupts().listening() as interrupts:
    print("working", flush=True)
    interrupts.wait(60)
    print(interrupts.number, flush=True)
    while True:
        interrupts.wait(60)
"""


def test_the_demo_ends_at_once_by_a_second_signal() -> None:
    with Child("-c", _SUPERVISOR) as supervisor:
        supervisor.expect("working")
        supervisor.send(signal.SIGTERM)
        supervisor.expect("15")
        supervisor.send(signal.SIGTERM)
        assert supervisor.end().code == -signal.SIGTERM
