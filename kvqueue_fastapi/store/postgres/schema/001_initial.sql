-- oldest code: 1

-- Each number of it is a block of 1,000 message ids, so that a process numbers its messages
-- before it stores them, and can store them again when it does not know whether it has.
CREATE SEQUENCE {schema}.kvqueue_id_blocks;

-- Of the commits that write keys; moved under a lock that is held until the commit is seen.
CREATE SEQUENCE {schema}.kvqueue_versions MINVALUE 0 START 0;

-- Waiting and claimed messages. A foreign program needs only `type` and `data`.
CREATE TABLE {schema}.kvqueue_messages (
    id             bigint PRIMARY KEY DEFAULT nextval('{schema}.kvqueue_id_blocks') * 1000,
    type           text COLLATE "C" NOT NULL,
    data           text     NOT NULL DEFAULT 'null',
    state          smallint NOT NULL DEFAULT 0,  -- 0 ready, 1 delayed, 2 behind its key, 3 claimed, 4 quarantined, 5 isolated
    lane           smallint NOT NULL DEFAULT 0,  -- the state in which it can be claimed: 0, 4 or 5
    priority       integer  NOT NULL DEFAULT 0,
    due_at_ms      bigint   NOT NULL DEFAULT (extract(epoch FROM statement_timestamp()) * 1000)::bigint,
    sent_at_ms     bigint   NOT NULL DEFAULT (extract(epoch FROM statement_timestamp()) * 1000)::bigint,
    attempt        bigint   NOT NULL DEFAULT 0,
    crashes        bigint   NOT NULL DEFAULT 0,
    deferrals      bigint   NOT NULL DEFAULT 0,  -- how often its handler put it off
    token          bigint   NOT NULL DEFAULT 0,
    holder         bigint   NOT NULL DEFAULT 0,
    lease_until_ms bigint   NOT NULL DEFAULT 0,  -- on the server's clock
    ordering_key   text COLLATE "C",
    options        text,
    errors         text,
    requeued_from  bigint
) WITH (
    -- Each message leaves two dead rows, so a share of the table says nothing about when to
    -- clean up: at depth it would never be, and empty tables always. By number instead, and
    -- without pauses, because a late clean-up costs every claim.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 500000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 500000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 20000,
    toast.autovacuum_vacuum_cost_delay = 0
);

-- Whatever cannot be claimed now lies outside the ready index: a claim costs the same at any depth.
CREATE INDEX kvqueue_ready       ON {schema}.kvqueue_messages (type, priority DESC, due_at_ms, id) WHERE state = 0;
CREATE INDEX kvqueue_delayed     ON {schema}.kvqueue_messages (due_at_ms) WHERE state = 1;
CREATE INDEX kvqueue_claimed     ON {schema}.kvqueue_messages (lease_until_ms) WHERE state = 3;
CREATE INDEX kvqueue_quarantined ON {schema}.kvqueue_messages (type, due_at_ms, id) WHERE state = 4;
CREATE INDEX kvqueue_isolated    ON {schema}.kvqueue_messages (type, due_at_ms, id) WHERE state = 5;
-- Of each key one message at the most is not behind another.
CREATE INDEX kvqueue_blocked     ON {schema}.kvqueue_messages (ordering_key, id) WHERE state = 2;
CREATE INDEX kvqueue_heads       ON {schema}.kvqueue_messages (ordering_key) WHERE state <> 2 AND ordering_key IS NOT NULL;

CREATE TABLE {schema}.kvqueue_dead_letters (
    id            bigint PRIMARY KEY,
    type          text COLLATE "C" NOT NULL,
    data          text    NOT NULL,
    priority      integer NOT NULL,
    sent_at_ms    bigint  NOT NULL,
    died_at_ms    bigint  NOT NULL,
    attempt       bigint  NOT NULL,
    crashes       bigint  NOT NULL,
    ordering_key  text COLLATE "C",
    options       text,
    errors        text,
    reason        text    NOT NULL,
    requeued_from bigint
);
CREATE INDEX kvqueue_dead_by_age  ON {schema}.kvqueue_dead_letters (died_at_ms);
CREATE INDEX kvqueue_dead_by_type ON {schema}.kvqueue_dead_letters (type, id);

CREATE TABLE {schema}.kvqueue_kv (
    key           bytea    PRIMARY KEY,
    value         bytea    NOT NULL,
    encoding      smallint NOT NULL,  -- 1 JSON, 2 unsigned 64-bit little endian, 3 bytes
    version       bigint   NOT NULL,
    expires_at_ms bigint
) WITH (
    -- Counters are written again and again: room on the page spares their index.
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX kvqueue_kv_expiring ON {schema}.kvqueue_kv (expires_at_ms) WHERE expires_at_ms IS NOT NULL;

CREATE TABLE {schema}.kvqueue_types (
    type             text COLLATE "C" PRIMARY KEY,
    paused           boolean NOT NULL DEFAULT false,
    first_seen_at_ms bigint  NOT NULL
);

CREATE TABLE {schema}.kvqueue_idempotency (
    type          text COLLATE "C" NOT NULL,
    key           text COLLATE "C" NOT NULL,
    message_id    bigint NOT NULL,
    digest        bytea  NOT NULL,
    expires_at_ms bigint NOT NULL,
    PRIMARY KEY (type, key)
);
CREATE INDEX kvqueue_idempotency_by_age     ON {schema}.kvqueue_idempotency (expires_at_ms);
CREATE INDEX kvqueue_idempotency_by_message ON {schema}.kvqueue_idempotency (message_id);

CREATE TABLE {schema}.kvqueue_listeners (
    id           bigint  PRIMARY KEY,  -- its process holds the advisory lock of this number
    host         text    NOT NULL,
    pid          integer NOT NULL,
    since_ms     bigint  NOT NULL,
    types        text[] COLLATE "C" NOT NULL,
    retired      boolean NOT NULL DEFAULT false,  -- it only waits for threads: its end is no crash
    missed_at_ms bigint  -- since when its lock is free
);
