"""Where the time of a script goes: its commands, and the Lua of the functions around them.

The library is loaded under its own name, with a clock around some functions and around each command. So clients call it
as usual. A function's time does not include the commands and the other clocked functions inside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from benchmarks import ours
from benchmarks.bare import RESULT
from benchmarks.cases import Case
from benchmarks.lab import Lab
from broker import Attempt, Worker
from broker.protocol import scripts

#: The functions with a clock; other functions count as parts of their callers. The body of a script is `callback`.
FUNCTIONS = (
    "load_state", "gated", "load_tasks", "load_attempts", "hand_out", "start", "submit_one", "save_records",
    "write_records", "write_logs", "arm_markers", "flush", "add_granted",
)  # fmt: skip

#: Counts time by name, without the time of clocked calls inside. os.clock measures it.
_CLOCK = """
local SPENT, CALLS, INSIDE = {}, {}, 0
local function clocked(name, f, ...)
  local outer = INSIDE
  INSIDE = 0
  local began = os.clock()
  local a, b, c, d = f(...)
  local took = os.clock() - began
  SPENT[name], CALLS[name] = (SPENT[name] or 0) + took - INSIDE, (CALLS[name] or 0) + 1
  INSIDE = outer + took
  return a, b, c, d
end
local function clocked_call(name, ...) return clocked(name, redis.call, name, ...) end
"""
_REPORT = """
local function nothing() end
redis.register_function('benchmark_spent', function()
  local answer = {}
  for i = 1, 1000 do clocked('nothing', nothing) end
  for name, took in pairs(SPENT) do
    answer[#answer + 1] = name .. ' ' .. CALLS[name] .. ' ' .. string.format('%.1f', took * 1e6)
  end
  SPENT, CALLS = {}, {}
  return answer
end)
"""


def cases(lab: Lab) -> list[Case]:
    """Enqueue, claim and submit, one at a time and batched."""
    return [
        Case("anatomy", f"{call}, {name}", "ours", partial(_measure, lab, call, batch))
        for batch, name in ((1, "one at a time"), (ours.BATCH, "batches of 64"))
        for call in ("enqueue", "claim", "submit")
    ]


def with_clocks(source: str) -> str:
    """The library's text with clocks, and with a function that returns the times and resets them."""
    first, body = source.split("\n", 1)
    for name in FUNCTIONS:
        head = re.compile(rf"^(?:local function {name}|{name} = function)\(.*?^end$", re.MULTILINE | re.DOTALL)
        body, found = head.subn(partial(_with_clock, name), body)
        assert found, f"the library has no function {name}"
    body = body.replace("redis.call(", "clocked_call(")
    callback = "callback = function(keys, args)"
    body = body.replace(callback, "callback = function(keys, args) return clocked('callback', function()")
    body = body.replace("\nend } end", "\nend) end } end")
    return f"{first}\n{_CLOCK}{body}{_REPORT}"


def _with_clock(name: str, match: re.Match[str]) -> str:
    """The function's text, with a replacement that measures it. No local name is added, because Lua allows few."""
    measured = f"function(...) return clocked('{name}', itself, ...) end"
    return f"{match[0]}\ndo local itself = {name}; {name} = {measured} end"


@contextmanager
def _clocked(lab: Lab) -> Generator[Callable[[], dict[str, tuple[int, float]]]]:
    """The server has the library with clocks while the block runs. Gives a function: it returns name -> (calls, us)."""
    library = scripts.library()
    lab.control.call("FUNCTION", "LOAD", "REPLACE", with_clocks(library.source.decode()))

    def spent() -> dict[str, tuple[int, float]]:
        lines = [line.decode().split() for line in lab.control.call("FCALL", "benchmark_spent", 0)]
        return {name: (int(calls), float(took)) for name, calls, took in lines}

    try:
        yield spent
    finally:
        lab.control.call("FUNCTION", "DELETE", library.name)


def _measure(lab: Lab, call: str, batch: int) -> dict[str, float]:
    count, run = lab.size(1280 if batch == 1 else 6400, 128), lab.run_name()
    with (
        _clocked(lab) as spent,
        ours.filled(lab.url, run, count) as trainer,
        Worker(lab.url, run, heartbeat=False) as worker,
    ):
        new = list(ours.tasks(count, first=count))
        held = _claimed(worker, count, batch) if call == "submit" else []
        spent()
        if call == "enqueue":
            for first in range(0, count, batch):
                trainer.enqueue(new[first : first + batch])
        elif call == "claim":
            _claimed(worker, count, batch)
        for attempts in held:
            worker.submit_many([(attempt, RESULT) for attempt in attempts])
        times = spent()
    calls, took = times.pop("nothing")
    clock = took / calls  # what one look at the clock costs
    values = {name: max(0.0, took - calls * clock) / count for name, (calls, took) in times.items()}
    values = dict(sorted(values.items(), key=lambda pair: -pair[1]))
    commands = sum(us for name, us in values.items() if name.isupper())
    told = {"commands": commands, "lua": sum(values.values()) - commands, **values}
    return {f"{name}_us": us for name, us in told.items()}


def _claimed(worker: Worker, count: int, batch: int) -> list[list[Attempt]]:
    return [worker.claim(batch) for _ in range(0, count, batch)]
