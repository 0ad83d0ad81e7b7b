-- oldest code: 1

-- Waiting and claimed messages. A foreign program needs only `type` and `data`.
-- No CHECK on state, because it costs a third of the insert rate.
CREATE TABLE kvqueue_messages (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    type           TEXT    NOT NULL,
    data           TEXT    NOT NULL DEFAULT 'null',
    state          INTEGER NOT NULL DEFAULT 0,  -- 0 ready, 1 delayed, 2 behind its key, 3 claimed, 4 quarantined, 5 isolated
    lane           INTEGER NOT NULL DEFAULT 0,  -- the state in which it can be claimed: 0, 4 or 5
    priority       INTEGER NOT NULL DEFAULT 0,
    due_at_ms      INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    sent_at_ms     INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    attempt        INTEGER NOT NULL DEFAULT 0,
    crashes        INTEGER NOT NULL DEFAULT 0,
    deferrals      INTEGER NOT NULL DEFAULT 0,  -- how often its handler put it off
    token          INTEGER NOT NULL DEFAULT 0,
    holder         INTEGER NOT NULL DEFAULT 0,
    lease_until_ms INTEGER NOT NULL DEFAULT 0,  -- on the clock that never jumps
    ordering_key   TEXT,
    options        TEXT,
    errors         TEXT,
    requeued_from  INTEGER
) STRICT;

-- Whatever cannot be claimed now lies outside the ready index: a claim costs the same at any depth.
CREATE INDEX kvqueue_ready       ON kvqueue_messages (type, priority DESC, due_at_ms, id) WHERE state = 0;
CREATE INDEX kvqueue_delayed     ON kvqueue_messages (due_at_ms) WHERE state = 1;
CREATE INDEX kvqueue_claimed     ON kvqueue_messages (lease_until_ms) WHERE state = 3;
CREATE INDEX kvqueue_blocked     ON kvqueue_messages (id) WHERE state = 2;
CREATE INDEX kvqueue_quarantined ON kvqueue_messages (type, due_at_ms, id) WHERE state = 4;
CREATE INDEX kvqueue_isolated    ON kvqueue_messages (type, due_at_ms, id) WHERE state = 5;
CREATE INDEX kvqueue_ordered     ON kvqueue_messages (ordering_key, id) WHERE ordering_key IS NOT NULL;

CREATE TABLE kvqueue_dead_letters (
    id            INTEGER PRIMARY KEY,
    type          TEXT    NOT NULL,
    data          TEXT    NOT NULL,
    priority      INTEGER NOT NULL,
    sent_at_ms    INTEGER NOT NULL,
    died_at_ms    INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    crashes       INTEGER NOT NULL,
    ordering_key  TEXT,
    options       TEXT,
    errors        TEXT,
    reason        TEXT    NOT NULL,
    requeued_from INTEGER
) STRICT;
CREATE INDEX kvqueue_dead_by_age  ON kvqueue_dead_letters (died_at_ms);
CREATE INDEX kvqueue_dead_by_type ON kvqueue_dead_letters (type, id);

CREATE TABLE kvqueue_kv (
    key           BLOB    PRIMARY KEY,
    value         BLOB    NOT NULL,
    encoding      INTEGER NOT NULL,  -- 1 JSON, 2 unsigned 64-bit little endian, 3 bytes
    version       INTEGER NOT NULL,
    expires_at_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX kvqueue_kv_expiring ON kvqueue_kv (expires_at_ms) WHERE expires_at_ms IS NOT NULL;

CREATE TABLE kvqueue_types (
    type             TEXT    PRIMARY KEY,
    paused           INTEGER NOT NULL DEFAULT 0,
    first_seen_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE kvqueue_idempotency (
    type          TEXT    NOT NULL,
    key           TEXT    NOT NULL,
    message_id    INTEGER NOT NULL,
    digest        BLOB    NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (type, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX kvqueue_idempotency_by_age     ON kvqueue_idempotency (expires_at_ms);
CREATE INDEX kvqueue_idempotency_by_message ON kvqueue_idempotency (message_id);

CREATE TABLE kvqueue_listeners (
    id       INTEGER PRIMARY KEY,
    host     TEXT    NOT NULL,
    boot     TEXT    NOT NULL,
    pid      INTEGER NOT NULL,
    since_ms INTEGER NOT NULL,
    types    TEXT    NOT NULL,
    retired  INTEGER NOT NULL DEFAULT 0  -- it only waits for threads: its end is no crash
) STRICT;
