"""Faults put into the Lua scripts on purpose, to see that the tests find them.

    BROKER_TEST_MUTANT=no_compare_and_set pytest tests/conformance

runs the tests with that one fault. `python -m tests.conformance.mutants` runs, for each fault, the tests that must find it, and says which
did not.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from broker import scripts

_VARIABLE = "BROKER_TEST_MUTANT"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `old` becomes `new` in a file of lua/, so many times; a test named like `found_by` must fail."""

    file: str
    old: str
    new: str
    found_by: str
    times: int = 1


MUTANTS: dict[str, Mutant] = {
    # -- compare and set, fencing, replays
    "no_compare_and_set": Mutant(
        "include/attempts.lua", "return t, k, s, same and letter(t, k) == 'H', same", "return t, k, s, letter(t, k) == 'H', same",
        "late_result_of_a_requeued",
    ),
    "compare_without_random": Mutant(
        "include/records.lua", "s.claims == claims and s.random == random", "s.claims == claims", "g3_an_attempt",
    ),
    "no_fence": Mutant("include/gate.lua", "if id ~= (state.epoch", "if false and id ~= (state.epoch", "fence"),
    "replays_execute": Mutant(
        "include/gate.lua", "if call == last then return state.answer end", "", "trainer_call_again",
    ),
    "old_calls_execute": Mutant("include/gate.lua", "if call < last then fail(", "if false then fail(", "out_of_order"),
    "gaps_allowed": Mutant("include/gate.lua", "if call > last + 1 then", "if false then", "out_of_order"),
    "refusals_use_no_number": Mutant(
        "include/gate.lua", "    remember(answer)\n    return reply(answer)",
        "    if answer:sub(1, 1) ~= '!' then remember(answer) end\n    return reply(answer)", "uses_up_its_number",
    ),
    "old_tokens_forgotten": Mutant(
        "include/creation.lua", "if (' ' .. state.tokens", "if false and (' ' .. state.tokens", "late_open",
    ),
    "claims_not_remembered": Mutant(
        "claim.lua", "if tonumber(last) == number then return replay(words) end", "", "claim_again",
    ),
    "empty_claims_not_remembered": Mutant(
        "claim.lua", "if tonumber(last) == number then", "if tonumber(last) == number and words:find('#') then", "empty_claim_again",
    ),
    "requests_not_remembered": Mutant(
        "include/gate.lua", "return redis.call('HGET', REQUESTS, id) or nil", "return nil", "operators_request",
    ),
    # -- capacity
    "open_slots_need_capacity": Mutant(
        "include/handout.lua", "  claim_open(n, limit, claim)", "  if capacity() > 0 then claim_open(n, limit, claim) end", "open_slots_of",
    ),
    "start_ignores_capacity": Mutant(
        "include/handout.lua", "granted_count >= n or capacity() <= 0 or", "granted_count >= n or", "exactly_the_capacity",
    ),
    "start_ignores_capacity_in_processes": Mutant(
        "include/handout.lua", "granted_count >= n or capacity() <= 0 or", "granted_count >= n or", "8_claiming_processes",
    ),
    "start_ignores_staleness": Mutant(
        "include/handout.lua", "granted_count >= n or capacity() <= 0 or too_old(claim.version)",
        "granted_count >= n or capacity() <= 0", "only_where_it_could",
    ),
    "capacity_off_by_one": Mutant("include/state.lua", "(s + num('version') + 1)", "(s + num('version') + 2)", "the_formula"),
    "accepted_not_counted": Mutant("include/endings.lua", "bump('accepted', 1)", "", "the_formula"),
    "small_batch_counts_its_size": Mutant(
        "take.lua", "bump('accepted', math.max(batch_size(), size) - size)", "", "smaller_or_larger or half_of_the",
    ),
    "open_batch_counts_full": Mutant(
        "include/tasks.lua", "bump('open_size', -1)\n    bump('accepted', -1)", "bump('open_size', -1)", "filter_refuses",
    ),
    "discard_keeps_accepted": Mutant(
        "include/tasks.lua", "zdel(READY, t.id)\n    bump('accepted', -1)", "zdel(READY, t.id)", "discard_takes",
    ),
    # -- staleness
    "take_ignores_staleness": Mutant("take.lua", "if too_old(t.oldest) then\n      stale_task(t)", "if false then", "g5"),
    "submit_ignores_staleness": Mutant("submit.lua", "elseif too_old(t.oldest) then", "elseif false then", "resets_all"),
    "renew_ignores_staleness": Mutant("renew.lua", "if too_old(t.oldest) then", "if false then", "resets_all"),
    "claim_ignores_staleness": Mutant(
        "include/handout.lua", "elseif too_old(page[i].oldest) then", "elseif false then", "resets_all",
    ),
    "too_old_one_early": Mutant(
        "include/state.lua", "num('step_next') - version > s", "num('step_next') - version >= s", "not_too_old",
    ),
    "any_policy_survives": Mutant(
        "include/state.lua", "if version == num('version') then return epoch == state.version_epoch end", "if true then return true end",
        "does_not_survive",
    ),
    "stale_without_bound": Mutant(
        "include/endings.lua", "t.stales + 1 > num('max_stale_requeues')", "false", "too_often",
    ),
    # -- retries, leases
    "backoff_constant": Mutant("include/attempts.lua", "base * 2 ^ math.min(s.tries - 1, 40)", "base", "pause_that_doubles"),
    "retry_at_once": Mutant("include/attempts.lua", "set_letter(t, k, 'W')", "set_letter(t, k, 'O')", "pause_that_doubles"),
    "leases_never_end": Mutant("include/sweep.lua", "n = n + expire_sessions(limit)", "", "to_the_millisecond"),
    "timeouts_never_end": Mutant("include/sweep.lua", "n = n + expire_all(timed_out)", "", "hard_limit"),
    "renew_extends_nothing": Mutant("renew.lua", "zput(SESSIONS, session, now + lease)", "", "sign_of_life"),
    "unknown_attempts_kept": Mutant("renew.lua", "if holds then release_attempt(t, k, s) end", "", "lost_for_good"),
    "clock_goes_back": Mutant("include/state.lua", "else now = num('clock') end", "end", "depends_on_the_clock"),
    # -- bytes
    "accept_without_bytes": Mutant(
        "submit.lua", "redis.call('EXISTS', result_key(attempt)) == 0", "false", "without_bytes",
    ),
    "refused_bytes_kept": Mutant(
        "submit.lua", "if by_set and not (same and letter(t, k) == 'D') then", "if false then", "leaves_no_bytes",
    ),
    "ttl_not_cleared": Mutant("submit.lua", "redis.call('PERSIST', result_key(persisted[i]))", "", "set_before_the_call"),
    "bytes_freed_at_once": Mutant("trim.lua", "num('version') - 1", "num('version') + 0", "slow_ranks or bytes_live", 2),
    "tasks_freed_at_once": Mutant("trim.lua", "num('version') - num('retention_steps')", "num('version')", "bytes_live"),
    "finished_kept_for_ever": Mutant(
        "trim.lua", "more = free_finished(REJECTED, limit) or more", "", "dead_and_rejected_tasks_are_kept",
    ),
    "dropped_bytes_kept": Mutant(
        "include/tasks.lua", "unlink(key('result:' .. attempt_id(t, k, s)))", "", "starts_over",
    ),
    # -- batches
    "sealed_batch_is_filled_again": Mutant(
        "take.lua", "if step < num('step_next') then return sealed_already(step) end", "", "never_changes",
    ),
    "sealed_batch_can_be_cancelled": Mutant(
        "include/gate.lua", "and (t.state ~= 'B' or t.step >= num('step_next'))", "", "taken_apart or never_changes",
    ),
    "any_digest": Mutant("advance.lua", "if digest ~= sealed then", "if false then", "names_the_batch"),
    "steps_out_of_order": Mutant("take.lua", "or step > num('version') + 1", "", "formed_in_order"),
    # -- control
    "pause_ignored": Mutant(
        "include/handout.lua", "if state.paused == 'paused' then return 'paused' end", "", "paused_hands_out",
    ),
    "draining_starts_tasks": Mutant("include/handout.lua", "if state.paused ~= 'draining' then", "if true then", "draining_finishes"),
    "repair_changes_nothing": Mutant("repair.lua", "set(name, found[name])", "", "drifted_counters"),
    "submit_denied_when_full": Mutant("submit.lua", "-- Flags: allow-oom", "-- Flags: none", "full_server_refuses"),
    "claims_when_full": Mutant("claim.lua", "-- Flags: none", "-- Flags: allow-oom", "full_server_refuses"),
    # -- wake markers: each place that arms one
    "no_wake_on_advance": Mutant("advance.lua", "arm_workers()", "", "marker_is_armed"),
    "no_wake_on_enqueue": Mutant("enqueue.lua", "arm_workers()", "", "marker_is_armed"),
    "no_wake_on_config": Mutant("open.lua", "arm_workers()", "", "marker_is_armed"),
    "no_wake_on_resume": Mutant("pause.lua", "\n  arm_workers()", "", "marker_is_armed"),
    "no_wake_on_open_slot_after_pause": Mutant("pause.lua", "arm_for_open_slot()", "", "marker_is_armed"),
    "no_wake_on_repair": Mutant("repair.lua", "arm_workers()", "", "marker_is_armed"),
    "no_wake_on_open_slot": Mutant("include/endings.lua", "    arm_for_open_slot()", "", "marker_is_armed"),
    "no_wake_of_stale_weights": Mutant("include/handout.lua", "arm_for_open_slot() -- the", "-- the", "marker_is_armed"),
    "no_wake_of_what_is_left_pending": Mutant(
        "include/handout.lua", "if waiting and capacity() > 0 then arm_workers() end", "", "marker_is_armed",
    ),
    "no_wake_of_what_is_left_open": Mutant(
        "include/handout.lua", "if still_open or redis.call('ZCARD', OPEN) > 0 then arm_for_open_slot() end", "", "marker_is_armed",
    ),
    "no_wake_on_due_task": Mutant("include/sweep.lua", "\n      arm_workers()", "", "marker_is_armed"),
    "no_wake_on_due_slot": Mutant("include/sweep.lua", "arm_for_open_slot()", "", "marker_is_armed"),
    "no_wake_on_requeue": Mutant(
        "include/tasks.lua", "zput(PENDING, t.id, place(t))\n    arm_workers()", "zput(PENDING, t.id, place(t))", "marker_is_armed",
    ),
    "no_wake_when_a_task_stops_running": Mutant(
        "include/tasks.lua", "bump('running', -1)\n    arm_workers()", "bump('running', -1)", "marker_is_armed",
    ),
    "no_wake_on_ready": Mutant(
        "include/endings.lua", "  arm_workers()\n  arm_trainer(false)", "  arm_trainer(false)", "marker_is_armed",
    ),
    "no_wake_of_trainer": Mutant("include/endings.lua", "  arm_trainer(false)", "", "woken_once or blocked_trainer"),
    "no_wake_of_trainer_at_an_end": Mutant("include/endings.lua", "  arm_trainer(true)", "", "blocked_trainer"),
}  # fmt: skip


def install_from_environment() -> None:
    """Lets this process load the scripts with the fault that BROKER_TEST_MUTANT names, if it names one."""
    name = os.environ.get(_VARIABLE)
    if not name:
        return
    mutant = MUTANTS[name]
    folder = Path(tempfile.mkdtemp(prefix="broker-mutant-"), "lua")
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    shutil.copytree(scripts.lua_directory(), folder)
    path = folder / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) >= 1, f"mutant {name}: {mutant.file} has changed, the text to replace is not there"
    path.write_text(text.replace(mutant.old, mutant.new, mutant.times))
    scripts._PLACES = (folder,)  # pyright: ignore[reportPrivateUsage]


def main() -> int:
    """Runs each mutant (or those named) against its tests."""
    survived: list[str] = []
    for name in sys.argv[1:] or MUTANTS:
        mutant = MUTANTS[name]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
        command += [
            "tests/conformance",
            "tests/processes",
            "-k",
            f"({mutant.found_by}) and not fakeredis and not redis-7",
        ]
        done = subprocess.run(command, env={**os.environ, _VARIABLE: name}, capture_output=True, text=True, check=False)
        found = done.returncode == 1
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        sys.stdout.write(
            f"{'found   ' if found else 'SURVIVED'} {name}: {(lines or done.stdout.splitlines()[-1:])[0][:200]}\n"
        )
        sys.stdout.flush()
        if not found:
            survived.append(name)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
