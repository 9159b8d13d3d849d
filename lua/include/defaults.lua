-- The values of config fields that a run does not store, because a release created it that did not have the field.
-- A new run stores all fields, so a different default in a later release changes no existing run.
-- consumer_batch_size is always stored; max_concurrent_rollouts is the batch size if it was never given (include/state.lua).
-- max_concurrent_samples is an empty text where there is no bound.
-- staleness_limit is max_staleness where it is not stored, and an empty text in a new run whose trainer does not give it (include/state.lua).

local DEFAULTS = {
  max_concurrent_samples = '', max_staleness = '0', on_stale = 'requeue',
  max_wait_ms = '600000', max_attempts = '3', max_stale_requeues = '10',
  lease_ms = '60000', attempt_timeout_ms = '0', retry_backoff_ms = '1000', retry_backoff_max_ms = '60000',
  retention_steps = '100', keep_checkpoints = '2', max_payload_bytes = '16777216', max_result_bytes = '536870912',
  result_ttl_ms = '3600000', max_finished = '10000', events_maxlen = '10000', halt_after_failures = '64',
  quarantine_after = '16',
}
