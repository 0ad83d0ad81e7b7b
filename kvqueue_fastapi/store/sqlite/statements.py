"""Every statement of the SQLite engine.

Those on the path of a message are made so that one step of SQLite does a whole batch: each
step gives up the interpreter lock and must win it back from a busy event loop.
"""

from typing import Final

BEGIN: Final = "BEGIN IMMEDIATE"
COMMIT: Final = "COMMIT"
ROLLBACK: Final = "ROLLBACK"
SAVEPOINT: Final = "SAVEPOINT one_write"
SAVEPOINT_RELEASE: Final = "RELEASE one_write"
SAVEPOINT_ROLLBACK: Final = "ROLLBACK TO one_write"
# By the isolation level of a caller's connection.
BEGIN_AS: Final = {
    "": "BEGIN",
    "DEFERRED": "BEGIN DEFERRED",
    "IMMEDIATE": "BEGIN IMMEDIATE",
    "EXCLUSIVE": "BEGIN EXCLUSIVE",
}
# On connections of callers, who may have savepoints of their own.
SAVEPOINT_JOINT: Final = "SAVEPOINT kvqueue_joint"
SAVEPOINT_JOINT_RELEASE: Final = "RELEASE kvqueue_joint"
SAVEPOINT_JOINT_ROLLBACK: Final = "ROLLBACK TO kvqueue_joint"
DATABASES: Final = "PRAGMA database_list"

# --- sending -------------------------------------------------------------------------------

# Most messages ask for nothing but to be sent. However many, they are one step.
INSERT_PLAIN: Final = """
INSERT INTO kvqueue_messages (type, data, due_at_ms, sent_at_ms)
SELECT sent.value ->> 0, sent.value ->> 1, :now_ms, :now_ms FROM json_each(:sent) AS sent
"""
INSERT_SIZES: Final = (128, 64, 32, 16, 8, 4, 2, 1)
_INSERT: Final = """
INSERT INTO kvqueue_messages
       (type, data, state, priority, due_at_ms, sent_at_ms, ordering_key, options, requeued_from)
VALUES """
# Any batch is a sum of these, so that eight prepared statements serve every size.
INSERT_MESSAGES: Final = {
    size: _INSERT + ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?)"] * size) for size in INSERT_SIZES
}

LAST_ID: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'kvqueue_messages'"

# Only the head of a key is ready or delayed; whatever ends or adds a head calls this.
PROMOTE_HEADS: Final = """
UPDATE kvqueue_messages
   -- by both times, because a clock that was set back must not delay what was sent without a delay
   SET state = CASE WHEN due_at_ms > max(:now_ms, sent_at_ms) THEN 1 ELSE lane END
 WHERE state = 2
   AND id IN (SELECT (SELECT id FROM kvqueue_messages
                       WHERE ordering_key = keys.value ORDER BY id LIMIT 1)
                FROM json_each(:ordering_keys) AS keys)
"""

REMEMBER_TYPE: Final = """
INSERT INTO kvqueue_types (type, first_seen_at_ms) VALUES (:type, :now_ms)
    ON CONFLICT (type) DO NOTHING
"""

FIND_IDEMPOTENT: Final = """
SELECT message_id, digest FROM kvqueue_idempotency
 WHERE type = :type AND key = :key AND expires_at_ms > :now_ms
"""
REMEMBER_IDEMPOTENT: Final = """
INSERT INTO kvqueue_idempotency (type, key, message_id, digest, expires_at_ms)
VALUES (:type, :key, :message_id, :digest, :expires_at_ms)
    ON CONFLICT (type, key) DO UPDATE
   SET message_id = excluded.message_id, digest = excluded.digest,
       expires_at_ms = excluded.expires_at_ms
"""

# --- claiming ------------------------------------------------------------------------------

# One row tells a claim whether it has more to do than to pick.
PROBE: Final = """
SELECT (SELECT min(due_at_ms) FROM kvqueue_messages WHERE state = 1),
       (SELECT min(lease_until_ms) FROM kvqueue_messages WHERE state = 3),
       EXISTS (SELECT 1 FROM kvqueue_messages WHERE state = 4),
       EXISTS (SELECT 1 FROM kvqueue_messages WHERE state = 5)
"""
PROMOTE_DUE: Final = """
UPDATE kvqueue_messages SET state = lane
 WHERE id IN (SELECT id FROM kvqueue_messages
               WHERE state = 1 AND due_at_ms <= :now_ms ORDER BY due_at_ms LIMIT :slice)
"""
NEXT_DUE: Final = "SELECT min(due_at_ms) FROM kvqueue_messages WHERE state = 1"

# SQLite refuses a LIMIT that is correlated, hence a list for each type, cut by its position.
_PICKED: Final = """
WITH wanted (position, type, room) AS MATERIALIZED (
    SELECT asked.key, asked.value ->> 0, asked.value ->> 1 FROM json_each(:wanted) AS asked
     WHERE NOT EXISTS (SELECT 1 FROM kvqueue_types AS known
                        WHERE known.type = asked.value ->> 0 AND known.paused = 1)),
picked (id) AS (
    SELECT candidate.value
      FROM wanted, json_each((
           SELECT json_group_array(id)
             FROM (SELECT id FROM kvqueue_messages
                    WHERE state = 0 AND type = wanted.type
                    ORDER BY priority DESC, due_at_ms, id LIMIT :limit))) AS candidate
     WHERE candidate.key < wanted.room
     ORDER BY candidate.key, wanted.position LIMIT :limit)
"""
_CLAIM_FIELDS: Final = """
message.id, :token, message.type, message.data, min(message.attempt + 1, 9007199254740991),
message.crashes, message.sent_at_ms, message.ordering_key, message.options, message.due_at_ms
"""
_FROM_PICKED: Final = """
  FROM picked CROSS JOIN kvqueue_messages AS message
 WHERE message.id = picked.id
"""
# Each from an index of its own, which only a constant state can choose.
_FIRST_QUARANTINED: Final = """
  FROM json_each(:wanted) AS asked CROSS JOIN kvqueue_messages AS message
 WHERE message.id = (SELECT id FROM kvqueue_messages
                      WHERE state = 4 AND type = asked.value ->> 0
                      ORDER BY due_at_ms, id LIMIT 1)
"""
_FIRST_ISOLATED: Final = """
  FROM json_each(:wanted) AS asked CROSS JOIN kvqueue_messages AS message
 WHERE message.id = (SELECT id FROM kvqueue_messages
                      WHERE state = 5 AND type = asked.value ->> 0
                      ORDER BY due_at_ms, id LIMIT 1)
"""
_MAY_BE_CLAIMED: Final = """
   AND asked.value ->> 1 > 0
   AND NOT EXISTS (SELECT 1 FROM kvqueue_types AS known
                    WHERE known.type = message.type AND known.paused = 1)
"""
_FIRST_OF_ALL: Final = f"""
{_MAY_BE_CLAIMED}
 ORDER BY message.due_at_ms, message.id LIMIT 1
"""
PICK: Final = (
    f"{_PICKED} SELECT json_group_array(message.id),"
    f" json_group_array(json_array({_CLAIM_FIELDS})) {_FROM_PICKED}"
)
_PICK_FIRST: Final = f"SELECT json_array(message.id), json_array(json_array({_CLAIM_FIELDS}))"
PICK_QUARANTINED: Final = f"{_PICK_FIRST} {_FIRST_QUARANTINED} {_FIRST_OF_ALL}"
PICK_ISOLATED: Final = f"{_PICK_FIRST} {_FIRST_ISOLATED} {_FIRST_OF_ALL}"
ISOLATED_OF: Final = f"SELECT message.type {_FIRST_ISOLATED} {_MAY_BE_CLAIMED}"
# For a message that is too large to become JSON within SQLite.
PICK_LARGE: Final = f"{_PICKED} SELECT {_CLAIM_FIELDS} {_FROM_PICKED}"
PICK_LARGE_QUARANTINED: Final = f"SELECT {_CLAIM_FIELDS} {_FIRST_QUARANTINED} {_FIRST_OF_ALL}"
PICK_LARGE_ISOLATED: Final = f"SELECT {_CLAIM_FIELDS} {_FIRST_ISOLATED} {_FIRST_OF_ALL}"
# Counts have an end, because a sum beyond 64 bits is no INTEGER: it would stop every claim.
TAKE: Final = """
UPDATE kvqueue_messages
   SET state = 3, token = :token, holder = :holder, lease_until_ms = :lease_until_ms,
       attempt = min(attempt + 1, 9007199254740991)
 WHERE id IN (SELECT value FROM json_each(:ids))
"""
READY_TYPES: Final = """
WITH RECURSIVE ready (type) AS (
    SELECT min(type) FROM kvqueue_messages WHERE state = 0 AND type > :after
    UNION ALL
    SELECT (SELECT min(type) FROM kvqueue_messages WHERE state = 0 AND type > ready.type)
      FROM ready WHERE ready.type IS NOT NULL)
SELECT type FROM ready WHERE type IS NOT NULL LIMIT :limit
"""
QUARANTINED_TYPES: Final = """
WITH RECURSIVE quarantined (type) AS (
    SELECT min(type) FROM kvqueue_messages WHERE state = 4 AND type > :after
    UNION ALL
    SELECT (SELECT min(type) FROM kvqueue_messages WHERE state = 4 AND type > quarantined.type)
      FROM quarantined WHERE quarantined.type IS NOT NULL)
SELECT type FROM quarantined WHERE type IS NOT NULL LIMIT :limit
"""
ISOLATED_TYPES: Final = """
WITH RECURSIVE isolated (type) AS (
    SELECT min(type) FROM kvqueue_messages WHERE state = 5 AND type > :after
    UNION ALL
    SELECT (SELECT min(type) FROM kvqueue_messages WHERE state = 5 AND type > isolated.type)
      FROM isolated WHERE isolated.type IS NOT NULL)
SELECT type FROM isolated WHERE type IS NOT NULL LIMIT :limit
"""
LISTENED_TYPES: Final = """
SELECT DISTINCT type.value
  FROM kvqueue_listeners, json_each(iif(json_valid(types), types, '[]')) AS type
"""

# --- settling ------------------------------------------------------------------------------

DELETE_HELD: Final = """
DELETE FROM kvqueue_messages
 WHERE id IN (SELECT value FROM json_each(:ids)) AND token = :token AND state = 3
"""
# A key's successor waits for the promotion that follows each of these, hence no RETURNING.
RETRY_HELD: Final = """
UPDATE kvqueue_messages
   SET state = CASE WHEN :due_at_ms > :now_ms THEN 1 ELSE lane END,
       due_at_ms = :due_at_ms, token = 0, holder = 0,
       errors = json_insert(iif(json_valid(errors), errors, '[]'), '$[#]',
           json_object('attempt', attempt, 'at_ms', :now_ms, 'text', :text, 'trace', :trace))
 WHERE id = :id AND token = :token AND state = 3
"""
DEFER_HELD: Final = """
UPDATE kvqueue_messages
   SET state = CASE WHEN :due_at_ms > :now_ms THEN 1 ELSE lane END,
       due_at_ms = :due_at_ms, token = 0, holder = 0,
       attempt = max(attempt - 1, 0), deferrals = min(deferrals, 1000000000) + 1
 WHERE id = :id AND token = :token AND state = 3
"""
RELEASE_HELD: Final = """
UPDATE kvqueue_messages
   SET state = lane, token = 0, holder = 0,
       attempt = max(attempt - 1, 0)
 WHERE id = :id AND token = :token AND state = 3
"""
HELD: Final = """
SELECT id, type, data, options, ordering_key, crashes FROM kvqueue_messages
 WHERE id = :id AND token = :token AND state = 3
"""
BURY: Final = """
INSERT OR REPLACE INTO kvqueue_dead_letters
       (id, type, data, priority, sent_at_ms, died_at_ms, attempt, crashes, ordering_key,
        options, errors, reason, requeued_from)
SELECT id, type, data, priority, sent_at_ms, :now_ms, attempt,
       min(crashes + :crashes, 9007199254740991), ordering_key, options,
       json_insert(iif(json_valid(errors), errors, '[]'), '$[#]',
           json_object('attempt', attempt, 'at_ms', :now_ms, 'text', :text, 'trace', :trace)),
       :text, requeued_from
  FROM kvqueue_messages WHERE id = :id
"""
DELETE_MESSAGE: Final = "DELETE FROM kvqueue_messages WHERE id = :id"

# --- leases --------------------------------------------------------------------------------

EXTEND: Final = """
UPDATE kvqueue_messages SET lease_until_ms = :lease_until_ms
 WHERE id IN (SELECT value ->> 0 FROM json_each(:leases)) AND state = 3
   AND (id, token) IN (SELECT value ->> 0, value ->> 1 FROM json_each(:leases))
"""
STILL_HELD: Final = """
SELECT id FROM kvqueue_messages
 WHERE id IN (SELECT value ->> 0 FROM json_each(:leases)) AND state = 3
   AND (id, token) IN (SELECT value ->> 0, value ->> 1 FROM json_each(:leases))
"""
EXPIRED: Final = """
SELECT id, type, data, options, ordering_key, crashes FROM kvqueue_messages
 WHERE state = 3 AND lease_until_ms <= :now_ms ORDER BY lease_until_ms LIMIT :slice
"""
# Something else than before, because SQLite writes nothing where nothing changes.
TOUCH_EXPIRED: Final = """
UPDATE kvqueue_messages SET lease_until_ms = lease_until_ms - 1
 WHERE id = (SELECT id FROM kvqueue_messages
              WHERE state = 3 AND lease_until_ms <= :now_ms ORDER BY lease_until_ms LIMIT 1)
"""
HELD_BY: Final = """
SELECT id, type, data, options, ordering_key, crashes FROM kvqueue_messages
 WHERE state = 3 AND holder = :holder LIMIT :slice
"""
# A crash spends no retry: it is counted apart, and the more there are, the less runs beside it.
TAKE_AWAY: Final = """
UPDATE kvqueue_messages
   SET state = :lane, lane = :lane, crashes = crashes + 1, token = 0, holder = 0,
       errors = json_insert(iif(json_valid(errors), errors, '[]'), '$[#]',
           json_object('attempt', attempt, 'at_ms', :now_ms, 'text', :text, 'trace', ''))
 WHERE id = :id
"""

RELEASE_ALL_OF: Final = """
UPDATE kvqueue_messages
   SET state = lane, token = 0, holder = 0,
       attempt = max(attempt - 1, 0)
 WHERE state = 3 AND holder = :holder
"""

INSERT_LISTENER: Final = """
INSERT INTO kvqueue_listeners (id, host, boot, pid, since_ms, types, version, seen_at_ms)
VALUES (:id, :host, :boot, :pid, :since_ms, :types, :version, :since_ms)
"""
REPORT_LISTENER: Final = """
UPDATE kvqueue_listeners
   SET seen_at_ms = :now_ms, running = :running, loop_lag_ms = :loop_lag_ms
 WHERE id = :id
"""
ADD_TO_MINUTE: Final = """
INSERT INTO kvqueue_minutes (minute_ms, type, handled, failed, dead)
SELECT :minute_ms, value ->> 0, value ->> 1, value ->> 2, value ->> 3
  FROM json_each(:tallies) WHERE true
    ON CONFLICT (minute_ms, type) DO UPDATE
   SET handled = handled + excluded.handled, failed = failed + excluded.failed,
       dead = dead + excluded.dead
"""
OTHER_LISTENERS: Final = "SELECT id, boot, pid FROM kvqueue_listeners"
RETIRE_LISTENER: Final = "UPDATE kvqueue_listeners SET retired = 1 WHERE id = :id"
IS_RETIRED: Final = "SELECT 1 FROM kvqueue_listeners WHERE id = :id AND retired = 1"
DELETE_LISTENER: Final = "DELETE FROM kvqueue_listeners WHERE id = :id"

# --- key-value -----------------------------------------------------------------------------

LAST_VERSION: Final = "SELECT kv_version FROM kvqueue_schema"
SET_LAST_VERSION: Final = "UPDATE kvqueue_schema SET kv_version = :version"

READ_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024)
_KEY_FIELDS: Final = "key, value, encoding, version, expires_at_ms"
_READ: Final = f"SELECT {_KEY_FIELDS} FROM kvqueue_kv WHERE key IN "  # noqa: S608 because the parts are constants
# One statement is one snapshot; a key that is named twice is found once.
READ_KEYS: Final = {size: f"{_READ} ({', '.join('?' * size)})" for size in READ_SIZES}
_SET: Final = f"INSERT INTO kvqueue_kv ({_KEY_FIELDS}) VALUES "  # noqa: S608 because the parts are constants
_OVER: Final = """
    ON CONFLICT (key) DO UPDATE
   SET value = excluded.value, encoding = excluded.encoding, version = excluded.version,
       expires_at_ms = excluded.expires_at_ms
"""
SET_KEYS: Final = {
    size: _SET + ", ".join(["(?, ?, ?, ?, ?)"] * size) + _OVER for size in INSERT_SIZES
}
_DELETE: Final = "DELETE FROM kvqueue_kv WHERE key IN "
DELETE_KEYS: Final = {size: f"{_DELETE} ({', '.join('?' * size)})" for size in READ_SIZES}
_RANGE: Final = f"""
SELECT {_KEY_FIELDS} FROM kvqueue_kv
 WHERE key >= :start AND key < :end AND (expires_at_ms IS NULL OR expires_at_ms > :now_ms)
"""  # noqa: S608 because the parts are constants
LIST_KEYS: Final = f"{_RANGE} ORDER BY key LIMIT :limit"
LIST_KEYS_BACKWARDS: Final = f"{_RANGE} ORDER BY key DESC LIMIT :limit"

# --- keeping -------------------------------------------------------------------------------

COUNT_PENDING: Final = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM kvqueue_messages WHERE state = 0 LIMIT :most))
     + (SELECT count(*) FROM (SELECT 1 FROM kvqueue_messages WHERE state = 1 LIMIT :most))
     + (SELECT count(*) FROM (SELECT 1 FROM kvqueue_messages WHERE state = 2 LIMIT :most))
     + (SELECT count(*) FROM (SELECT 1 FROM kvqueue_messages WHERE state = 4 LIMIT :most))
     + (SELECT count(*) FROM (SELECT 1 FROM kvqueue_messages WHERE state = 5 LIMIT :most))
"""
COUNT_MESSAGES: Final = """
SELECT type, state, count(*), min(sent_at_ms) FROM kvqueue_messages GROUP BY type, state
"""
COUNT_DEAD_LETTERS: Final = "SELECT type, count(*) FROM kvqueue_dead_letters GROUP BY type"
KNOWN_TYPES: Final = "SELECT type FROM kvqueue_types"
PAUSED_TYPES: Final = "SELECT type FROM kvqueue_types WHERE paused = 1"
SET_PAUSED: Final = """
INSERT INTO kvqueue_types (type, paused, first_seen_at_ms) VALUES (:type, :paused, :now_ms)
    ON CONFLICT (type) DO UPDATE SET paused = excluded.paused
"""
_MESSAGE_FIELDS: Final = """
id, type, data, state, options, priority, ordering_key, attempt, crashes, sent_at_ms, due_at_ms,
errors, NULL AS reason, requeued_from, deferrals
"""
_DEAD_LETTER_FIELDS: Final = """
id, type, data, 6 AS state, options, priority, ordering_key, attempt, crashes, sent_at_ms,
died_at_ms, errors, reason, requeued_from, 0 AS deferrals
"""
_FILTERS: Final = """
   AND (:type IS NULL OR type = :type)
   AND (:type_glob IS NULL OR type GLOB :type_glob)
   AND (:ordering_key IS NULL OR ordering_key = :ordering_key)
   AND (:error IS NULL
        OR EXISTS (SELECT 1 FROM json_tree(iif(json_valid(errors), errors, '[]')) AS part
                    WHERE part.key = 'text' AND instr(lower(part.atom), lower(:error)) > 0))
   AND (:search IS NULL OR instr(lower(data), lower(:search)) > 0
        OR EXISTS (SELECT 1 FROM json_tree(iif(json_valid(errors), errors, '[]')) AS part
                    WHERE part.key IN ('text', 'trace')
                      AND instr(lower(part.atom), lower(:search)) > 0))
"""
_MESSAGES: Final = f"SELECT {_MESSAGE_FIELDS} FROM kvqueue_messages"  # noqa: S608 because the parts are constants
_DEAD_LETTERS: Final = f"SELECT {_DEAD_LETTER_FIELDS} FROM kvqueue_dead_letters"  # noqa: S608 because the parts are constants
_IN_STATE: Final = "AND (:state IS NULL OR state = :state)"
_FORWARDS: Final = "ORDER BY id LIMIT :limit"
_BACKWARDS: Final = "ORDER BY id DESC LIMIT :limit"
LIST_MESSAGES: Final = f"{_MESSAGES} WHERE id > :after {_IN_STATE} {_FILTERS} {_FORWARDS}"
LIST_MESSAGES_BACKWARDS: Final = (
    f"{_MESSAGES} WHERE id < :after {_IN_STATE} {_FILTERS} {_BACKWARDS}"
)
LIST_DEAD_LETTERS: Final = f"{_DEAD_LETTERS} WHERE id > :after {_FILTERS} {_FORWARDS}"
LIST_DEAD_LETTERS_BACKWARDS: Final = f"{_DEAD_LETTERS} WHERE id < :after {_FILTERS} {_BACKWARDS}"
SHOW_MESSAGE: Final = f"{_MESSAGES} WHERE id = :id"
SHOW_DEAD_LETTER: Final = f"{_DEAD_LETTERS} WHERE id = :id"
DEAD_IDS_OF_TYPE: Final = """
SELECT id FROM kvqueue_dead_letters
 WHERE type = :type AND id > :after AND died_at_ms <= :died_by_ms ORDER BY id LIMIT :limit
"""
LAST_DEATH: Final = "SELECT max(died_at_ms) FROM kvqueue_dead_letters WHERE died_at_ms <= :now_ms"
READ_MESSAGE: Final = """
SELECT type, data, priority, ordering_key, options FROM kvqueue_messages WHERE id = :id
"""
READ_DEAD_LETTER: Final = """
SELECT type, data, priority, ordering_key, options FROM kvqueue_dead_letters WHERE id = :id
"""
READ_PAYLOADS: Final = """
SELECT id, type, data FROM kvqueue_messages WHERE id > :after ORDER BY id LIMIT :limit
"""
DELETE_DEAD_LETTER: Final = "DELETE FROM kvqueue_dead_letters WHERE id = :id"
READ_STATE: Final = "SELECT state, ordering_key FROM kvqueue_messages WHERE id = :id"
MOVE_IDEMPOTENT: Final = """
UPDATE kvqueue_idempotency SET message_id = :id WHERE message_id = :requeued_from
"""
FORGET_IDEMPOTENT: Final = "DELETE FROM kvqueue_idempotency WHERE message_id = :id"
LISTENERS: Final = """
SELECT id, host, pid, since_ms, types,
       (SELECT count(*) FROM kvqueue_messages WHERE state = 3 AND holder = kvqueue_listeners.id),
       running, max(seen_at_ms, since_ms), loop_lag_ms, version, boot
  FROM kvqueue_listeners ORDER BY since_ms
"""
# From one priority to the next, because the oldest of a type would be sought in all of it.
OLDEST_READY: Final = """
WITH RECURSIVE steps (type, priority) AS (
    SELECT asked.type, (SELECT max(priority) FROM kvqueue_messages
                         WHERE state = 0 AND type = asked.type)
      FROM (SELECT DISTINCT type.value AS type
              FROM kvqueue_listeners, json_each(iif(json_valid(types), types, '[]')) AS type)
        AS asked
     WHERE NOT EXISTS (SELECT 1 FROM kvqueue_types AS known
                        WHERE known.type = asked.type AND known.paused = 1)
    UNION ALL
    SELECT type, (SELECT max(priority) FROM kvqueue_messages
                   WHERE state = 0 AND type = steps.type AND priority < steps.priority)
      FROM steps WHERE steps.priority IS NOT NULL
    LIMIT :most)
SELECT min((SELECT due_at_ms FROM kvqueue_messages
             WHERE state = 0 AND type = steps.type AND priority = steps.priority
             ORDER BY due_at_ms LIMIT 1))
  FROM steps WHERE priority IS NOT NULL
"""
MINUTES: Final = """
SELECT type, minute_ms, handled, failed, dead FROM kvqueue_minutes
 WHERE minute_ms > :after_ms ORDER BY type, minute_ms
"""

# --- sweeping, in slices, because a long transaction holds everybody up ---------------------

SWEEP_DEAD_LETTERS: Final = """
DELETE FROM kvqueue_dead_letters
 WHERE id IN (SELECT id FROM kvqueue_dead_letters WHERE died_at_ms <= :before_ms LIMIT :slice)
"""
SWEEP_IDEMPOTENCY: Final = """
DELETE FROM kvqueue_idempotency
 WHERE (type, key) IN (SELECT type, key FROM kvqueue_idempotency
                        WHERE expires_at_ms <= :now_ms LIMIT :slice)
"""
SWEEP_MINUTES: Final = """
DELETE FROM kvqueue_minutes
 WHERE (minute_ms, type) IN (SELECT minute_ms, type FROM kvqueue_minutes
                              WHERE minute_ms <= :last_hour_ms LIMIT :slice)
"""
SWEEP_KEYS: Final = """
DELETE FROM kvqueue_kv
 WHERE key IN (SELECT key FROM kvqueue_kv WHERE expires_at_ms <= :now_ms LIMIT :slice)
"""

# --- backups -------------------------------------------------------------------------------

RELEASE_ALL: Final = """
UPDATE kvqueue_messages
   SET state = lane, token = 0, holder = 0, attempt = max(attempt - 1, 0)
 WHERE state = 3
"""
QUICK_CHECK: Final = "PRAGMA quick_check(1)"
JOURNAL_IN_PLACE: Final = "PRAGMA journal_mode = DELETE"
DELETE_LISTENERS: Final = "DELETE FROM kvqueue_listeners"
COUNT_BACKUP: Final = """
SELECT (SELECT count(*) FROM kvqueue_messages), (SELECT count(*) FROM kvqueue_dead_letters),
       (SELECT count(*) FROM kvqueue_kv)
"""
# Where no message was ever stored, there is no row yet.
SEED_IDS: Final = """
INSERT INTO sqlite_sequence (name, seq)
SELECT 'kvqueue_messages', 0
 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'kvqueue_messages')
"""
SKIP_IDS: Final = """
UPDATE sqlite_sequence SET seq = seq + :ahead WHERE name = 'kvqueue_messages'
"""
SKIP_VERSIONS: Final = "UPDATE kvqueue_schema SET kv_version = kv_version + :ahead"

# --- the schema itself ---------------------------------------------------------------------

HAS_SCHEMA: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'kvqueue_schema'"
CREATE_SCHEMA: Final = """
CREATE TABLE kvqueue_schema (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    applied     INTEGER NOT NULL,
    oldest_code INTEGER NOT NULL,
    kv_version  INTEGER NOT NULL DEFAULT 0,
    database_id TEXT    NOT NULL DEFAULT (lower(hex(randomblob(16))))
) STRICT
"""
INSERT_SCHEMA: Final = "INSERT INTO kvqueue_schema (id, applied, oldest_code) VALUES (1, 0, 1)"
READ_SCHEMA: Final = "SELECT applied, oldest_code FROM kvqueue_schema"
READ_COPYING: Final = "SELECT copying FROM kvqueue_schema"
UPDATE_SCHEMA: Final = """
UPDATE kvqueue_schema SET applied = :applied, oldest_code = max(oldest_code, :oldest_code)
"""
