"""A controller of local processes, with the contract of agent-lightning's own: `agent_class` and `env_map`.

    python -m broker.integrations.agent_lightning_1.controller --url http://head:8080 --name gpu-7 --size 8

It differs in three things. It names its attempts in full, so that nothing of it can be taken for another attempt. It
ends the agents of attempts that are over: their work would be refused. And it forgets what has ended, so that it can
run another attempt of the same rollout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import inspect
import json
import logging
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

import httpx

from broker.worker.state import default_name

_log = logging.getLogger(__name__)

#: The environment variable for the key: every user of the machine can see arguments in the process list.
KEY_VARIABLE = "AGL_KEY"
_CHILD = f"import sys; from {__package__}.controller import run_agent; sys.exit(run_agent(sys.argv[1]))"


def run_agent(agent_class: str) -> int:
    """Runs an agent in this process. Returns the exit status.

    Args:
        agent_class: `module:Class` or `module.Class`; its method `run` may be a coroutine function.
    """
    try:
        module, _, name = agent_class.partition(":") if ":" in agent_class else agent_class.rpartition(".")
        result = getattr(importlib.import_module(module), name)().run()
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except Exception:  # noqa: BLE001 - the user's code
        traceback.print_exc()
        return 1
    return 0


def environment_of(given: Any, env_map: dict[str, str]) -> dict[str, str]:
    """The environment variables of an agent.

    Args:
        given: the rollout's input.
        env_map: variable -> a path into the input (`input`, `input.question`, `input.items.0`), or a text.

    Raises:
        ValueError: the input has no such path.
    """
    found: dict[str, str] = {}
    for name, path in env_map.items():
        first, *parts = path.split(".")
        value: Any = given if first == "input" else path
        for part in parts if first == "input" else ():
            try:
                value = cast("list[Any]", value)[int(part)] if isinstance(value, list) else value[part]
            except (KeyError, IndexError, TypeError, ValueError):
                raise ValueError(f"{name}: the input has no {path}") from None
        found[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


@dataclass(slots=True)
class _Running:
    """An agent that runs, its attempt, and when it has to be ended, by the monotonic clock."""

    attempt: str
    process: asyncio.subprocess.Process
    until: float


class Controller:
    """Runs rollouts as processes of this machine.

    Args:
        url: of the gateway, without the controller's name.
        name: of this controller; no other one has it.
        size: how many agents run at once.
        key: the gateway's token, or empty.
        poll_s: pause between two looks at the list, seconds.
    """

    def __init__(self, url: str, name: str, size: int = 8, key: str = "", poll_s: float = 1.0) -> None:
        self._url = f"{url.rstrip('/')}/controller/{quote(name)}"
        self._size, self._key, self._poll_s = size, key, poll_s
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(headers=headers, timeout=30.0)
        self._agents: dict[str, _Running] = {}
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Ends `run`: agents are ended, and their attempts are given back."""
        self._stopped.set()

    async def run(self) -> None:
        """Runs rollouts until `stop` is called."""
        try:
            while not self._stopped.is_set():
                try:
                    await self._look()
                except httpx.HTTPError as error:
                    _log.warning("the gateway cannot be asked: %s: %s", type(error).__name__, error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), self._poll_s)
        finally:
            for rollout, agent in list(self._agents.items()):
                await self._end(agent)
                with contextlib.suppress(httpx.HTTPError):
                    await self._report(rollout, agent.attempt, "failed", "local controller shutdown")
            await self._client.aclose()

    async def _look(self) -> None:
        """Reports what has ended, ends what is over, and starts what is new."""
        for rollout, agent in list(self._agents.items()):
            if time.monotonic() > agent.until and agent.process.returncode is None:
                await self._end(agent)
                await self._over(rollout, agent, "local subprocess timed out")
            elif agent.process.returncode is not None:
                code = agent.process.returncode
                await self._over(rollout, agent, f"subprocess exited with code {code}" if code else None)
        query = {"state_in": ["queuing", "running"], "limit": str(self._size)}
        answer = await self._client.get(f"{self._url}/api/rollouts", params=query)
        answer.raise_for_status()
        shown = {rollout["rollout_id"]: rollout for rollout in answer.json()}
        for rollout in self._agents.keys() - shown.keys():
            agent = self._agents.pop(rollout)
            _log.warning("attempt %s of rollout %s is over: its agent is ended", agent.attempt, rollout)
            await self._end(agent)
        for rollout, row in shown.items():
            if rollout not in self._agents:
                await self._begin(rollout, row)

    async def _begin(self, rollout: str, row: Any) -> None:
        attempt: str = row["attempt_id"]
        if row["status"]["state"] == "running":  # of an earlier life of this controller
            await self._report(rollout, attempt, "failed", "local subprocess is not running")
            return
        try:
            config: dict[str, Any] = row["config"]["local"] or {}
            if not config.get("agent_class"):
                raise ValueError("the rollout's config has no local.agent_class")  # noqa: TRY301 - reported below
            environment = environment_of(row["input"], config.get("env_map") or {})
        except ValueError as error:
            await self._report(rollout, attempt, "failed", f"local subprocess spawn failed: {error}")
            return
        if not await self._report(rollout, attempt, "running"):
            return
        mode = "train" if row["is_train"] else "val"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _CHILD, config["agent_class"]),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={
                **os.environ,
                KEY_VARIABLE: self._key,
                "AGL_OPENAI_BASE_URL": f"{self._url}/proxy/rollout/{rollout}/attempt/{attempt}/mode/{mode}/openai/v1",
                "AGL_EVENT_URL": f"{self._url}/api/rollouts/{rollout}/attempt/{attempt}/events",
                **environment,
            },
        )
        until = time.monotonic() + float(row["config"]["timeout_seconds"] or 1e9)
        self._agents[rollout] = _Running(attempt, process, until)

    async def _over(self, rollout: str, agent: _Running, error: str | None) -> None:
        await self._report(rollout, agent.attempt, "failed" if error else "succeeded", error)
        del self._agents[rollout]

    async def _report(self, rollout: str, attempt: str, state: str, error: str | None = None) -> bool:
        """Reports a change. Returns whether the gateway took it."""
        status = {"state": state, "last_attempt_id": attempt, **({"error_message": error} if error else {})}
        answer = await self._client.patch(f"{self._url}/api/rollouts/{rollout}", json={"status": status})
        if answer.status_code >= 500:
            answer.raise_for_status()
        if answer.is_error:
            _log.warning("%s", answer.text[:500])
        return answer.is_success

    async def _end(self, agent: _Running) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(agent.process.pid, signal.SIGKILL)
        await agent.process.wait()


async def _run(given: argparse.Namespace) -> None:
    controller = Controller(given.url, given.name, given.size, os.environ.get(KEY_VARIABLE, ""), given.poll)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, controller.stop)
    await controller.run()


def main() -> None:
    """The command: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Runs rollouts of agent-lightning 1.x as processes of this machine.")
    parser.add_argument("--url", required=True, help="URL of the gateway")
    parser.add_argument("--name", default=default_name(), help="name of this controller (default: host and process)")
    parser.add_argument("--size", type=int, default=8, help="agents at once (default: 8)")
    parser.add_argument("--poll", type=float, default=1.0, help="seconds between two looks (default: 1)")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
