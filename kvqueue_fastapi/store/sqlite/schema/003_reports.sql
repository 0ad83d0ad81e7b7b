-- oldest code: 1

-- What each listener last said of itself.
ALTER TABLE kvqueue_listeners ADD COLUMN version     TEXT    NOT NULL DEFAULT '';
ALTER TABLE kvqueue_listeners ADD COLUMN seen_at_ms  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE kvqueue_listeners ADD COLUMN running     INTEGER NOT NULL DEFAULT 0;
ALTER TABLE kvqueue_listeners ADD COLUMN loop_lag_ms INTEGER NOT NULL DEFAULT 0;

-- How many deliveries ended in each minute, and how; kept for an hour.
CREATE TABLE kvqueue_minutes (
    minute_ms INTEGER NOT NULL,
    type      TEXT    NOT NULL,
    handled   INTEGER NOT NULL,
    failed    INTEGER NOT NULL,
    dead      INTEGER NOT NULL,
    PRIMARY KEY (minute_ms, type)
) STRICT, WITHOUT ROWID;
