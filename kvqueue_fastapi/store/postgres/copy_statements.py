"""The statements that copy whole rows into and out of PostgreSQL.

Each reads behind a primary key: from it on, and not it itself, because nothing is smaller than
the least of all; up to a number of rows, and, where they may be large, to that which goes beyond
a number of bytes. What a listener held that had stopped is given back; any other claim comes
with a lease that is over, so that the target counts a crash as it would have been counted here.
"""

from typing import Final

READ_ROWS: Final = {
    "kvqueue_messages": """
SELECT id, type, data, CASE WHEN stopped THEN lane ELSE state END, lane, priority,
       due_at_ms, sent_at_ms, CASE WHEN stopped THEN greatest(attempt - 1, 0) ELSE attempt END,
       crashes, deferrals, ordering_key, options, errors, requeued_from
  FROM (SELECT *, state = 3 AND holder IN (
                  SELECT id FROM {schema}.kvqueue_listeners WHERE retired) AS stopped,
               sum(octet_length(data) + coalesce(octet_length(errors), 0)) OVER (ORDER BY id)
                 - octet_length(data) - coalesce(octet_length(errors), 0) AS bytes_before
          FROM {schema}.kvqueue_messages
         WHERE id >= $1 AND id IS DISTINCT FROM $2 ORDER BY id LIMIT $3) AS slice
 WHERE bytes_before < $4 ORDER BY id
""",
    "kvqueue_dead_letters": """
SELECT id, type, data, priority, sent_at_ms, died_at_ms, attempt, crashes, ordering_key, options,
       errors, reason, requeued_from
  FROM (SELECT *,
               sum(octet_length(data) + coalesce(octet_length(errors), 0)) OVER (ORDER BY id)
                 - octet_length(data) - coalesce(octet_length(errors), 0) AS bytes_before
          FROM {schema}.kvqueue_dead_letters
         WHERE id >= $1 AND id IS DISTINCT FROM $2 ORDER BY id LIMIT $3) AS slice
 WHERE bytes_before < $4 ORDER BY id
""",
    "kvqueue_kv": """
SELECT key, value, encoding, version, expires_at_ms
  FROM (SELECT *,
               sum(octet_length(value)) OVER (ORDER BY key) - octet_length(value) AS bytes_before
          FROM {schema}.kvqueue_kv
         WHERE key >= $1 AND key IS DISTINCT FROM $2 ORDER BY key LIMIT $3) AS slice
 WHERE bytes_before < $4 ORDER BY key
""",
    "kvqueue_types": """
SELECT type, paused::int, first_seen_at_ms
  FROM {schema}.kvqueue_types
 WHERE type >= $1 AND type IS DISTINCT FROM $2 ORDER BY type LIMIT $3
""",
    "kvqueue_idempotency": """
SELECT type, key, message_id, digest, expires_at_ms
  FROM {schema}.kvqueue_idempotency
 WHERE (type, key) >= ($1, $2) AND (type, key) IS DISTINCT FROM ($3::text, $4::text)
 ORDER BY type, key LIMIT $5
""",
}
WRITE_ROWS: Final = {
    "kvqueue_messages": """
INSERT INTO {schema}.kvqueue_messages
       (id, type, data, state, lane, priority, due_at_ms, sent_at_ms, attempt, crashes, deferrals,
        ordering_key, options, errors, requeued_from)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::smallint[], $5::smallint[],
                     $6::int[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
                     $11::bigint[], $12::text[], $13::text[], $14::text[], $15::bigint[])
    ON CONFLICT (id) DO NOTHING
""",
    "kvqueue_dead_letters": """
INSERT INTO {schema}.kvqueue_dead_letters
       (id, type, data, priority, sent_at_ms, died_at_ms, attempt, crashes, ordering_key, options,
        errors, reason, requeued_from)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::bigint[],
                     $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::text[],
                     $12::text[], $13::bigint[])
    ON CONFLICT (id) DO NOTHING
""",
    "kvqueue_kv": """
INSERT INTO {schema}.kvqueue_kv (key, value, encoding, version, expires_at_ms)
SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::smallint[], $4::bigint[], $5::bigint[])
    ON CONFLICT (key) DO NOTHING
""",
    "kvqueue_types": """
INSERT INTO {schema}.kvqueue_types (type, paused, first_seen_at_ms)
SELECT type, paused <> 0, first_seen_at_ms
  FROM unnest($1::text[], $2::int[], $3::bigint[]) AS known (type, paused, first_seen_at_ms)
    ON CONFLICT (type) DO NOTHING
""",
    "kvqueue_idempotency": """
INSERT INTO {schema}.kvqueue_idempotency (type, key, message_id, digest, expires_at_ms)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[])
    ON CONFLICT (type, key) DO NOTHING
""",
}
COUNT_ROWS: Final = """
SELECT (SELECT count(*) FROM {schema}.kvqueue_types),
       (SELECT count(*) FROM {schema}.kvqueue_kv),
       (SELECT count(*) FROM {schema}.kvqueue_idempotency),
       (SELECT count(*) FROM {schema}.kvqueue_dead_letters),
       (SELECT count(*) FROM {schema}.kvqueue_messages)
"""
COUNTERS: Final = """
SELECT (SELECT database_id FROM {schema}.kvqueue_schema),
       (SELECT last_value FROM {schema}.kvqueue_versions),
       blocks.last_value, blocks.is_called,
       (SELECT max(id) FROM {schema}.kvqueue_messages),
       (SELECT max(id) FROM {schema}.kvqueue_dead_letters)
  FROM {schema}.kvqueue_id_blocks AS blocks
"""
# Whose lock can be had is dead, or has lost its connection a moment ago.
LISTENERS: Final = """
SELECT id, pid, host, to_timestamp(since_ms / 1000) AT TIME ZONE 'UTC',
       pg_try_advisory_xact_lock(id)
  FROM {schema}.kvqueue_listeners ORDER BY id
"""

SET_MARK: Final = """
UPDATE {schema}.kvqueue_schema SET copying = $2 WHERE copying IS NOT DISTINCT FROM $1
RETURNING pg_current_xact_id()::text
"""
RAISE_BLOCK: Final = """
SELECT setval('{schema}.kvqueue_id_blocks', $1::bigint, false)
  FROM {schema}.kvqueue_id_blocks WHERE last_value < $1
"""
RAISE_VERSION: Final = """
SELECT setval('{schema}.kvqueue_versions', $1::bigint)
  FROM {schema}.kvqueue_versions WHERE last_value < $1
"""
