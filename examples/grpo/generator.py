"""A generator: claims samples from whichever host it runs on, generates them in one batch, and submits them."""

# pyright: basic, reportMissingImports=false

import argparse
import json
import time
from pathlib import Path

import torch

from broker import Worker
from examples.grpo import weights
from examples.grpo.model import SIZES, Transformer, decode
from examples.grpo.problems import PROBLEMS


def generate(options: argparse.Namespace) -> None:
    """Works until the run is finished. What the trainer says of a version, its blob, is the path of the weights."""
    torch.set_num_threads(1)
    model = Transformer(SIZES[options.size]).to(options.device).eval()
    problems = PROBLEMS[options.problems]()
    loaded, tokens = "", 0
    spent = {"claim": 0.0, "load": 0.0, "generate": 0.0, "submit": 0.0}
    with Worker(options.url, options.run, name=options.name, wait_for_run_s=120.0) as worker:
        while True:
            times = [time.perf_counter()]
            attempts = worker.claim(options.places, timeout=None)
            if not attempts:
                return  # the run is finished
            times.append(time.perf_counter())
            path = (attempts[0].blob or b"").decode()
            if loaded != path:
                model.load_state_dict(weights.read(path, options.device))
                loaded = path
            times.append(time.perf_counter())
            results = model.sample([attempt.payload for attempt in attempts], problems.answer)
            rewards = [problems.reward(decode(result["tokens"].tolist())) for result in results]
            times.append(time.perf_counter())
            rollouts = [result | {"reward": reward} for result, reward in zip(results, rewards, strict=True)]
            worker.submit_many(zip(attempts, rollouts, strict=True))
            times.append(time.perf_counter())
            for number, name in enumerate(spent):
                spent[name] += times[number + 1] - times[number]
            tokens += int(sum(result["mask"].sum() for result in results))
            Path(options.folder, f"{options.name}.json").write_text(json.dumps({"tokens": tokens, "seconds": spent}))
