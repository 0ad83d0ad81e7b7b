"""Every statement of the PostgreSQL engine.

`{schema}` stands for the schema's name. A queue's statistics are always out of date, so the
shape of each statement leaves the planner one way: an index, and arrays of what is meant.
Whoever gives no time gets the server's, because the clocks of machines differ.
"""

from typing import Final


def _now(parameter: str) -> str:
    server_ms = "(extract(epoch FROM statement_timestamp()) * 1000)::bigint"
    return f"coalesce({parameter}::bigint, {server_ms})"


ID_BLOCK: Final = 1_000
"""Message ids to a number of the sequence; as in the schema."""

# Whatever the role's or the database's default: claims would fail each other otherwise.
BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
# As "statement_timeout" is, but only new servers know of it.
LIMIT_NO_TRANSACTION: Final = "SET transaction_timeout = 0"
# Not before it has been off does another limit hold in a transaction that has begun.
LIMIT_TRANSACTION: Final = (
    "SET LOCAL transaction_timeout = 0; SET LOCAL transaction_timeout = {milliseconds}"
)
COMMIT: Final = "COMMIT"
ROLLBACK: Final = "ROLLBACK"

# What follows sees all that was committed before the locks were had. Sorted by who asks, so
# that no two wait for each other. The transaction's number tells later how it ended.
LOCK: Final = """
SELECT coalesce($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
       pg_current_xact_id()::text
  FROM (SELECT count(pg_advisory_xact_lock($2, number)) FROM unnest($3::int[]) AS number) AS locked
"""
# Those of $3 that a caller's transaction has, or waits for, are missing; nobody has one of $4 for
# longer than a commit.
LOCK_SHARED: Final = """
SELECT coalesce($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
       pg_current_xact_id()::text, tried.missing
  FROM (SELECT array_agg(number)
               FILTER (WHERE NOT pg_try_advisory_xact_lock_shared($2, number)) AS missing
          FROM unnest($3::int[]) AS number) AS tried,
       (SELECT count(pg_advisory_xact_lock($2, number)) FROM unnest($4::int[]) AS number) AS locked
"""
LIMIT_WAITS: Final = "SELECT current_setting('lock_timeout'), set_config('lock_timeout', $1, true)"
WAIT_FOR_LOCK: Final = "SELECT pg_advisory_xact_lock_shared($1, $2)"

# --- sending -------------------------------------------------------------------------------

RESERVE_IDS: Final = "SELECT nextval('{schema}.kvqueue_id_blocks') FROM generate_series(1, $1::int)"
# Whatever was stored by an attempt of which the answer got lost is not stored again.
INSERT_PLAIN: Final = f"""
INSERT INTO {{schema}}.kvqueue_messages (id, type, data, due_at_ms, sent_at_ms)
SELECT sent.id, sent.type, sent.data, {_now("$1")}, {_now("$1")}
  FROM unnest($2::bigint[], $3::text[], $4::text[]) AS sent (id, type, data)
    ON CONFLICT (id) DO NOTHING
"""
INSERT: Final = f"""
INSERT INTO {{schema}}.kvqueue_messages
       (id, type, data, state, priority, due_at_ms, sent_at_ms, ordering_key, options,
        requeued_from)
SELECT sent.id, sent.type, sent.data,
       CASE WHEN sent.ordering_key IS NOT NULL THEN 2
            WHEN sent.due_at_ms > sent.now_ms THEN 1 ELSE 0 END,
       sent.priority, sent.due_at_ms, sent.now_ms, sent.ordering_key, sent.options,
       sent.requeued_from
  FROM (SELECT *, greatest(coalesce(deliver_at_ms, now_ms + delay_ms), now_ms) AS due_at_ms
          FROM (SELECT *, {_now("$1")} AS now_ms
                  FROM unnest($2::bigint[], $3::text[], $4::text[], $5::int[], $6::bigint[],
                              $7::bigint[], $8::text[], $9::text[], $10::bigint[])
                    AS asked (id, type, data, priority, delay_ms, deliver_at_ms, ordering_key,
                              options, requeued_from)) AS timed) AS sent
    ON CONFLICT (id) DO NOTHING
"""
# Only one message of a key is not behind another; whatever ends or adds one calls this, under
# the key's lock.
PROMOTE_HEADS: Final = f"""
UPDATE {{schema}}.kvqueue_messages
   -- by both times, because a clock that was set back must not delay what was sent without a delay
   SET state = CASE WHEN due_at_ms > greatest({_now("$1")}, sent_at_ms) THEN 1 ELSE lane END
 WHERE id = ANY (ARRAY(
       SELECT (SELECT id FROM {{schema}}.kvqueue_messages
                WHERE state = 2 AND ordering_key = asked.key ORDER BY id LIMIT 1)
         FROM unnest($2::text[]) AS asked (key)
        WHERE NOT EXISTS (SELECT 1 FROM {{schema}}.kvqueue_messages
                           WHERE state <> 2 AND ordering_key IS NOT NULL
                             AND ordering_key = asked.key)))
"""
REMEMBER_TYPES: Final = f"""
INSERT INTO {{schema}}.kvqueue_types (type, first_seen_at_ms)
SELECT type, {_now("$1")} FROM unnest($2::text[]) AS type ORDER BY type
    ON CONFLICT (type) DO NOTHING
"""
FIND_IDEMPOTENT: Final = """
SELECT type, key, message_id, digest FROM {schema}.kvqueue_idempotency
 WHERE (type, key) IN (SELECT * FROM unnest($2::text[], $3::text[])) AND expires_at_ms > $1
"""
REMEMBER_IDEMPOTENT: Final = """
INSERT INTO {schema}.kvqueue_idempotency (type, key, message_id, digest, expires_at_ms)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[])
    ON CONFLICT (type, key) DO UPDATE
   SET message_id = excluded.message_id, digest = excluded.digest,
       expires_at_ms = excluded.expires_at_ms
"""

# --- claiming ------------------------------------------------------------------------------

# One row tells a claim whether it has more to do than to pick.
PROBE: Final = f"""
SELECT (SELECT greatest(due_at_ms, 0) FROM {{schema}}.kvqueue_messages WHERE state = 1
         ORDER BY due_at_ms LIMIT 1) - {_now("$1")},
       (SELECT greatest(lease_until_ms, 0) FROM {{schema}}.kvqueue_messages WHERE state = 3
         ORDER BY lease_until_ms LIMIT 1) - {_now("$2")},
       EXISTS (SELECT 1 FROM {{schema}}.kvqueue_messages WHERE state = 4),
       EXISTS (SELECT 1 FROM {{schema}}.kvqueue_messages WHERE state = 5),
       pg_current_xact_id_if_assigned()::text
"""
PROMOTE_DUE: Final = f"""
UPDATE {{schema}}.kvqueue_messages SET state = lane
 WHERE id = ANY (ARRAY(
       SELECT id FROM {{schema}}.kvqueue_messages
        WHERE state = 1 AND due_at_ms <= {_now("$1")}
        ORDER BY due_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
_ASKED: Final = "unnest($1::text[], $2::int[]) WITH ORDINALITY AS asked (type, room, position)"
_MAY_BE_CLAIMED: Final = """
asked.room > 0
   AND NOT EXISTS (SELECT 1 FROM {schema}.kvqueue_types AS known
                    WHERE known.type = asked.type AND known.paused)
"""
# Counts have an end, because a sum beyond 64 bits is no bigint: it would stop every claim.
_TAKE: Final = f"""
UPDATE {{schema}}.kvqueue_messages AS message
   SET state = 3, token = $3, holder = $4, lease_until_ms = {_now("$6")} + $5,
       attempt = least(message.attempt, 9007199254740990) + 1
 WHERE message.id = ANY (ARRAY(SELECT id FROM picked))
RETURNING message.id, message.token, message.type, message.data, message.attempt,
          message.crashes, message.sent_at_ms, message.ordering_key, message.options,
          message.due_at_ms
"""


def _claim(*, from_heads: bool) -> str:
    asked, from_head = _ASKED, ""
    if from_heads:
        asked = (
            "unnest($1::text[], $2::int[], $8::int[], $9::bigint[]) WITH ORDINALITY"
            " AS asked (type, room, priority, due_at_ms, position)"
        )
        from_head = "AND priority = wanted.priority AND due_at_ms >= wanted.due_at_ms"
    # Types take turns: the first of each, then the second of each.
    return f"""
WITH wanted AS MATERIALIZED (SELECT asked.* FROM {asked} WHERE {_MAY_BE_CLAIMED}),
candidate AS MATERIALIZED (
    SELECT ready.id, ready.turn, wanted.position
      FROM wanted CROSS JOIN LATERAL (
           SELECT id, row_number() OVER () AS turn
             FROM (SELECT id FROM {{schema}}.kvqueue_messages
                    WHERE state = 0 AND type = wanted.type {from_head}
                    ORDER BY priority DESC, due_at_ms, id
                    LIMIT least(wanted.room, $7) FOR UPDATE SKIP LOCKED) AS first) AS ready),
picked AS MATERIALIZED (
    SELECT id, row_number() OVER (ORDER BY turn, position) AS place FROM candidate
     ORDER BY turn, position LIMIT $7),
taken AS ({_TAKE})
SELECT taken.* FROM taken JOIN picked USING (id) ORDER BY picked.place
"""


CLAIM: Final = _claim(from_heads=False)
# From where the last look found the first of each: what was handled since then leaves entries in
# the index that every claim would go through, until they are cleaned up.
CLAIM_FROM_HEADS: Final = _claim(from_heads=True)
HEADS: Final = """
SELECT asked.type, head.priority, head.due_at_ms
  FROM unnest($1::text[]) AS asked (type) CROSS JOIN LATERAL (
       SELECT priority, due_at_ms FROM {schema}.kvqueue_messages
        WHERE state = 0 AND type = asked.type
        ORDER BY priority DESC, due_at_ms, id LIMIT 1) AS head
"""


def _claim_first(state: int) -> str:
    """The first of all wanted types; each state has an index that only a constant can choose."""
    return f"""
WITH picked AS MATERIALIZED (
    SELECT first.id
      FROM {_ASKED} CROSS JOIN LATERAL (
           SELECT id, due_at_ms FROM {{schema}}.kvqueue_messages
            WHERE state = {state} AND type = asked.type
            ORDER BY due_at_ms, id LIMIT 1 FOR UPDATE SKIP LOCKED) AS first
     WHERE {_MAY_BE_CLAIMED}
     ORDER BY first.due_at_ms, first.id LIMIT 1)
{_TAKE}
"""


CLAIM_QUARANTINED: Final = _claim_first(4)
CLAIM_ISOLATED: Final = _claim_first(5)
ISOLATED_OF: Final = f"""
SELECT asked.type FROM {_ASKED}
 WHERE {_MAY_BE_CLAIMED}
   AND EXISTS (SELECT 1 FROM {{schema}}.kvqueue_messages AS message
                WHERE message.state = 5 AND message.type = asked.type)
"""


def _types_in(state: int) -> str:
    return f"""
WITH RECURSIVE found (type) AS (
    (SELECT type FROM {{schema}}.kvqueue_messages
      WHERE state = {state} AND type > $1::text ORDER BY type LIMIT 1)
    UNION ALL
    SELECT (SELECT type FROM {{schema}}.kvqueue_messages
             WHERE state = {state} AND type > found.type ORDER BY type LIMIT 1)
      FROM found WHERE found.type IS NOT NULL)
SELECT type FROM found WHERE type IS NOT NULL LIMIT $2
"""


READY_TYPES: Final = _types_in(0)
QUARANTINED_TYPES: Final = _types_in(4)
ISOLATED_TYPES: Final = _types_in(5)
LISTENED_TYPES: Final = (
    "SELECT DISTINCT type FROM {schema}.kvqueue_listeners, unnest(types) AS type"
)

# --- settling ------------------------------------------------------------------------------

# No condition on the state, which would tempt the planner into the index of what is claimed;
# what is not claimed has no token.
DELETE_HELD: Final = """
DELETE FROM {schema}.kvqueue_messages
 WHERE id = ANY ($1::bigint[])
   AND (id, token) IN (SELECT * FROM unnest($1::bigint[], $2::bigint[]))
RETURNING id
"""
_HELD_FIELDS: Final = """
id, token, type, data, options, ordering_key, attempt, crashes, deferrals, errors, lane, state
"""
HOLD: Final = f"""
SELECT {_HELD_FIELDS} FROM {{schema}}.kvqueue_messages
 WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE
"""
PRESENT: Final = "SELECT id FROM {schema}.kvqueue_messages WHERE id = ANY ($1::bigint[])"
# Retries, deferrals, what is given back and what a crash has left.
PUT_BACK: Final = """
UPDATE {schema}.kvqueue_messages AS message
   SET state = back.state, lane = back.lane,
       due_at_ms = coalesce(back.due_at_ms, message.due_at_ms),
       attempt = back.attempt, crashes = back.crashes, deferrals = back.deferrals,
       errors = back.errors, token = 0, holder = 0
  FROM unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::bigint[], $5::bigint[],
              $6::bigint[], $7::bigint[], $8::text[])
    AS back (id, state, lane, due_at_ms, attempt, crashes, deferrals, errors)
 WHERE message.id = ANY ($1::bigint[]) AND message.id = back.id
"""
BURY: Final = """
WITH gone AS (DELETE FROM {schema}.kvqueue_messages WHERE id = ANY ($2::bigint[]) RETURNING *)
INSERT INTO {schema}.kvqueue_dead_letters
       (id, type, data, priority, sent_at_ms, died_at_ms, attempt, crashes, ordering_key,
        options, errors, reason, requeued_from)
SELECT gone.id, gone.type, gone.data, gone.priority, gone.sent_at_ms, $1, gone.attempt,
       buried.crashes, gone.ordering_key, gone.options, buried.errors, buried.reason,
       gone.requeued_from
  FROM gone JOIN unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[])
    AS buried (id, crashes, errors, reason) ON buried.id = gone.id
    ON CONFLICT (id) DO UPDATE
   SET type = excluded.type, data = excluded.data, died_at_ms = excluded.died_at_ms,
       attempt = excluded.attempt, crashes = excluded.crashes, errors = excluded.errors,
       reason = excluded.reason
"""

# --- leases --------------------------------------------------------------------------------

EXTEND: Final = f"""
UPDATE {{schema}}.kvqueue_messages SET lease_until_ms = {_now("$1")} + $2
 WHERE id = ANY ($3::bigint[])
   AND (id, token) IN (SELECT * FROM unnest($3::bigint[], $4::bigint[]))
RETURNING id
"""
_CANDIDATES: Final = "SELECT id, token, ordering_key, crashes FROM {schema}.kvqueue_messages"
EXPIRED: Final = f"""
{_CANDIDATES} WHERE state = 3 AND lease_until_ms <= {_now("$1")}
 ORDER BY lease_until_ms LIMIT $2
"""
HELD_BY: Final = f"{_CANDIDATES} WHERE state = 3 AND holder = $1 LIMIT $2"
HOLD_UNTOUCHED: Final = f"""
SELECT {_HELD_FIELDS} FROM {{schema}}.kvqueue_messages
 WHERE id = ANY ($1::bigint[])
   AND (id, token) IN (SELECT * FROM unnest($1::bigint[], $2::bigint[]))
   AND ($3 OR lease_until_ms <= {_now("$4")})
 ORDER BY id FOR UPDATE SKIP LOCKED
"""
# As every write does, but without waiting: CREATE INDEX, for one, lets reads pass.
LOCK_TO_WRITE: Final = "LOCK TABLE {schema}.kvqueue_messages IN ROW EXCLUSIVE MODE NOWAIT"
# So that something is written, which alone shows that it can be.
TOUCH_EXPIRED: Final = f"""
UPDATE {{schema}}.kvqueue_messages SET lease_until_ms = lease_until_ms - 1
 WHERE id = ANY (ARRAY(
       SELECT id FROM {{schema}}.kvqueue_messages
        WHERE state = 3 AND lease_until_ms <= {_now("$1")}
        ORDER BY lease_until_ms LIMIT 1 FOR UPDATE SKIP LOCKED))
"""
_GIVE_BACK: Final = """
UPDATE {schema}.kvqueue_messages
   SET state = lane, token = 0, holder = 0, attempt = greatest(attempt - 1, 0)
"""
RELEASE_ALL_OF: Final = f"{_GIVE_BACK} WHERE state = 3 AND holder = $1 RETURNING id"
RELEASE_TOKENS: Final = f"{_GIVE_BACK} WHERE state = 3 AND token = ANY ($1::bigint[]) RETURNING id"

INSERT_LISTENER: Final = f"""
INSERT INTO {{schema}}.kvqueue_listeners (id, host, pid, since_ms, types, version)
VALUES ($2, $3, $4, {_now("$1")}, $5, $6) ON CONFLICT (id) DO UPDATE SET missed_at_ms = NULL
"""
REPORT_LISTENER: Final = f"""
UPDATE {{schema}}.kvqueue_listeners
   SET seen_at_ms = {_now("$1")}, running = $3, loop_lag_ms = $4
 WHERE id = $2
"""
# In the order of the types, because two that wait for each other would be an error.
ADD_TO_MINUTE: Final = f"""
INSERT INTO {{schema}}.kvqueue_minutes AS minute (minute_ms, type, handled, failed, dead)
SELECT {_now("$1")} / 60000 * 60000, ended.*
  FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS ended (type, handled, failed, dead)
 ORDER BY ended.type COLLATE "C"
    ON CONFLICT (minute_ms, type) DO UPDATE
   SET handled = minute.handled + excluded.handled, failed = minute.failed + excluded.failed,
       dead = minute.dead + excluded.dead
"""
LISTENER_LOCK: Final = "SELECT pg_try_advisory_lock($1)"
LISTENER_UNLOCK: Final = "SELECT pg_advisory_unlock($1)"
# A lock that can be had is that of a process whose connection has ended.
FREE_LISTENERS: Final = """
SELECT id FROM {schema}.kvqueue_listeners
 WHERE id <> ALL ($1::bigint[]) AND pg_try_advisory_xact_lock(id)
"""
MISS_LISTENERS: Final = """
UPDATE {schema}.kvqueue_listeners
   SET missed_at_ms = (extract(epoch FROM statement_timestamp()) * 1000)::bigint
 WHERE id = ANY ($1::bigint[]) AND missed_at_ms IS NULL
"""
MISSED_LISTENERS: Final = """
SELECT id FROM {schema}.kvqueue_listeners
 WHERE id = ANY ($1::bigint[])
   AND missed_at_ms + $2 <= (extract(epoch FROM statement_timestamp()) * 1000)::bigint
"""
SEE_LISTENERS: Final = """
UPDATE {schema}.kvqueue_listeners SET missed_at_ms = NULL
 WHERE id = ANY ($1::bigint[]) AND missed_at_ms IS NOT NULL
"""
IS_DEAD: Final = """
SELECT retired FROM {schema}.kvqueue_listeners
 WHERE id = $1 AND missed_at_ms IS NOT NULL AND pg_try_advisory_xact_lock(id) FOR UPDATE
"""
RETIRE_LISTENER: Final = "UPDATE {schema}.kvqueue_listeners SET retired = true WHERE id = $1"
DELETE_LISTENER: Final = "DELETE FROM {schema}.kvqueue_listeners WHERE id = $1"

# --- key-value -----------------------------------------------------------------------------

# Held until the commit is seen, so that versions are in commit order; read after it is had.
LAST_VERSION: Final = "SELECT last_value FROM {schema}.kvqueue_versions"
COMMITTED_VERSION: Final = """
WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared($1, $2))
SELECT (SELECT last_value FROM {schema}.kvqueue_versions) FROM locked
"""
# With more expired keys than came, so that they never pile up.
SET_LAST_VERSION: Final = f"""
WITH swept AS (
    DELETE FROM {{schema}}.kvqueue_kv
     WHERE key = ANY (ARRAY(SELECT key FROM {{schema}}.kvqueue_kv
                             WHERE expires_at_ms <= {_now("$2")} LIMIT $3 FOR UPDATE SKIP LOCKED)))
SELECT setval('{{schema}}.kvqueue_versions', $1)
"""
_KEY_FIELDS: Final = "key, value, encoding, version, expires_at_ms"
READ_KEYS: Final = f"SELECT {_KEY_FIELDS} FROM {{schema}}.kvqueue_kv WHERE key = ANY ($1::bytea[])"
GET_KEYS: Final = f"""
SELECT {_KEY_FIELDS}, {_now("$1")} FROM {{schema}}.kvqueue_kv
 WHERE key = ANY ($2::bytea[]) AND (expires_at_ms IS NULL OR expires_at_ms > {_now("$1")})
"""
SET_KEYS: Final = f"""
INSERT INTO {{schema}}.kvqueue_kv ({_KEY_FIELDS})
SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::smallint[], $4::bigint[], $5::bigint[])
    ON CONFLICT (key) DO UPDATE
   SET value = excluded.value, encoding = excluded.encoding, version = excluded.version,
       expires_at_ms = excluded.expires_at_ms
"""
DELETE_KEYS: Final = "DELETE FROM {schema}.kvqueue_kv WHERE key = ANY ($1::bytea[])"
_RANGE: Final = f"""
SELECT {_KEY_FIELDS}, {_now("$1")} FROM {{schema}}.kvqueue_kv
 WHERE key >= $2 AND key < $3 AND (expires_at_ms IS NULL OR expires_at_ms > {_now("$1")})
"""
LIST_KEYS: Final = f"{_RANGE} ORDER BY key LIMIT $4"
LIST_KEYS_BACKWARDS: Final = f"{_RANGE} ORDER BY key DESC LIMIT $4"

# --- keeping -------------------------------------------------------------------------------


def _counted(state: int) -> str:
    return (
        f"(SELECT count(*) FROM (SELECT 1 FROM {{schema}}.kvqueue_messages"
        f" WHERE state = {state} LIMIT $1) AS few)"
    )


COUNT_PENDING: Final = f"SELECT {' + '.join(map(_counted, (0, 1, 2, 4, 5)))}"
COUNT_MESSAGES: Final = f"""
SELECT type, state, count(*), {_now("$1")} - greatest(min(sent_at_ms), 0)
  FROM {{schema}}.kvqueue_messages
 GROUP BY type, state
"""
COUNT_DEAD_LETTERS: Final = "SELECT type, count(*) FROM {schema}.kvqueue_dead_letters GROUP BY type"
KNOWN_TYPES: Final = "SELECT type FROM {schema}.kvqueue_types"
PAUSED_TYPES: Final = "SELECT type FROM {schema}.kvqueue_types WHERE paused"
SET_PAUSED: Final = f"""
INSERT INTO {{schema}}.kvqueue_types (type, paused, first_seen_at_ms)
VALUES ($2, $3, {_now("$1")}) ON CONFLICT (type) DO UPDATE SET paused = excluded.paused
"""
_MESSAGE_FIELDS: Final = """
id, type, data, state, options, priority, ordering_key, attempt, crashes, sent_at_ms, due_at_ms,
errors, NULL::text AS reason, requeued_from, deferrals
"""
_DEAD_LETTER_FIELDS: Final = """
id, type, data, 6 AS state, options, priority, ordering_key, attempt, crashes, sent_at_ms,
died_at_ms, errors, reason, requeued_from, 0 AS deferrals
"""
# As JSON the sought text is written otherwise; what is found too much is left out afterwards.
_FILTERS: Final = """
   AND ($2::text IS NULL OR type = $2)
   AND ($3::text IS NULL OR ordering_key = $3)
   AND ($4::text IS NULL OR strpos(lower(data), lower($4)) > 0
        OR strpos(lower(errors), lower($5)) > 0)
   AND ($7::text IS NULL OR type LIKE $7)
   AND ($8::text IS NULL OR strpos(lower(errors), lower($8)) > 0)
"""
_MESSAGES: Final = f"SELECT {_MESSAGE_FIELDS} FROM {{schema}}.kvqueue_messages"
_DEAD_LETTERS: Final = f"SELECT {_DEAD_LETTER_FIELDS} FROM {{schema}}.kvqueue_dead_letters"
_IN_STATE: Final = "AND ($9::int IS NULL OR state = $9)"
_FORWARDS: Final = "ORDER BY id LIMIT $6"
_BACKWARDS: Final = "ORDER BY id DESC LIMIT $6"
LIST_MESSAGES: Final = f"{_MESSAGES} WHERE id > $1 {_FILTERS} {_IN_STATE} {_FORWARDS}"
LIST_MESSAGES_BACKWARDS: Final = f"{_MESSAGES} WHERE id < $1 {_FILTERS} {_IN_STATE} {_BACKWARDS}"
LIST_DEAD_LETTERS: Final = f"{_DEAD_LETTERS} WHERE id > $1 {_FILTERS} {_FORWARDS}"
LIST_DEAD_LETTERS_BACKWARDS: Final = f"{_DEAD_LETTERS} WHERE id < $1 {_FILTERS} {_BACKWARDS}"
SHOW_MESSAGE: Final = f"{_MESSAGES} WHERE id = $1"
SHOW_DEAD_LETTER: Final = f"{_DEAD_LETTERS} WHERE id = $1"
READ_MESSAGE: Final = """
SELECT type, data, priority, ordering_key, options FROM {schema}.kvqueue_messages WHERE id = $1
"""
READ_DEAD_LETTER: Final = """
SELECT type, data, priority, ordering_key, options FROM {schema}.kvqueue_dead_letters WHERE id = $1
"""
READ_PAYLOADS: Final = """
SELECT id, type, data FROM {schema}.kvqueue_messages WHERE id > $1 ORDER BY id LIMIT $2
"""
DEAD_IDS_OF_TYPE: Final = """
SELECT id FROM {schema}.kvqueue_dead_letters
 WHERE type = $1 AND id > $2 AND died_at_ms <= $4 ORDER BY id LIMIT $3
"""
LAST_DEATH: Final = f"""
SELECT max(died_at_ms) FROM {{schema}}.kvqueue_dead_letters WHERE died_at_ms <= {_now("$1")}
"""
TAKE_DEAD_LETTERS: Final = """
DELETE FROM {schema}.kvqueue_dead_letters WHERE id = ANY ($1::bigint[])
RETURNING id, type, data, priority, ordering_key, options
"""
DEAD_LETTER_KEYS: Final = """
SELECT id, ordering_key FROM {schema}.kvqueue_dead_letters WHERE id = ANY ($1::bigint[])
"""
MESSAGE_KEYS: Final = (
    "SELECT ordering_key FROM {schema}.kvqueue_messages WHERE id = ANY ($1::bigint[])"
)
DELETE_MESSAGES: Final = "DELETE FROM {schema}.kvqueue_messages WHERE id = ANY ($1::bigint[])"
DELETE_DEAD_LETTERS: Final = """
DELETE FROM {schema}.kvqueue_dead_letters WHERE id = ANY ($1::bigint[]) RETURNING id
"""
MOVE_IDEMPOTENT: Final = """
UPDATE {schema}.kvqueue_idempotency SET message_id = moved.id
  FROM unnest($1::bigint[], $2::bigint[]) AS moved (id, requeued_from)
 WHERE message_id = ANY ($2::bigint[]) AND message_id = moved.requeued_from
"""
FORGET_IDEMPOTENT: Final = (
    "DELETE FROM {schema}.kvqueue_idempotency WHERE message_id = ANY ($1::bigint[])"
)
LISTENERS: Final = """
SELECT id, host, pid, since_ms, types,
       (SELECT count(*) FROM {schema}.kvqueue_messages
         WHERE state = 3 AND holder = kvqueue_listeners.id),
       running, greatest(seen_at_ms, since_ms), loop_lag_ms, version,
       -- looked up, because to try the lock would take it
       EXISTS (SELECT 1 FROM pg_locks
                WHERE locktype = 'advisory' AND granted AND objsubid = 1
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND classid = ((id >> 32) & 4294967295)::oid
                  AND objid = (id & 4294967295)::oid)
  FROM {schema}.kvqueue_listeners ORDER BY since_ms, id
"""
# From one priority to the next, because the oldest of a type would be sought in all of it.
_PRIORITY: Final = "SELECT priority FROM {schema}.kvqueue_messages WHERE state = 0 AND type ="
OLDEST_READY: Final = f"""
WITH RECURSIVE steps (type, priority) AS (
    SELECT asked.type, ({_PRIORITY} asked.type ORDER BY priority DESC LIMIT 1)
      FROM ({LISTENED_TYPES}) AS asked
     WHERE NOT EXISTS (SELECT 1 FROM {{schema}}.kvqueue_types AS known
                        WHERE known.type = asked.type AND known.paused)
    UNION ALL
    SELECT steps.type, ({_PRIORITY} steps.type AND priority < steps.priority
                         ORDER BY priority DESC LIMIT 1)
      FROM steps WHERE steps.priority IS NOT NULL),
few AS (SELECT * FROM steps LIMIT $2)
SELECT {_now("$1")} - min((SELECT due_at_ms FROM {{schema}}.kvqueue_messages
             WHERE state = 0 AND type = few.type AND priority = few.priority
             ORDER BY due_at_ms LIMIT 1))
  FROM few WHERE priority IS NOT NULL
"""
MINUTES: Final = f"""
SELECT type, minute_ms, handled, failed, dead FROM {{schema}}.kvqueue_minutes
 WHERE minute_ms > {_now("$1")} - $2 ORDER BY type, minute_ms
"""

# --- sweeping, in slices, because a long transaction holds everybody up ---------------------

SWEEP_DEAD_LETTERS: Final = f"""
DELETE FROM {{schema}}.kvqueue_dead_letters
 WHERE id = ANY (ARRAY(SELECT id FROM {{schema}}.kvqueue_dead_letters
                        WHERE died_at_ms <= {_now("$1")} - $2 LIMIT $3 FOR UPDATE SKIP LOCKED))
RETURNING id
"""
SWEEP_IDEMPOTENCY: Final = f"""
DELETE FROM {{schema}}.kvqueue_idempotency
 WHERE (type, key) IN (SELECT type, key FROM {{schema}}.kvqueue_idempotency
                        WHERE expires_at_ms <= {_now("$1")} LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING 1
"""
SWEEP_MINUTES: Final = f"""
DELETE FROM {{schema}}.kvqueue_minutes
 WHERE (minute_ms, type) IN (SELECT minute_ms, type FROM {{schema}}.kvqueue_minutes
                              WHERE minute_ms <= {_now("$1")} - $2 LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING 1
"""
SWEEP_KEYS: Final = f"""
DELETE FROM {{schema}}.kvqueue_kv
 WHERE key = ANY (ARRAY(SELECT key FROM {{schema}}.kvqueue_kv
                         WHERE expires_at_ms <= {_now("$1")} LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING 1
"""
VACUUM: Final = "VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF, SKIP_LOCKED) {schema}.kvqueue_messages"
TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1, $2)"

# --- telling others ----------------------------------------------------------------------

KEEP_ALIVE: Final = "SELECT 1"
NOTIFY: Final = "SELECT pg_notify($1, $2)"

# --- what became of a lost connection's work -----------------------------------------------

END_BACKEND: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE pid = $1 AND application_name = $2
"""
END_BACKENDS: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE pid = ANY ($1::int[]) AND application_name = $2
"""
# Statistics begin anew after a crash, and are another server's own.
LIFE: Final = "SELECT pg_stat_get_bgwriter_stat_reset_time()"
HOW_IT_ENDED: Final = "SELECT pg_xact_status($1::text::xid8)"

# --- sending in a transaction of the caller's ------------------------------------------------

# A number is given only where something may be written: on a replica there is none to have.
LOOK: Final = """
SELECT database_id, current_database()::text, current_setting('transaction_isolation'),
       CASE WHEN current_setting('transaction_read_only') = 'off'
            THEN pg_current_xact_id()::text END
  FROM {schema}.kvqueue_schema
"""
HOW_THEY_ENDED: Final = """
SELECT xid, pg_xact_status(xid::xid8) FROM unnest($1::text[]) AS xid
"""

# --- the schema itself ---------------------------------------------------------------------

# Asked of the catalogue itself, because a session remembers what was not there, also while it
# waits for an advisory lock. $1 is a quoted name.
_IS_SCHEMA: Final = """'"' || replace(nspname, '"', '""') || '"' = $1"""
ENCODING: Final = "SELECT current_setting('server_encoding')"
HAS_SCHEMA: Final = f"""
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class AS class
                 JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
                WHERE class.relname = 'kvqueue_schema' AND {_IS_SCHEMA})
"""
HAS_NAMESPACE: Final = f"SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE {_IS_SCHEMA})"
SURVEY_SERVER: Final = """
SELECT current_setting('server_version'), current_setting('max_connections')::integer,
       clock_timestamp()
"""
# kvqueue_schema needs to be written by whoever migrates, and by nobody else. $1 is a quoted name.
SURVEY_RIGHTS: Final = f"""
SELECT relname, wanted
  FROM pg_catalog.pg_class AS class
  JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
 CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS wanted
 WHERE {_IS_SCHEMA}
   AND relkind = 'r' AND relname LIKE 'kvqueue\\_%'
   AND (relname <> 'kvqueue_schema' OR wanted = 'SELECT')
   AND NOT has_table_privilege(class.oid, wanted)
 ORDER BY relname, wanted
"""
CREATE_SCHEMA: Final = "CREATE SCHEMA IF NOT EXISTS {schema}"
CREATE_SCHEMA_TABLE: Final = """
CREATE TABLE {schema}.kvqueue_schema (
    id          integer PRIMARY KEY CHECK (id = 1),
    applied     integer NOT NULL,
    oldest_code integer NOT NULL,
    database_id text    NOT NULL DEFAULT md5(random()::text || clock_timestamp()::text),
    -- How far a copy of another store into this one has come; while it is there, nobody may use
    -- this.
    copying     text
)
"""
INSERT_SCHEMA: Final = (
    "INSERT INTO {schema}.kvqueue_schema (id, applied, oldest_code) VALUES (1, 0, 1)"
)
READ_SCHEMA: Final = "SELECT applied, oldest_code, copying FROM {schema}.kvqueue_schema"
UPDATE_SCHEMA: Final = """
UPDATE {schema}.kvqueue_schema
   SET applied = $1, oldest_code = greatest(oldest_code, $2)
"""
