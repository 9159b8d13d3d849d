"""A generator: claims samples from whichever host it runs on, generates them in one batch, and submits them."""

# pyright: basic, reportMissingImports=false

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch

from broker import Attempt, Worker
from broker.weights import fetched
from examples.grpo.model import SIZES, Transformer, decode, dtype_on, set_up
from examples.grpo.problems import PROBLEMS
from examples.grpo.sampling import Sampler


class Generator:
    """The models of a generator: one for training, and one for the version that is evaluated.

    Args:
        options: of the command.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._device, self._problems = options.device, PROBLEMS[options.problems]()
        self._model, self._judged = (
            Transformer(SIZES[options.size]).to(options.device, dtype_on(options.device)).eval() for _ in range(2)
        )
        self._sampler = Sampler(self._model, options.places) if options.graphs else None
        self.load_s = 0.0

    def load(self, version: int, path: Path) -> None:
        """Loads the weights of a version of training; called by the worker."""
        begun = time.perf_counter()
        _load(self._model, path, self._device)
        self.load_s += time.perf_counter() - begun

    def results(self, attempts: list[Attempt]) -> list[dict[str, Any]]:
        """A result for each attempt: of training, or each of the same evaluation."""
        prompts = [attempt.payload for attempt in attempts]
        if attempts[0].judges:
            with fetched(attempts[0].blob) as path:
                _load(self._judged, path, self._device)
            results = self._judged.sample(prompts, self._problems.answer, greedy=True)
        elif self._sampler is not None:
            results = self._sampler.sample(prompts, self._problems.answer)
        else:
            results = self._model.sample(prompts, self._problems.answer)
        rewards = [self._problems.reward(decode(result["tokens"].tolist())) for result in results]
        return [result | {"reward": reward} for result, reward in zip(results, rewards, strict=True)]


def _load(model: Transformer, path: Path, device: str) -> None:
    model.load_state_dict(torch.load(path, map_location=device, weights_only=True))


def generate(options: argparse.Namespace) -> None:
    """Works until the run is finished."""
    set_up(options.device)
    torch.seed()  # PyTorch's own seed is the same in each process
    generator, tokens = Generator(options), 0
    spent = {"claim": 0.0, "generate": 0.0, "submit": 0.0}
    runs = [f"{options.run}/eval", options.run]
    with Worker(options.url, runs, name=options.name, load_weights=generator.load, wait_for_run_s=300.0) as worker:
        while True:
            times = [time.perf_counter()]
            attempts = worker.claim(options.places, timeout=None)
            if not attempts:
                return  # the runs are finished
            times.append(time.perf_counter())
            finished: list[tuple[Attempt, dict[str, Any]]] = []
            for _, together in itertools.groupby(attempts, lambda attempt: attempt.judges and attempt.blob):
                group = list(together)
                finished += zip(group, generator.results(group), strict=True)
            times.append(time.perf_counter())
            worker.submit_many(finished)
            times.append(time.perf_counter())
            for number, name in enumerate(spent):
                spent[name] += times[number + 1] - times[number]
            tokens += int(sum(result["mask"].sum() for _, result in finished))
            said = {"tokens": tokens, "seconds": spent | {"load": generator.load_s}}
            Path(options.folder, f"{options.name}.json").write_text(json.dumps(said), encoding="utf-8")
