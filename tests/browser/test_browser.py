"""What is seen in a real browser: it equals `stats`, and planted faults can be told from the page alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

pytest.importorskip("selenium", reason="pip install -e '.[test,browser]'")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from broker import Policy, RunConfig, Task, Trainer, Worker
from broker.local_server.embedded import EmbeddedServer
from broker.operator import Operator
from tests.browser.pages import CHROMIUM, DRIVER, Page, browser
from tests.web.serving import TOKEN, web

pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="apt-get install chromium chromium-driver"),
    pytest.mark.slow,
    pytest.mark.shares_resources,  # selenium ends its driver a moment later
]

RUN = "math-7b"


@pytest.fixture
def url() -> Generator[str]:
    server = EmbeddedServer(port=0)
    yield server.url
    server.stop()


@contextmanager
def page_of(url: str, path: str = f"/run?run={RUN}", **options: str) -> Generator[Page]:
    with web(url, **options) as endpoint, browser(endpoint) as page:
        page.open(path)
        yield page
        assert page.complaints() == []


def _trainer(url: str, tasks: int = 24, **fields: object) -> Trainer:
    config = {"consumer_batch_size": 4, "max_staleness": 1, "max_attempts": 1, **fields}
    trainer = Trainer(url, RUN, RunConfig(**config))  # pyright: ignore[reportArgumentType]
    trainer.enqueue([Task(id=f"gsm8k/{i}", payload={"i": i}) for i in range(tasks)])
    return trainer


def _train(trainer: Trainer, worker: Worker, steps: int, *, advance: bool = True) -> None:
    for step in range(steps):
        done = 0
        while done < 4:
            for attempt in worker.claim(4 - done, timeout=20):
                worker.submit(attempt, b"r")
                done += 1
        trainer.next_batch(timeout=20)
        if advance or step + 1 < steps:
            trainer.advance()


def _tile(page: Page, name: str) -> str:
    for tile in page.all(".tile"):
        if tile.find_element(By.CLASS_NAME, "name").text == name:
            return tile.find_element(By.CLASS_NAME, "value").text
    raise LookupError(name)


def test_what_is_seen_is_what_stats_says(url: str) -> None:
    with _trainer(url) as trainer, Worker(url, RUN, name="w1") as worker:
        _train(trainer, worker, 3)
        (failed,) = worker.claim(timeout=10)
        time.sleep(0.002)  # a length of 0 is left out
        worker.fail(failed, ValueError("<b>no</b> answer"))
        with page_of(url) as page, Operator(url) as operator:
            stats = operator.stats(RUN)
            seen = {"version": 3, "capacity": stats.capacity, "trained": stats.consumed, "dead": 1, "workers": 1}
            seen |= {"waiting tasks": stats.pending, "ready rollouts": stats.ready}
            page.until(
                lambda: all(_tile(page, name) == str(number) for name, number in seen.items()), f"it shows {seen}"
            )
            assert len(page.all("section[aria-label='Staleness by step'] svg g")) == 3
            page.until(lambda: "w1" in page.all("section[aria-label='Workers'] tbody")[0].text, "the worker is there")
            in_vain = page.all("section[aria-label^='Failures'] tbody")[-1].text
            assert in_vain.startswith("failed "), "what was generated in vain, by cause"
            page.driver.find_element(By.LINK_TEXT, "show them").click()
            page.until_text("<b>no</b> answer")  # as text: nothing that a stranger wrote becomes a part of the page
            page.driver.find_element(By.LINK_TEXT, failed.task).click()
            page.until_text("Last error")
            assert "ValueError" in page.text()
            history = [row.find_elements(By.TAG_NAME, "td")[1].text for row in page.all(".card:last-child tbody tr")]
            assert [kind for kind in history if kind != "lost"] == ["enqueue", "start", "claim", "ended", "dead"]


def test_the_page_moves_with_the_run(url: str) -> None:
    with _trainer(url) as trainer, Worker(url, RUN) as worker, page_of(url) as page:
        page.until(lambda: _tile(page, "trained") == "0", "nothing is trained yet")
        _train(trainer, worker, 2)
        page.until(lambda: _tile(page, "trained") == "8", "the page shows two steps")


def _no_worker(url: str) -> Generator[None]:
    with _trainer(url):
        yield


def _straggler(url: str) -> Generator[None]:
    with (
        _trainer(url, tasks=40) as trainer,
        Worker(url, RUN, name="quick") as quick,
        Worker(url, RUN, name="slow-one") as slow,
    ):
        slow.claim(1, timeout=10)
        for _ in range(9):  # enough finished attempts to compare with
            for attempt in quick.claim(1, timeout=10):
                quick.submit(attempt, b"r")
            if trainer.stats().ready >= 4:
                trainer.next_batch(timeout=10)
                trainer.advance()
        yield


def _all_failing(url: str) -> Generator[None]:
    with _trainer(url, halt_after_failures=4) as _trainer_of_run, Worker(url, RUN, name="broken") as worker:
        for _ in range(4):
            for attempt in worker.claim(1, timeout=10):
                worker.fail(attempt, RuntimeError("CUDA error: device-side assert triggered"))
        yield


def _weights_too_old(url: str) -> Generator[None]:
    with _trainer(url, max_staleness=0) as trainer, Worker(url, RUN, name="old") as worker:
        old = Policy(version=0, epoch=trainer.stats().epoch)
        _train(trainer, worker, 2)
        worker.policy = old
        worker.claim(1, timeout=0)
        yield


def _trainer_dead(url: str) -> Generator[None]:
    trainer = _trainer(url)
    with Worker(url, RUN, name="w1") as worker:
        for _ in range(8):
            for attempt in worker.claim(1, timeout=10):
                worker.submit(attempt, b"r")
        trainer.close()  # and no other one comes
        worker.claim(1, timeout=0)
        yield


def _paused(url: str) -> Generator[None]:
    with _trainer(url) as trainer, Worker(url, RUN):
        trainer.pause()
        yield


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (_no_worker, ("no worker", "no worker is connected")),
        (_straggler, ("A straggler: worker slow-one has held task gsm8k/0 for", "times the median")),
        (_all_failing, ("halted", "CUDA error: device-side assert triggered", "broken", "Mend the cause")),
        (_weights_too_old, ("weights stale", "were too old at the last claim", "loaded newer weights")),
        (_trainer_dead, ("Workers wait for the trainer", "since its last sign of life")),
        (_paused, ("paused", "The run is paused")),
    ],
    ids=["no_worker", "straggler", "all_failing", "weights_too_old", "trainer_dead", "paused"],
)
def test_a_stuck_run_is_diagnosed_from_the_page_alone(
    url: str, plant: Callable[[str], Generator[None]], words: tuple[str, ...]
) -> None:
    with contextmanager(plant)(url), page_of(url) as page:
        for told in words:
            page.until_text(told)


def test_buttons_change_the_run_for_whoever_has_the_token(url: str) -> None:
    with _trainer(url), page_of(url, token=TOKEN) as page, Operator(url) as operator:
        page.until_text("no worker is connected")
        assert not page.all(".situation button")
        page.button("Log in to change runs").click()
        page.until(
            lambda: page.driver.switch_to.active_element.get_attribute("id") == "token", "the field has the focus"
        )
        page.driver.switch_to.active_element.send_keys(TOKEN, Keys.ENTER)
        page.until(lambda: page.button("Pause").is_displayed(), "there is a button")
        page.button("Pause").click()
        page.until(lambda: operator.stats(RUN).paused == "paused", "the run is paused")
        page.until(lambda: page.button("Resume").is_displayed(), "it can be resumed")
        page.button("Resume").click()
        page.until(lambda: operator.stats(RUN).paused == "", "the run goes on")


def test_the_keyboard_reaches_everything_and_keeps_its_place(url: str) -> None:
    with _trainer(url) as trainer, Worker(url, RUN, name="w1") as worker:
        _train(trainer, worker, 2)
        held = worker.claim(2, timeout=10)
        with page_of(url) as page:
            page.until_text(held[0].task)
            stops = []
            for _ in range(12):
                page.driver.switch_to.active_element.send_keys(Keys.TAB)
                active = page.driver.switch_to.active_element
                stops.append(active.text or active.get_attribute("id") or "")
            assert stops[0] == "Skip to the content"
            assert held[0].task in stops
            link = page.driver.find_element(By.LINK_TEXT, held[0].task)
            page.driver.execute_script("arguments[0].focus()", link)
            looks = page.all("main > p")[-1].text
            page.until(lambda: page.all("main > p")[-1].text != looks, "there is another look")
            assert page.driver.switch_to.active_element == link  # a table that is drawn anew would lose it
            assert all(chart.get_attribute("aria-label") for chart in page.all("svg.chart"))


def test_a_server_that_is_away_is_told_and_comes_back(url: str) -> None:
    with _trainer(url) as trainer, Worker(url, RUN) as worker, page_of(url) as page:
        _train(trainer, worker, 1)
        page.until(lambda: _tile(page, "trained") == "4", "one step is shown")
        with Operator(url) as operator:
            operator.transport.command("CLIENT", "PAUSE", "8000", "ALL")
        page.until(page.all("#problem")[0].is_displayed, "the problem is shown")
        assert _tile(page, "trained") == "4"
        page.until(lambda: not page.all("#problem")[0].is_displayed(), "the problem is over")


def test_the_list_of_runs_leads_to_a_run(url: str) -> None:
    with _trainer(url), page_of(url, "/") as page:
        page.until_text("Runs on this server")
        page.driver.find_element(By.LINK_TEXT, RUN).click()
        page.until_text("no worker is connected")
