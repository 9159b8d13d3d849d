"""A worker that AReaL's controller did not make: `python -m pull_worker_child URL RUN`. It says what it has loaded.

It joins the run when it gets a line.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import sys
import threading

from areal.api.cli_args import InferenceEngineConfig
from ppo_child import say
from pull_shape import Engine

from broker.integrations.areal import pull_rollouts


def main(url: str, run: str) -> None:
    engine = Engine(InferenceEngineConfig(experiment_name="shape", trial_name="cpu", consumer_batch_size=1))
    engine.initialize()

    def tell() -> None:
        told = 0
        while True:
            while told < len(engine.loaded):
                version, content = engine.loaded[told]
                say(loaded=version, content=content)
                told += 1
            threading.Event().wait(0.05)

    threading.Thread(target=tell, daemon=True).start()
    say(imported=True)
    sys.stdin.readline()  # AReaL takes a minute to import: it joins when it is told to
    pull_rollouts(engine, url, run, concurrency=3)


if __name__ == "__main__":
    main(*sys.argv[1:])
