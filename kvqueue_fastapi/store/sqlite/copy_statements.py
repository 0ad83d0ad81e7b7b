"""The statements that copy whole rows into and out of SQLite.

Each reads behind a primary key: from it on, and not it itself, because nothing is smaller than
the least of all. What a listener held that had stopped is given back; any other claim comes
with a lease that is over, so that the target counts a crash as it would have been counted here.
"""

from typing import Final

READ_ROWS: Final = {
    "kvqueue_messages": """
SELECT id, type, data, CASE WHEN state = 3 AND stopped THEN lane ELSE state END, lane, priority,
       due_at_ms, sent_at_ms,
       CASE WHEN state = 3 AND stopped THEN max(attempt - 1, 0) ELSE attempt END,
       crashes, deferrals, ordering_key, options, errors, requeued_from
  FROM (SELECT *, holder IN (SELECT value FROM json_each(:stopped)) AS stopped
          FROM kvqueue_messages)
 WHERE id >= :first AND id IS NOT :past ORDER BY id LIMIT :limit
""",
    "kvqueue_dead_letters": """
SELECT id, type, data, priority, sent_at_ms, died_at_ms, attempt, crashes, ordering_key, options,
       errors, reason, requeued_from
  FROM kvqueue_dead_letters WHERE id >= :first AND id IS NOT :past ORDER BY id LIMIT :limit
""",
    "kvqueue_kv": """
SELECT key, value, encoding, version, expires_at_ms
  FROM kvqueue_kv WHERE key >= :first AND key IS NOT :past ORDER BY key LIMIT :limit
""",
    "kvqueue_types": """
SELECT type, paused = 1, first_seen_at_ms
  FROM kvqueue_types WHERE type >= :first AND type IS NOT :past ORDER BY type LIMIT :limit
""",
    "kvqueue_idempotency": """
SELECT type, key, message_id, digest, expires_at_ms
  FROM kvqueue_idempotency
 WHERE (type, key) >= (:first, :second) AND NOT (type IS :past AND key IS :past_second)
 ORDER BY type, key LIMIT :limit
""",
}
# Text is cast, because what is no UTF-8 comes and goes as bytes.
WRITE_ROWS: Final = {
    "kvqueue_messages": """
INSERT INTO kvqueue_messages
       (id, type, data, state, lane, priority, due_at_ms, sent_at_ms, attempt, crashes, deferrals,
        ordering_key, options, errors, requeued_from)
VALUES (?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?, ?,
        CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?)
    ON CONFLICT (id) DO NOTHING
""",
    "kvqueue_dead_letters": """
INSERT INTO kvqueue_dead_letters
       (id, type, data, priority, sent_at_ms, died_at_ms, attempt, crashes, ordering_key, options,
        errors, reason, requeued_from)
VALUES (?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT),
        CAST(? AS TEXT), CAST(? AS TEXT), ?)
    ON CONFLICT (id) DO NOTHING
""",
    "kvqueue_kv": """
INSERT INTO kvqueue_kv (key, value, encoding, version, expires_at_ms) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (key) DO NOTHING
""",
    "kvqueue_types": """
INSERT INTO kvqueue_types (type, paused, first_seen_at_ms) VALUES (CAST(? AS TEXT), ?, ?)
    ON CONFLICT (type) DO NOTHING
""",
    "kvqueue_idempotency": """
INSERT INTO kvqueue_idempotency (type, key, message_id, digest, expires_at_ms)
VALUES (CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)
    ON CONFLICT (type, key) DO NOTHING
""",
}
COUNT_ROWS: Final = """
SELECT (SELECT count(*) FROM kvqueue_types),
       (SELECT count(*) FROM kvqueue_kv),
       (SELECT count(*) FROM kvqueue_idempotency),
       (SELECT count(*) FROM kvqueue_dead_letters),
       (SELECT count(*) FROM kvqueue_messages)
"""
COUNTERS: Final = """
SELECT database_id, kv_version,
       (SELECT seq FROM sqlite_sequence WHERE name = 'kvqueue_messages'),
       (SELECT max(id) FROM kvqueue_messages), (SELECT max(id) FROM kvqueue_dead_letters)
  FROM kvqueue_schema
"""
LISTENERS: Final = """
SELECT id, boot, pid, host, datetime(since_ms / 1000, 'unixepoch'), retired FROM kvqueue_listeners
"""

# Code that does not know the mark must not open the database while it is there.
SET_MARK: Final = """
UPDATE kvqueue_schema
   SET copying = :after, oldest_code = iif(:after IS NULL, :oldest_code, max(oldest_code, 2))
 WHERE copying IS :before
"""
RAISE_ID: Final = """
UPDATE sqlite_sequence SET seq = max(seq, :last_id) WHERE name = 'kvqueue_messages'
"""
FIRST_ID: Final = """
INSERT INTO sqlite_sequence (name, seq)
SELECT 'kvqueue_messages', :last_id
 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'kvqueue_messages')
"""
RAISE_VERSION: Final = "UPDATE kvqueue_schema SET kv_version = max(kv_version, :version)"
