"""Every bound of the system, in one place.

Units stand in the names. A bound that is passed gets a clear error that names it, and nothing is lost. The values come from
the design (times and sizes) unless a line says otherwise; what an operator may change is in `settings`, not here.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Names and ids
workflow_id_bytes_max: Final = 200
node_id_bytes_max: Final = 128
executor_bytes_max: Final = 128
name_bytes_max: Final = 128
request_id_bytes_max: Final = 64
error_type_bytes_max: Final = 200
cluster_name_bytes_max: Final = 64
labels_max: Final = 64
values_a_label_max: Final = 64
affinity_key_bytes_max: Final = 128
concurrency_key_bytes_max: Final = 128
cache_key_bytes_max: Final = 4 * KIB  # as it is written, with its data paths
host_bytes_max: Final = 255
version_bytes_max: Final = 32

# Definitions
definition_bytes_max: Final = 64 * MIB
definition_inline_bytes_max: Final = 3 * MIB
nodes_max: Final = 100_000
edges_max: Final = 1_000_000
paths_in_input_max: Final = 1_000
path_bytes_max: Final = 4 * KIB
path_depth_max: Final = 100
path_steps_max: Final = 1_000_000  # about half a second; 30,000 elements with twenty fields picked from each
map_width_max: Final = 100_000
max_parallel_max: Final = 100_000
attempts_max: Final = 100
retry_multiplier_max: Final = 1_000
retry_interval_ms_max: Final = 7 * 24 * 3600 * 1000
timeout_ms_max: Final = 365 * 24 * 3600 * 1000
json_depth_max: Final = 200
non_retryable_max: Final = 64
priority_max: Final = 9
concurrency_limit_max: Final = 1_000
cache_ttl_ms_min: Final = 1_000
cache_ttl_ms_max: Final = 365 * 24 * 3600 * 1000
fairness_key_bytes_max: Final = 128
priority_ageing_ms_max: Final = 24 * 3600 * 1000
problems_max: Final = 100
hint_comparisons_max: Final = 20_000
yaml_values_max: Final = 5_000_000

# Payloads
payload_bytes_max: Final = 1 * MIB
map_output_bytes_max: Final = 16 * MIB
workflow_payload_bytes_max: Final = 256 * MIB
payload_cache_bytes_max: Final = 256 * MIB
progress_bytes_max: Final = 4 * KIB
progress_interval_ms_min: Final = 1_000
failure_message_bytes_max: Final = 4 * KIB
failure_stack_bytes_max: Final = 32 * KIB
executor_rate_max: Final = 1_000_000
executor_rates_max: Final = 1_000
reason_bytes_max: Final = 1 * KIB

# The wire
message_bytes_max: Final = 4 * MIB
message_split_bytes: Final = 2 * MIB
answer_bytes_max: Final = 20 * MIB
items_a_message_max: Final = 1_000
results_an_event_max: Final = 200  # a message with more becomes several, so that each takes the loop 4 ms
submit_many_items_max: Final = 1_000
wait_many_ids_max: Final = 10_000
result_wait_ms_max: Final = 60_000
page_size_max: Final = 1_000
simulated_copies_max: Final = 100_000
explained_workers_max: Final = 50
"""So many names of workers that have not got a node for the same reason are told."""
history_events_max: Final = 1_000_000
watchers_a_workflow_max: Final = 100
watchers_max: Final = 10_000
ends_awaited_max: Final = 100_000  # by WaitMany, of all calls; apart from the watchers, so that one call starves nobody
watch_queue_messages_max: Final = 256
stream_queue_messages_max: Final = 1_024
hello_wait_ms_max: Final = 10_000
chunk_wait_ms_max: Final = 30_000  # for the next part of a large submit
goodbye_wait_ms_max: Final = 1_000
watch_interval_ms_min: Final = 50
watch_nodes_a_change_max: Final = 500
submit_streams_max: Final = 8
compilations_waiting_max: Final = 64
spellings_a_plan_max: Final = 16
read_threads: Final = 2  # as many as there are connections for reads
reads_waiting_max: Final = 10_000
histories_cached_events_max: Final = 500_000
counts_cached_max: Final = 10_000
connections_max: Final = 4_096
shards_max: Final = 1_024
coordinators_max: Final = 1_024

# Who may connect
token_bytes_max: Final = 8 * KIB  # a JWT with many claims; the transport refuses more than 16 KiB of metadata
tokens_max: Final = 10_000  # in one file
tokens_file_bytes_max: Final = 4 * MIB
jwks_bytes_max: Final = 1 * MIB
verified_tokens_max: Final = 10_000  # that have proved their signature and need not do so again
pem_bytes_max: Final = 1 * MIB
call_rate_max: Final = 1_000_000  # of one caller, a second
callers_remembered_max: Final = 10_000  # how much of their rates they have used
streams_a_connection_max: Final = (
    12_000  # calls under way; above watchers_max, because coordinators forward over one connection
)
connections_a_peer_max: Final = (
    2_048  # with calls under way, from one host: half of all, so that it leaves some to others
)
refused_stream_wait_ms_max: Final = 1_000  # for the first message of a stream, before it is refused
refusals_told_interval_ms: Final = 1_000  # between lines of the log that tell of refused calls
http_requests_max: Final = 200  # under way at one port

# Clients
call_timeout_ms_default: Final = 30_000
try_timeout_ms_max: Final = 15_000  # above recovery_wait_ms_max, so that a shard that recovers is waited for in one try
first_contact_ms_default: Final = 5_000
client_retry_delay_ms_first: Final = 50
client_retry_delay_ms_max: Final = 2_000
client_stream_ms_max: Final = (
    600_000  # a stream is opened again at the latest then, so that none outlives its usefulness
)
submit_many_calls_max: Final = 4

# The embedded cluster of `mainspring dev`
dev_start_ms_max: Final = 60_000
dev_stop_ms_max: Final = 35_000  # above drain_ms_default
dev_ready_poll_ms: Final = 50
dev_workers_max: Final = 64
dev_tail_lines_max: Final = 20
dev_restarts_max: Final = 5  # of one part within dev_restarts_window_ms
dev_restarts_window_ms: Final = 60_000

# Workers
slots_max: Final = 10_000
executors_a_worker_max: Final = 1_000
workers_max: Final = 10_000
unacknowledged_bytes_max: Final = 64 * MIB
reconnect_delay_ms_max: Final = 3_000
unreachable_warning_interval_ms: Final = (
    30_000  # between warnings of one address: no coordinator answers, or it refuses us
)
stop_wait_ms_max: Final = 1_000  # how long an ending worker waits for coroutines that it has cancelled
stall_ms_min: Final = 1_000  # a worker that stood still for less is on a busy host
remembered_cancels_max: Final = 10_000
credit_interval_ms: Final = 50  # between looks at idle credit, so that it moves within 100 ms
drain_ms_default: Final = 30_000

# The loop and the journal
events_queue_max: Final = 100_000
batch_rows_max: Final = 4_000  # what leaves after its commit takes the loop 3 us a row
batch_bytes_max: Final = 32 * MIB
statement_bytes_max: Final = 2 * MIB
statement_rows_max: Final = 1_000
loop_slice_ms_max: Final = 20
locality_wait_ms_max: Final = 60_000
step_nodes_max: Final = 500  # what a step of the engine does at 1 to 20 us each; the rest is left to the next ones
pipeline_nodes: Final = (
    64  # of one workflow under way beside small workflows: two batches of results, which keep step and commit busy
)
pipeline_nodes_a_s: Final = 12_000  # and as many more as run at this pace, about what a coordinator reaches
small_workflow_nodes: Final = 16  # so few under way make a workflow small
small_workflow_us: Final = 100_000  # so long after it was given a node others leave it room
open_workflows_a_shard_max: Final = 1_000_000
recent_results_a_shard_max: Final = 16_384
refusals_max: Final = 10  # by the database, of a workflow's rows: then it fails
refused_workflows_a_shard_max: Final = 1_000  # of which that is counted
plans_a_shard_max: Final = 65_536  # that are known to be stored; others are offered to the database again
ended_assignments_a_shard_max: Final = 4 * batch_rows_max  # more than end in a batch and the one before it
deferred_events_a_shard_max: Final = 500  # while its workflows are being read; handled in one go then
recovery_page_workflows: Final = 200
recovery_wait_ms_max: Final = 10_000
cancel_grace_ms: Final = 30_000
move_seen_ms_max: Final = 200  # that a planned move waits for workers to have heard what was sent them
redeliveries_alone_min: Final = 2  # from so many on a node runs alone on a worker
redeliveries_max: Final = 3  # a node under which so many workers died, the last one running it alone, has failed
asked_of_an_absence: Final = 8
"""So many other workers are asked to answer when one went without a word."""
backlogged_workers_max: Final = 64
idle_classes_max: Final = 1_000
origins_max: Final = 65_536  # workers of which it is known where their outputs were made
affinity_keys_max: Final = 100_000  # with the workers that have them; others are hashed
cache_wait_ms_max: Final = 1_000  # that a node waits for what the result cache says
permit_restate_ms: Final = (
    1_000  # what was stated of permits is said again then, and a permit that nobody used is put back
)
permit_silence_ms_max: Final = 3_000  # a shard that has permits and has said nothing for so long is asked
permit_groups_max: Final = 32  # of priority and limit, that one statement names; the others wait until these are served
permit_holders_a_home_max: Final = 100_000  # shards, of all keys of one home, that have permits or want some
permits_queued_max: Final = (
    10_000  # statements and replies on their way to one coordinator; what is more is said again later
)
plans_in_memory_max: Final = 1_000

# The record of failovers
evictions_a_shard_max: Final = 64  # in a fence row; of more than that the newest
evictions_max: Final = 65_536  # in memory: those of all fence rows of a cluster of 1,024 shards
deaths_noted_chars_max: Final = 4_000  # in a fence row, of deaths that are not in the record yet: about 20
failover_ids_inline_max: Final = 1_000  # of workflows, and of nodes, in one event as it is shown or sent
failover_ids_a_chunk_max: Final = 1_000
failovers_a_pass_max: Final = 100
failover_pass_ms_max: Final = 1_000  # between looks for what is to be announced; less with a shorter heartbeat
failover_settle_ms_max: Final = 60_000  # an event is told by then even if other shards may still add to it
alert_timeout_ms: Final = 5_000
alert_retry_delay_ms_first: Final = 500
alert_retry_delay_ms_max: Final = 60_000
alert_age_ms_max: Final = 24 * 3600 * 1000

# Retention
retention_workflows_a_look_max: Final = 100  # of which a batch deletes those that fit
retention_rows_a_batch_max: Final = 400  # of nodes and attempts, 3 to 8 ms at the journal; above 1 + attempts_max
retention_things_a_look_max: Final = (
    100  # failovers, cached outputs, entries of the audit log, definitions that are looked at
)
retention_plans_a_batch_max: Final = 20  # definitions of up to definition_bytes_max
retention_share_percent: Final = 5  # of the time, at most, that a coordinator spends on it
retention_pause_ms_max: Final = 5_000
retention_pass_ms_max: Final = (
    60_000  # between passes when nothing is due; a tenth of RETENTION_DAYS where that is less
)
retention_pass_ms_min: Final = 100
clocks_apart_ms_max: Final = (
    600_000  # of the database and of the host that deletes; where they are further apart nothing is deleted
)
retention_behind_ms: Final = 50  # with a batch that has taken the journal longer, nothing is deleted
retention_behind_events: Final = 1_000  # nor with more events in the loop's queue

# The database
connect_timeout_ms: Final = 3_000
query_timeout_ms: Final = 10_000
lock_wait_timeout_s: Final = 5
database_start_wait_ms_max: Final = 30_000
epoch_max: Final = 2**31 - 1
assignment_number_max: Final = 2**31 - 1
epochs_lost_max: Final = (
    1_000  # so far above a shard's epoch may be what a worker has seen, where the database lost history
)
epoch_claims_max: Final = 3  # within epoch_claims_window_ms a shard's epoch is raised so often for what workers say
epoch_claims_window_ms: Final = 60_000

# The result cache
cache_questions_waiting_max: Final = 50_000  # of one coordinator; what is more is answered at once: nobody can tell
cache_keys_a_read_max: Final = 64
cache_ahead_ms_max: Final = 5_000  # after now an output may have been stored, as coordinators carry on the clock apart
redis_socket_timeout_ms: Final = 250  # to connect, and for each answer
redis_wait_ms_max: Final = 500  # for all that is said at once
redis_aside_ms: Final = 3_000  # in which nothing is said to one that failed
cache_writes_waiting_max: Final = 10_000  # outputs on their way to Redis
cache_bytes_waiting_max: Final = 64 * MIB

# Metrics
label_values_max: Final = 100  # of a label whose values come from users; the others are one series together
classes_measured_max: Final = 1_000  # of what waits: a class takes 1 to 2 us
arrivals_remembered_max: Final = 256  # of an executor: how long its nodes wait is known to one part in 64

# Operators
cancels_at_once: Final = 64
step_down_s_max: Final = 3_600
peer_answer_ms_max: Final = 3_000  # of another coordinator or a worker that an operator's act needs to hear
attempts_by_operators_max: Final = 200  # of one node: beyond it an operator cannot ask for another
rerun_rows_a_part_max: Final = 500  # that are copied by one transaction
rerun_bytes_a_part_max: Final = 8 * MIB  # of outputs, unless one alone has more
rerun_nodes_named_max: Final = 1_000  # from which a workflow is run again
reruns_at_once: Final = 4  # that copy; others wait
rerun_timeout_ms: Final = 600_000  # that a client asks again; what was copied by then is passed over by the next try
audit_subject_bytes_max: Final = 512
audit_who_bytes_max: Final = 255
pauses_max: Final = 1_000  # of executors, and of everything
pauses_bytes_max: Final = 64 * KIB  # all of them together, in a fence row that each look at the peers reads
pauses_seen_ms_max: Final = (
    1_000  # so long the other coordinators are waited for; they see a pause by themselves a look later
)

# Traces
traces_flush_ms_max: Final = 3_000  # what is not sent by then when a process ends is lost

# Logs
log_value_bytes_max: Final = 8 * KIB
