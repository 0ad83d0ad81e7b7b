-- oldest code: 1

-- What each listener last said of itself.
ALTER TABLE {schema}.kvqueue_listeners
    ADD COLUMN version     text   NOT NULL DEFAULT '',
    ADD COLUMN seen_at_ms  bigint NOT NULL DEFAULT 0,
    ADD COLUMN running     bigint NOT NULL DEFAULT 0,
    ADD COLUMN loop_lag_ms bigint NOT NULL DEFAULT 0;

-- How many deliveries ended in each minute, and how; kept for an hour.
CREATE TABLE {schema}.kvqueue_minutes (
    minute_ms bigint NOT NULL,
    type      text COLLATE "C" NOT NULL,
    handled   bigint NOT NULL,
    failed    bigint NOT NULL,
    dead      bigint NOT NULL,
    PRIMARY KEY (minute_ms, type)
);
