"""Faults put into the scripts one at a time: the walker must find each of them, or it tests nothing.

A mutant is a change of text in the loaded source of all scripts that contain it. When a script is rewritten and a
mutant does not apply any more, its test fails and says so: give it the new text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault.

    Args:
        name: what is wrong.
        old: text of the source.
        new: what takes its place.
        scripts: only in these scripts; all that have the text where empty.
    """

    name: str
    old: str
    new: str
    scripts: tuple[str, ...] = ()

    def apply(self, script: str, source: bytes) -> bytes:
        """The changed source of a script; unchanged where it does not have the text."""
        if self.scripts and script not in self.scripts:
            return source
        return source.replace(self.old.encode(), self.new.encode())


MUTANTS: tuple[Mutant, ...] = (
    # G2, G3: who holds a slot.
    Mutant(
        "no compare of the random part",
        "attempt_id(t, k, s) == id",
        "slot_name(t, k) .. '.' .. s.claims == id:match('^(.*)%.%w+$')",
    ),
    Mutant("no compare of the claim number", "attempt_id(t, k, s) == id", "s.random == id:match('%w+$')"),
    Mutant("a slot is written as it was read", "t.slot_text = nil -- made anew", "-- made anew"),
    Mutant(
        "the first word about a member counts",
        "last[log[i + member_at]] = i end",
        "last[log[i + member_at]] = last[log[i + member_at]] or i end",
    ),
    Mutant("any attempt of a held slot may submit", "same and letter(t, k) == 'H', same", "letter(t, k) == 'H', same"),
    Mutant("ended attempts count as holders", "same and letter(t, k) == 'H', same", "same, same"),
    Mutant(
        "claims do not count up",
        "claims, tries = int_text(s.claims + 1), s.tries",
        "claims, tries = s.claims, s.tries",
    ),
    Mutant(
        "a policy needs no epoch",
        "if version == state.version then return epoch == state.version_epoch end",
        "if version == state.version then return true end",
    ),
    Mutant(
        "an older policy needs no epoch",
        "redis.call('HGET', POLICIES, int_text(version))) == epoch",
        "redis.call('HGET', POLICIES, int_text(version))) ~= false",
    ),
    Mutant("every policy survives", "if not surviving(version, epoch) then", "if false then", ("submit",)),
    Mutant("a repeated submit is refused", "if same and letter(t, k) == 'D' and verdict == 'a' then", "if false then"),
    Mutant(
        "a done attempt stays with its session",
        "zdel(SESSION .. s.session, attempt)\n  if state.timeouts",
        "if state.timeouts",
        ("submit",),
    ),
    Mutant("claims count anew after a requeue", "t.first ~= '0' or t.again ~= '0,0'", "t.first ~= '0'"),
    Mutant(
        "the newest policy used is not written",
        "s.newest, s.newest_epoch = version, epoch\n    slot_changed(t, k, s)",
        "s.newest, s.newest_epoch = version, epoch",
    ),
    # G4: admission.
    Mutant(
        "claim ignores capacity",
        "local room, offset, first = capacity(),",
        "local room, offset, first = MAX_INT,",
    ),
    Mutant(
        "claim starts one too many",
        "local room, offset, first = capacity(),",
        "local room, offset, first = capacity() + 1,",
    ),
    Mutant(
        "claim ignores concurrency",
        "by_staleness and math.min(by_concurrency, by_staleness) or by_concurrency",
        "by_staleness or by_concurrency",
    ),
    Mutant(
        "claim ignores staleness",
        "by_staleness and math.min(by_concurrency, by_staleness) or by_concurrency",
        "by_concurrency",
    ),
    Mutant(
        "capacity off by one version",
        "(s + state.version + 1) * batch_size()",
        "(s + state.version + 2) * batch_size()",
    ),
    Mutant("requeue forgets running - 1", "zdel(OPEN, t.id)\n    bump('running', -1)", "zdel(OPEN, t.id)"),
    Mutant("start forgets running + 1", "bump('running', started)", ""),
    Mutant("ready forgets accepted + 1", "bump('accepted', 1)", ""),
    Mutant("a ready task leaves accepted behind", "zdel(READY, t.id)\n    bump('accepted', -1)", "zdel(READY, t.id)"),
    Mutant(
        "the open batch leaves accepted behind",
        "bump('open_size', -1)\n    bump('accepted', -1)",
        "bump('open_size', -1)",
    ),
    Mutant("a small batch is not counted as B", "bump('accepted', math.max(batch_size(), size) - size)", ""),
    Mutant(
        "advance does not settle a large batch", "bump('accepted', batch_size() - math.max(batch_size(), size))", ""
    ),
    Mutant("an empty advance adds no batch", "bump('accepted', batch_size())", ""),
    Mutant("a new batch size leaves accepted alone", "bump('accepted', num('version') * (b - before))", ""),
    Mutant("draining starts tasks", "if state.paused ~= 'draining' then claim_pending", "if true then claim_pending"),
    Mutant("a pause does not stop claims", "if state.paused == 'paused' then return 'paused' end", ""),
    # G5: staleness.
    Mutant("stale check off by one", "tonumber(version) < oldest_good", "tonumber(version) < oldest_good - 1"),
    Mutant(
        "stale check too strict",
        "oldest_good = s and num('step_next') - s or",
        "oldest_good = s and num('step_next') - math.max(0, s - 1) or",
    ),
    Mutant(
        "take trains stale rollouts",
        "if too_old(t.oldest) then\n      stale_task(t)\n    else\n      t.state",
        "if false then\n      stale_task(t)\n    else\n      t.state",
    ),
    Mutant("submit does not look at the age", "elseif too_old(t.oldest) then", "elseif false then", ("submit",)),
    Mutant("claim does not look at the age of open tasks", "elseif too_old(page[i].oldest) then", "elseif false then"),
    Mutant("renew reads no records", " or too_old(oldest_in(records[i]))", ""),
    Mutant("renew does not look at the age", "and too_old(t.oldest) then stale", "and false then stale", ("renew",)),
    Mutant("a concurrency that was given follows", "return field('concurrency_given') ~= '1' and", "return"),
    Mutant("the concurrency follows nothing", "if follows and batch_size() ~= before then follow_batch_size() end", ""),
    Mutant(
        "an update gives no concurrency",
        "follows = false\n      if field('concurrency_given')",
        "if false and field('x')",
    ),
    Mutant("an open batch is not looked at after a change of config", "set('recheck', 1)", ""),
    Mutant(
        "the oldest version is the last one",
        "if t.oldest == '-1' or claim.version < tonumber(t.oldest) then",
        "if true then",
    ),
    Mutant(
        "the newest version is the first one",
        "if claim.version > tonumber(t.newest) then",
        "if t.newest == '-1' then",
    ),
    Mutant("on_stale=drop requeues", "state.on_stale == 'drop' or", ""),
    Mutant("stale requeues without bound", "or stales + 1 > num('max_stale_requeues')", ""),
    Mutant("a stale policy may claim", "(claim.given and too_old(claim.version))", "false"),
    # G1: nothing lost.
    Mutant("numbers of first claims are given twice", "bump('first_seq', started)", ""),
    Mutant(
        "a requeued task is in no set",
        "zput(PENDING, t.id, place(t))\n    arm_workers()\n  end\n  changed(t)",
        "end\n  changed(t)",
    ),
    Mutant("promotion forgets pending", "zput(PENDING, t.id, place(t))\n      arm_workers()", "arm_workers()"),
    Mutant(
        "promotion forgets the open slot",
        "set_letter(t, k, 'O')\n      zput(OPEN, t.id, place(t))",
        "set_letter(t, k, 'O')",
    ),
    Mutant(
        "an ended slot is not offered again",
        "elseif letters:find('O', 1, true) then\n    zput(OPEN",
        "elseif false then\n    zput(OPEN",
    ),
    Mutant("enqueue overwrites", "tasks[id] and state_word(tasks[id]) or (check", "(check"),
    Mutant("enqueue takes one name twice", "seen[id] and 'pending' or tasks[id]", "tasks[id]"),
    Mutant("priority upside down", "-priority * 4398046511104", "priority * 4398046511104"),
    Mutant(
        "discard reaches into sealed batches",
        "(t.state == 'Y' or t.state == 'B') and is_unsealed(t)",
        "(t.state == 'Y' or t.state == 'B')",
        ("discard",),
    ),
    Mutant("cancel leaves live attempts", "if c == 'H' then\n      end_hold(t, k, s, why)", "if c == 'H' then"),
    Mutant(
        "a cleared slot keeps its retry",
        "zdel(RETRIES, name)\n    end\n  end\n  return due",
        "end\n  end\n  return due",
    ),
    Mutant(
        "bytes of dropped results stay",
        "unlink(RESULT .. attempt_id(t, k, s))\n      if done_why",
        "if done_why",
    ),
    Mutant("accepted bytes keep their time to live", "redis.call('PERSIST', result_key(persisted[i]))", ""),
    Mutant(
        "a result needs no bytes",
        "elseif by_set and redis.call('EXISTS', result_key(attempt)) == 0 then",
        "elseif false then",
    ),
    Mutant(
        "a refused result leaves its bytes",
        "if by_set and not (same and letter(t, k) == 'D') then unlink",
        "if false then unlink",
    ),
    Mutant(
        "trim frees the bytes of the last batch",
        "if step >= num('version') - 1 then return false end",
        "if step >= num('version') then return false end",
    ),
    # How slots and tasks end.
    Mutant("one try more than max_attempts", "if tries < num('max_attempts')", "if tries <= num('max_attempts')"),
    Mutant("an expiry costs no try", "if spend_try(t, k, s) then set_letter(t, k, 'O') end", "set_letter(t, k, 'O')"),
    Mutant(
        "a release costs a try",
        "end_hold(t, k, s, 'released')",
        "end_hold(t, k, s, 'released')\n  s.tries = s.tries + 1",
    ),
    Mutant(
        "min_samples is not looked at",
        "select(2, letters:gsub('F', '')) >= min",
        "select(2, letters:gsub('F', '')) >= t.samples",
    ),
    Mutant("a verdict counts as an error", "fail_slot_for_good(t, k, false)", "fail_slot_for_good(t, k, true)"),
    Mutant("backoff does not grow", "base * 2 ^ math.min(s.tries - 1, 40)", "base"),
    Mutant(
        "backoff without bound",
        "math.min(num('retry_backoff_max_ms'), base * 2 ^ math.min(s.tries - 1, 40))",
        "base * 2 ^ math.min(s.tries - 1, 40)",
    ),
    Mutant(
        "a ready group waits for its failed slots",
        "elseif not letters:find('[OWH]') then",
        "elseif not letters:find('[OWHF]') then",
    ),
    Mutant(
        "enqueue again takes what was trained on", "freed_untrained = true }", "freed_untrained = true, freed = true }"
    ),
    Mutant("enqueue again takes live tasks", "not (again and UNTRAINED[there])", "not (again and there)"),
    Mutant("enqueue takes the dead unasked", "not (again and UNTRAINED[there])", "not UNTRAINED[there]"),
    Mutant("enqueue again keeps the old samples", "if samples then t.samples, t.fixed = samples, fixed end", ""),
    Mutant("enqueue again counts nothing", "if restarted > 0 then bump('total_retried', restarted) end", ""),
    Mutant("retry keeps the tries", "s.tries, s.why = '0',", "s.tries, s.why = s.tries,"),
    # G7: replay.
    Mutant("a repeated call executes again", "if call == last then return state.answer end", ""),
    Mutant("the number of a call is not stored", "set('call', ARGV[4])", ""),
    Mutant("an old call executes", "if call < last then fail('OLDCALL'", "if false then fail('OLDCALL'"),
    Mutant("a gap is not noticed", "if call > last + 1 then fail('REWOUND'", "if false then fail('REWOUND'"),
    Mutant(
        "no fence", "if id ~= (state.epoch or ''):match('%.(%w+)$') then fail('FENCED'", "if false then fail('FENCED'"
    ),
    Mutant(
        "a late open takes over",
        "if (' ' .. state.tokens .. ' '):find(' ' .. token .. ' ', 1, true) then",
        "if false then",
    ),
    Mutant(
        "a repeated open is another epoch",
        "if state.epoch:match('%.(%w+)$') == token then return",
        "if false then return",
    ),
    Mutant(
        "an operator's repeated call executes again", "return redis.call('HGET', REQUESTS, id) or nil", "return nil"
    ),
    Mutant("a repeated claim claims more", "if tonumber(last) == number then return replay(words) end", ""),
    Mutant(
        "an old claim executes", "if tonumber(last) > number then fail('OLDREQUEST'", "if false then fail('OLDREQUEST'"
    ),
    Mutant(
        "a repeated claim gives what is lost",
        "if holds then\n      local at, word",
        "if t then\n      local at, word",
    ),
    Mutant("session numbers are used again", "bump('session_seq', 1)", "set('session_seq', 1)"),
    # Batches and steps.
    Mutant("take forms any step", "if step > num('step_next') or step > num('version') + 1 then", "if false then"),
    Mutant("take may ask for more than can be", "if n > bound then", "if false then"),
    Mutant("take says that it took nothing", "local n_taken = #told", "local n_taken = 0"),
    Mutant(
        "prefetch bound like any other",
        "(step > num('version') and s or s + 1) * batch_size()",
        "(s + 1) * batch_size()",
    ),
    Mutant(
        "a short batch while others run",
        "short and exhausted and size == left and size > 0",
        "short and exhausted and size > 0",
    ),
    Mutant(
        "an empty batch is sealed",
        "short and exhausted and size == left and size > 0",
        "short and exhausted and size == left",
    ),
    Mutant("advance does not compare the digest", "if digest ~= sealed then", "if false then"),
    Mutant("advance over an open batch", "if not allow_empty or num('open_size') > 0 then", "if not allow_empty then"),
    Mutant("advance any step", "if step ~= version then fail('EARLY'", "if false then fail('EARLY'"),
    Mutant("the new policy has no epoch", "set('version_epoch', state.epoch)", ""),
    # Leases, and G9.
    Mutant("claim does not extend the lease", "zput(SESSIONS, session, lease_end(lease))", "", ("claim",)),
    Mutant("renew does not extend the lease", "zput(SESSIONS, session, lease_end(lease))", "", ("renew",)),
    Mutant("what a worker does not know stays with it", "release_unknown(session, ids)\n  end", "end", ("renew",)),
    Mutant(
        "what a worker does not know stays with it beside others",
        "if scores[i] then holding = holding + 1 end",
        "holding = holding + 1",
    ),
    Mutant("renew trusts the worker", "if not scores[i] or not records[i] or", "if records[i] and"),
    Mutant(
        "a heartbeat during a claim gives it back",
        "if tonumber(last) <= number and redis.call('ZCARD'",
        "if redis.call('ZCARD'",
        ("renew",),
    ),
    Mutant("expired sessions stay", "if all and looked == #held then forget_session(ids[i], 'expired') end", ""),
    Mutant(
        "an expired session forgets only itself",
        "local _, looked = expire_all(SESSION .. ids[i], held)",
        "local looked = #held",
    ),
    Mutant(
        "time-outs are not kept",
        "zput(DEADLINES, attempt, lease_end(claim.timeout))\n    due_at(now + claim.timeout)",
        "",
    ),
    Mutant(
        "nobody looks at a time-out",
        "zput(DEADLINES, attempt, lease_end(claim.timeout))\n    due_at(now + claim.timeout)",
        "zput(DEADLINES, attempt, lease_end(claim.timeout))",
    ),
    Mutant("nobody looks at a lease", "due_at(now + lease)", "", ("join",)),
    Mutant(
        "the clock goes back",
        "now = math.max(before, at)\n",
        "now = at\n",
    ),
    Mutant("time stands still after a step back", "if now > at then set('clock_offset', offset + now - at) end", ""),
    Mutant(
        "a step back counts twice",
        "set('clock_offset', offset + now - at)",
        "set('clock_offset', offset + 2 * (now - at))",
    ),
    Mutant("only the last step back counts", "set('clock_offset', offset + now - at)", "set('clock_offset', now - at)"),
    Mutant("leases lose the whole gap", "if now - before > lease_step then", "if false then"),
    Mutant(
        "the longest lease bounds a gap", "redis.call('ZRANGE', LEASES, 0, 0,", "redis.call('ZRANGE', LEASES, -1, -1,"
    ),
    Mutant("the lease of an ended session bounds a gap", "zdel(LEASES, id)", ""),
    Mutant(
        "only the last gap counts",
        "lease_lag = lease_lag + now - before - lease_step",
        "lease_lag = now - before - lease_step",
    ),
    Mutant(
        "the last gap stops the lease clock for good",
        "lease_lag + now - before - lease_step",
        "lease_lag + now - before",
    ),
    Mutant(
        "backoffs are on the lease clock",
        "local at = now + math.min(num('retry",
        "local at = now - lease_lag + math.min(num('retry",
    ),
    Mutant("time-outs are on the run's clock", "lease_end(claim.timeout)", "now + claim.timeout"),
    Mutant("enqueue wakes nobody", "arm_workers()\n    set('order_seq', order)", "set('order_seq', order)"),
    Mutant("a claim does not pass the wake-up on", "  pass_on(granted_count >= n)\n", ""),
    Mutant(
        "what is left of a running group wakes nobody",
        "then still_open = true else used_up = used_up + 1 end",
        "then used_up = used_up + 0 end",
    ),
    Mutant(
        "what is left of a started group wakes nobody",
        "claim, int_text(first + started)) then still_open = true end",
        "claim, int_text(first + started)) then still_open = still_open end",
    ),
    Mutant(
        "tasks that a claim did not look at wake nobody",
        "still_pending = redis.call('ZCARD', PENDING) > started",
        "still_pending = false",
    ),
    Mutant(
        "one task that waits wakes nobody", "redis.call('ZCARD', PENDING) > 0)", "redis.call('ZCARD', PENDING) > 1)"
    ),
    Mutant(
        "markers are armed before the writes",
        "  if save_records then save_records() end",
        "  arm_markers()\n  arm.workers = false\n  if save_records then save_records() end",
    ),
    Mutant("a short take waits for what it has", "short and left > size and math.min", "short and math.min"),
    Mutant("a take waits for as many as a batch has", "math.max(0, whole - size)", "whole"),
    Mutant("advance wakes nobody", "arm_workers()\n  event('advance'", "event('advance'"),
    Mutant("resume wakes nobody", "arm_anyway()\n  event(mode", "event(mode"),
    Mutant("a recovery wakes nobody", "arm_anyway()\n  event('recovered'", "event('recovered'"),
    Mutant(
        "a stale worker keeps the wake-up",
        "arm_for_open_slot() -- the marker that woke this worker is another one's",
        "",
    ),
    Mutant(
        "an open slot wakes nobody", "zput(OPEN, t.id, place(t))\n    arm_for_open_slot()", "zput(OPEN, t.id, place(t))"
    ),
    Mutant("ready rollouts do not wake the trainer", "arm_trainer(false)", ""),
    Mutant("ended tasks do not wake the trainer", "arm_trainer(true)", ""),
    Mutant("what is taken back is told to nobody", "if TAKEN_BACK[why] then arm_session(s.session) end", ""),
    Mutant("what is given up is told to whoever gave it up", "if TAKEN_BACK[why] then arm", "if true then arm"),
    Mutant("a time-out is told to nobody", "expired = true, ", ""),
    Mutant("what became too old is told to nobody", "stale = true, revoked", "revoked"),
    Mutant("what is revoked is told to nobody", "revoked = true, ", ""),
    Mutant("what is cancelled is told to nobody", "revoked = true, cancelled = true", "revoked = true"),
    Mutant("what a recovery gives back is told to nobody", "      arm_session(s.session)\n", "", ("recover_sweep",)),
    # G6, G8: recovery.
    Mutant("samples of a lost future are kept", "return false, 'lost_policy'", ""),
    Mutant(
        "the newest policy used is not judged",
        "not surviving(s.newest, s.newest_epoch)",
        "false",
    ),
    Mutant("lost bytes are not noticed", "redis.call('EXISTS', unpack(results)) < #results", "false"),
    Mutant(
        "what lost steps consumed stays consumed", "if t.state == 'B' and step < to.limit and", "if t.state == 'B' and"
    ),
    Mutant("consumed by a surviving step, trained again", "if t.state == 'B' and step < to.limit and", "if false and"),
    Mutant("discards of lost steps stay", "local again = step >= to.version or parted", "local again = false"),
    Mutant("the list does not decide of ended tasks", "if known then again = listed end", ""),
    Mutant(
        "what the checkpoint calls finished is done again",
        "if known and not listed and order == born then return 'finished' end",
        "",
    ),
    Mutant("new tasks count as known", "known = order <= to.common --", "known = listed ~= nil --"),
    Mutant("in flight attempts are kept in any case", "if t.state == 'R' and to.requeue_in_flight and", "if false and"),
    Mutant(
        "a recovery keeps the epoch of the server",
        "math.max(number_of(ARGV[4]), number_of(state.epoch)) + 1",
        "number_of(state.epoch) + 1",
    ),
    Mutant("below the floor", "if version < floor and not allow_loss then", "if false then"),
    Mutant(
        "a file of an undone future",
        "if file_epoch ~= '' and tonumber(by) > number_of(file_epoch)",
        "if false and tonumber(by) > number_of(file_epoch)",
    ),
    Mutant("claims go on during a recovery", "if state.recovering ~= '' then return 'recovering' end", ""),
    Mutant(
        "calls go on during a recovery",
        "if state.recovering and state.recovering ~= '' then fail('RECOVERING'",
        "if false then fail('RECOVERING'",
    ),
    Mutant(
        "the counters are not recomputed", "set('accepted', version * batch_size() + redis.call('ZCARD', READY))", ""
    ),
    Mutant("undone batches stay", "unlink(key('batch:' .. step))\n      hdel(BATCHES, step)", "", ("recover_commit",)),
    Mutant("a retried task keeps its order", "set_order(t, num('order_seq'))", ""),
    Mutant(
        "order numbers are given twice after a recovery",
        "set('order_seq', math.max(num('order_seq'), num('known_from')))",
        "",
    ),
    Mutant(
        "a commit of any version",
        "if version > num('version') then fail('EARLY'",
        "if false then fail('EARLY'",
        ("commit",),
    ),
    Mutant("the newest checkpoint is the floor", "version, num('keep_checkpoints'))", "version, 1)", ("commit",)),
    Mutant("an operator's checkpoint raises the floor", "if ARGV[2] == 'o' then\n", "if false then\n", ("commit",)),
    Mutant("an operator's checkpoint of a lost future counts", "then refuse_target(version,", "then tostring(version,"),
    Mutant(
        "operators' checkpoints of a lost future stay listed",
        "{ 'checkpoints', 'operator_checkpoints' }",
        "{ 'checkpoints' }",
    ),
    Mutant("versions of the lost future stay on kept tasks", "then mend_versions(t) end", "then end"),
    Mutant(
        "what is held does not count as old beside what is done",
        "oldest = math.min(oldest, tonumber(s.version))",
        "if c == 'D' or oldest == math.huge then oldest = math.min(oldest, tonumber(s.version)) end",
    ),
    # G8: order numbers that a failover forgot are given again.
    Mutant("whose numbers they are does not matter", "if lineage == '' or listed_order < 0 then", "if true then"),
    Mutant("an epoch's numbers end with the checkpoint's", "return math.min(last, last_here[token])", "return last"),
    Mutant(
        "an epoch's numbers end with the server's", "return math.min(last, last_here[token])", "return last_here[token]"
    ),
    Mutant(
        "a new epoch leaves no mark",
        "mark_epoch(epoch:match('%w+$'), num('order_seq'), field('lineage') or '')",
        "",
    ),
    Mutant("a retry hides what was forgotten", "(to.lost or limit < version)", "to.lost"),
    Mutant("only forgotten steps count", "(to.lost or limit < version)", "(limit < version)"),
    Mutant("rows of others stay", "if foreign and to.by_cursor and not listed then return 'dropped' end", ""),
    Mutant("rows of others are dropped for ever", "foreign and to.by_cursor and not listed", "foreign and not listed"),
    Mutant(
        "dropped rows cannot come again",
        "if fate == 'finished' then remember_finished(t.id) end",
        "add_finished(t.id, true)",
    ),
    Mutant("a retry after a failover is finished", "not listed and order == born then", "not listed then"),
    Mutant("the cursor is the newer checkpoint's", "and (to.forgot or to.older)", "and to.forgot"),
    Mutant("a version alone brings back what is forgotten", "has_list and 0 or num('known_version')", "0"),
    Mutant(
        "the server has forgotten that it came back by a checkpoint",
        "set('known_from', math.max(to.file_cursor and 0 or num('known_from'), listed_order))",
        "",
    ),
    Mutant(
        "the numbers stay those of the history that is gone",
        "mark_epoch(state.epoch:match('%w+$'), num('known_from'), state.recover_lineage)",
        "",
    ),
)
