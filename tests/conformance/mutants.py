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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.protocol import function_library as lua_library
from broker.protocol import scripts
from broker.protocol.function_library import Line, Source

_VARIABLE = "BROKER_TEST_MUTANT"
#: Stands for the scripts as functions of a library, which servers of today get (`broker/protocol/function_library.py`).
LIBRARY = "the function library"
#: As often as it is there, once at least.
ANY = 0


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `old` becomes `new` in a file of lua/, so many times; a test named like `found_by` must fail."""

    file: str
    old: str
    new: str
    found_by: str
    times: int = 1

    def apply(self, text: str) -> str:
        """The changed text of the file."""
        there = text.count(self.old)
        fits = there > 0 if self.times == ANY else there == self.times
        assert fits, f"{self.file} has changed: {self.old!r} is there {there} times"
        return text.replace(self.old, self.new)


MUTANTS: dict[str, Mutant] = {
    # -- compare and set, fencing, replays
    "no_compare_and_set": Mutant(
        "include/attempts.lua", "return t, k, s, same and letter(t, k) == 'H', same", "return t, k, s, letter(t, k) == 'H', same",
        "late_result_of_a_requeued",
    ),
    "compare_without_random": Mutant(
        "include/attempts.lua", "attempt_id(t, k, s) == id", "slot_name(t, k) .. '.' .. s.claims == id:match('^(.*)%.%w+$')", "g3_an_attempt",
    ),
    "slots_by_number_however_written": Mutant(
        "include/attempts.lua", "and small_text(k) == number and", "and", "g3_an_attempt",
    ),
    "no_fence": Mutant("include/gate.lua", "if id ~= (state.epoch", "if false and id ~= (state.epoch", "fence"),
    "replays_execute": Mutant(
        "include/gate.lua", "if call == last then return state.answer end", "", "trainer_call_again",
    ),
    "old_calls_execute": Mutant("include/gate.lua", "if call < last then fail(", "if false then fail(", "out_of_order"),
    "gaps_allowed": Mutant("include/gate.lua", "if call > last + 1 then", "if false then", "out_of_order"),
    "refusals_use_no_number": Mutant(
        "include/gate.lua", "    remember(answer)\n    if ok and more",
        "    if answer:sub(1, 1) ~= '!' then remember(answer) end\n    if ok and more", "uses_up_its_number",
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
    # -- what other releases left
    "missing_fields_have_no_default": Mutant(
        "include/state.lua", "= got[i] or DEFAULTS[names[i]] or false", "= got[i]", "no_script_needs_a_field",
    ),
    "fields_read_alone_have_no_default": Mutant(
        "include/state.lua", "name) or DEFAULTS[name] or false", "name)", "no_script_needs_a_field",
    ),
    "no_concurrency_without_one": Mutant(
        "include/state.lua", "state.max_concurrent_rollouts = int_text(batch_size())", "local _", "no_script_needs_a_field",
    ),
    "defaults_are_not_stored": Mutant(
        "include/creation.lua", "for name, value in pairs(DEFAULTS) do set(name, value) end", "", "a_new_run_stores",
    ),
    "any_name_is_a_field": Mutant(
        "include/creation.lua", "if not DEFAULTS[name] and", "if false and", "field_that_no_config_has",
    ),
    "an_older_concurrency_is_always_given": Mutant(
        "include/creation.lua", "return field('concurrency_given') ~= '1' and", "return field('concurrency_given') == '0' and",
        "concurrency_of_an_older_release",
    ),
    # -- what is remembered within a call, or between calls
    "constants_of_the_first_run": Mutant(
        LIBRARY, "if LAST ~= keys[1] then", "if not LAST then", "take_turns",
    ),
    "constants_of_a_script_of_the_first_run": Mutant(
        LIBRARY, "if OWN_LAST ~= keys[1] then", "if not OWN_LAST then", "take_turns", times=ANY,
    ),
    "slots_of_records_of_earlier_calls": Mutant(
        "include/layout.lua", "t.id, t.slot = id, false", "t.id = id", "nothing_of_another_one",
    ),
    "too_old_kept_over_calls": Mutant(
        "include/state.lua", "local oldest_good = nil --", "local oldest_good --", "judged_anew",
    ),
    "what_is_left_kept_over_claims": Mutant(
        "include/handout.lua", "local still_open, still_pending = nil, nil --", "local still_open, still_pending --", "marker_is_armed",
    ),
    "policies_known_by_version": Mutant(
        "include/state.lua", "local policy = version .. ' ' .. epoch", "local policy = version", "judged_by_itself",
    ),
    "policies_known_by_epoch": Mutant(
        "include/state.lua", "local policy = version .. ' ' .. epoch", "local policy = epoch", "judged_by_itself",
    ),
    "tails_by_samples": Mutant(
        "enqueue.lua", "local numbers = ARGV[at + 1] .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 3]",
        "local numbers = ARGV[at + 2] .. ' ' .. ARGV[at + 3]", "bad_numbers",
    ),
    "tails_without_samples": Mutant(
        "enqueue.lua", "ARGV[at + 1] .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 3]", "ARGV[at + 1] .. ' ' .. ARGV[at + 3]",
        "its_own_numbers",
    ),
    "tails_without_min_samples": Mutant(
        "enqueue.lua", "ARGV[at + 1] .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 3]", "ARGV[at + 1] .. ' ' .. ARGV[at + 2]",
        "its_own_numbers",
    ),
    "only_the_first_numbers_checked": Mutant(
        "enqueue.lua", "  if not tails[numbers] then\n",
        "  if not tails[numbers] and next(tails) then\n"
        "    tails[numbers] = ',' .. ARGV[at + 2] .. ',' .. ARGV[at + 3] .. ',0,0,-1,-1,0,0,-1,'\n"
        "  elseif not tails[numbers] then\n",
        "bad_numbers",
    ),
    "claims_count_anew_after_a_requeue": Mutant(
        "include/handout.lua", "t.first ~= '0' or t.again ~= '0,0'", "t.first ~= '0'", "goes_on_counting_its_claims",
    ),
    # -- capacity
    "open_slots_need_capacity": Mutant(
        "include/handout.lua", "  claim_open(n, limit, claim)", "  if capacity() > 0 then claim_open(n, limit, claim) end", "open_slots_of",
    ),
    "start_ignores_capacity": Mutant(
        "include/handout.lua", "local room, offset, first = capacity(),", "local room, offset, first = MAX_INT,", "exactly_the_capacity",
    ),
    "start_ignores_capacity_in_processes": Mutant(
        "include/handout.lua", "local room, offset, first = capacity(),", "local room, offset, first = MAX_INT,", "8_claiming_processes",
    ),
    "start_ignores_staleness": Mutant(
        "include/handout.lua", "if too_old(claim.version) then room = 0 end", "", "only_where_it_could",
    ),
    "capacity_off_by_one": Mutant("include/state.lua", "(s + state.version + 1)", "(s + state.version + 2)", "the_formula"),
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
    "renew_ignores_staleness": Mutant("renew.lua", "and too_old(t.oldest) then", "and false then", "resets_all"),
    "claim_ignores_staleness": Mutant(
        "include/handout.lua", "elseif too_old(page[i].oldest) then", "elseif false then", "resets_all",
    ),
    "too_old_one_early": Mutant(
        "include/state.lua", "tonumber(version) < oldest_good", "tonumber(version) <= oldest_good", "not_too_old",
    ),
    "any_policy_survives": Mutant(
        "include/state.lua", "if version == state.version then return epoch == state.version_epoch end",
        "if tonumber(version) <= num('version') then return true end", "does_not_survive",
    ),
    "older_policies_survive": Mutant(
        "include/state.lua", "redis.call('HGET', POLICIES, int_text(version))) == epoch",
        "redis.call('HGET', POLICIES, int_text(version))) ~= false", "judged_by_itself",
    ),
    "renew_reads_no_record": Mutant("renew.lua", " or too_old(oldest_in(records[i]))", "", "resets_all"),
    "renew_looks_at_the_newest": Mutant(
        "include/layout.lua", "string.rep(',[^,]*', 6) .. ',([^,]*)'", "string.rep(',[^,]*', 7) .. ',([^,]*)'",
        "oldest_sample_of_a_group",
    ),
    "renew_resets_what_others_hold": Mutant(
        "renew.lua", "holds and s.session == session and", "holds and", "another_session_holds",
    ),
    "newest_policy_not_written": Mutant(
        "submit.lua", "s.newest, s.newest_epoch = version, epoch\n    slot_changed(t, k, s)",
        "s.newest, s.newest_epoch = version, epoch", "told_by_the_newest",
    ),
    "newest_of_the_task_not_changed": Mutant(
        "submit.lua", "then t.newest = s.newest end", "then t.newest = t.newest end", "told_by_the_newest",
    ),
    "stale_without_bound": Mutant(
        "include/endings.lua", "stales + 1 > num('max_stale_requeues')", "false", "too_often",
    ),
    # -- retries, leases
    "backoff_constant": Mutant("include/attempts.lua", "base * 2 ^ math.min(s.tries - 1, 40)", "base", "pause_that_doubles"),
    "retry_at_once": Mutant("include/attempts.lua", "set_letter(t, k, 'W')", "set_letter(t, k, 'O')", "pause_that_doubles"),
    "leases_never_end": Mutant("include/sweep.lua", "n = n + expire_sessions(limit)", "", "to_the_millisecond"),
    "timeouts_never_end": Mutant("include/sweep.lua", "n = n + (expire_all(DEADLINES, due_leases(DEADLINES, limit)))", "", "hard_limit"),
    "renew_extends_nothing": Mutant("renew.lua", "zput(SESSIONS, session, lease_end(lease))", "", "sign_of_life"),
    "unknown_attempts_kept": Mutant("renew.lua", "if holds then release_attempt(t, k, s) end", "", "lost_for_good"),
    "unknown_attempts_kept_beside_ended_ones": Mutant(
        "renew.lua", "if scores[i] then holding = holding + 1 end", "holding = holding + 1", "beside_attempts_that_ended",
    ),
    "renew_trusts_what_is_named": Mutant("renew.lua", "if not scores[i] or not records[i] or", "if records[i] and", "renew_says_why"),
    "renew_mixes_its_pieces": Mutant("renew.lua", "scores[from + i - 1] = got[i]", "scores[i] = got[i]", "more_attempts_than_one_command"),
    "known_attempts_released": Mutant("renew.lua", "known[ids[i]] = true", "known[i] = true", "lost_for_good"),
    "swept_before_extended": Mutant(
        "claim.lua", "  zput(SESSIONS, session, lease_end(lease))\n  if is_due() then\n    flush()\n    sweep(limit)\n  end\n",
        "  if is_due() then\n    flush()\n    sweep(limit)\n  end\n  zput(SESSIONS, session, lease_end(lease))\n",
        "whose_lease_just_ran_out",
    ),
    "time_outs_not_read": Mutant("submit.lua", "{ 'timeouts', 'total_results' }", "{ 'total_results' }", "switched_off"),
    "clock_goes_back": Mutant(
        "include/state.lua", "now = math.max(before, int_arg(", "now = math.min(MAX_INT, int_arg(", "depends_on_the_clock",
    ),
    "time_stands_still": Mutant(
        "include/state.lua", "if now > at then set('clock_offset', offset + now - at) end", "", "after_the_clock_went_back",
    ),
    "leases_lose_the_whole_gap": Mutant("include/state.lua", "if now - before > lease_step then", "if false then", "frozen_server or step_forward"),
    "claims_wait_longer_than_leases_go_on": Mutant("claim.lua", "math.min(due - now, lease_step)", "due - now", "lease_clock_stands_still"),
    "deadlines_of_the_last_release_forgotten": Mutant(
        "include/sweep.lua", "local ids = due_members(name, limit)\n  if #ids == limit", "local ids = {}\n  if #ids == limit", "last_release",
    ),
    "deadlines_shown_on_the_lease_clock": Mutant("explain.lua", "silent_from(tonumber(got[2 * i]))", "got[2 * i]", "g9 or shown_of_leases"),
    "silence_by_a_clock_that_stands": Mutant("explain.lua", "LEASE_ZERO + lag_before", "LEASE_ZERO + lease_lag", "fell_silent"),
    "silent_ones_not_counted": Mutant("stats.lua", "now - lag_before))", "now - lease_lag))", "fell_silent"),
    "all_are_connected": Mutant("explain.lua", "silent_from(tonumber(got[i + 1])) <= now", "false", "fell_silent"),
    "totals_of_the_list": Mutant("explain.lua", "0, MOST_COUNTED - 1", "0, 49", "counts_all_workers"),
    "held_is_not_old": Mutant(
        "recover_sweep.lua", "oldest = math.min(oldest, tonumber(s.version))",
        "if c == 'D' or oldest == math.huge then oldest = math.min(oldest, tonumber(s.version)) end", "held_sample_that_is_older",
    ),
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
    "dead_kept_for_ever": Mutant(
        "trim.lua", "more = free_finished('dead', DEAD, limit) or more", "", "dead_and_rejected_tasks_are_kept",
    ),
    "finished_kept_for_ever": Mutant(
        "trim.lua", "more = free_finished('rejected', REJECTED, limit) or more", "", "dead_and_rejected_tasks_are_kept",
    ),
    "freed_uncounted": Mutant("trim.lua", "if n > 0 then bump('total_freed_' .. word, n) end", "", "freed_are_told"),
    "freed_ones_are_not_taken_again": Mutant("enqueue.lua", ", freed_untrained = true }", " }", "outage_is_over"),
    "taken_again_and_still_finished": Mutant(
        "enqueue.lua", "if there then drop_finished(id) end", "", "outage_is_over",
    ),
    "taken_again_with_its_old_payload": Mutant("enqueue.lua", "hput(PAYLOADS, t.id, ARGV[at + 4])", "", "what_is_given_now"),
    "taken_again_leaves_slots": Mutant(
        "enqueue.lua", "for k = samples, t.samples - 1 do drop_slot(t, k) end", "", "what_is_given_now",
    ),
    "freed_dead_count_as_trained": Mutant(
        "include/freeing.lua", "add_finished(t.id, t.state == 'B')", "add_finished(t.id, true)", "outage_is_over",
    ),
    "freed_trained_count_as_dead": Mutant(
        "include/freeing.lua", "add_finished(t.id, t.state == 'B')", "add_finished(t.id, false)", "outage_is_over",
    ),
    "retry_knows_nothing_of_what_was_freed": Mutant(
        "retry.lua", "not t and freed_word(ids[i]) or state_word(t)", "state_word(t)", "what_became_of_freed",
    ),
    "freed_unsaid": Mutant("trim.lua", "event('freed',", "tostring(", "freed_are_told"),
    "dropped_bytes_kept": Mutant(
        "include/tasks.lua", "unlink(RESULT .. attempt_id(t, k, s))", "", "starts_over",
    ),
    "due_as_an_older_release_says": Mutant(
        "include/state.lua", "if state.due ~= state.due_by_us then", "if false then", "beside_many",
    ),
    # -- batches
    "sealed_batch_is_filled_again": Mutant(
        "take.lua", "if step < num('step_next') then return sealed_already(step) end", "", "never_changes",
    ),
    "sealed_batch_can_be_cancelled": Mutant(
        "include/gate.lua", "and (t.state ~= 'B' or tonumber(t.step) >= num('step_next'))", "", "taken_apart or never_changes",
    ),
    "any_digest": Mutant("advance.lua", "if digest ~= sealed then", "if false then", "names_the_batch"),
    "steps_out_of_order": Mutant("take.lua", "or step > num('version') + 1", "", "formed_in_order"),
    "taken_and_not_written_before_it_counts": Mutant(
        "take.lua", "set('open_size', size)\n    flush()", "set('open_size', size)", "counted_once",
    ),
    "rows_before_the_seal": Mutant(
        "take.lua", "  if seal then told = {} end\n",
        "  if seal then told = redis.call('ZRANGE', key('batch:' .. int_text(step)), 0, -1) end\n",
        "one_call_that_seals",
    ),
    "rows_of_a_sealed_batch": Mutant(
        "take.lua", "then return sealed_already(step) end",
        "then return sealed_already(step), contents("
        "redis.call('ZRANGE', key('batch:' .. int_text(step)), 0, -1), bytes) end",
        "one_call_that_seals",
    ),
    "rows_backwards": Mutant(
        "include/rows.lua", "ids[i] = members[2 * i - 1]", "ids[i] = members[#members - 2 * i + 1]", "order_of_the_batch",
    ),
    "results_backwards": Mutant(
        "include/rows.lua", "results[#results + 1] = RESULT .. attempt", "table.insert(results, 1, RESULT .. attempt)",
        "order_of_the_batch",
    ),
    "more_rows_than_asked": Mutant("include/rows.lua", "math.min(most, #members / 2)", "#members / 2", "order_of_the_batch"),
    "takes_more_than_it_tells": Mutant(
        "take.lua", "if told > 0 then looked = math.min(looked, told, within_slots(ids, MOST_SLOTS)) end", "", "of_all_that_it_took",
    ),
    "takes_any_number_of_slots": Mutant(
        "take.lua", "math.min(looked, told, within_slots(ids, MOST_SLOTS))", "math.min(looked, told)", "of_all_that_it_took",
    ),
    "tells_of_what_it_reset": Mutant(
        "take.lua", "      stale_task(t)\n", "      stale_task(t)\n      taken[#taken + 1] = t.id\n", "not_told_of",
    ),
    "results_above_the_limit": Mutant(
        "include/rows.lua", "if sum > bytes then return { rows, {} } end", "", "all_or_not_at_all",
    ),
    "results_below_the_limit_only": Mutant("include/rows.lua", "if sum > bytes then", "if sum >= bytes then", "all_or_not_at_all"),
    "any_number_of_results": Mutant("include/rows.lua", "if #results > MOST_RESULTS then", "if false then", "as_many_as_one_command"),
    "rows_of_any_number_of_slots": Mutant(
        "include/rows.lua", "within_slots(ids, MOST_SLOTS)", "within_slots(ids, 1e9)", "large_groups_are_read",
    ),
    "what_stopped_at_the_slots_is_left": Mutant("trim.lua", "stopped and 2 or more", "more", "large_groups_are_read"),
    "stopped_steps_are_done": Mutant(
        "trim.lua", "if n == #ids and n < limit then\n    set('bytes_from'", "if n <= limit then\n    set('bytes_from'", "large_groups_are_read",
    ),
    "groups_of_any_size_in_a_call": Mutant(
        "include/gate.lua", "within_slots(ids, MOST_SLOTS_OF_CALL)", "within_slots(ids, 1e9)", "large_groups_end",
    ),
    "take_resets_any_number_of_slots": Mutant("take.lua", "if cleared_enough() then", "if false then", "reset_in_pieces"),
    "claim_resets_any_number_of_slots": Mutant(
        "include/handout.lua", "resets >= limit or cleared_enough()", "resets >= limit", "reset_in_pieces",
    ),
    "sweep_ends_any_number_of_slots": Mutant(
        "include/sweep.lua", "if cleared_enough() then return", "if false then return", "due_end_in_pieces",
    ),
    "a_session_ends_with_its_first_piece": Mutant(
        "include/sweep.lua", "if all and looked == #held then", "if all then", "due_end_in_pieces",
    ),
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
    "no_wake_on_resume": Mutant("pause.lua", "arm_anyway()", "", "marker_is_armed"),
    "no_wake_on_open_slot_after_pause": Mutant("pause.lua", "arm_anyway()", "arm_workers()", "marker_is_armed"),
    "no_wake_on_repair": Mutant("repair.lua", "arm_anyway()", "", "marker_is_armed"),
    "numbers_are_anybodys": Mutant(
        "include/lineage.lua", "if lineage == '' or listed_order < 0 then", "if true then", "not_taken_for_those_of_the_checkpoint",
    ),
    "retries_hide_a_loss": Mutant(
        "include/lineage.lua", "(to.lost or limit < version)", "to.lost", "operators_retries_do_not_hide",
    ),
    "dropped_rows_are_finished": Mutant(
        "recover_sweep.lua", "if fate == 'finished' then remember_finished(t.id) end", "remember_finished(t.id)",
        "not_taken_for_those_of_the_checkpoint",
    ),
    "dropped_without_a_cursor": Mutant(
        "include/recovery.lua", "foreign and to.by_cursor and not listed", "foreign and not listed", "without_a_cursor_nobody",
    ),
    "numbers_taken_over_too_early": Mutant(
        "recover_begin.lua", "  go_to(to, epoch)\n", "  go_to(to, epoch)\n  if to.by_cursor then set('lineage', ARGV[14]) end\n",
        "begun_again_still_tells",
    ),
    "numbers_not_taken_over": Mutant(
        "recover_commit.lua", "  if (state.recover_lineage or '') ~= '' then", "  if false then", "results_of_the_time_after",
    ),
    "finished_by_others_stays_so": Mutant(
        "recover_begin.lua", "if to.forgot and to.file_cursor and num('order_seq') > to.common then forget_finished() end", "",
        "finished_is_brought_again",
    ),
    "steps_of_others_survive": Mutant(
        "include/recovery.lua", "listed ~= nil and forgot and born > to.common", "false", "cancelled_by_others",
    ),
    "older_file_newer_cursor": Mutant(
        "include/lineage.lua", "and (to.forgot or to.older)", "and to.forgot", "a_still_older_checkpoint",
    ),
    "older_file_newer_ends": Mutant(
        "recover_begin.lua", "if to.older or to.version < num('known_version') then forget_finished() end", "", "a_still_older_checkpoint",
    ),
    "an_end_known_from_a_file_alone": Mutant(
        "recover_sweep.lua", "set('known_from', math.max(num('known_from'), num('recover_listed')))", "", "forgotten_discard_is_undone",
    ),
    "forgotten_steps_by_version": Mutant(
        "include/target.lua", "has_list and 0 or num('known_version')", "0", "a_version_alone_cannot",
    ),
    "no_wake_on_recovery": Mutant("recover_commit.lua", "arm_anyway()", "", "marker_is_armed"),
    "no_wake_on_open_slot_after_recovery": Mutant("recover_commit.lua", "arm_anyway()", "arm_workers()", "marker_is_armed"),
    "no_wake_of_those_who_listen_without_tasks": Mutant(
        "include/writes.lua", "local function arm_anyway() arm_for_open_slot() end", "local function arm_anyway() arm_workers() end",
        "rare_calls_wake",
    ),
    "no_wake_on_open_slot": Mutant("include/endings.lua", "    arm_for_open_slot()", "", "marker_is_armed"),
    "no_wake_of_stale_weights": Mutant("include/handout.lua", "arm_for_open_slot() -- the", "-- the", "marker_is_armed"),
    "no_wake_of_what_is_left_pending": Mutant(
        "include/handout.lua", "if still_pending and capacity() > 0 then arm_workers() end", "", "marker_is_armed",
    ),
    "no_wake_where_a_task_waits": Mutant(
        "include/writes.lua", "redis.call('ZCARD', PENDING) > 0)", "redis.call('ZCARD', PENDING) > 1)", "marker_is_armed",
    ),
    "woken_where_nothing_waits": Mutant(
        "include/writes.lua", "(capacity() > 0 and redis.call('ZCARD', PENDING) > 0)", "capacity() > 0", "where_no_task_waits",
    ),
    "woken_without_capacity": Mutant(
        "include/writes.lua", "(capacity() > 0 and redis.call('ZCARD', PENDING) > 0)", "redis.call('ZCARD', PENDING) > 0",
        "lets_a_worker_sleep",
    ),
    "woken_in_a_pause": Mutant(
        "include/writes.lua", "if arm.workers and state.paused ~= 'paused' then", "if arm.workers then", "lets_a_worker_sleep",
    ),
    "markers_before_the_writes": Mutant(
        "include/writes.lua", "  if save_records then save_records() end",
        "  arm_markers()\n  arm.workers = false\n  if save_records then save_records() end", "marker_is_armed",
    ),
    "used_up_forgotten": Mutant(
        "include/handout.lua", "redis.call('ZCARD', OPEN) > used_up", "redis.call('ZCARD', OPEN) > 0", "last_open_slots_wakes_nobody",
    ),
    "used_up_after_a_reset": Mutant(
        "include/handout.lua", "    flush()\n    used_up = 0\n", "    flush()\n", "reset_a_task_on_the_way",
    ),
    "open_slots_not_counted": Mutant(
        "include/handout.lua", "still_open = redis.call('ZCARD', OPEN) > used_up", "still_open = false",
        "did_not_look_at_the_last_open_slot",
    ),
    "still_open_forgotten": Mutant(
        "include/handout.lua", "then still_open = true else used_up = used_up + 1 end", "then used_up = used_up + 0 end",
        "part_of_a_running_group",
    ),
    "still_open_of_a_started_group_forgotten": Mutant(
        "include/handout.lua", "if start(page[i], n - granted_count, claim, int_text(first + started)) then still_open = true end",
        "start(page[i], n - granted_count, claim, int_text(first + started))", "started_a_part_of_a_group",
    ),
    "pending_not_counted": Mutant(
        "include/handout.lua", "still_pending = redis.call('ZCARD', PENDING) > started", "still_pending = false",
        "did_not_look_at",
    ),
    "no_wake_of_what_is_left_open": Mutant(
        "include/handout.lua", "if still_open then arm_for_open_slot() end", "", "marker_is_armed",
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
    "trainer_woken_for_each_rollout": Mutant(
        "include/writes.lua", "(arm.task_ended or redis.call('ZCARD', READY) >= want)", "true", "woken_once",
    ),
    "short_take_waits_for_what_it_has": Mutant(
        "take.lua", "short and left > size and math.min(n, left)", "short and math.min(n, left)", "took_all_there_was",
    ),
    "short_take_waits_for_a_full_batch": Mutant(
        "take.lua", "short and left > size and math.min(n, left) or n", "n", "short_batch_waits_for_what_is_left",
    ),
    "want_forgets_what_is_there": Mutant("take.lua", "math.max(0, whole - size)", "whole", "woken_by_more or blocked_trainer"),
    "want_after_a_short_batch": Mutant(
        "take.lua", "digest == '-' and math.max(0, whole - size) or 0", "math.max(0, whole - size)", "has_its_batch_is_not_woken",
    ),
}  # fmt: skip


def install_from_environment() -> None:
    """Lets this process load the scripts with the fault that BROKER_TEST_MUTANT names, if it names one."""
    name = os.environ.get(_VARIABLE)
    if not name:
        return
    mutant = MUTANTS[name]
    if mutant.file == LIBRARY:
        _change_library(mutant)
        return
    folder = Path(tempfile.mkdtemp(prefix="broker-mutant-"), "lua")
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    shutil.copytree(scripts.lua_directory(), folder)
    path = folder / mutant.file
    path.write_text(mutant.apply(path.read_text()))
    scripts._PLACES = (folder,)  # pyright: ignore[reportPrivateUsage]


def _change_library(mutant: Mutant) -> None:
    """The fault is in what the scripts become as functions."""

    def changed(includes: Mapping[str, Source], functions: Sequence[Source]) -> list[Line]:
        lines = lua_library.as_library(includes, functions)
        mutant.apply("\n".join(text for text, _ in lines))
        return [(text.replace(mutant.old, mutant.new), origin) for text, origin in lines]

    scripts.as_library = changed


def main() -> int:
    """Runs each mutant (or those named) against its tests."""
    survived: list[str] = []
    for name in sys.argv[1:] or MUTANTS:
        mutant = MUTANTS[name]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
        command += [
            "tests/conformance",
            "tests/processes",
            "tests/recovery",
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
