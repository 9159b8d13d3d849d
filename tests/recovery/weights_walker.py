"""The walk of `walker.py`, with weights: workers load those of each version, and the ledger knows what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from broker import Attempt, Sample, Worker
from broker.recovery.recover import RecoveryReport
from broker.weights import Publisher
from tests.recovery.walker import Walk


class WeightsWalk(Walk):
    """A walk whose trainer publishes weights with each version, and whose workers generate with what they loaded.

    The weights of a version are its policy, in words. So the ledger knows by which policies a sample was really made:
    those that its worker had loaded from the claim to the submit.
    """

    def __init__(self, url: str, run: str, seed: int, folder: Path) -> None:
        self._publisher = Publisher(folder / "weights", keep=1_000)
        self._loaded: dict[Worker, str] = {}
        self._used: dict[str, set[str]] = {}  # by attempt: the weights that it was made with
        super().__init__(url, run, seed, folder)
        self._recover(None)

    def _blob(self, version: int) -> bytes:
        epoch = self.ledger.policies.get(version, self.trainer.epoch)
        return self._publisher.publish(version, lambda path: path.write_text(f"{version} {epoch}"))

    def _recover(self, source: Path | None, **how: Any) -> RecoveryReport:
        return self.trainer.recover(source, blob=self._blob, **how)

    def _use_newest(self, worker: Worker) -> None:
        """The hook has loaded them."""

    def old_weights(self) -> None:
        """A worker loads newer weights while it generates; here it does not name them."""
        first, second = self.workers
        self._claim(first, 2)
        self._claim(second, 9)
        for attempt in second.held:
            self._submit(second, attempt)
        self.step()
        self._claim(first, 1)

    def _worker(self) -> Worker:
        made: list[Worker] = []

        def load(version: int, path: Path) -> None:
            (worker,), text = made, path.read_text()
            assert text.partition(" ")[0] == str(version), f"{text} was loaded as version {version}"
            self._loaded[worker] = text
            for attempt in worker.held:  # the weights change while these are generated
                self._used.setdefault(attempt.id, set()).add(text)

        made.append(Worker(self.url, self.run, clock=self._clock, heartbeat=False, name="w", load_weights=load))
        return made[0]

    def _handed_out(self, worker: Worker, attempt: Attempt) -> None:
        super()._handed_out(worker, attempt)
        loaded = self._loaded.get(worker, "nothing")
        assert loaded == f"{attempt.policy.version} {attempt.policy.epoch}", f"{attempt.policy} is made with {loaded}"
        self._used.setdefault(attempt.id, set()).add(loaded)

    def _delivered(self, sample: Sample) -> None:
        super()._delivered(sample)
        versions: list[int] = []
        for text in self._used[sample.attempt_id]:
            version, _, epoch = text.partition(" ")
            assert self.ledger.policies.get(int(version)) == epoch, f"made with version {version} of a lost future"
            versions.append(int(version))
        assert (sample.version, sample.newest) == (min(versions), max(versions)), "says another version"
