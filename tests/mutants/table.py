"""The faults that the tests have to find: each is a change of the Lua, with the tests that have to fail.

A fault's row has the text in the file, the text that replaces it, and the tests that find the fault. These are words of
the names of directed tests, as pytest's `-k` takes them, and `WALK`, the random walk over the protocol. If a row names
several, each of them has to fail. When a file is rewritten and a fault's text is gone, `tests/unit/test_faults_apply.py`
fails: give the fault the new text.
"""

from __future__ import annotations

#: The walk compares every answer and the whole state with the reference model (`tests/properties/walk.py`).
WALK = "the walk"
#: In place of a file's name: every file that has the text.
EVERY = "every file"
#: In place of a file's name: the function library that the scripts become (`broker/protocol/function_library.py`).
LIBRARY = "the function library"

#: Faults whose text is in the file more than once; it is replaced everywhere.
EVERYWHERE = {"bytes_freed_at_once", "constants_of_a_script_of_the_first_run"}

#: By file of lua/, then by name.
FAULTS: dict[str, dict[str, tuple[str, ...]]] = {
    "include/admission_shares.lua": {
        "nobody_looks_at_what_others_need": (
            " - (total_need(owners) - need(o))", "", "a_fast_rank_leaves_a_share", "every_grant_is_that_of_the_rule",
        ),
        "needs_are_kept_of_the_concurrency_too": (
            "return math.min(by_concurrency - promised, left)",
            "return math.min(by_concurrency - promised - (total_need(owners) - need(o)), left)",
            "concurrency_below_the_batch",
        ),
        "nothing_is_kept_for_the_absent": (
            "return any_given and total + absent or total", "return total", "a_rank_that_has_not_joined_yet",
        ),
        "what_a_late_rank_runs_counts_for_this_step": (
            "math.min(o.share, o.share * (num('version') + 1) - account(o) - o.running - o.reserved))",
            "math.min(o.share, o.share * (num('version') + 1) - account(o)) - o.running - o.reserved)",
            "whose_reports_are_late",
        ),
        "what_a_dead_rank_accepted_stays": (
            "bump('accepted', -o.unused)", "", "what_a_silent_rank_had",
        ),
        "what_anybody_accepted_dies_with_it": (
            "o.unused = o.given > 0 and", "o.unused =", "did_not_say_its_share_stays",
        ),
        "a_rank_that_slept_comes_back_empty": ("bump('accepted', o.unused)", "", "what_a_silent_rank_had"),
        "a_recovery_does_not_change_what_a_rank_found": (
            ", o.found = o.share * num('version') - o.accepted, history(), 0, num('version')",
            " = o.share * num('version') - o.accepted, history(), 0", "found_a_later_version",
        ),
        "shares_by_who_comes_first": (
            "math.ceil(left / (#others - i + 1))", "left", "a_fast_rank_leaves_a_share",
        ),
    },
    "include/admission.lua": {
        "a_second_announcement_erases": (
            "if is_heard and o.announced ~= history() then", "if false then", "second_rank_erases_nothing",
        ),
        "every_later_announcement_is_the_same": (
            "if is_heard and o.announced ~= history() then", "if is_heard or o.announced == history() then",
            "second_rank_erases_nothing",
        ),
        "who_joined_later_announces_steps_that_others_trained": (
            "o.share * math.max(r.recovered_to, o.found)", "o.share * r.recovered_to", "when_the_run_had_gone_on",
        ),
        "a_new_life_keeps_the_counts": (
            "if r.version >= 0 then begin_life(owners, r, highest) end", "", "starts_over_at_once", "starts_over_later",
        ),
        "a_training_that_trained_meanwhile_is_taken_for_the_dead_one": (
            "elseif goes_back then", "elseif goes_back and highest == 0 then", "trains_while_the_leases",
        ),
        "a_training_that_goes_back_and_announces_nothing_is_taken_for_the_dead_one": (
            "(o.first <= 0 or o.first < o.found)", "o.first <= 0", "goes_back_and_announces_nothing",
        ),
        "who_goes_back_has_trained_nothing_before": (
            "math.max(o.share * first, ", "math.max(0, ", "goes_back_and_announces_nothing_accepted",
        ),
        "who_has_not_reported_has_trained_nothing_before": (
            "o.first < 0 and began or o.first", "math.max(0, o.first)", "goes_back_and_announces_nothing",
        ),
        "steps_trained_meanwhile_count_as_untrained": (
            "accepted = accepted + bases[id] + o.accepted - o.share * highest", "accepted = accepted + o.accepted",
            "trains_while_the_leases",
        ),
        "a_version_that_was_loaded_counts_as_trained_here": (
            ", o.share * math.max(version, highest - 1) - o.accepted)", ")",
            "loads_its_version_later",
        ),
        "a_process_that_hangs_adopts_the_new_training": (
            "if is_new and (o.first < 0 or o.first < o.found) then life = math.min(life, o.joined - 1) end",
            "", "hangs_beside_it",
        ),
        "a_new_life_that_recovered_keeps_the_counts": (
            "if #recovered > 0 then", "if false then", "goes_on_from_there",
        ),
        "the_version_of_joining_stays": (
            "(o.first < 0 or o.version < 0) and", "o.first < 0 and", "takes_the_place_of_that_of_joining",
        ),
        "one_training_is_taken_for_two": (
            "if num('admission_life') < life then set('admission_life', life) end", "", "is_of_the_same_training",
        ),
    },
    "admission_open.lua": {
        "who_joins_has_said_no_version": ("first = version,", "first = -1,", "before_the_next_has_reported"),
    },
    "advance.lua": {
        "an_empty_step_leaves_what_is_due": ("if due then fail(", "if false then fail(", "a_step_without_a_batch", WALK),
        "any_digest": ("if digest ~= sealed then", "if false then", "names_the_batch", WALK),
        "no_wake_on_advance": ("Markers.arm_workers()", "", "marker_is_armed"),
        "advance_does_not_settle_a_large_batch": (
            "bump('accepted', batch_size() - math.max(batch_size(), size))", "", WALK,
        ),
        "an_empty_advance_adds_no_batch": ("bump('accepted', batch_size())", "", WALK),
        "advance_over_an_unsealed_batch": (
            "if not allow_empty or num('open_size') > 0 then", "if not allow_empty then", WALK,
        ),
        "advance_any_step": ("if step ~= version then fail('EARLY'", "if false then fail('EARLY'", WALK),
        "the_new_policy_has_no_epoch": ("set('version_epoch', state.epoch)", "", WALK),
        "advance_wakes_nobody": ("Markers.arm_workers()\n  event('advance'", "event('advance'", WALK),
    },
    "claim.lua": {
        "claims_not_remembered": ("if tonumber(last) == number then return replay(words) end", "", "claim_again", WALK),
        "empty_claims_not_remembered": (
            "if tonumber(last) == number then",
            "if tonumber(last) == number and words:find('#') then", "empty_claim_again",
        ),
        "swept_before_extended": (
            "  zput(SESSIONS, session, lease_end(lease))\n  if is_due() then\n    flush()\n    sweep(limit)\n  end\n",
            "  if is_due() then\n    flush()\n    sweep(limit)\n  end\n  zput(SESSIONS, session, lease_end(lease))\n",
            "whose_lease_just_ran_out",
        ),
        "claims_wait_longer_than_leases_go_on": (
            "math.min(first - now, lease_step, till)", "math.min(first - now, till)", "lease_clock_stands_still",
        ),
        "claims_when_full": ("-- Flags: none", "-- Flags: allow-oom", "full_server_refuses"),
        "an_old_claim_executes": (
            "if tonumber(last) > number then fail('OLDREQUEST'", "if false then fail('OLDREQUEST'", WALK,
        ),
        "a_repeated_claim_gives_what_is_lost": (
            "if holds then\n      local at, word", "if t then\n      local at, word", WALK,
        ),
        "claim_does_not_extend_the_lease": ("zput(SESSIONS, session, lease_end(lease))", "", WALK),
    },
    "commit.lua": {
        "a_commit_of_any_version": (
            "if version > num('version') then fail('EARLY'", "if false then fail('EARLY'", WALK,
        ),
        "the_newest_checkpoint_is_the_floor": ("version, num('keep_checkpoints'))", "version, 1)", WALK),
        "an_operators_checkpoint_raises_the_floor": ("if ARGV[2] == 'o' then\n", "if false then\n", WALK),
        "an_operators_checkpoint_of_a_lost_future_counts": (
            "then refuse_target(version,", "then tostring(version,", WALK,
        ),
    },
    "discard.lua": {
        "discard_reaches_into_sealed_batches": (
            "(t.state == 'Y' or t.state == 'B') and is_unsealed(t)", "(t.state == 'Y' or t.state == 'B')", WALK,
        ),
    },
    "batch.lua": {
        "ranks_wait_for_a_batch_of_a_finished_run": (
            "if step >= num('step_next') and count == 0 and state.finished then", "if false then", "attached_rank",
        ),
    },
    "enqueue.lua": {
        "an_enqueue_leaves_the_run_finished": ("if opens then reopen() end", "", "whoever_brings_tasks", WALK),
        "a_feeder_at_work_opens_a_finished_run": (
            "local opens = supply == '' or supply == 'begin'", "local opens = true", "feeder_at_work", WALK,
        ),
        "the_end_of_the_feeder_wakes_nobody": (
            "if said == 'done' then Markers.arm_trainer(true) end", "", "woken_by_the_loaders_end", WALK,
        ),
        "what_nobody_feeds_does_not_end_the_end": (
            "if added > 0 and state.supply == 'done' then set('supply', '') end", "", "that_nobody_feeds", WALK,
        ),
        "any_enqueue_ends_the_end": ("if added > 0 and state.supply", "if state.supply", "that_nobody_feeds", WALK),
        "freed_ones_are_not_taken_again": (", freed_untrained = true }", " }", "outage_is_over"),
        "taken_again_and_still_finished": ("if there then drop_finished(id) end", "", "outage_is_over"),
        "taken_again_with_its_old_payload": ("hput(PAYLOADS, t.id, payload)", "", "what_is_given_now"),
        "taken_again_leaves_slots": (
            "for k = options.samples, t.samples - 1 do drop_slot(t.id, k) end", "", "what_is_given_now",
        ),
        "no_wake_on_enqueue": ("Markers.pass_on(false, true)", "", "marker_is_armed"),
        "enqueue_overwrites": ("tasks[id] and state_word(tasks[id]) or (check", "(check", WALK),
        "enqueue_takes_one_name_twice": ("seen[id] and 'pending' or tasks[id]", "tasks[id]", WALK),
        "enqueue_again_takes_what_was_trained_on": (
            "freed_untrained = true }", "freed_untrained = true, freed = true }", WALK,
        ),
        "enqueue_again_takes_live_tasks": ("not (again and UNTRAINED[there])", "not (again and there)", WALK),
        "enqueue_takes_the_dead_unasked": ("not (again and UNTRAINED[there])", "not UNTRAINED[there]", WALK),
        "enqueue_again_counts_nothing": ("if restarted > 0 then bump('total_retried', restarted) end", "", WALK),
        "enqueue_wakes_nobody": ("    Markers.pass_on(false, true)\n    bump('order_seq'", "    bump('order_seq'", WALK),
    },
    "explain.lua": {
        "deadlines_shown_on_the_lease_clock": (
            "silent_from(tonumber(ends[i]))", "ends[i]", "g9 or shown_of_leases",
        ),
        "silence_by_a_clock_that_stands": ("LEASE_ZERO + lag_before", "LEASE_ZERO + lease_lag", "fell_silent"),
        "all_are_connected": ("silent_from(tonumber(got[i + 1])) <= now", "false", "fell_silent"),
        "totals_of_the_list": ("0, MOST_COUNTED - 1", "0, 49", "counts_all_workers"),
    },
    "include/attempts.lua": {
        "no_compare_and_set": (
            "return t, k, s, same and letter(t, k) == 'H', same",
            "return t, k, s, letter(t, k) == 'H', same", "late_result_of_a_requeued",
        ),
        "compare_without_random": (
            "attempt_id(t, k, s) == id",
            "slot_name(t, k) .. '.' .. s.claims == id:match('^(.*)%.%w+$')", "g3_an_attempt", WALK,
        ),
        "slots_by_number_however_written": ("and small_text(k) == number and", "and", "g3_an_attempt"),
        "failures_of_a_halted_run_cost_tries": (
            "local costs = not state.halted and", "local costs =", "no_failure_costs_an_attempt", WALK,
        ),
        "an_expiry_in_a_halted_run_costs_a_try": (
            "local is_free = state.halted or", "local is_free =", "no_failure_costs_an_attempt", WALK,
        ),
        "a_lost_session_costs_each_task_a_try": (
            "state.halted or (among_others and s.why ~= 'expired')", "state.halted", "beside_a_poison_prompt", WALK,
        ),
        "a_prompt_that_kills_its_workers_costs_nothing": (
            "(among_others and s.why ~= 'expired')", "among_others", "poison_prompt_ends",
        ),
        "what_a_lost_session_did_not_take_is_noted": ("is_free and 0 or 1, 'the lease", "1, 'the lease", WALK),
        "a_fault_is_a_failure": (
            "(not by_worker or Failures.add(t, k, s.session, retry_at))", "true", "another_worker_tries", WALK,
        ),
        "a_fault_is_told_as_a_failure": ("by_worker and 'total_faults' or 'total_failed'", "'total_failed'", WALK),
        "retry_at_once": ("set_letter(t, k, 'W')", "set_letter(t, k, 'O')", "pause_that_doubles"),
        "no_compare_of_the_claim_number": ("attempt_id(t, k, s) == id", "s.random == id:match('%w+$')", WALK),
        "any_attempt_of_a_held_slot_may_submit": (
            "same and letter(t, k) == 'H', same", "letter(t, k) == 'H', same", WALK,
        ),
        "ended_attempts_count_as_holders": ("same and letter(t, k) == 'H', same", "same, same", WALK),
        "one_try_more_than_max_attempts": ("if tries < (TaskOptions", "if tries <= (TaskOptions", WALK),
        "an_expiry_costs_no_try": (
            "if is_free or spend_try(t, k, s) then set_letter(t, k, 'O') end", "set_letter(t, k, 'O')", WALK,
        ),
        "a_release_costs_a_try": (
            "end_hold(t, k, s, 'released')", "end_hold(t, k, s, 'released')\n  s.tries = s.tries + 1", WALK,
        ),
    },
    "cancel.lua": {
        "cancelling_a_named_task_wakes_no_trainer": (
            "if next(dropped) then Markers.arm_trainer(true) end", "", "nobody_will_bring_them", WALK,
        ),
    },
    "include/awaited.lua": {
        "nobody_notes_what_a_recovery_names": ("hput(key('awaited'), ids[i], 1)\n      bump('awaited', 1)", "", "is_waited_for", WALK),
        "named_tasks_that_are_there_are_waited_for": (
            "hdel(key('awaited'), ids[i])\n      bump('awaited', -1)", "", "is_waited_for", WALK,
        ),
        "what_an_earlier_recovery_named_stays": ("  unlink(key('awaited'))\n  set('awaited', 0)", "", WALK),
    },
    "include/backoff.lua": {
        "backoff_constant": ("base * 2 ^ math.min(tries - 1, 40)", "base", "pause_that_doubles", WALK),
        "backoff_without_bound": (
            "math.min(num('retry_backoff_max_ms'), base * 2 ^ math.min(tries - 1, 40))",
            "base * 2 ^ math.min(tries - 1, 40)", WALK,
        ),
        "backoffs_are_on_the_lease_clock": (
            "return now + math.min(num('retry", "return now - lease_lag + math.min(num('retry", WALK,
        ),
    },
    "include/creation.lua": {
        "an_absent_trainer_waits": (
            "if state.on_stale == 'wait' then set('wait', '') end -- nobody", "-- nobody", "while_there_is_no_trainer", WALK,
        ),
        "a_bound_on_samples_leaves_that_on_tasks": (
            "return Samples.most() and 1000000000 or batch_size()", "return batch_size()", "samples_are_bounded_and_not_tasks", WALK,
        ),
        "what_a_stored_run_has_is_not_told": (
            "if name == 'staleness_limit' and not stored then stored = state.max_staleness end", "",
            "of_an_earlier_release_keeps",
        ),
        "a_new_trainer_ends_a_halt": (
            "  set('epoch', epoch)\n  set('call', 0)\n",
            "  set('epoch', epoch)\n  set('call', 0)\n  if field('halted') then set('halted', '') end\n",
            "a_halt_survives", WALK,
        ),
        "a_feeder_outlives_its_trainer": (
            "if field('supply') == 'more' then set('supply', 'interrupted') end", "", "more_ends_with_its_trainer", WALK,
        ),
        "old_tokens_forgotten": ("if (' ' .. state.tokens", "if false and (' ' .. state.tokens", "late_open"),
        "defaults_are_not_stored": (
            "for name, value in pairs(DEFAULTS) do set(name, value) end", "", "a_new_run_stores",
        ),
        "any_name_is_a_field": ("if not DEFAULTS[name] and", "if false and", "field_that_no_config_has"),
        "an_older_concurrency_is_always_given": (
            "return field('concurrency_given') ~= '1' and",
            "return field('concurrency_given') == '0' and", "concurrency_of_an_older_release",
        ),
        "a_concurrency_that_was_given_follows": ("return field('concurrency_given') ~= '1' and", "return", WALK),
        "the_concurrency_follows_nothing": (
            "if follows and not Config.follows() then Config.follow() end", "", WALK,
        ),
        "an_update_gives_no_concurrency": (
            "follows = false\n      if field('concurrency_given')", "if false and field('x')", WALK,
        ),
        "a_late_open_takes_over": (
            "if (' ' .. state.tokens .. ' '):find(' ' .. token .. ' ', 1, true) then", "if false then", WALK,
        ),
        "a_new_epoch_leaves_no_mark": (
            "mark_epoch(epoch:match('%w+$'), num('order_seq'), field('lineage') or '')", "", WALK,
        ),
    },
    "include/endings.lua": {
        "a_group_waits_for_all": ("if wanted and select(2", "if false and select(2", "six_of_eight", WALK),
        "surplus_slots_stay_in_open": ("zdel(OPEN, t.id)\n    t.letters = t.letters:gsub('[OWH]', 'S')", "t.letters = t.letters:gsub('[OWH]', 'S')", "six_of_eight"),
        "surplus_retries_stay": ("        zdel(RETRIES, slot_name(t, k))\n", "", "six_of_eight"),
        "surplus_is_not_counted": ("        bump('total_surplus', 1)\n", "", "six_of_eight"),
        "accepted_not_counted": ("bump('accepted', 1)", "", "the_formula", WALK),
        "stale_without_bound": ("stales + 1 > num('max_stale_requeues')", "false", "too_often"),
        "no_wake_on_open_slot": ("    Markers.arm_for_work()", "", "marker_is_armed"),
        "no_wake_on_ready": ("  Markers.arm_workers()\n  Markers.arm_trainer(false)", "  Markers.arm_trainer(false)", "marker_is_armed"),
        "no_wake_of_trainer": ("  Markers.arm_trainer(false)", "", "woken_once or blocked_trainer"),
        "no_wake_of_trainer_at_an_end": ("  Markers.arm_trainer(true)", "", "blocked_trainer"),
        "on_stale_drop_requeues": ("state.on_stale == 'drop' or", "", WALK),
        "stale_requeues_without_bound": ("or stales + 1 > num('max_stale_requeues')", "", WALK),
        "an_ended_slot_is_not_offered_again": (
            "elseif letters:find('O', 1, true) then\n    zput(OPEN", "elseif false then\n    zput(OPEN", WALK,
        ),
        "min_samples_is_not_looked_at": (
            "letters:gsub('F', '')) >= TaskOptions.of(t).min_samples", "letters:gsub('F', '')) >= t.samples", WALK,
        ),
        "a_ready_group_waits_for_its_failed_slots": (
            "elseif not letters:find('[OWH]') then", "elseif not letters:find('[OWHF]') then", WALK,
        ),
        "an_open_slot_wakes_nobody": (
            "zput(OPEN, t.id, place(t))\n    Markers.arm_for_work()", "zput(OPEN, t.id, place(t))", WALK,
        ),
        "ready_rollouts_do_not_wake_the_trainer": ("Markers.arm_trainer(false)", "", WALK),
    },
    "include/gate.lua": {
        "no_fence": ("if id ~= (state.epoch", "if false and id ~= (state.epoch", "fence"),
        "replays_execute": ("if call == last then return state.answer end", "", "trainer_call_again", WALK),
        "old_calls_execute": ("if call < last then fail(", "if false then fail(", "out_of_order"),
        "gaps_allowed": ("if call > last + 1 then", "if false then", "out_of_order"),
        "refusals_use_no_number": (
            "    remember(answer)\n    if ok and more",
            "    if answer:sub(1, 1) ~= '!' then remember(answer) end\n    if ok and more", "uses_up_its_number",
        ),
        "requests_not_remembered": (
            "return redis.call('HGET', REQUESTS, id) or nil", "return nil", "operators_request", WALK,
        ),
        "sealed_batch_can_be_cancelled": (
            "and (t.state ~= 'B' or tonumber(t.step) >= num('step_next'))", "", "taken_apart or never_changes",
        ),
        "groups_of_any_size_in_a_call": (
            "within_slots(ids, MOST_SLOTS_OF_CALL)", "within_slots(ids, 1e9)", "large_groups_end",
        ),
        "the_number_of_a_call_is_not_stored": ("set('call', ARGV[4])", "", WALK),
        "an_old_call_executes": ("if call < last then fail('OLDCALL'", "if false then fail('OLDCALL'", WALK),
        "a_gap_is_not_noticed": ("if call > last + 1 then fail('REWOUND'", "if false then fail('REWOUND'", WALK),
        "no_fence_at_all": (
            "if id ~= (state.epoch or ''):match('%.(%w+)$') then fail('FENCED'", "if false then fail('FENCED'", WALK,
        ),
        "calls_go_on_during_a_recovery": (
            "if state.recovering and state.recovering ~= '' then fail('RECOVERING'",
            "if false then fail('RECOVERING'", WALK,
        ),
    },
    "include/grant.lua": {
        "starts_do_not_count": ("    Staleness.moved(t.oldest, claim.version_text)\n", "", "keeps_a_place", WALK),
        "claims_do_not_count_up": (
            "claims, tries = int_text(s.claims + 1), s.tries", "claims, tries = s.claims, s.tries", WALK,
        ),
        "the_oldest_version_is_the_last_one": (
            "if t.oldest == '-1' or claim.version < tonumber(t.oldest) then", "if true then", WALK,
        ),
        "the_newest_version_is_the_first_one": (
            "if claim.version > tonumber(t.newest) then", "if t.newest == '-1' then", WALK,
        ),
    },
    "include/attempt_timeouts.lua": {
        "time_outs_are_not_kept": ("zput(DEADLINES, attempt, lease_end(ms))\n  due_at(now + ms)", "", WALK),
        "nobody_looks_at_a_time_out": (
            "zput(DEADLINES, attempt, lease_end(ms))\n  due_at(now + ms)",
            "zput(DEADLINES, attempt, lease_end(ms))", WALK,
        ),
        "time_outs_are_on_the_runs_clock": ("lease_end(ms)", "now + ms", WALK),
        "a_time_out_outlives_its_attempt": ("if field('timeouts') then zdel(DEADLINES, attempt) end", "", "switched_off"),
    },
    "include/breaker.lua": {
        "nothing_halts": ("  Breaker.halt(ids, is_enough and not is_long)\n", "", "failures_of_different_tasks_halt", WALK),
        "nobody_is_named_whose_quarantine_halted": ("Breaker.halt(ids, is_enough and not is_long)", "Breaker.halt(ids)", "all_workers_are"),
        "only_the_threshold_halts": (
            "if not is_enough and (n < 2 or Breaker.may_go_on()) then return end", "if not is_enough then return end",
            "handler_that_fails_every_task_of_a_small_run", WALK,
        ),
        "failures_halt_while_tasks_are_left": (
            "if redis.call('ZCARD', name) > 0 then return true end", "", "no_small_run_is_halted", WALK,
        ),
        "failures_halt_while_more_will_come": (
            "field('supply') == 'more' or", "", "feeder_that_has_more", WALK,
        ),
        "named_tasks_cannot_succeed": (" or num('awaited') > 0 then", " then", "while_named_tasks_are_missing"),
        "one_dead_task_halts": ("Breaker.died(ids) < 2 then", "Breaker.died(ids) < 1 then", "tasks_that_were_cancelled", WALK),
        "results_do_not_end_the_streak": (
            "if num('streak') > 0 and num('streak_results') ~= num('total_results') then", "if false then",
            "accepted_result_ends", WALK,
        ),
        "each_failure_is_an_event": ("if entries[ids[i]] then return end", "", "one_poison_prompt", WALK),
        "one_event_halts": ("(n < 2 or Breaker.may_go_on())", "Breaker.may_go_on()", "loses_all_tasks_with_one_worker"),
        "the_breaker_cannot_be_off": (
            "return not state.halted and num('halt_after_failures') > 0", "return not state.halted", "breaker_is_off", WALK,
        ),
        "the_dead_of_a_streak_stay_dead": ("    Breaker.revive(t)\n", "", "lives_again_in_its_old_place", WALK),
        "tries_of_a_streak_are_kept": (
            "s.tries = small_text(math.max(0, s.tries - tries))", "", "lives_again_in_its_old_place", WALK,
        ),
        "what_is_given_back_of_a_group_is_not_offered": (
            "elseif t.state == 'R' and t.letters:find('O', 1, true) then", "elseif false then", WALK,
        ),
        "lost_results_of_a_group_that_died_have_no_reason": ("      slot_of(t, k).why = 'revoked'\n", "", WALK),
        "tries_fall_below_zero": ("math.max(0, s.tries - tries)", "s.tries - tries", WALK),
        "later_failures_of_a_task_in_the_streak_are_not_noted": (
            "if not (entry or Breaker.notes) then return end", "if not Breaker.notes then return end", WALK,
        ),
        "an_expiry_in_pieces_is_several_events": (
            "if session ~= '' and field('streak_session') == session then", "if false then", WALK,
        ),
        "a_verdict_is_taken_back": ("and not Verdicts.rejected(s) then", "then", "takes_no_verdict_back"),
        "a_resume_lets_the_failed_go_first": (
            "if t and due then Breaker.postpone(t, entries[t.id].taken, due) end", "", "lives_again_in_its_old_place", WALK,
        ),
        "a_halt_wakes_no_trainer": ("Markers.arm_trainer(true)", "", "waiting_trainer_is_told"),
    },
    "include/quarantine.lua": {
        "nobody_is_quarantined": ("    Quarantine.begin(session, entry)\n", "", "worker_that_fails_everything", WALK),
        "failures_quarantine_without_results_of_others": (
            " and num('total_results') > entry.results) then", ") then", "nobody_else_succeeds", WALK,
        ),
        "failures_of_one_task_quarantine": (
            "and not contains(entry.names, name) then", "then", "one_task_that_fails_often", WALK,
        ),
        "quarantine_cannot_be_off": ("if after == 0 or state.halted", "if state.halted", "quarantine_is_off", WALK),
        "failures_of_a_halted_run_quarantine": ("if after == 0 or state.halted then", "if after == 0 then", WALK),
        "failures_in_quarantine_lengthen_it": (
            "  if now < entry.till then return end\n  if #entry", "  if #entry", "what_it_still_held", WALK,
        ),
        "each_quarantine_is_as_short": ("first * 2 ^ entry.times", "first", "twice_as_long", WALK),
        "quarantine_grows_without_bound": (
            "math.min(first * 2 ^ entry.times, first * Quarantine.MOST_TIMES)", "first * 2 ^ entry.times", "sixteen_times",
        ),
        "a_session_that_was_quarantined_needs_as_many_failures": (
            "entry.times > 0 or (#entry.names >= after and num('total_results') > entry.results) then\n    Quarantine.begin(",
            "#entry.names >= after and num('total_results') > entry.results then\n    entry.names = {}\n    Quarantine.begin(",
            "twice_as_long", WALK,
        ),
        "after_quarantine_it_gets_all": (
            "return math.min(n, math.max(0, 1 - redis.call('ZCARD', SESSION .. session)))", "return n", "one_at_a_time", WALK,
        ),
        "an_ended_session_stays_quarantined": (
            "  if entry.times > 0 then zdel(key('quarantine'), session) end\n", "", "begins_anew", WALK,
        ),
        "one_quarantined_session_halts": (
            "Quarantine.count() >= redis.call('ZCARD', SESSIONS)", "true", "worker_that_fails_everything", WALK,
        ),
        "sessions_quarantined_together_do_not_halt": ("return Quarantine.began and", "return false and", "all_workers_are", WALK),
        "the_end_of_a_halt_ends_no_quarantine": (
            "for i = 1, #names do Quarantine.forget(names[i]) end", "", "all_workers_are", WALK,
        ),
    },
    "readmit.lua": {
        "readmit_takes_only_sessions": (" or wanted[ids[i]:match('^(.*)~')]", "", "operator_lets_it_out"),
        "readmit_takes_all": ("if #ARGV < FIRST_ARG or wanted", "if true or wanted", "operator_lets_it_out", WALK),
    },
    "include/failures.lua": {
        "faults_never_count": ("return all[k] == nil", "return false", "three_workers_are_one_failure", WALK),
        "faults_of_one_worker_count": (
            "if not contains(f.sessions, session) then", "if true then", "faults_of_one_worker_never_count", WALK,
        ),
        "a_faulty_worker_is_barred_for_ever": (
            "return f and now < f.till and", "return f and", "gets_what_it_failed_at_again", WALK,
        ),
        "a_faulty_worker_is_not_barred": (
            "return f and now < f.till and contains(f.sessions, session)", "return false", "another_worker_tries", WALK,
        ),
        "all_workers_are_barred": ("and now < f.till and contains(f.sessions, session)", "and now < f.till", WALK),
        "a_faulty_worker_is_barred_from_the_group": (
            "if not Failures.bars(t, at - 1, session) then return false end\n  end\n  return true",
            "if Failures.bars(t, at - 1, session) then return true end\n  end\n  return false",
            "slots_that_it_did_not_fail_at", WALK,
        ),
        "counted_faults_are_kept": ("all[k] = #f.sessions < Failures.MOST_FAULTY and f or nil", "all[k] = f", WALK),
        "faults_outlive_the_task": ("    hdel(key('faults'), id)\n    Failures.cached", "    Failures.cached", "forgotten_with", WALK),
        "an_error_outlives_a_retry": (
            "if with_errors and state.failing then hdel(key('errors'), id) end", "", "forgotten_with_the_task", WALK,
        ),
        "no_trace_is_stored": ("message .. trace)", "message)", "traceback_of_a_handler"),
    },
    "include/lengths.lua": {
        "what_is_cut_off_is_not_lost": ("Lengths.lost(attempt, why, math.max(0, now - s.at))", "", "generate_in_vain", WALK),
        "what_is_thrown_away_is_not_lost": ("Lengths.lost(attempt, why, ms)", "", "generate_in_vain", WALK),
        "what_comes_late_is_not_lost": ("Lengths.lost(attempt, 'late', math.max(0, now - s.at))", "", "generate_in_vain", WALK),
        "what_is_lost_is_in_no_event": ("if ms > 0 then event('lost'", "if false then event('lost'", "generate_in_vain"),
        "a_length_is_not_kept": ("s.why = int_text(ms)", "s.why = ''", "too_old_is_lost", WALK),
    },
    "include/waiting.lua": {
        "no_places_are_kept": (
            "if not Staleness.waits() or size >= batch_size() then return nil end", "do return nil end",
            "keeps_a_place", WALK,
        ),
        "what_is_undone_takes_places": (
            "if version >= step - limit and version <= num('version') then", "if version >= step - limit then",
            "what_a_recovery_undoes",
        ),
        "what_ends_still_counts": (
            "ages[from] = (ages[from] or 0) > 1 and ages[from] - 1 or nil", "ages[from] = ages[from]",
            "keeps_a_place", WALK,
        ),
        "ready_is_in_the_order_of_starts": (
            "return tonumber(t.oldest) * 4294967296 + tonumber(t.first)", "return t.first", "the_oldest_are_taken", WALK,
        ),
        "a_version_that_comes_is_not_sorted": (
            "    if not ages[to] then Staleness.sorted = nil end\n", "", WALK,
        ),
        "nobody_is_woken_for_a_free_place": (
            "  Markers.arm_trainer(true)\n", "", "waited_for_too_long",
        ),
    },
    "include/held_samples.lua": {
        "held_is_not_counted": ("if Samples.most() then bump('held', n) end", "", "more_samples_than_may_be_held", WALK),
        "an_end_frees_no_sample": ("  bump('held', -1)\n", "", "each_end_of_an_attempt", WALK),
        "no_wake_of_those_who_wait_for_a_sample": ("Samples.freed = true", "Samples.freed = false", "each_end_of_an_attempt", WALK),
    },
    "include/handout.lua": {
        "open_slots_take_any_weights": (
            "elseif claim.lags and claim.version", "elseif false and claim.version", "open_slots_are_closed", WALK,
        ),
        "nobody_is_told_that_newer_weights_get_more": (
            "  if claim.older then return 'weights_stale' end\n", "", "open_slots_are_closed",
            "weights_that_lag_start", WALK,
        ),
        "old_weights_start_as_many": (
            "claim.lags and math.min(room, Staleness.room(claim.version, num('open_size'))) or room", "room",
            "weights_that_lag_start",
        ),
        "held_is_not_counted_again": ("set('held', Samples.count())", "", "older_release_holds"),
        "fewer_than_none_are_held": (
            "if not free or num('held') >= 0 and (", "if not free or (", "not_given_back_twice",
        ),
        "held_is_counted_again_at_each_claim": (
            "(free > 0 or now - num('held_at') < 10000)", "free > 0", "older_release_holds",
        ),
        "open_slots_may_be_held_beyond_the_bound": (
            "claim_open(room, limit, claim)", "claim_open(most, limit, claim)", "more_samples_than_may_be_held", WALK,
        ),
        "a_bound_on_samples_is_told_as_capacity": ("then return 'max_samples' end", "then return 'at_capacity' end", WALK),
        "claims_of_a_finished_run_go_on": (
            "  if state.finished then\n    Markers.arm_finished() -- the next worker that waits is told, too\n    return 'finished'\n  end\n",
            "", "hands_out_nothing_and_takes_results", WALK,
        ),
        "one_worker_is_told_that_the_run_is_finished": (
            "Markers.arm_finished() -- the next worker that waits is told, too\n", "", WALK,
        ),
        "claims_of_a_halted_run_go_on": (
            "if state.halted then return 'halted' end", "", "failures_of_different_tasks_halt", WALK,
        ),
        "a_faulty_worker_reads_one_page": ("looked = i - 1", "looked = there", "failed_at_the_first_tasks", WALK),
        "a_faulty_worker_keeps_the_marker": (
            "pass_on(granted_count >= room or claim.passed > 0)", "pass_on(granted_count >= most)", "wakes_another",
        ),
        "the_reason_of_a_faulty_worker_is_another": (
            "if claim.passed > 0 then return 'faulted' end", "", "another_worker_tries", WALK,
        ),
        "a_claim_passes_over_any_number_of_open_groups": (
            "resets >= limit or claim.passed >= limit or", "resets >= limit or", WALK,
        ),
        "a_claim_passes_over_any_number_of_tasks": (
            "started >= own_room or claim.passed >= limit then", "started >= own_room then", WALK,
        ),
        "what_is_left_kept_over_claims": (
            "Left.open, Left.pending = nil, nil -- whether", "-- whether", "marker_is_armed",
        ),
        "claims_count_anew_after_a_requeue": (
            "t.first ~= '0' or t.again ~= '0,0'", "t.first ~= '0'", "goes_on_counting_its_claims", WALK,
        ),
        "open_slots_need_capacity": (
            "  claim_open(room, limit, claim)",
            "  if capacity() > 0 then claim_open(room, limit, claim) end", "open_slots_of",
        ),
        "start_ignores_capacity": (
            "local room, offset, first, passed_before = capacity(),",
            "local room, offset, first, passed_before = MAX_INT,", "exactly_the_capacity", "8_claiming_processes", WALK,
        ),
        "start_ignores_staleness": ("if too_old(claim.version) then room = 0 end", "", "only_where_it_could"),
        "claim_ignores_staleness": ("elseif too_old(page[i].oldest) then", "elseif false then", "resets_all", WALK),
        "claim_resets_any_number_of_slots": (
            "resets >= limit or claim.passed >= limit or cleared_enough()",
            "resets >= limit or claim.passed >= limit", "reset_in_pieces",
        ),
        "pause_ignored": ("if state.paused == 'paused' then return 'paused' end", "", "paused_hands_out", WALK),
        "draining_starts_tasks": ("if state.paused ~= 'draining' then", "if true then", "draining_finishes"),
        "no_wake_of_stale_weights": ("Markers.arm_for_work() -- the", "-- the", "marker_is_armed"),
        "used_up_forgotten": (
            "redis.call('ZCARD', OPEN) > used_up", "redis.call('ZCARD', OPEN) > 0", "last_open_slots_wakes_nobody",
        ),
        "used_up_after_a_reset": ("    flush()\n    used_up = 0\n", "    flush()\n", "reset_a_task_on_the_way"),
        "open_slots_not_counted": (
            "Left.open = redis.call('ZCARD', OPEN) > used_up",
            "Left.open = false", "did_not_look_at_the_last_open_slot",
        ),
        "still_open_forgotten": (
            "then Left.open = true else used_up = used_up + 1 end",
            "then used_up = used_up + 0 end", "part_of_a_running_group", WALK,
        ),
        "still_open_of_a_started_group_forgotten": (
            "if start(page[i], n - granted_count, claim, int_text(first + started)) then Left.open = true end",
            "start(page[i], n - granted_count, claim, int_text(first + started))", "started_a_part_of_a_group",
        ),
        "pending_not_counted": (
            "Left.pending = redis.call('ZCARD', PENDING) > started", "Left.pending = false", "did_not_look_at", WALK,
        ),
        "claim_starts_one_too_many": (
            "local room, offset, first, passed_before = capacity(),", "local room, offset, first, passed_before = capacity() + 1,", WALK,
        ),
        "start_forgets_running_1": ("bump('running', started)", "", WALK),
        "draining_starts_pending_tasks": (
            "if state.paused ~= 'draining' then claim_pending", "if true then claim_pending", WALK,
        ),
        "a_stale_policy_may_claim": ("(claim.given and too_old(claim.version))", "false", WALK),
        "numbers_of_first_claims_are_given_twice": ("bump('first_seq', started)", "", WALK),
        "a_claim_does_not_pass_the_wake_up_on": ("  pass_on(granted_count >= room or claim.passed > 0)\n", "", WALK),
        "what_is_left_of_a_started_group_wakes_nobody": (
            "claim, int_text(first + started)) then Left.open = true end",
            "claim, int_text(first + started)) then Left.open = Left.open end", WALK,
        ),
        "a_stale_worker_keeps_the_wake_up": (
            "Markers.arm_for_work() -- the marker that woke this worker is for one with newer weights", "", WALK,
        ),
        "claims_go_on_during_a_recovery": ("if state.recovering ~= '' then return 'recovering' end", "", WALK),
    },
    "include/record_layout.lua": {
        "slots_of_records_of_earlier_calls": ("t.id, t.slot = id, false", "t.id = id", "nothing_of_another_one"),
        "renew_looks_at_the_newest": (
            "string.rep(',[^,]*', 6) .. ',([^,]*)'",
            "string.rep(',[^,]*', 7) .. ',([^,]*)'", "oldest_sample_of_a_group",
        ),
        "priority_upside_down": ("-priority * 4398046511104", "priority * 4398046511104", WALK),
    },
    "include/lineage.lua": {
        "numbers_are_anybodys": (
            "if lineage == '' or listed_order < 0 then", "if true then", "not_taken_for_those_of_the_checkpoint", WALK,
        ),
        "retries_hide_a_loss": ("(to.lost or limit < version)", "to.lost", "operators_retries_do_not_hide", WALK),
        "older_file_newer_cursor": ("and (to.forgot or to.older)", "and to.forgot", "a_still_older_checkpoint", WALK),
        "an_epochs_numbers_end_with_the_checkpoints": ("return math.min(last, last_here[token])", "return last", WALK),
        "an_epochs_numbers_end_with_the_servers": (
            "return math.min(last, last_here[token])", "return last_here[token]", WALK,
        ),
        "only_forgotten_steps_count": ("(to.lost or limit < version)", "(limit < version)", WALK),
    },
    "include/record_cache.lua": {
        "a_slot_is_written_as_it_was_read": ("t.slot_text = nil -- made anew", "-- made anew", WALK),
    },
    "include/recovery.lua": {
        "all_rollouts_of_lost_batches_come_back": (
            "if to.has_place and not to.has_place(t) then", "if false then", "rollouts_of_lost_batches",
        ),
        "dropped_without_a_cursor": (
            "foreign and to.by_cursor and not listed", "foreign and not listed", "without_a_cursor_nobody", WALK,
        ),
        "steps_of_others_survive": ("listed ~= nil and forgot and born > to.common", "false", "cancelled_by_others"),
        "samples_of_a_lost_future_are_kept": ("return false, 'lost_policy'", "", WALK),
        "the_newest_policy_used_is_not_judged": (
            "not surviving(s.newest, s.newest_epoch)", "false", "done_sample_that_used_lost_weights",
        ),
        "lost_bytes_are_not_noticed": ("if not ResultBytes.are_there(t) then", "if false then", WALK),
        "what_lost_steps_consumed_stays_consumed": (
            "if t.state == 'B' and step < to.limit and", "if t.state == 'B' and", WALK,
        ),
        "consumed_by_a_surviving_step_trained_again": (
            "if t.state == 'B' and step < to.limit and", "if false and", WALK,
        ),
        "discards_of_lost_steps_stay": ("local again = step >= to.version or parted", "local again = false", WALK),
        "the_list_does_not_decide_of_ended_tasks": ("if known then again = listed end", "", WALK),
        "what_the_checkpoint_calls_finished_is_done_again": (
            "if known and not listed and order == born then return 'finished' end", "", WALK,
        ),
        "new_tasks_count_as_known": ("known = order <= to.common --", "known = listed ~= nil --", WALK),
        "in_flight_attempts_are_kept_in_any_case": (
            "if t.state == 'R' and to.requeue_in_flight and", "if false and", WALK,
        ),
        "rows_of_others_stay": ("if foreign and to.by_cursor and not listed then return 'dropped' end", "", WALK),
        "a_retry_after_a_failover_is_finished": ("not listed and order == born then", "not listed then", WALK),
    },
    "include/restart.lua": {
        "nobody_is_woken_in_a_run_that_is_opened_again": (
            "Markers.arm_for_work()\n  event('reopen'", "event('reopen'", "whoever_brings_tasks",
        ),
        "enqueue_again_keeps_the_old_samples": ("if samples then t.samples, t.fixed = samples, fixed end", "", WALK),
        "retry_keeps_the_tries": ("s.tries, s.why = '0',", "s.tries, s.why = s.tries,", WALK),
    },
    "include/result_bytes.lua": {
        "trim_leaves_the_first_result": ("if letters:find('^D') then unlink", "if false then unlink", WALK),
        "trim_leaves_the_results_of_later_slots": (
            "for i = 1, #names do ResultBytes.free(Stored.attempt(names[i], stored[i])) end", "", WALK,
        ),
        "a_kept_result_counts_without_its_last": ("for k = 0, t.samples - 1 do", "for k = 0, t.samples - 2 do", WALK),
        "a_repeat_keeps_bytes_that_trim_freed": (
            "return step < from or (step == from and num('bytes_at') > 0)", "return false", WALK,
        ),
        "results_above_the_limit": ("if sum > most then return {} end", "", "all_or_not_at_all"),
        "results_below_the_limit_only": ("if sum > most then", "if sum >= most then", "all_or_not_at_all"),
        "any_number_of_results": ("#attempts > ResultBytes.MOST_READ then return {}", "false then return {}", "as_many_as_a_script"),
        "accept_without_bytes": ("redis.call('EXISTS', RESULT .. attempt) == 0", "false", "without_bytes", WALK),
        "ttl_not_cleared": ("redis.call('PERSIST', kept[i])", "", "set_before_the_call", WALK),
    },
    "include/rows.lua": {
        "rows_of_the_last_take_only": ("      records = hmget(TASKS, ids)\n", "", "of_all_takes_that_filled"),
        "rows_backwards": (
            "ids[i] = members[2 * i - 1]", "ids[i] = members[#members - 2 * i + 1]", "order_of_the_batch",
        ),
        "results_backwards": (
            "attempts[#attempts + 1] = later or name .. '.' .. claims .. '.' .. random",
            "table.insert(attempts, 1, later or name .. '.' .. claims .. '.' .. random)",
            "order_of_the_batch",
        ),
        "more_rows_than_asked": ("math.min(most, #members / 2)", "#members / 2", "order_of_the_batch"),
        "rows_of_any_number_of_slots": ("if i > 1 and seen > MOST_SLOTS then break end", "", "large_groups_are_read"),
        "rows_with_the_slots_of_others": ("rows[places[i]] = stored[i]", "rows[places[i]] = stored[1]", "order_of_the_batch", WALK),
    },
    "include/fields.lua": {
        "fields_read_alone_have_no_default": ("name) or DEFAULTS[name] or false", "name)", "no_script_needs_a_field"),
        "too_old_kept_over_calls": ("local oldest_good = nil --", "local oldest_good --", "judged_anew"),
    },
    "include/state.lua": {
        "the_limit_of_age_is_the_staleness": (
            "state.on_stale ~= 'keep' and Staleness.limit()", "state.on_stale ~= 'keep' and Staleness.admitted()",
            "admitted_by_the_one_number", WALK,
        ),
        "admission_by_the_limit": (
            "local running, s, by_samples = state.running + 0, Staleness.admitted(),",
            "local running, s, by_samples = state.running + 0, Staleness.limit(),", "admitted_by_the_one_number", WALK,
        ),
        "the_limit_that_nobody_gave_is_the_staleness": (
            "tonumber(limit) or 4 * s", "tonumber(limit) or s", "a_limit_that_nobody_gave", WALK,
        ),
        "a_limit_below_the_staleness_counts": (
            "return math.max(s, tonumber(limit) or 4 * s)", "return tonumber(limit) or 4 * s",
            "a_limit_that_nobody_gave", WALK,
        ),
        "a_run_without_a_limit_gets_one": ("if not s or not limit then return s end", "if not s then return s end\n  limit = limit or ''", "of_an_earlier_release_keeps"),
        "missing_fields_have_no_default": (
            "= got[i] or defaults[name] or false", "= got[i]", "no_script_needs_a_field",
        ),
        "missing_hot_fields_have_no_default": (
            "got[13] or DEFAULTS.events_maxlen", "got[13]", "no_script_needs_a_field",
        ),
        "no_concurrency_without_one": (
            "state.max_concurrent_rollouts = int_text(batch_size())", "local _", "no_script_needs_a_field",
        ),
        "policies_known_by_version": (
            "local policy = version .. ' ' .. epoch", "local policy = version", "judged_by_itself",
        ),
        "policies_known_by_epoch": (
            "local policy = version .. ' ' .. epoch", "local policy = epoch", "judged_by_itself",
        ),
        "capacity_off_by_one": ("(s + state.version + 1)", "(s + state.version + 2)", "the_formula"),
        "too_old_one_early": ("version + 0 < oldest_good", "version + 0 <= oldest_good", "not_too_old"),
        "any_policy_survives": (
            "if version == state.version then return epoch == state.version_epoch end",
            "if tonumber(version) <= num('version') then return true end", "does_not_survive",
        ),
        "older_policies_survive": (
            "redis.call('HGET', POLICIES, int_text(version))) == epoch",
            "redis.call('HGET', POLICIES, int_text(version))) ~= false", "judged_by_itself", WALK,
        ),
        "a_policy_needs_no_epoch": (
            "if version == state.version then return epoch == state.version_epoch end",
            "if version == state.version then return true end", WALK,
        ),
        "claim_ignores_concurrency": (
            "by_staleness and math.min(by_concurrency, by_staleness) or by_concurrency",
            "by_staleness or by_concurrency", WALK,
        ),
        "claim_ignores_the_staleness_bound": (
            "by_staleness and math.min(by_concurrency, by_staleness) or by_concurrency", "by_concurrency", WALK,
        ),
        "capacity_off_by_one_version": (
            "(s + state.version + 1) * batch_size()", "(s + state.version + 2) * batch_size()", WALK,
        ),
        "stale_check_off_by_one": ("version + 0 < oldest_good", "version + 0 < oldest_good - 1", WALK),
        "stale_check_too_strict": (
            "oldest_good = limit and num('step_next') - limit or",
            "oldest_good = limit and num('step_next') - math.max(0, limit - 1) or", WALK,
        ),
    },
    "include/timers.lua": {
        "due_as_an_older_release_says": (
            "if not state_changed.due and field('due') ~= field('due_by_us') then", "if false then", "beside_many",
        ),
        "clock_goes_back": (
            "now = math.max(before, int_arg(", "now = math.min(MAX_INT, int_arg(", "depends_on_the_clock",
        ),
        "time_stands_still": (
            "if now > at then set('clock_offset', offset + now - at) end", "", "after_the_clock_went_back", WALK,
        ),
        "leases_lose_the_whole_gap": (
            "if now - before > lease_step then", "if false then", "frozen_server or step_forward", WALK,
        ),
        "the_clock_goes_back": ("now = math.max(before, at)\n", "now = at\n", WALK),
        "a_step_back_counts_twice": (
            "set('clock_offset', offset + now - at)", "set('clock_offset', offset + 2 * (now - at))", WALK,
        ),
        "only_the_last_step_back_counts": (
            "set('clock_offset', offset + now - at)", "set('clock_offset', now - at)", WALK,
        ),
        "only_the_last_gap_counts": (
            "lease_lag = lease_lag + now - before - lease_step", "lease_lag = now - before - lease_step", WALK,
        ),
        "the_last_gap_stops_the_lease_clock_for_good": (
            "lease_lag + now - before - lease_step", "lease_lag + now - before", WALK,
        ),
    },
    "include/sweep.lua": {
        "a_time_out_is_no_failure_of_its_worker": (
            "if not session then Quarantine.failed(s.session, t.id) end", "", "a_time_out_of_an_attempt_is", WALK,
        ),
        "each_attempt_of_a_dead_session_is_an_event": (
            "if not session then Breaker.begin({ t.id }, '') end", "Breaker.begin({ t.id }, '')", "dies_with_many_tasks", WALK,
        ),
        "one_lost_task_costs_no_try": (
            "for i = 2, #ids do several = several or ids[i] ~= ids[1] end", "several = true", "the_only_task", WALK,
        ),
        "the_last_piece_of_a_lost_session_costs_a_try": (
            "local several = field('lost_several') == session", "local several = false", "in_pieces", WALK,
        ),
        "an_expiry_never_halts": ("  Breaker.look()\n", "", "dies_with_many_tasks", WALK),
        "leases_never_end": ("n = n + expire_sessions(limit)", "", "to_the_millisecond"),
        "timeouts_never_end": ("n = n + (expire_all(DEADLINES, due_leases(DEADLINES, limit)))", "", "hard_limit"),
        "deadlines_of_the_last_release_forgotten": (
            "local ids = due_members(name, limit)\n  if #ids == limit",
            "local ids = {}\n  if #ids == limit", "last_release",
        ),
        "sweep_ends_any_number_of_slots": (
            "if cleared_enough() then return", "if false then return", "due_end_in_pieces",
        ),
        "a_session_ends_with_its_first_piece": ("if all and looked == #held then", "if all then", "due_end_in_pieces"),
        "no_wake_on_due_task": ("\n      Markers.arm_workers()", "", "marker_is_armed"),
        "no_wake_on_due_slot": ("Markers.arm_for_work()", "", "marker_is_armed"),
        "promotion_forgets_pending": ("zput(PENDING, t.id, place(t))\n      Markers.arm_workers()", "Markers.arm_workers()", WALK),
        "promotion_forgets_the_open_slot": (
            "set_letter(t, k, 'O')\n      zput(OPEN, t.id, place(t))", "set_letter(t, k, 'O')", WALK,
        ),
        "expired_sessions_stay": ("if all and looked == #held then forget_session(ids[i], 'expired') end", "", WALK),
        "an_expired_session_forgets_only_itself": (
            "looked = select(2, expire_all(SESSION .. ids[i], held, ids[i]))", "looked = #held", WALK,
        ),
        "the_lease_of_an_ended_session_bounds_a_gap": ("zdel(LEASES, id)", "", WALK),
    },
    "include/target.lua": {
        "forgotten_steps_by_version": ("has_list and 0 or num('known_version')", "0", "a_version_alone_cannot", WALK),
        "below_the_floor": ("if version < floor and not allow_loss then", "if false then", WALK),
        "a_file_of_an_undone_future": (
            "if file_epoch ~= '' and tonumber(by) > number_of(file_epoch)",
            "if false and tonumber(by) > number_of(file_epoch)", WALK,
        ),
    },
    "include/task_options.lua": {
        "no_task_has_options_of_its_own": (
            "if not t.fixed:find('=', 1, true) then return nil end", "if true then return nil end", "over_that_of_the_run", WALK,
        ),
        "options_of_the_task_before": (
            "if text == LAST_READ.text then", "if LAST_READ.text then", "its_own_numbers or bad_numbers",
        ),
        "min_samples_may_exceed_samples": (
            "int_in(small_text(options.min_samples), 'min_samples', 1, options.enough or options.samples)", "", "bad_numbers",
        ),
        "a_priority_of_any_size": ("low = -1000, high = 1000,", "low = -9999, high = 9999,", "bad_numbers"),
    },
    "include/tasks.lua": {
        "surplus_slots_stay_closed": ("gsub('[HDWS]', 'O')", "gsub('[HDW]', 'O')", "surplus_slots_open_again", WALK),
        "surplus_attempts_are_not_told": ("cancelled = true, surplus = true", "cancelled = true", "six_of_eight"),
        "unsealed_batch_counts_full": (
            "bump('open_size', -1)\n    bump('accepted', -1)", "bump('open_size', -1)", "filter_refuses", WALK,
        ),
        "discard_keeps_accepted": (
            "zdel(READY, t.id)\n    bump('accepted', -1)", "zdel(READY, t.id)", "discard_takes", WALK,
        ),
        "dropped_bytes_kept": ("ResultBytes.free(attempt)", "", "starts_over"),
        "no_wake_on_requeue": (
            "zput(PENDING, t.id, place(t))\n    Markers.arm_workers()", "zput(PENDING, t.id, place(t))", "marker_is_armed",
        ),
        "no_wake_when_a_task_stops_running": (
            "bump('running', -1)\n    Markers.arm_workers()", "bump('running', -1)", "marker_is_armed",
        ),
        "requeue_forgets_running_1": ("zdel(OPEN, t.id)\n    bump('running', -1)", "zdel(OPEN, t.id)", WALK),
        "a_requeued_task_is_in_no_set": (
            "zput(PENDING, t.id, place(t))\n    Markers.arm_workers()\n  end\n  changed(t)", "end\n  changed(t)", WALK,
        ),
        "cancel_leaves_live_attempts": ("if c == 'H' then\n      end_hold(t, k, s, why)", "if c == 'H' then", WALK),
        "a_cleared_slot_keeps_its_retry": (
            "zdel(RETRIES, name)\n    end\n  end\n  return due", "end\n  end\n  return due", WALK,
        ),
        "bytes_of_dropped_results_stay": (
            "ResultBytes.free(attempt)\n      Lengths", "Lengths", WALK,
        ),
        "what_is_taken_back_is_told_to_nobody": ("if TAKEN_BACK[why] then Markers.arm_session(s.session) end", "", WALK),
        "what_is_given_up_is_told_to_whoever_gave_it_up": ("if TAKEN_BACK[why] then Markers.arm", "if true then Markers.arm", WALK),
        "a_time_out_is_told_to_nobody": ("expired = true, ", "", WALK),
        "what_became_too_old_is_told_to_nobody": ("stale = true, revoked", "revoked", WALK),
        "what_is_revoked_is_told_to_nobody": ("revoked = true, ", "", WALK),
        "what_is_cancelled_is_told_to_nobody": ("revoked = true, cancelled = true", "revoked = true", WALK),
    },
    "include/verdicts.lua": {
        "a_verdict_leaves_the_failures_before_it": (
            "  Quarantine.forget(s.session)\n", "", "a_verdict_ends_the_count", WALK,
        ),
        "a_verdict_counts_as_an_error": (
            "set_letter(t, k, 'F')", "set_letter(t, k, 'F')\n  t.errors = small_text(t.errors + 1)", WALK,
        ),
    },
    "include/wake_markers.lua": {
        "no_wake_of_what_is_left_open": ("if still_open then Markers.arm_for_work() end", "", "marker_is_armed"),
        "no_wake_of_what_is_left_pending": (
            "if still_pending and capacity() > 0 then Markers.arm_for_work() end", "", "marker_is_armed",
        ),
        "a_pause_keeps_workers_from_the_end": (
            "if arm.finished then", "if arm.finished and state.paused ~= 'paused' then", WALK,
        ),
        "no_wake_of_those_who_listen_without_tasks": (
            "Markers.arm_anyway = function() Markers.arm_for_work() end",
            "Markers.arm_anyway = function() Markers.arm_workers() end", "rare_calls_wake",
        ),
        "no_wake_where_a_task_waits": (
            "redis.call('ZCARD', PENDING) > 0)", "redis.call('ZCARD', PENDING) > 1)", "marker_is_armed", WALK,
        ),
        "woken_where_nothing_waits": (
            "(capacity() > 0 and redis.call('ZCARD', PENDING) > 0)", "capacity() > 0", "where_no_task_waits",
        ),
        "woken_without_capacity": (
            "(capacity() > 0 and redis.call('ZCARD', PENDING) > 0)",
            "redis.call('ZCARD', PENDING) > 0", "lets_a_worker_sleep",
        ),
        "woken_in_a_pause": (
            "if (arm.workers or Samples.freed) and state.paused ~= 'paused' and", "if (arm.workers or Samples.freed) and",
            "lets_a_worker_sleep",
        ),
        "trainer_woken_for_each_rollout": (
            "(arm.task_ended or redis.call('ZCARD', READY) >= want)", "true", "woken_once",
        ),
    },
    "include/writes.lua": {
        "markers_before_the_writes": (
            "  if save_records then save_records() end",
            "  arm_markers()\n  arm.workers = false\n  if save_records then save_records() end",
            "marker_is_armed", WALK,
        ),
        "the_first_word_about_a_member_counts": (
            "last[log[i + member_at]] = i end", "last[log[i + member_at]] = last[log[i + member_at]] or i end", WALK,
        ),
        "the_longest_lease_bounds_a_gap": (
            "redis.call('ZRANGE', LEASES, 0, 0,", "redis.call('ZRANGE', LEASES, -1, -1,", WALK,
        ),
    },
    "join.lua": {
        "a_worker_serves_an_admission_run": (
            "  Run.refuse_admission()\n", "", "told_that_an_admission_run_has_no_tasks",
        ),
        "session_numbers_are_used_again": ("bump('session_seq', 1)", "set('session_seq', 1)", WALK),
        "nobody_looks_at_a_lease": ("due_at(now + lease)", "", WALK),
    },
    "configure.lua": {
        "a_config_changes_during_a_recovery": ("refuse_while_recovering()", "", "and_of_admission_is_refused", WALK),
        "the_config_of_an_admission_run_changes": ("Run.refuse_admission()", "", "and_of_admission_is_refused"),
        "a_config_is_only_compared": ("Config.change(FIRST_ARG, true)", "Config.change(FIRST_ARG, false)", "configure_changes", WALK),
    },
    "include/config_change.lua": {
        "a_change_of_mode_counts_nothing": (
            "if mode ~= state.on_stale and (mode == 'wait' or Staleness.counts()) then", "if false then",
            "a_change_to_the_mode", WALK,
        ),
        "held_is_counted_from_the_bound_on": (
            "if Samples.most() then set('held', Samples.count()) end", "", "when_they_are_bounded_first", WALK,
        ),
        "no_wake_on_config": ("Markers.arm_workers()", "", "marker_is_armed", "wakes_workers"),
        "a_new_batch_size_leaves_accepted_alone": ("bump('accepted', num('version') * (b - before))", "", WALK),
        "an_unsealed_batch_is_not_looked_at_after_a_change_of_config": ("set('recheck', 1)", "", WALK),
        "what_follows_is_not_told": (
            "names[#names + 1] = 'max_concurrent_rollouts' -- it may follow the batch size", "", "follows_a_new_batch_size", WALK,
        ),
    },
    "beat.lua": {
        "a_sign_of_life_is_not_noted": ("set('trainer_at', now)", "", "of_the_trainer_that_holds_the_run"),
        "a_trainer_that_was_replaced_gives_signs_of_life": (
            "if ARGV[2] ~= (state.epoch or ''):match('%.(%w+)$') then fail('FENCED', 'epoch', state.epoch, 'token', ARGV[2]) end",
            "", "of_the_trainer_that_holds_the_run",
        ),
        "a_sign_of_life_is_not_stored": ("flush()", "", "of_the_trainer_that_holds_the_run"),
    },
    "finish.lua": {
        "finish_wakes_no_trainer": ("Markers.arm_trainer(true)", "", "waiting_trainer_is_told_at_once", WALK),
        "finish_wakes_nobody": ("Markers.arm_finished()", "", WALK),
        "finish_leaves_the_supply": (
            "if state.supply == 'more' then set('supply', 'interrupted') end", "", "gone_is_not_waited_for", WALK,
        ),
        "finish_during_a_recovery": ("refuse_while_recovering()", "", "during_a_recovery", WALK),
        "finish_of_an_admission_run": ("Run.refuse_admission()", "", "and_for_admission"),
    },
    "prioritise.lua": {
        "a_new_priority_leaves_the_place": (
            "if t.state == 'P' then zput(PENDING, t.id, place(t)) end", "", "started_in_the_new_order", WALK,
        ),
        "a_new_priority_is_not_kept": ("changed(t)", "", "keeps_it", WALK),
        "a_delayed_task_becomes_pending": ("if t.state == 'P' then zput", "do zput", WALK),
        "what_is_started_gets_a_priority": ("t and (t.state == 'P' or t.state == 'D')", "t", "which_could_not", WALK),
        "priorities_change_during_a_recovery": ("refuse_while_recovering()", "", WALK),
    },
    "pause.lua": {
        "any_resume_ends_a_halt": (" and rawget(ARGV, FIRST_ARG + 1) == '1' then", " then", "told_apart", WALK),
        "no_wake_on_resume": ("Markers.arm_anyway()", "", "marker_is_armed"),
        "no_wake_on_open_slot_after_pause": ("Markers.arm_anyway()", "Markers.arm_workers()", "marker_is_armed"),
        "resume_wakes_nobody": ("Markers.arm_anyway()\n  event(mode", "event(mode", WALK),
    },
    "recover_begin.lua": {
        "a_recovery_by_version_forgets_what_is_named": (
            "if listed_order >= 0 then Awaited.forget() end", "Awaited.forget()", "by_version_forgets_none", WALK,
        ),
        "a_recovery_leaves_a_run_finished": (
            "if state.finished then set('finished', '') end", "", "whoever_brings_tasks", WALK,
        ),
        "the_loader_goes_back_and_the_supply_stays": (
            "if (field('supply') or '') ~= '' then set('supply', 'interrupted') end", "", WALK,
        ),
        "numbers_taken_over_too_early": (
            "  go_to(to, epoch)\n",
            "  go_to(to, epoch)\n  if to.by_cursor then set('lineage', ARGV[14]) end\n", "begun_again_still_tells",
        ),
        "finished_by_others_stays_so": (
            "if to.forgot and to.file_cursor and num('order_seq') > to.common then forget_finished() end",
            "", "finished_is_brought_again",
        ),
        "older_file_newer_ends": (
            "if to.older or to.version < num('known_version') then forget_finished() end",
            "", "a_still_older_checkpoint",
        ),
        "a_recovery_keeps_the_epoch_of_the_server": (
            "math.max(number_of(ARGV[4]), number_of(state.epoch)) + 1", "number_of(state.epoch) + 1", WALK,
        ),
        "operators_checkpoints_of_a_lost_future_stay_listed": (
            "{ 'checkpoints', 'operator_checkpoints' }", "{ 'checkpoints' }", WALK,
        ),
        "the_server_has_forgotten_that_it_came_back_by_a_checkpoint": (
            "set('known_from', math.max(to.file_cursor and 0 or num('known_from'), listed_order))", "", WALK,
        ),
    },
    "recover_commit.lua": {
        "numbers_not_taken_over": (
            "  if (state.recover_lineage or '') ~= '' then", "  if false then", "results_of_the_time_after",
        ),
        "no_wake_on_recovery": ("Markers.arm_anyway()", "", "marker_is_armed"),
        "no_wake_on_open_slot_after_recovery": ("Markers.arm_anyway()", "Markers.arm_workers()", "marker_is_armed"),
        "a_recovery_wakes_nobody": ("Markers.arm_anyway()\n  event('recovered'", "event('recovered'", WALK),
        "the_counters_are_not_recomputed": (
            "set('accepted', version * batch_size() + redis.call('ZCARD', READY))", "", WALK,
        ),
        "undone_batches_stay": ("unlink(key('batch:' .. step))\n      hdel(BATCHES, step)", "", WALK),
        "order_numbers_are_given_twice_after_a_recovery": (
            "set('order_seq', math.max(num('order_seq'), num('known_from')))", "", WALK,
        ),
        "the_numbers_stay_those_of_the_history_that_is_gone": (
            "mark_epoch(state.epoch:match('%w+$'), num('known_from'), state.recover_lineage)", "", WALK,
        ),
    },
    "recover_sweep.lua": {
        "what_comes_back_is_not_counted": (
            "  Staleness.moved('-1', t.oldest)\n", "", "rollouts_of_lost_batches", WALK,
        ),
        "held_is_not_old": (
            "oldest = math.min(oldest, tonumber(s.version))",
            "if c == 'D' or oldest == math.huge then oldest = math.min(oldest, tonumber(s.version)) end",
            "held_sample_that_is_older", WALK,
        ),
        "the_newest_is_that_of_the_claim": (
            "newest = math.max(newest, tonumber(s.newest))", "newest = math.max(newest, tonumber(s.version))",
            "newest_that_was_used",
        ),
        "dropped_rows_are_finished": (
            "if fate == 'finished' then Fates.remember_finished(t.id) end",
            "remember_finished(t.id)", "not_taken_for_those_of_the_checkpoint",
        ),
        "an_end_known_from_a_file_alone": (
            "set('known_from', math.max(num('known_from'), num('recover_listed')))", "", "forgotten_discard_is_undone",
        ),
        "what_a_recovery_gives_back_is_told_to_nobody": ("      Markers.arm_session(s.session)\n", "", WALK),
        "versions_of_the_lost_future_stay_on_kept_tasks": ("then Fates.mend_versions(t) end", "then end", WALK),
        "dropped_rows_cannot_come_again": (
            "if fate == 'finished' then Fates.remember_finished(t.id) end", "add_finished(t.id, true)", WALK,
        ),
    },
    "renew.lua": {
        "a_heartbeat_says_nothing_of_the_end": ("state.finished and 'finished' or state.paused", "state.paused", WALK),
        "renew_ignores_staleness": ("and too_old(t.oldest) then", "and false then", "resets_all"),
        "renew_reads_no_record": (" or too_old(Stored.oldest(records[i]))", "", "resets_all", WALK),
        "renew_resets_what_others_hold": ("holds and s.session == session and", "holds and", "another_session_holds"),
        "renew_extends_nothing": ("zput(SESSIONS, session, lease_end(lease))", "", "sign_of_life", WALK),
        "unknown_attempts_kept": ("if holds then release_attempt(t, k, s) end", "", "lost_for_good"),
        "unknown_attempts_kept_beside_ended_ones": (
            "if scores[i] then holding = holding + 1 end", "holding = holding + 1", "beside_attempts_that_ended", WALK,
        ),
        "renew_trusts_what_is_named": (
            "if not scores[i] or not records[i] or", "if records[i] and", "renew_says_why", WALK,
        ),
        "renew_mixes_its_pieces": (
            "scores[from + i - 1] = got[i]", "scores[i] = got[i]", "more_attempts_than_one_command",
        ),
        "known_attempts_released": ("known[ids[i]] = true", "known[i] = true", "lost_for_good"),
        "renew_does_not_look_at_the_age": ("and too_old(t.oldest) then stale", "and false then stale", WALK),
        "what_a_worker_does_not_know_stays_with_it": ("release_unknown(session, ids)\n  end", "end", WALK),
        "a_heartbeat_during_a_claim_gives_it_back": (
            "if tonumber(last) <= number and redis.call('ZCARD'", "if redis.call('ZCARD'", WALK,
        ),
    },
    "include/counters.lua": {
        "held_is_not_audited": ("held = Samples.most() and Samples.count() or", "held =", "when_they_are_bounded_first"),
        "an_audit_trusts_the_number_of_named_tasks": (
            "redis.call('HLEN', key('awaited'))", "num('awaited')", "audit_counts_them",
        ),
        "an_audit_trusts_the_number_of_sessions_that_failed": (
            "redis.call('HLEN', key('ailing'))", "num('ailing')", "audit_counts_the_sessions",
        ),
    },
    "repair.lua": {
        "a_repair_keeps_the_ages": (
            "if name == 'ages' then Staleness.recount() else", "if name ~= 'ages' then", "wrong_counts",
        ),
        "repair_changes_nothing": ("set(name, found[name])", "", "drifted_counters"),
        "no_wake_on_repair": ("Markers.arm_anyway()", "", "marker_is_armed"),
    },
    "retry.lua": {
        "a_retry_leaves_the_run_finished": (
            "if any then reopen() end", "", "whoever_brings_tasks", WALK,
        ),
        "retry_knows_nothing_of_what_was_freed": (
            "not t and freed_word(ids[i]) or state_word(t)", "state_word(t)", "what_became_of_freed",
        ),
        "a_retried_task_keeps_its_order": ("TaskOptions.set_order(t, num('order_seq'))", "", WALK),
    },
    "stats.lua": {
        "silent_ones_not_counted": ("now - lag_before))", "now - lease_lag))", "fell_silent"),
    },
    "submit.lua": {
        "submit_denied_when_full": ("-- Flags: allow-oom", "-- Flags: none", "full_server_refuses"),
    },
    "include/submission.lua": {
        "a_result_leaves_the_failures_before_it": (
            "  Quarantine.forget(s.session)\n", "", "a_result_of_its_own", WALK,
        ),
        "times_are_counted_for_what_is_refused_too": (
            "  bump('total_late', 1)", "  bump('total_late', 1)\n  if s then note_time(s) end", WALK,
        ),
        "times_are_not_counted": ("  note_time(s)\n", "", "quantiles_of_generation", WALK),
        "a_bucket_is_a_factor_of_two": (
            "math.frexp(ms * ms)", "math.frexp(ms)", "quantiles_of_generation", WALK,
        ),
        "submit_ignores_staleness": ("elseif too_old(t.oldest) then", "elseif false then", "resets_all", WALK),
        "newest_policy_not_written": (
            "s.newest, s.newest_epoch = version, epoch\n    slot_changed(t, k, s)",
            "s.newest, s.newest_epoch = version, epoch", "told_by_the_newest", WALK,
        ),
        "newest_of_the_task_not_changed": (
            "then t.newest = s.newest end", "then t.newest = t.newest end", "told_by_the_newest",
        ),
        "refused_bytes_kept": (
            "if not (same and letter(t, k) == 'D') then", "if false then", "leaves_no_bytes",
        ),
        "every_policy_survives": ("if not surviving(version, epoch) then", "if false then", WALK),
        "a_repeated_submit_is_refused": (
            "if same and letter(t, k) == 'D' and verdict == 'a' then", "if false then", WALK,
        ),
        "a_done_attempt_stays_with_its_session": (
            "zdel(SESSION .. s.session, attempt)\n  Timeouts.clear", "Timeouts.clear", WALK,
        ),
        "a_result_needs_no_bytes": ("elseif ResultBytes.missing(attempt, how) then", "elseif false then", WALK),
        "a_refused_result_leaves_its_bytes": (
            "if not (same and letter(t, k) == 'D') then ResultBytes", "if false then ResultBytes", WALK,
        ),
    },
    "take.lua": {
        "a_batch_has_no_time": ("digest .. ' ' .. int_text(now)", "digest .. ' 1'", "how_long_it_was_generated", WALK),
        "what_is_taken_still_counts": (
            "      Staleness.moved(oldest, '-1')\n      local record", "      local record", "keeps_a_place", WALK,
        ),
        "a_wait_has_no_end": ("now - since >= num('max_wait_ms')", "false", "waited_for_too_long", WALK),
        "a_wait_ends_at_once": ("now - since >= num('max_wait_ms')", "true", "keeps_a_place", WALK),
        "the_wait_begins_anew_with_each_take": (
            "if words[1] == step and version <= words[3] then", "if false then", "waited_for_too_long", WALK,
        ),
        "the_wait_is_for_all_that_is_due": (
            "if late and tonumber(t.first) <= first and", "if late and", "only_what_ran_when",
        ),
        "a_batch_that_is_formed_ahead_is_waited_for": (
            "step > num('version') or state.paused == 'paused' or", "state.paused == 'paused' or", "formed_ahead",
        ),
        "a_pause_uses_up_the_wait": (
            "or state.paused == 'paused' or state.halted then", "or state.halted then", "while_the_run_is_paused",
        ),
        "a_small_batch_waits_for_nobody": (
            "((size >= n and not held) or all_there_is)", "(size >= n or all_there_is)", "a_small_batch_is", WALK,
        ),
        "an_empty_batch_waits_for_nobody": (
            "size >= n or (size == 0 and not version)", "size >= n", "handler_that_hangs", WALK,
        ),
        "the_wait_is_not_told": ("if is_new then event(", "if false then event(", "for_whom_a_batch_waits"),
        "a_wait_for_nobody_goes_on": ("if #due == 0 and not late and", "if false and", "wrong_counts"),
        "named_tasks_are_not_left": ("size + num('awaited')", "size", "is_waited_for", WALK),
        "a_feeder_is_not_waited_for": (
            "left < n and not may_grow", "left < n", "slow_loader_makes_no_small_batch", WALK,
        ),
        "a_short_batch_while_a_feeder_works": ("local short = not may_grow and", "local short =", WALK),
        "the_tail_of_a_feeder_is_not_taken": (
            "or state.supply == 'done')", ")", "woken_by_the_loaders_end", WALK,
        ),
        "batches_of_a_finished_run_are_formed": (
            "if state.finished then fail('FINISHED', 'step', int_text(step)) end", "", "next_batch_of_a_finished_run", WALK,
        ),
        "a_take_never_halts": ("  Breaker.look(true)\n", "", "last_other_task_is_cancelled", WALK),
        "a_trainer_waits_in_a_halted_run": ("state.halted and 1 or 0, unpack(due)", "0, unpack(due)", "says_what_halted_the_run", WALK),
        "small_batch_counts_its_size": (
            "bump('accepted', math.max(batch_size(), size) - size)", "", "smaller_or_larger or half_of_the", WALK,
        ),
        "take_ignores_staleness": ("if too_old(oldest) then\n      tasks[id] = decode", "if false then\n      tasks[id] = decode", "g5"),
        "sealed_batch_is_filled_again": (
            "if step < num('step_next') then return sealed_already(step) end", "", "never_changes",
        ),
        "steps_out_of_order": ("or step > num('version') + 1", "", "formed_in_order"),
        "taken_and_not_written_before_it_counts": ("call_in_pieces('ZREM', READY, taken)", "", "counted_once", WALK),
        "reset_and_not_written_before_it_counts": (
            "set('open_size', size)\n    flush()", "set('open_size', size)", WALK,
        ),
        "rows_before_the_seal": (
            "  if seal then told = {} end\n",
            "  if seal then told = redis.call('ZRANGE', key('batch:' .. int_text(step)), 0, -1) end\n",
            "one_call_that_seals",
        ),
        "rows_of_a_sealed_batch": (
            "then return sealed_already(step) end",
            "then return sealed_already(step), contents(redis.call('ZRANGE', key('batch:' .. int_text(step)), 0, -1), bytes) end",
            "one_call_that_seals",
        ),
        "takes_more_than_it_tells": (
            "if told > 0 then looked = math.min(looked, told) end", "", "of_all_that_it_took",
        ),
        "takes_any_number_of_slots": (
            " or (i > 1 and seen > MOST_SLOTS)", "", "of_all_that_it_took",
        ),
        "tells_of_what_it_reset": (
            "      stale_task(tasks[id])\n",
            "      stale_task(tasks[id])\n      n_taken = n_taken + 1\n      taken[n_taken] = id\n", "not_told_of",
        ),
        "take_resets_any_number_of_slots": ("if cleared_enough() or", "if", "reset_in_pieces"),
        "short_take_waits_for_what_it_has": (
            "short and left > size and math.min(n, left)", "short and math.min(n, left)", "took_all_there_was",
        ),
        "short_take_waits_for_a_full_batch": (
            "short and left > size and math.min(n, left) or n", "n", "short_batch_waits_for_what_is_left",
        ),
        "want_forgets_what_is_there": ("math.max(held and 1 or 0, whole - size)", "whole", "woken_by_more or blocked_trainer", WALK),
        "want_after_a_short_batch": (
            "digest == '-' and math.max(held and 1 or 0, whole - size) or 0",
            "math.max(held and 1 or 0, whole - size)", "has_its_batch_is_not_woken",
        ),
        "take_trains_stale_rollouts": (
            "if too_old(oldest) then", "if false then", WALK,
        ),
        "take_forms_any_step": ("if step > num('step_next') or step > num('version') + 1 then", "if false then", WALK),
        "take_may_ask_for_more_than_can_be": ("if n > bound then", "if false then", WALK),
        "take_says_that_it_took_nothing": ("local n_taken = #told", "local n_taken = 0", WALK),
        "prefetch_bound_like_any_other": (
            "(step > num('version') and s or s + 1) * batch_size()", "(s + 1) * batch_size()", WALK,
        ),
        "a_short_batch_while_others_run": (
            "short and exhausted and size == left and size > 0", "short and exhausted and size > 0", WALK,
        ),
        "an_empty_batch_is_sealed": (
            "short and exhausted and size == left and size > 0", "short and exhausted and size == left", WALK,
        ),
        "a_short_take_waits_for_what_it_has": ("short and left > size and math.min", "short and math.min", WALK),
    },
    "include/gateway_ends.lua": {
        "an_end_is_noted_twice": (
            "if redis.call('ZSCORE', ENDS, id) then return 0 end", "", "ends_are_noted_once",
        ),
        "a_number_is_used_again": (
            "redis.call('INCR', ENDED)", "redis.call('ZCARD', ENDS) + 1", "ends_are_noted_once",
        ),
    },
    "note_given.lua": {
        "an_attempt_is_given_that_is_over": ("if not holds then", "if false then", "given_unless_it_is_over"),
        "a_given_rollout_forgets_the_rest": ("(rest or fresh)", "fresh", "given_once"),
        "a_repeated_gift_takes_a_start_back": ("elseif given == ids[i] then", "elseif false then", "given_once"),
        "a_given_attempt_is_not_held": ("call_in_pieces('HSET', holding, held, 2)", "", "given_once"),
    },
    "include/gateway_records.lua": {
        "a_controller_that_is_gone_is_remembered": ("redis.call('PEXPIRE', holding, 604800000)", "", "does_not_come_back"),
    },
    "note_status.lua": {
        "a_start_of_an_attempt_that_is_over": ("if not holds then", "if false then", "whose_slot_another_one_holds"),
        "an_end_without_a_result": ("if answer ~= 'accepted' then", "if false then", "whose_result_is_refused"),
        "a_result_that_is_not_written": ("    flush_submitted()\n", "", "is_submitted_and_noted"),
        "a_record_is_overwritten": (
            "if record ~= old and record ~= new then return { 'changed' } end", "", "where_the_record_is_another",
        ),
        "a_repeated_note_is_refused": (
            "record ~= old and record ~= new", "record ~= old", "is_submitted_and_noted",
        ),
        "a_controller_keeps_what_ended": ("redis.call('HDEL', holding, attempt)", "", "is_submitted_and_noted"),
        "a_start_is_no_sign_of_life": ("if heard ~= '' then", "if false then", "while_the_attempt_holds_its_slot"),
    },
    "trim.lua": {
        "trim_frees_the_dead_of_a_streak": (" or Breaker.streak()[t.id]) then", ") then", "trim_keeps_what_died", WALK),
        "bytes_freed_at_once": ("num('version') - 1", "num('version') + 0", "slow_ranks or bytes_live"),
        "tasks_freed_at_once": ("num('version') - num('retention_steps')", "num('version')", "bytes_live"),
        "dead_kept_for_ever": (
            "more = free_finished('dead', DEAD, limit) or more", "", "dead_and_rejected_tasks_are_kept",
        ),
        "finished_kept_for_ever": (
            "more = free_finished('rejected', REJECTED, limit) or more", "", "dead_and_rejected_tasks_are_kept",
        ),
        "finished_that_stay_are_left_to_free": (
            "then return false end\n    if slots_left", "then stopped = true return true end\n    if slots_left",
            "may_free_none_of_many",
        ),
        "what_stopped_at_the_slots_is_left": ("stopped and 2 or more", "more", "large_groups_are_read"),
        "stopped_steps_are_done": (
            "if n == #ids and n < limit then\n    set('bytes_from'",
            "if n <= limit then\n    set('bytes_from'", "large_groups_are_read",
        ),
        "trim_frees_the_bytes_of_the_last_batch": (
            "if step >= num('version') - 1 then return false end",
            "if step >= num('version') then return false end", WALK,
        ),
        "freed_trained_count_as_dead": ("add_finished(id, true)", "add_finished(id, false)", "outage_is_over"),
    },
    "include/freeing.lua": {
        "freed_uncounted": ("bump('total_freed_' .. word, 1)", "", "freed_are_told", WALK),
        "freed_unsaid": ("event('freed',", "tostring(", "freed_are_told"),
        "freed_dead_count_as_trained": ("add_finished(t.id, false)", "add_finished(t.id, true)", "outage_is_over", WALK),
        "what_is_freed_stays_among_the_dead": ("zdel(name, t.id)", "", WALK),
    },
    "note_deleted.lua": {
        "a_deleted_rollout_keeps_its_events": ("redis.call('UNLINK', key('gateway:events:'", "tostring(key('gateway:events:'", "nothing_of_it_is_left"),
        "a_deleted_rollout_stays_among_the_ended": ("redis.call('ZREM', ENDS, task)", "", "nothing_of_it_is_left"),
    },
    "forget.lua": {
        "a_sealed_task_is_forgotten": ("if t and t.state ~= 'B' then\n      free", "if t then\n      free", WALK),
        "what_waits_cannot_be_forgotten": ("if t and is_unsealed(t) then", "if false then", "in_every_state", WALK),
        "what_a_recovery_named_stays_awaited": (
            "elseif dropped[ids[i]] then", "elseif false then", "a_recovery_names_what_was_forgotten",
        ),
        "forgetting_a_named_task_wakes_no_trainer": (
            "if next(dropped) then Markers.arm_trainer(true) end", "", "a_recovery_names_what_was_forgotten",
        ),
    },
    EVERY: {
        "a_repeated_open_is_another_epoch": (
            "if state.epoch:match('%.(%w+)$') == token then return", "if false then return", WALK,
        ),
        "ended_tasks_do_not_wake_the_trainer": ("Markers.arm_trainer(true)", "", WALK),
    },
    LIBRARY: {
        "constants_of_the_first_run": ("if LAST ~= keys[1] then", "if not LAST then", "take_turns"),
        "constants_of_a_script_of_the_first_run": ("if OWN_LAST ~= keys[1] then", "if not OWN_LAST then", "take_turns"),
    },
}  # fmt: skip
