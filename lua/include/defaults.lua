-- What a config field is where a run does not hold it: one that an older release created, before there was such a field.
-- A new run stores all of them, so that another default in a later release changes no run that is there.
-- consumer_batch_size always is there; max_concurrent_rollouts is the batch size where nobody gave it (include/state.lua).

local DEFAULTS = {
  max_staleness = '0', on_stale = 'requeue', max_attempts = '3', max_stale_requeues = '10', lease_ms = '60000',
  attempt_timeout_ms = '0', retry_backoff_ms = '1000', retry_backoff_max_ms = '60000', retention_steps = '100',
  keep_checkpoints = '2', max_payload_bytes = '16777216', max_result_bytes = '536870912', result_ttl_ms = '3600000',
  max_finished = '10000', events_maxlen = '10000',
}
